"""Remove tracklets or whole segments from an archive, so that their bytes are gone, not only hidden.

A segment that loses tracklets is written anew beside the old one (``.erasing-NAME``), then the two change places, then
the old one is deleted. A run that was killed between these steps is finished by ``finish_erasing``, which each call
begins with. Tracklets that stay keep their ids. What file systems and disks keep of deleted files is beyond reach.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from osnet.errors import GalleryError, OutputError
from osnet.files import sha256_file, write_json
from osnet.video.archive import Archive
from osnet.video.archive_segments import (
    ARRAYS,
    ERASED_FORMAT,
    LOCK,
    LOCK_TIMEOUT_S,
    SEGMENT_FILE,
    TRACKLETS_FILE,
    writing,
)
from osnet.video.links import DECISIONS_FILE, LINKS_FILE, history, mean_overlap

NEW, OLD = ".erasing-", ".erased-"
SAME_BOX = 0.5
"""Mean intersection over union from which boxes of the same frames are one person's, as for links across a border."""


@dataclass
class Removal:
    """What was removed from an archive."""

    tracklets: list[str] = field(default_factory=list)
    num_crops: int = 0
    """Pictures; as many vectors, and one mean for each tracklet."""
    rewritten: list[str] = field(default_factory=list)
    """Segments that were written anew without them."""
    deleted: list[str] = field(default_factory=list)
    """Segments that are gone as a whole."""
    num_links: int = 0
    """Lines of ``links.json`` and ``decisions.jsonl`` that named them."""


def remove_tracklets(archive: Archive, tracklet_ids: Iterable[str]) -> Removal:
    """Erase tracklets: their crops, vectors, boxes, links and decisions. Open the archive again afterwards.

    Args:
        archive: the archive.
        tracklet_ids: those that are not there (any more) are passed over, so a run that was killed can be repeated.

    Raises:
        GalleryError: another process is writing to a camera of the archive.
        OutputError: the disk is full, or the folder cannot be written to. Each segment is the old one or the new one.
    """
    removal = Removal()
    finish_erasing(archive.folder)
    there = archive.sources()
    asked = list(dict.fromkeys(tracklet_ids))
    by_segment: dict[str, set[str]] = {}
    for tracklet_id in asked:
        if tracklet_id in there:
            by_segment.setdefault(tracklet_id.rpartition("/")[0], set()).add(tracklet_id)
            removal.num_crops += len(archive.tracklet(tracklet_id).crops)
    for name, ids in sorted(by_segment.items()):
        with writing(archive.folder, name.split("/")[1]):
            _rewrite(archive.folder, name, ids)
        removal.tracklets += sorted(ids)
        removal.rewritten.append(name)
    removal.num_links = _forget_links(archive, set(asked))
    return removal


def find_twins(archive: Archive, tracklet_ids: Sequence[str]) -> list[str]:
    """Tracklets of neighbouring segments that show the same person in the same frames, where segments overlap.

    They hold the same crops, so erasing a person means erasing them too. Not those that are given.
    """
    found: list[str] = []
    todo, seen = list(tracklet_ids), set(tracklet_ids)
    cameras, begins, ends = archive.spans()
    ids = archive.means()[0]
    while todo:
        one = archive.tracklet(todo.pop())
        segment = one.id.rpartition("/")[0]
        near = np.flatnonzero((begins <= one.end_s) & (ends >= one.begin_s))
        for place in near.tolist():
            other = ids[place]
            if cameras[place] != one.camera or other in seen or other.startswith(f"{segment}/"):
                continue
            if mean_overlap(one, archive.tracklet(other)) >= SAME_BOX:
                seen.add(other)
                found.append(other)
                todo.append(other)
    return found


def remove_segments(archive: Archive, names: Iterable[str]) -> Removal:
    """Delete whole segments, as when their time is over. Open the archive again afterwards. Raises as above."""
    removal = Removal()
    finish_erasing(archive.folder)
    ids = archive.sources()
    for name in names:
        own = sorted((i for i in ids if i.rpartition("/")[0] == name), key=lambda i: int(i.rpartition("/")[2]))
        removal.num_crops += sum(len(archive.tracklet(i).crops) for i in own)
        folder = archive.folder / name
        with writing(archive.folder, name.split("/")[1]), _named(folder):
            if folder.is_dir():
                old = folder.with_name(OLD + folder.name)
                folder.rename(old)
                _sync(folder.parent)
                shutil.rmtree(old)
        removal.tracklets += own
        removal.deleted.append(name)
        for empty in (folder.parent, folder.parent.parent):
            if empty.is_dir() and not any(empty.iterdir()):
                empty.rmdir()
    removal.num_links = _forget_links(archive, set(removal.tracklets))
    return removal


