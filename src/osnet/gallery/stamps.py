"""The files behind a gallery's items: as they were when they were embedded, and as they are now."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from osnet.files import check_fields, plain_path, sha256_file
from osnet.types import Item


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What tells whether a file is still the one that was embedded."""

    size: int
    """Bytes."""
    mtime_ns: int
    """When its content was last changed, as the disk says."""
    ctime_ns: int
    """When anything of it was last changed; programs that set ``mtime_ns`` back do not set this."""
    sha256: str
    """Of its content: decides if one of the others differs."""

    @classmethod
    def of(cls, path: str | Path) -> "FileStamp | None":
        """A file as it is now; None if there is none or it cannot be read.

        Take it before the file is embedded: a change in between then shows as one.
        """
        try:
            status = os.stat(path)  # noqa: PTH116 a source may be no path at all
            return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, sha256_file(path))
        except (OSError, ValueError):
            return None

    @classmethod
    def read(cls, content: Any) -> "FileStamp | None":
        """From JSON, None from None. Raises ValueError, TypeError or AttributeError for anything else."""
        if content is None:
            return None
        known = {field.name for field in fields(cls)}
        stamp = cls(**{name: value for name, value in content.items() if name in known})
        check_fields(stamp)
        return stamp

    def is_of(self, path: str | Path) -> bool:
        """True if the file is certainly the same, by size and times alone."""
        try:
            status = os.stat(path)  # noqa: PTH116
        except (OSError, ValueError):
            return False
        return (status.st_size, status.st_mtime_ns, status.st_ctime_ns) == (self.size, self.mtime_ns, self.ctime_ns)


@dataclass(frozen=True)
class Stored:
    """What a gallery holds of one source, but for its vector."""

    item: Item
    stamp: FileStamp | None
    """None: not known, as in galleries that were made before stamps were kept."""


@dataclass(frozen=True)
class Added:
    """What ``Gallery.put`` did."""

    new: int
    """Items that were not there."""
    replaced: int
    """Items whose vector was another file's, or an older state of the file."""
    same: int
    """Items that were there with the same file: left as they were."""


@dataclass(frozen=True)
class Update:
    """What a gallery needs, to hold the files as they are now."""

    todo: dict[str, Item]
    """By path, what to embed."""
    changed: frozenset[str]
    """Those of ``todo`` that the gallery holds in another state."""
    unknown: frozenset[str]
    """Those of ``todo`` of which the gallery does not say in what state it holds them."""
    same: int
    """Items that it holds as they are."""
    relabelled: list[Item]
    """Of these, those with another identity, camera or time."""
    restamped: dict[str, FileStamp]
    """Of these, by source, those whose files have other times and the same content."""


def plan_update(stored: Mapping[str, Stored], items: Iterable[Item], *, labels_count: bool) -> Update:
    """Compare a gallery (``Gallery.stored``) with files, whose items have their plain paths as sources.

    Args:
        stored: by source; one that is written with ``..`` means the same item as its plain path.
        items: what there is now, with what is known of it.
        labels_count: what they say replaces what the gallery says; else it only fills in what is unknown there.
    """
    plain = {str(plain_path(source)) if ".." in source else source: old for source, old in stored.items()}
    todo, relabelled, restamped = {}, [], {}
    changed, unknown, same = set(), set(), 0
    for item in items:
        path, old = item.source, plain.get(item.source)
        if old is None:
            todo[path] = item
            continue
        labelled = _merge(old.item, item, labels_count)
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


def _merge(old: Item, new: Item, labels_count: bool) -> Item:
    """The old item with what is newly known of it."""
    first, second = (new, old) if labels_count else (old, new)
    return replace(
        old,
        identity=new.identity if labels_count else old.identity or new.identity,
        camera=first.camera or second.camera,
        time_s=first.time_s if first.time_s is not None else second.time_s,
    )


def is_gone(stored: Stored) -> bool:
    """True if the item's file was there when it was embedded, and is not there now.

    Without a stamp, an absolute path was a file; of ``/videos/a.mp4#1207`` it is the part before ``#``.
    """
    source = stored.item.source
    if stored.stamp is None and not Path(source).is_absolute():
        return False
    places = [source, source.rpartition("#")[0]] if "#" in source else [source]
    return not any(os.path.exists(place) for place in places)  # noqa: PTH110 a source may be no path at all


def lies_below(source: str, folder: Path) -> bool:
    """True if ``source`` is a path below ``folder``, a ``plain_path``; links are not followed."""
    return (plain_path(source) if ".." in source else Path(source)).is_relative_to(folder)
