"""Indexing footage into an archive: its content, search in it, and the same bytes after a killed run resumes."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av")
pytest.importorskip("trackers")

from osnet import Embedder, Item
from osnet.errors import DataError, GalleryError, OutputError
from osnet.gallery import Where
from osnet.video import (
    Archive,
    FootageError,
    IndexSettings,
    archive_segments,
    index_footage,
    indexing,
    make_detector,
    make_tracker,
)
from osnet.video.archive import FinishedTrack, Pool, segment_name, write_segment
from osnet.video.archive_segments import list_segments
from osnet.video.crops import Sample, encode_jpeg
from osnet.video.detectors import MotDetector
from osnet.video.erasing import find_twins
from osnet.video.links import propose_links
from osnet.video.protocols import Boxes, Ints, Track, VideoFrame
from osnet.video.tracking import front_end
from small_footage import numbered, paint_walkers, walk, write_truth, write_video

STARTS = "2026-11-28T08:00:00+00:00"
START_S = 1795852800.0
SHORT = IndexSettings(segment_s=10, overlap_s=2)
PATHS = [walk(2, 20, 1.0, 0, 120), walk(140, 70, -0.6, 30, 230), walk(20, 60, 0.5, 150, 250)]


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """25 seconds at 10 frames a second, three people; boxes as text beside it."""
    folder = tmp_path_factory.mktemp("footage")
    write_truth(folder / "det.txt", PATHS, 250, ids=False)
    write_truth(folder / "gt.txt", PATHS, 250)
    return write_video(folder / "gate.mp4", paint_walkers(PATHS, 250))


@pytest.fixture(scope="module")
def embedder(tiny_weights: Path) -> Embedder:
    return Embedder(tiny_weights, device="cpu", backend="torch")


def index(footage: Path, out: Path, embedder: Embedder, **changes: Any) -> Any:
    given = {
        "camera": "gate", "starts": STARTS, "detector": make_detector(footage.with_name("det.txt")),
        "tracker": make_tracker("bytetrack"), "settings": SHORT,
    }  # fmt: skip
    return index_footage(footage, out, embedder=embedder, **{**given, **changes})


@pytest.fixture(scope="module")
def archive(footage: Path, embedder: Embedder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("archive") / "a"
    report = index(footage, out, embedder)
    assert (report.segments_added, report.segments_there, report.troubles) == (3, 0, [])
    return out


def digest_of(folder: Path) -> dict[str, str]:
    """SHA-256 of every file but locks."""
    files = [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".lock")]
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_an_archive_holds_times_boxes_and_crops_of_each_person(archive: Path, embedder: Embedder) -> None:
    store = Archive.open(archive)
    assert [s["name"] for s in store.segments] == [f"2026-11-28/gate/0800{s:02d}.000" for s in (0, 10, 20)]
    assert store.cameras == ["gate"]
    assert store.weights_sha256 == embedder.sha256()
    assert store.check() == []
    found = list(store.tracklets())
    assert len(found) == len(store) == len(store.sources())
    # Person 1 walks in frames 0 to 119: in the first segment and, 2 s, in the second; person 2 in all three.
    starts = sorted((round(t.begin_s - START_S, 1), round(t.end_s - START_S, 1)) for t in found)
    want = [(0.0, 11.9), (3.0, 11.9), (10.0, 11.9), (10.0, 21.9), (15.0, 21.9), (20.0, 22.9), (20.0, 24.9)]
    np.testing.assert_allclose(starts, want, atol=0.25)
    for tracklet in found:
        assert 1 <= len(tracklet.crops) <= 6
        assert store.vectors(tracklet.id).shape == (len(tracklet.crops), 512)
        np.testing.assert_allclose(np.linalg.norm(store.vectors(tracklet.id), axis=1), 1, atol=1e-5)
        for number, box in zip(tracklet.numbers, tracklet.boxes, strict=True):
            places = [p for path in PATHS if (p := path(int(number) - 1)) is not None]
            assert min(abs(box[0] - x) + abs(box[1] - y) for x, y in places) < 4
        np.testing.assert_allclose(tracklet.times_s, START_S + (tracklet.numbers - 1) / 10, atol=1e-3)
        for crop in tracklet.crops:
            assert crop.path.is_file()
            assert crop.number in tracklet.numbers


def test_a_second_run_adds_nothing(archive: Path, footage: Path, embedder: Embedder) -> None:
    before = digest_of(archive)
    report = index(footage, archive, embedder)
    assert (report.segments_added, report.segments_there) == (0, 3)
    assert digest_of(archive) == before


def test_the_same_input_gives_the_same_ids_and_bytes(
    archive: Path, footage: Path, embedder: Embedder, tmp_path: Path
) -> None:
    index(footage, tmp_path / "again", embedder)
    assert digest_of(tmp_path / "again") == digest_of(archive)


@pytest.mark.parametrize("together", [1, 7])
def test_the_archive_does_not_depend_on_how_many_frames_pass_a_step_together(
    archive: Path, footage: Path, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    monkeypatch.setattr(indexing, "TOGETHER", together)
    index(footage, tmp_path / "again", embedder)
    assert digest_of(tmp_path / "again") == digest_of(archive)


def test_a_detector_that_is_the_tracker_takes_turns_with_itself(
    footage: Path, embedder: Embedder, tmp_path: Path
) -> None:
    """Such an object may keep ids from ``detect`` to ``update``, as ``GivenTracks`` does. Two objects may not."""
    calls: list[tuple[str, int]] = []

    class Both(MotDetector):
        def detect(self, frame: VideoFrame) -> Boxes:
            calls.append(("detect", frame.number))
            return super().detect(frame)

        def update(self, boxes: Boxes, frame: VideoFrame) -> Ints:
            calls.append(("update", frame.number))
            return np.arange(1, 1 + len(boxes))

        def reset(self, fps: float = 0.0) -> None:
            calls.clear()

    both = Both(footage.with_name("det.txt"))
    index(footage, tmp_path / "one", embedder, detector=both, tracker=both)
    assert [call for call, _ in calls[:4]] == ["detect", "update", "detect", "update"]
    assert all(calls[n][1] == calls[n + 1][1] for n in range(0, len(calls), 2))


def test_blocks_of_frames_are_bounded_in_number_and_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame is decoded only when its block needs it; one frame that is too large is a block by itself."""
    monkeypatch.setattr(indexing, "TOGETHER_BYTES", 3 * 600)
    decoded: list[int] = []

    def decode(heights: list[int]) -> Iterator[VideoFrame]:
        decoded.clear()
        for number, height in enumerate(heights, 1):
            decoded.append(number)
            yield VideoFrame(np.zeros((height, 20, 3), np.uint8), float(number), number)

    def numbers(heights: list[int], most: int) -> list[list[int]]:
        return [[frame.number for frame in block] for block in indexing.in_blocks(decode(heights), most)]

    assert numbers([1] * 7, 3) == [[1, 2, 3], [4, 5, 6], [7]]
    assert numbers([10] * 7, 8) == [[1, 2, 3], [4, 5, 6], [7]]
    assert numbers([99] * 2, 8) == [[1], [2]]
    assert numbers([], 8) == []
    blocks = indexing.in_blocks(decode([1] * 7), 3)
    next(blocks)
    assert decoded == [1, 2, 3]


