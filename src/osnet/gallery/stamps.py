"""Stamps of image files, and what must be embedded again because a file has changed."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from osnet.files import check_fields, plain_path, sha256_file
from osnet.types import Item


@dataclass(frozen=True, slots=True)
class FileStamp:
    """Size, times and digest of a file, from before it was embedded. They show whether the file has changed."""

    size: int
    """Bytes."""
    mtime_ns: int
    """Modification time, in nanoseconds."""
    ctime_ns: int
    """Change time, in nanoseconds. Programs that set ``mtime_ns`` back cannot set this one."""
    sha256: str
    """Of the content. Decides where the size or a time differs."""

    @classmethod
    def of(cls, path: str | Path) -> "FileStamp | None":
        """The stamp of a file as it is now; None if the file is missing or cannot be read.

        Take it before the file is embedded. A change in between is then noticed.
        """
        try:
            status = os.stat(path)  # noqa: PTH116 a source may be no path at all
            return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, sha256_file(path))
        except (OSError, ValueError):
            return None

    @classmethod
    def read(cls, content: Any) -> "FileStamp | None":
        """A stamp from its JSON object; None from None. Raises ValueError, TypeError or AttributeError otherwise."""
        if content is None:
            return None
        known = {field.name for field in fields(cls)}
        stamp = cls(**{name: value for name, value in content.items() if name in known})
        check_fields(stamp)
        return stamp

    def is_of(self, path: str | Path) -> bool:
        """True if size and times of the file are those of the stamp. The content is not read."""
        try:
            status = os.stat(path)  # noqa: PTH116
        except (OSError, ValueError):
            return False
        return (status.st_size, status.st_mtime_ns, status.st_ctime_ns) == (self.size, self.mtime_ns, self.ctime_ns)


@dataclass(frozen=True)
class Stored:
    """An item of a gallery with the stamp of its file."""

    item: Item
    stamp: FileStamp | None
    """None if unknown: added without a stamp, or by a version that did not store stamps."""


@dataclass(frozen=True)
class Added:
    """Counts of what ``Gallery.put_embeddings`` did."""

    new: int
    """Items whose source was not stored before."""
    replaced: int
    """Items that were replaced, because their file has changed or its stamp was unknown."""
    same: int
    """Items left as they were, because the stored stamp has the same SHA-256."""


@dataclass(frozen=True)
class Update:
    """The difference between a gallery and the files as they are now."""

    todo: dict[str, Item]
    """By path: the items to embed."""
    changed: frozenset[str]
    """Paths in ``todo`` whose files have changed since they were embedded."""
    unknown: frozenset[str]
    """Paths in ``todo`` that are stored without a stamp, so that a change could not be seen."""
    same: int
    """Number of items whose files have not changed."""
    relabelled: list[Item]
    """Unchanged items that get another identity, camera or time."""
    restamped: dict[str, FileStamp]
    """By source: new stamps of unchanged items whose files have other times and the same content."""


def plan_update(stored: Mapping[str, Stored], items: Iterable[Item], *, replace_labels: bool) -> Update:
    """Compare a gallery with files as they are now.

    Args:
        stored: ``Gallery.stored()``. A source with ``..`` means the same item as its plain path.
        items: the files, whose sources are plain paths (``plain_path``), with their labels.
        replace_labels: True: the identity of ``items`` replaces the stored one; camera and time do so if they are
            known. False: they only fill in what is unknown.
    """
    plain = {str(plain_path(source)) if ".." in source else source: old for source, old in stored.items()}
    todo, relabelled, restamped = {}, [], {}
    changed, unknown, same = set(), set(), 0
    for item in items:
        path, old = item.source, plain.get(item.source)
        if old is None:
            todo[path] = item
            continue
        labelled = _merge(old.item, item, replace_labels)
        if old.stamp is None:
            unknown.add(path)
            todo[path] = labelled
            continue
        now = None if old.stamp.is_of(path) else FileStamp.of(path)
        if now is not None and now.sha256 == old.stamp.sha256:
            restamped[old.item.source] = now
        elif not old.stamp.is_of(path):
            changed.add(path)
            todo[path] = labelled
            continue
        same += 1
        if labelled != old.item:
            relabelled.append(labelled)
    return Update(todo, frozenset(changed), frozenset(unknown), same, relabelled, restamped)


def _merge(old: Item, new: Item, replace_labels: bool) -> Item:
    """The stored item with the labels of the new one; see ``plan_update``."""
    first, second = (new, old) if replace_labels else (old, new)
    return replace(
        old,
        identity=new.identity if replace_labels else old.identity or new.identity,
        camera=first.camera or second.camera,
        time_s=first.time_s if first.time_s is not None else second.time_s,
    )


def is_gone(stored: Stored) -> bool:
    """True if the item's file existed when it was embedded and does not exist now.

    Without a stamp, a source that is an absolute path counts as a file. Of ``/videos/a.mp4#1207`` the part before
    ``#`` counts.
    """
    source = stored.item.source
    if stored.stamp is None and not Path(source).is_absolute():
        return False
    places = [source, source.rpartition("#")[0]] if "#" in source else [source]
    return not any(os.path.exists(place) for place in places)  # noqa: PTH110 a source may be no path at all


def has_changed(stored: Stored) -> bool:
    """True if the item's file has another content than when it was embedded, or is gone; False without a stamp."""
    stamp, source = stored.stamp, stored.item.source
    if stamp is None or stamp.is_of(source):
        return False
    now = FileStamp.of(source)
    return now is None or now.sha256 != stamp.sha256


def lies_below(source: str, folder: Path) -> bool:
    """True if ``source`` is a path below ``folder`` (a ``plain_path``). Links are not followed."""
    return (plain_path(source) if ".." in source else Path(source)).is_relative_to(folder)
