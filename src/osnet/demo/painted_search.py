"""The demo: paint footage of three cameras, index it, link the cameras, and search for each person by an image.

    OUT/
      footage/          videos, true tracks, and an image of each person (``video.painted``)
      archive/          the tracklets; `osnet search` and `osnet video` take it
      answer.png        an image, and where its person was found
      clip.mp4          the footage of the best hit, with its box
      timeline.png      all tracklets over time; linked ones share a colour
      demo.json         the scores
      index.html        all of it on one page

Everything is a function of the settings. The people are painted by a program, and the network (``weights``) was trained
on such people only. So the demo shows that the parts work together, and nothing about real footage.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

from osnet.demo.page import FoundPerson, Page, ShownHit, draw_answer, write_page
from osnet.embedding.embedder import Embedder
from osnet.errors import DemoError, OutputError, require_extra
from osnet.figures.timeline import save_timeline
from osnet.files import check_writable, make_folder, write_json
from osnet.progress import Progress
from osnet.synthetic.footage import FootageSettings
from osnet.types import Hit
from osnet.video.archive import Archive, Tracklet
from osnet.video.detectors import MotionDetector, iou
from osnet.video.drawing import draw_boxes, write_clip
from osnet.video.indexing import index_footage
from osnet.video.links import identities, propose_links, write_links
from osnet.video.motfile import MotFile, write_mot
from osnet.video.painted import FORMAT as FOOTAGE_FORMAT
from osnet.video.painted import write_painted_footage
from osnet.video.protocols import Track
from osnet.video.source import open_footage, read_frames

FULL = FootageSettings(people=12, cameras=3, seconds=90, fps=8, seed=0)
QUICK = FootageSettings(people=6, cameras=2, seconds=24, fps=5, seed=3)
NUM_HITS = 4
SHOWN = 6
"""Number of searches on the page."""
TRUE_IOU = 0.4
"""A box shows the true person whose box overlaps it most, if by at least this."""
TITLE = "Found in footage: painted people in front of painted cameras"
CAUTION = (
    "The people and the footage are painted by a program, and the network was trained on such people only. This page "
    "shows that detection, tracking, search and links work together. It says nothing about real footage."
)


@dataclass(frozen=True)
class DemoFindings:
    """How well the demo did, by the truth that the painter knows."""

    people: int
    """Number of people of whom the archive holds at least one tracklet."""
    first: int
    """Number of these whose first hit shows the right person."""
    by_chance: float
    """Expected number of these if the hits were drawn at random."""
    tracklets: int
    links: int
    links_right: int
    tracking: dict[str, dict[str, float]]
    """By camera: HOTA, IDF1, MOTA in percent, by ``trackers.eval``."""

    def sentences(self) -> list[str]:
        """The findings in words."""
        idf1 = [scores["IDF1"] for scores in self.tracking.values()]
        return [
            f"{self.first} of {self.people} people are found: the best hit for an image of the person, taken by a "
            f"further camera, is a tracklet of this person. Tracklets drawn at random would be right for "
            f"{self.by_chance:.1f}.",
            f"The {len(self.tracking)} cameras show {self.tracklets} tracklets. IDF1 is {min(idf1):.0f} to "
            f"{max(idf1):.0f} %: motion detection takes two people side by side for one.",
            f"{self.links} links between cameras are proposed; {self.links_right} of them join the right person.",
        ]


def weights_folder() -> Path:
    """The checkpoint of the demo. It was trained on generated people and is good for nothing else."""
    return Path(str(resources.files("osnet.demo") / "weights"))


def run_demo(out: Path, settings: FootageSettings, progress: Progress) -> Path:
    """Run the demo. Returns the path of its page. An interrupted call resumes.

    Args:
        out: folder for the results.
        settings: of the footage.
        progress: shows progress over frames.

    Raises:
        DemoError: the searches are no better than chance.
        OutputError: ``out`` cannot be written, or contains a demo with other settings.
        MissingExtraError: an optional dependency is missing.
    """
    start = time.monotonic()
    for module in ("av", "cv2", "trackers", "scipy"):
        require_extra(module, "video")
    make_folder(out)
    check_writable(out / "index.html")
    with _step(1, f"paint {settings.cameras} x {settings.seconds:g} s of footage with {settings.people} people"):
        videos = _paint(out / "footage", settings, progress)
    with _step(2, "detect by motion, track, and embed the best crops"):
        embedder = Embedder(weights_folder(), device="cpu", backend="fastest")
        for camera, video in videos.items():
            _index(out / "archive", camera, video, embedder, settings, progress)
        archive = Archive.open(out / "archive", embedder)
        shown = _name_tracklets(archive, videos)
    with _step(3, "propose links between the cameras"):
        links = propose_links(archive)
        write_links(archive, links)
        tracklets = list(archive.tracklets())
        save_timeline(tracklets, links, out / "timeline.png", "Who was where, by the proposed links")
    with _step(4, f"search for {settings.people} people by an image of each"):
        photos = {pid: out / "footage" / "photos" / f"{pid:04d}.jpg" for pid in range(1, settings.people + 1)}
        hits = {pid: archive.search(photo, top=NUM_HITS) for pid, photo in photos.items()}
        first = {pid: shown[hits[pid][0].item.source] == pid for pid in sorted(set(shown.values())) if pid}
        across = [link for link in links if link.kind == "camera"]
        findings = DemoFindings(
            people=len(first),
            first=sum(first.values()),
            by_chance=round(sum(pid in first for pid in shown.values()) / max(1, len(shown)), 2),
            tracklets=len(archive),
            links=len(across),
            links_right=sum(shown[link.a] == shown[link.b] != 0 for link in across),
            tracking={camera: _score(archive, camera, video, out) for camera, video in videos.items()},
        )
    with _step(5, "draw the answer"):
        people = [_describe(archive, pid, photos[pid], hits[pid], shown) for pid in _choose(first, hits)]
        answer = draw_answer(people[0])
        answer.save(out / "answer.png")
        write_clip(archive.tracklet(people[0].hits[0].tracklet.id), out / "clip.mp4", label=f"person {people[0].pid}")
        write_json(out / "demo.json", {**asdict(findings), "settings": asdict(settings)})
        page = Page(
            title=TITLE,
            caution=CAUTION,
            findings=findings.sentences(),
            answer=answer,
            people=people,
            frames={camera: _draw_frame(archive, camera, video) for camera, video in videos.items()},
            timeline=Image.open(out / "timeline.png").convert("RGB"),
            tracking=findings.tracking,
            num_people=len(identities(links)),
            commands=[
                f"osnet search {out / 'archive'} {people[0].photo} --sheet hits.png --clip best.mp4",
                f"osnet video show {out / 'archive'}",
                f"osnet video link {out / 'archive'} --figure when.svg",
            ],
        )
        write_page(page, out / "index.html")
    print("", *findings.sentences(), "", CAUTION, "", *page.commands, sep="\n")
    print(f"took {(time.monotonic() - start) / 60:.1f} minutes")
    print(f"page: {(out / 'index.html').absolute()}")
    if findings.first <= findings.by_chance:
        raise DemoError(f"{findings.first} of {findings.people} people were found, which is no better than chance")
    return out / "index.html"


@contextmanager
def _step(number: int, what: str) -> Iterator[None]:
    print(f"[{number}/5] {what}", flush=True)
    start = time.monotonic()
    yield
    print(f"[{number}/5] done in {time.monotonic() - start:.0f} s", flush=True)


def _paint(folder: Path, settings: FootageSettings, progress: Progress) -> dict[str, Path]:
    """Paint the footage if it is not there. Returns the videos by camera."""
    if not folder.exists():
        total = settings.cameras * round(settings.seconds * settings.fps)
        write_painted_footage(folder, settings, _tell(progress, total, "frames"))
    try:
        there = json.loads((folder / "footage.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        there = {}
    if any(there.get(name) != value for name, value in {"format": FOOTAGE_FORMAT, **asdict(settings)}.items()):
        raise OutputError(f"{folder} contains other footage; choose another --out, or delete the folder")
    return {f"camera-{n}": folder / f"camera-{n}.mp4" for n in range(1, settings.cameras + 1)}


def _tell(progress: Progress, total: int, label: str) -> Callable[..., None]:
    """A function to call after each of ``total`` frames, with any arguments."""
    frames = iter(progress(range(total), total, label))
    return lambda *_: next(frames, None)


def _index(
    archive: Path, camera: str, video: Path, embedder: Embedder, settings: FootageSettings, progress: Progress
) -> None:
    detector = MotionDetector(learns_at_fps=settings.fps)
    tell = _tell(progress, round(settings.seconds * settings.fps), camera)
    report = index_footage(video, archive, camera=camera, embedder=embedder, detector=detector, on_progress=tell)
    if report.troubles:
        raise DemoError(f"the demo's own footage cannot be read: {report.troubles[0]}")


def _name_tracklets(archive: Archive, videos: dict[str, Path]) -> dict[str, int]:
    """The true person of each tracklet, by its id; 0 if most of its boxes show none."""
    truths = {camera: MotFile(video.with_suffix(".txt")) for camera, video in videos.items()}
    names = {}
    for tracklet in archive.tracklets():
        votes: list[int] = []
        for number, box in zip(tracklet.numbers.tolist(), tracklet.boxes, strict=True):
            boxes, pids = truths[tracklet.camera].at(number)
            overlaps = iou(box[None, :4], boxes.xyxy)[0] if len(boxes) else np.zeros(1)
            votes.append(int(pids[np.argmax(overlaps)]) if overlaps.max() >= TRUE_IOU else 0)
        names[tracklet.id] = int(np.argmax(np.bincount(votes)))
    return names


def _score(archive: Archive, camera: str, video: Path, out: Path) -> dict[str, float]:
    """HOTA, IDF1 and MOTA in percent."""
    evaluate = require_extra("trackers.eval.evaluate", "video").evaluate_mot_sequence
    tracks = [
        Track(
            n, t.numbers.tolist(), t.times_s.tolist(), [tuple(b[:4]) for b in t.boxes.tolist()], t.boxes[:, 4].tolist()
        )
        for n, t in enumerate((t for t in archive.tracklets() if t.camera == camera), 1)
    ]
    path = out / f"tracks-{camera}.txt"
    write_mot(path, tracks)
    found = evaluate(video.with_suffix(".txt"), path, ["CLEAR", "HOTA", "Identity"])
    scores = {"HOTA": found.HOTA.HOTA, "IDF1": found.Identity.IDF1, "MOTA": found.CLEAR.MOTA}
    return {name: round(100 * float(value), 1) for name, value in scores.items()}


def _choose(first: dict[int, bool], hits: dict[int, list[Hit]]) -> list[int]:
    """The people to show: the one found with most hits in different cameras, then wrong first hits, then others."""

    def rank(pid: int) -> tuple[float, ...]:
        cameras = len({hit.item.camera for hit in hits[pid]})
        return (-cameras if first[pid] else 0, -hits[pid][0].score)

    best, *rest = sorted(first, key=rank)
    wrong = [pid for pid in rest if not first[pid]]
    right = [pid for pid in rest if first[pid]]
    return [best, *wrong[: SHOWN // 2], *right][:SHOWN]


def _describe(archive: Archive, pid: int, photo: Path, hits: Sequence[Hit], shown: dict[str, int]) -> FoundPerson:
    found = []
    for hit in hits:
        tracklet = archive.tracklet(hit.item.source)
        frame = _frame_of(tracklet)
        found.append(ShownHit(hit.rank, hit.score, tracklet, shown[tracklet.id], frame))
    return FoundPerson(pid, photo, found)


def _frame_of(tracklet: Tracklet) -> Image.Image:
    """The frame of a tracklet's best crop, with its box."""
    crop = tracklet.best_crop
    footage = open_footage(tracklet.footage, 0.0)
    frame = next(iter(read_frames(footage, float(footage.times_s[crop.number - 1]))))
    return Image.fromarray(draw_boxes(frame.image, {1: crop.box}, labels={1: tracklet.camera}))


def _draw_frame(archive: Archive, camera: str, video: Path) -> Image.Image:
    """The frame with the most tracklets, with their boxes."""
    boxes: dict[int, dict[int, tuple[float, float, float, float]]] = {}
    for key, tracklet in enumerate((t for t in archive.tracklets() if t.camera == camera), 1):
        for number, box in zip(tracklet.numbers.tolist(), tracklet.boxes.tolist(), strict=True):
            boxes.setdefault(number, {})[key] = tuple(box[:4])
    footage = open_footage(video, 0.0)
    most = max(boxes, key=lambda number: (len(boxes[number]), -number), default=1)
    frame = next(iter(read_frames(footage, float(footage.times_s[most - 1]))))
    return Image.fromarray(draw_boxes(frame.image, boxes.get(most, {})))