def finish_erasing(folder: Path) -> None:
    """Finish what a killed run began: a new segment takes the place of the old one; the old one is deleted.

    A camera that another process writes to is left alone: it may be erasing there.
    """
    cameras = {path.parent.name for mark in (NEW, OLD) for path in folder.glob(f"*/*/{mark}*")}
    for camera in sorted(cameras):
        with suppress(Timeout), FileLock(folder / f"{LOCK}-{camera}", timeout=0):
            _finish(folder, camera)


def _finish(folder: Path, camera: str) -> None:
    for new in folder.glob(f"*/{camera}/{NEW}*"):
        target = new.with_name(new.name.removeprefix(NEW))
        if (new / SEGMENT_FILE).is_file() and not target.exists():
            new.rename(target)
            _sync(target.parent)
        else:
            shutil.rmtree(new)  # it was not complete, or did not take its place yet; the old one is still there
    for old in folder.glob(f"*/{camera}/{OLD}*"):
        shutil.rmtree(old)


def _rewrite(root: Path, name: str, ids: set[str]) -> None:
    folder = root / name
    new, old = folder.with_name(NEW + folder.name), folder.with_name(OLD + folder.name)
    about = json.loads((folder / SEGMENT_FILE).read_text(encoding="utf-8"))
    with _named(folder):
        shutil.rmtree(new, ignore_errors=True)
        (new / "crops").mkdir(parents=True)
        lines = (folder / TRACKLETS_FILE).read_text(encoding="utf-8").splitlines()
        arrays = {a: np.load(folder / f"{a}.npy", allow_pickle=False) for a in ARRAYS}
        kept: list[str] = []
        crop_rows: list[int] = []
        frame_rows: list[int] = []
        mean_rows: list[int] = []
        first_crop = 0
        for place, line in enumerate(lines):
            row = json.loads(line)
            number, num_crops = int(row.get("number", place + 1)), len(row["crops"])
            if f"{name}/{number}" not in ids:
                begin, end = row["rows"]
                row |= {"number": number, "rows": [len(frame_rows), len(frame_rows) + end - begin]}
                kept.append(json.dumps(row, allow_nan=False) + "\n")
                crop_rows += range(first_crop, first_crop + num_crops)
                frame_rows += range(begin, end)
                mean_rows.append(place)
                for crop in range(1, num_crops + 1):
                    file = f"{number:04d}-{crop}.jpg"
                    shutil.copyfile(folder / "crops" / file, new / "crops" / file)
            first_crop += num_crops
        (new / TRACKLETS_FILE).write_text("".join(kept), encoding="utf-8")
        rows = {"vectors": crop_rows, "means": mean_rows}
        for array, values in arrays.items():
            np.save(new / f"{array}.npy", values[rows.get(array, frame_rows)], allow_pickle=False)
        files = sorted(path.relative_to(new).as_posix() for path in new.rglob("*") if path.is_file())
        about |= {"format": ERASED_FORMAT, "num_tracklets": len(kept)}
        about["sha256"] = {file: sha256_file(new / file) for file in files}
        (new / SEGMENT_FILE).write_text(json.dumps(about, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        for path in [*new.rglob("*"), new]:
            _sync(path)
        folder.rename(old)
        new.rename(folder)
        _sync(folder.parent)
        shutil.rmtree(old)


def _forget_links(archive: Archive, ids: set[str]) -> int:
    """Links and decisions without those that name one of ``ids``; how many these were."""

    def names_one(link: Mapping[str, object]) -> bool:
        return link.get("a") in ids or link.get("b") in ids

    dropped = 0
    links, decisions = archive.folder / LINKS_FILE, archive.folder / DECISIONS_FILE
    if links.is_file():
        content = json.loads(links.read_text(encoding="utf-8"))
        kept = [link for link in content["links"] if not names_one(link)]
        if len(kept) < len(content["links"]):
            dropped += len(content["links"]) - len(kept)
            write_json(links, {**content, "links": kept})
    with FileLock(archive.folder / f"{LOCK}-decisions", timeout=LOCK_TIMEOUT_S):
        lines = history(archive)
        left = [line for line in lines if not names_one(line)]
        if len(left) < len(lines):
            dropped += len(lines) - len(left)
            aside = decisions.with_name(f"{NEW}{DECISIONS_FILE}")
            aside.write_text("".join(json.dumps(line) + "\n" for line in left), encoding="utf-8")
            _sync(aside)
            aside.replace(decisions)
            _sync(archive.folder)
    return dropped


@contextmanager
def _named(folder: Path) -> Iterator[None]:
    """Errors of the disk as OutputError with the folder's name."""
    try:
        yield
    except (OutputError, GalleryError):
        raise
    except OSError as error:
        raise OutputError(f"cannot rewrite {folder}: {error.strerror or error}") from error


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