def test_search_finds_the_person_and_the_time(archive: Path, embedder: Embedder) -> None:
    store = Archive.open(archive)
    tracklet = next(t for t in store.tracklets() if t.id.endswith("080000.000/1"))
    query = embedder.embed(tracklet.best_crop.path)
    for pool in ("mean", "best", "both"):
        hits = store.search_embedding(query, weights_sha256=embedder.sha256(), top=3, pool=pool)  # type: ignore[arg-type]
        assert [h.rank for h in hits] == [1, 2, 3]
        assert hits[0].score > 0.9
        assert sorted((h.score for h in hits), reverse=True) == [h.score for h in hits]
    # By hand: the mean of the cosine with the mean and of the best cosine with a crop.
    unit = query[0] / np.linalg.norm(query[0])
    ids, means = store.means()
    want = {i: (m @ unit + (store.vectors(i) @ unit).max()) / 2 for i, m in zip(ids, means, strict=True)}
    hits = store.search_embedding(query, weights_sha256=embedder.sha256(), top=len(store))
    assert [h.item.source for h in hits] == sorted(want, key=lambda i: -want[i])
    assert [h.score for h in hits] == pytest.approx(sorted(want.values(), reverse=True), abs=1e-5)


def test_an_archive_has_the_search_methods_of_a_gallery(archive: Path, embedder: Embedder) -> None:
    store = Archive.open(archive, embedder)
    paths = [t.best_crop.path for t in store.tracklets()][:2]
    vectors = embedder.embed(paths)
    by_vector = [store.search_embedding(v, weights_sha256=embedder.sha256(), top=4) for v in vectors]
    for got in ([store.search(path, top=4) for path in paths], store.search_many(paths, top=4)):
        for hits, want in zip(got, by_vector, strict=True):
            assert [(h.rank, h.item) for h in hits] == [(h.rank, h.item) for h in want]
            assert [h.score for h in hits] == pytest.approx([h.score for h in want], abs=1e-5)
    assert by_vector[0][0].item == Item(
        by_vector[0][0].item.source, None, "gate", store.tracklet(by_vector[0][0].item.source).begin_s
    )
    with pytest.raises(GalleryError, match="embedder"):
        Archive.open(archive).search(paths[0])
    with pytest.raises(GalleryError, match="2"):
        store.search(paths)
    for wrong in (np.ones(4), np.zeros(512), np.full(512, np.nan), np.ones((2, 512))):
        with pytest.raises(GalleryError):
            store.search_embedding(wrong, weights_sha256=embedder.sha256())
    with pytest.raises(GalleryError, match="0"):
        store.search(paths[0], top=0)
    with pytest.raises(DataError, match="hat"):
        store.search(paths[0], where=Where(having=frozenset({"hat"})))
    chosen = frozenset(sorted(store.sources())[:2])
    assert {h.item.source for h in store.search(paths[0], where=Where(sources=chosen))} == chosen
    assert store.search(paths[0], where=Where(identities=frozenset({"7"}))) == []


@pytest.mark.parametrize("pool", ["mean", "best", "both"])
@pytest.mark.parametrize("top", [1, 5, 1000])
def test_search_equals_a_slow_loop_with_many_ties(
    pool: Pool, top: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Components of 1/2, and means of 1, give few and exact cosines. Four segments, one of them without tracklets."""
    monkeypatch.setattr("osnet.video.archive.RESCORED", 7)
    about = {"format": "osnet-archive-1", "weights_sha256": "0" * 64, "weights_name": "made up", "embedding_size": 4}
    (tmp_path / "archive.json").write_text(json.dumps(about))
    rng, jpeg = np.random.default_rng(0), encode_jpeg(np.full((8, 4, 3), 90, np.uint8))
    for order, number in enumerate([20, 0, 1, 30]):
        finished = []
        for _ in range(number):
            one = rng.choice(np.float32([-0.5, 0.5]), 4)
            other = one * rng.permutation(np.float32([1, -1, -1, -1])) if rng.random() < 0.5 else one
            track = Track(1, [1, 2], [order * 60.0, order * 60.0 + 1], [(0.0, 0.0, 8.0, 16.0)] * 2, [0.9] * 2)
            samples = [Sample(1, order * 60.0, track.boxes[0], 0.5, vector, jpeg) for vector in (one, other)]
            finished.append(FinishedTrack(track, samples))
        said = {"camera": "gate", "start_s": order * 60.0, "footage": {"path": "/gate.mp4"}, "troubles": []}
        write_segment(tmp_path, segment_name("gate", order * 60.0), finished, said, 4)
    store, query = Archive.open(tmp_path), np.float32([0.5, 0.5, -0.5, 0.5])
    for where in (None, Where(after_s=100.0), Where(before_s=100.0), Where(after_s=1e6)):
        ids, means = store.means()
        rows = []
        for place, (tracklet_id, mean) in enumerate(zip(ids, means, strict=True)):
            tracklet, best = store.tracklet(tracklet_id), max((store.vectors(tracklet_id) @ query).tolist())
            if where is None or (
                (where.after_s is None or tracklet.end_s >= where.after_s)
                and (where.before_s is None or tracklet.begin_s <= where.before_s)
            ):
                rows.append((-best if pool == "best" else -float(mean @ query), place, -best))
        rows.sort()
        if pool == "both":
            rows = sorted(((mean + best) / 2, place, best) for mean, place, best in rows[: max(top, 7)])
        hits = store.search_embedding(query, weights_sha256="0" * 64, top=top, where=where, pool=pool)
        assert [(hit.score, hit.item.source) for hit in hits] == [(-cost, ids[place]) for cost, place, _ in rows[:top]]
        assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))


def test_search_by_time_finds_tracklets_that_overlap_it(archive: Path, embedder: Embedder) -> None:
    store = Archive.open(archive)
    query = embedder.embed(next(store.tracklets()).best_crop.path)

    def found(**where: Any) -> list[tuple[float, float]]:
        hits = store.search_embedding(query, weights_sha256=embedder.sha256(), top=99, where=Where(**where))
        return sorted(
            (round(t.begin_s - START_S), round(t.end_s - START_S))
            for t in (store.tracklet(h.item.source) for h in hits)
        )

    assert found(before_s=START_S + 2) == [(0, 12)]
    assert found(after_s=START_S + 22.5) == [(20, 23), (20, 25)]
    assert found(after_s=START_S + 13, before_s=START_S + 14) == [(10, 22)]
    assert found(cameras=frozenset({"hall"})) == []
    assert len(found(cameras=frozenset({"gate"}))) == len(store)
    assert len(found(source="*/080010.000/*")) == 3


def test_other_weights_and_other_settings_are_refused(
    archive: Path, footage: Path, embedder: Embedder, tiny_weights: Path
) -> None:
    flipped = Embedder(tiny_weights, device="cpu", backend="torch", flip=True)
    with pytest.raises(GalleryError, match="cannot be compared"):
        index(footage, archive, flipped)
    with pytest.raises(GalleryError, match="cannot be compared"):
        Archive.open(archive).search_embedding(np.ones(512), weights_sha256=flipped.sha256())
    before = digest_of(archive)
    with pytest.raises(GalleryError, match="tracker"):
        index(footage, archive, embedder, tracker=make_tracker("sort"))
    with pytest.raises(GalleryError, match="settings"):
        index(footage, archive, embedder, settings=IndexSettings(segment_s=10, fps=5))
    assert digest_of(archive) == before


@pytest.mark.parametrize("camera", ["gate/7", "../gate", ".gate", "", "a b", "x" * 300])
def test_camera_names_that_are_paths_are_refused(
    footage: Path, embedder: Embedder, tmp_path: Path, camera: str
) -> None:
    with pytest.raises(FootageError, match="camera"):
        index(footage, tmp_path / "a", embedder, camera=camera)
    assert not (tmp_path / "a").exists()


def test_several_cameras_and_files_share_an_archive(footage: Path, embedder: Embedder, tmp_path: Path) -> None:
    out = tmp_path / "a"
    index(footage, out, embedder, settings=IndexSettings(segment_s=30))
    index(footage, out, embedder, camera="hall", settings=IndexSettings(segment_s=30))
    late = "2026-11-29T23:59:58.250+02:00"
    index(footage, out, embedder, starts=late, settings=IndexSettings(segment_s=30))
    names = [s["name"] for s in Archive.open(out).segments]
    assert names == ["2026-11-28/gate/080000.000", "2026-11-28/hall/080000.000", "2026-11-29/gate/215958.250"]
    assert Archive.open(out).cameras == ["gate", "hall"]


def test_tracks_from_a_file_are_used_unchanged(footage: Path, embedder: Embedder, tmp_path: Path) -> None:
    finder, follower = front_end(footage.with_name("gt.txt"))
    settings = IndexSettings(segment_s=30, appearance=False)
    index(footage, tmp_path / "a", embedder, detector=finder, tracker=follower, settings=settings)
    found = list(Archive.open(tmp_path / "a").tracklets())
    assert [len(t.numbers) for t in found] == [120, 200, 100]
    assert [t.pieces for t in found] == [((1, 1, 120),), ((2, 31, 230),), ((3, 151, 250),)]


def test_a_full_disk_loses_only_the_current_segment(
    footage: Path, embedder: Embedder, tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = np.save, [0]

    def full(*args: Any, **kwargs: Any) -> None:
        calls[0] += 1
        if calls[0] == 8:  # in the second segment
            raise OSError(28, "No space left on device")
        real(*args, **kwargs)

    monkeypatch.setattr(archive_segments.np, "save", full)
    with pytest.raises(OutputError, match="No space left"):
        index(footage, tmp_path / "a", embedder)
    assert len(Archive.open(tmp_path / "a").segments) == 1
    assert not list((tmp_path / "a").rglob(".writing-*"))
    monkeypatch.undo()
    assert index(footage, tmp_path / "a", embedder).segments_added == 2
    assert digest_of(tmp_path / "a") == digest_of(archive)


@pytest.mark.parametrize("name", ["tracklets.jsonl", "means.npy", "segment.json"])
def test_a_damaged_segment_is_named(footage: Path, embedder: Embedder, tmp_path: Path, name: str) -> None:
    index(footage, tmp_path / "a", embedder, settings=IndexSettings(segment_s=30))
    path = next((tmp_path / "a").rglob(name))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(GalleryError, match="080000"):
        Archive.open(tmp_path / "a")


def test_a_folder_that_is_not_an_archive_is_refused(tmp_path: Path, embedder: Embedder, footage: Path) -> None:
    with pytest.raises(GalleryError, match="no archive"):
        Archive.open(tmp_path)
    (tmp_path / "mine.txt").touch()
    with pytest.raises(GalleryError, match=r"mine\.txt"):
        index(footage, tmp_path, embedder)


def index_with_kills(footage: Path, weights: Path, out: Path, kills: int) -> int:
    """Index with SIGKILL at random moments before it may end; how many kills met the process alive."""
    script = Path(__file__).with_name("killed_runs.py")
    command = [sys.executable, script, footage, footage.with_name("det.txt"), weights, out, kills, 7]
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_killed_run_ends_with_the_same_bytes(footage: Path, tiny_weights: Path, tmp_path: Path) -> None:
    index_with_kills(footage, tiny_weights, tmp_path / "whole", 0)
    kills = int(os.environ.get("OSNET_KILLS", "6"))
    met = index_with_kills(footage, tiny_weights, tmp_path / "killed", kills)
    assert met >= 1
    assert digest_of(tmp_path / "killed") == digest_of(tmp_path / "whole")
    assert not list((tmp_path / "killed").rglob(".writing-*"))


def test_leftovers_of_a_killed_run_are_ignored_and_removed(
    footage: Path, embedder: Embedder, tmp_path: Path, archive: Path
) -> None:
    leftover = tmp_path / "a" / "2026-11-28" / "gate" / ".writing-1-abcd-080000.000"
    (leftover / "crops").mkdir(parents=True)
    (leftover / "segment.json").write_text(json.dumps({"format": "osnet-segment-1"}))
    (tmp_path / "a" / "archive.json").write_bytes((archive / "archive.json").read_bytes())
    assert len(Archive.open(tmp_path / "a")) == 0
    index(footage, tmp_path / "a", embedder)
    assert not leftover.exists()


def test_footage_that_moved_between_two_runs_is_the_same_footage(
    archive: Path, footage: Path, embedder: Embedder, tmp_path: Path
) -> None:
    """Else no tracklets are linked over the border, and an erasure leaves the copy in the overlap."""
    out, moved = tmp_path / "a", tmp_path / "moved"
    shutil.copytree(archive, out)
    shutil.rmtree(out / list_segments(out)[1])
    shutil.copytree(footage.parent, moved)
    assert index(moved / footage.name, out, embedder).segments_added == 1
    found = []
    for store in (Archive.open(archive), Archive.open(out)):
        borders = {(link.a, link.b) for link in propose_links(store) if link.kind == "border"}
        found.append((borders, {i: sorted(find_twins(store, [i])) for i in store.sources()}))
    assert len(found[0][0]) >= 2
    assert found[1] == found[0]


def test_every_run_reports_the_faults_of_the_footage(tmp_path: Path, embedder: Embedder, footage: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", numbered(100), options={"movflags": "faststart"})
    cut = tmp_path / "gate.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 3 // 4])
    write_truth(tmp_path / "det.txt", PATHS, 100, ids=False)
    reports = [index(cut, tmp_path / "a", embedder) for _ in range(2)]
    assert [r.segments_added for r in reports] == [1, 0]
    assert reports[0].troubles
    assert reports[0].troubles == reports[1].troubles
    assert all("gate.mp4 at " in trouble for trouble in reports[0].troubles)


def test_progress_is_reported_in_seconds_of_footage(footage: Path, embedder: Embedder, tmp_path: Path) -> None:
    told: list[tuple[float, float]] = []
    index(footage, tmp_path / "a", embedder, on_progress=lambda done, total, _: told.append((done, total)))
    assert {round(total, 3) for _, total in told} == {25.0}
    assert [d for d, _ in told] == sorted(d for d, _ in told)
    assert told[-1][0] == pytest.approx(25)
