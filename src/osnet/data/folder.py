"""Read any folder of crops. Identity and camera come from sub-folders, from file names or from a CSV."""

import math
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Literal

from osnet.data.loading import is_image_file, list_images, list_other_files, no_images, warn_of_unread
from osnet.data.reid.identify import identify_benchmark
from osnet.data.reid.market1501 import find_market1501, parse_name, read_market1501
from osnet.data.table import locate_images, read_identities
from osnet.errors import DataError
from osnet.types import DISTRACTOR_PID, JUNK_PID, Crop, ReidDataset, Split

IdentityFrom = Literal["auto", "subfolders", "pattern", "csv", "market1501"]
SPLITS = ("train", "query", "gallery")
MARKET_SPLITS = ("bounding_box_train", "query", "bounding_box_test")
RESERVED = {"-1": JUNK_PID, "0": DISTRACTOR_PID}
"""Identities that mean junk or distractor in a CSV or a file name, as in Market-1501. Not applied to sub-folders."""
MAX_SECONDS = 1e11
"""A larger time (after the year 5138) is refused: it is in milliseconds."""


@dataclass(frozen=True)
class FolderLayout:
    """Where the identity and the camera of a crop are read from. Times are in seconds or ISO 8601 (default zone: UTC).

    Raises:
        DataError: the pattern is not a regular expression, has no group ``identity`` or has an unknown group;
            ``identity_from`` is ``pattern`` or ``csv`` and the field of that name is None; or two fields name
            different sources of the identity.
    """

    identity_from: IdentityFrom = "auto"
    """``subfolders`` means ``IDENTITY/x.jpg`` or ``IDENTITY/CAMERA/x.jpg``. ``auto`` uses the pattern or the CSV if one
    is given, else Market-1501's file names if all images have them, else sub-folders."""
    pattern: str | None = None
    """Regular expression that is searched in the path relative to the folder (with ``/``). It has the named group
    ``identity`` and optionally ``camera`` and ``time``; other named groups are refused."""
    csv: Path | None = None
    """CSV file with the columns ``path`` and ``identity`` and optionally ``camera``, ``time`` and ``split``. Paths are
    relative to the folder. A longer path, for example one written on another machine, is found by its end; see
    ``table.locate_images``."""

    def __post_init__(self) -> None:
        if self.pattern is not None:
            try:
                groups = re.compile(self.pattern).groupindex
            except re.error as error:
                raise DataError(f"pattern {self.pattern!r} is not a valid regular expression: {error}") from error
            if "identity" not in groups:
                raise DataError(
                    f"pattern {self.pattern!r} has no group (?P<identity>...); "
                    r"for instance (?P<identity>\w+)_cam(?P<camera>\d+)"
                )
            if unknown := sorted(set(groups) - {"identity", "camera", "time"}):
                raise DataError(
                    f"pattern {self.pattern!r} has the group {unknown[0]!r}, which means nothing; the groups are "
                    "identity, camera and time (a group without a name may be anything)"
                )
        for kind in ("pattern", "csv"):
            if self.identity_from == kind and getattr(self, kind) is None:
                raise DataError(f"identity_from={kind!r} needs {kind}=...")
            if self.identity_from not in ("auto", kind) and getattr(self, kind) is not None:
                raise DataError(f"identity_from={self.identity_from!r} and {kind}=... are two sources; leave out one")
        if self.pattern is not None and self.csv is not None:
            raise DataError("pattern=... and csv=... are two sources of the identity; leave out one")


@dataclass(frozen=True)
class _Record:
    path: Path
    identity: str
    camera: str | None = None
    time_s: float | None = None
    split: str | None = None
    numbers: tuple[int, int] | None = None
    """(pid, camid) if the file name follows Market-1501."""
    pid: int | None = None
    """Set only if the identity means junk or distractor (see ``RESERVED``)."""


def read_folder(root: str | Path, layout: FolderLayout | None = None) -> list[Crop]:
    """Read the crops of a folder, sorted by path.

    Identities and cameras are numbered 1, 2, ... in the sorted order of their names. Crops named as in Market-1501 keep
    the numbers in their names. In file names and in a CSV the identity -1 means junk and 0 means distractor, as in
    Market-1501; a sub-folder named -1 or 0 is an ordinary person. A crop without a camera gets a unique negative camid,
    so that the same-camera rule never excludes it.

    Raises:
        DataError: the folder does not exist or has no images, or the layout gives some images no identity (they are
            listed).
    """
    layout = layout or FolderLayout()
    root = Path(root)
    return _number({"all": _read_records(root, layout)})["all"]


def read_dataset(root: str | Path, layout: FolderLayout | None = None, name: str | None = None) -> ReidDataset:
    """Read a re-identification data set with query and gallery.

    Three forms are accepted: Market-1501's layout; folders ``query``, ``gallery`` and optionally ``train``; or a CSV
    with a column ``split`` that contains these names.

    Args:
        root: the folder of the data set.
        layout: where identities are read from; not needed for Market-1501's layout.
        name: the name of the data set. Default: the benchmark that its images belong to (``identify_benchmark``),
            else ``market1501`` if the folder is called ``Market-1501-v15.09.15``, else the name of the folder.

    Raises:
        DataError: the folder does not exist or has none of the three forms (the message lists what was tried), or
            some images have no identity.
    """
    layout = layout or FolderLayout()
    root = Path(root)
    _check_spelling(root, layout)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder" if root.exists() else f"no such folder: {root}")
    plain = layout.identity_from in ("auto", "market1501") and layout == FolderLayout(layout.identity_from)
    if plain and find_market1501(root) is not None:
        return _named(read_market1501(root), name)
    records = _read_split_records(root, layout)
    numbered = _number(records)
    train, query, gallery = (Split(split, tuple(numbered.get(split, ()))) for split in SPLITS)
    if layout.csv is not None:
        unlisted = find_unlisted(root, [crop for crops in numbered.values() for crop in crops])
    else:
        unlisted = _find_beside(root, records)
    places = [root] if layout.csv is not None else [root / split for split in records]
    others = tuple(other for place in places for other in _others(place, layout))
    dataset = ReidDataset(root.resolve().name, root, train, query, gallery, other_files=others, unlisted=unlisted)
    return _named(dataset, name)


def read_any(root: str | Path, layout: FolderLayout | None = None) -> ReidDataset:
    """Read a data set as ``read_dataset`` does; a folder without query and gallery becomes a training split.

    Args:
        root: the folder of the data set.
        layout: where identities are read from; see ``FolderLayout``.

    Raises:
        DataError: the folder does not exist or has no images, or some images have no identity; see ``read_dataset`` and
            ``read_folder``. Or a folder's name differs from ``query``, ``gallery`` or ``train`` in capitals.
    """
    layout, root = layout or FolderLayout(), Path(root)
    _check_spelling(root, layout)
    if find_market1501(root) is not None or {"query", "gallery"} <= _subfolders(root) or _has_splits(layout.csv):
        return read_dataset(root, layout)
    crops = tuple(read_folder(root, layout))
    unlisted, others = find_unlisted(root, crops) if layout.csv is not None else (), _others(root, layout)
    dataset = ReidDataset(root.resolve().name, root, Split("train", crops), other_files=others, unlisted=unlisted)
    return _named(dataset, None)


def _check_spelling(root: Path, layout: FolderLayout) -> None:
    """Refuse folders such as Query and Gallery; they would be read as two people."""
    names = _subfolders(root) if layout.csv is None else set()
    for splits in (SPLITS, MARKET_SPLITS):
        wrong = sorted(name for name in names if name not in splits and name.lower() in splits)
        if wrong and set(splits[1:]) <= {name.lower() for name in names}:
            raise DataError(
                f"{root}: rename the folder(s) {', '.join(wrong)} to {', '.join(name.lower() for name in wrong)}; "
                "capitals count"
            )


def _named(dataset: ReidDataset, name: str | None) -> ReidDataset:
    """Set the name: the given one, else that of the recognised benchmark, else unchanged."""
    benchmark = identify_benchmark(dataset) or ""
    return replace(dataset, name=name or benchmark or dataset.name, benchmark=benchmark)


def _others(folder: Path, layout: FolderLayout) -> tuple[str, ...]:
    """List the files of ``folder`` that are not images, except the CSV. Warns of image formats that cannot be read."""
    table = layout.csv.resolve() if layout.csv is not None else None
    others = tuple(name for name in list_other_files(folder) if Path(name).resolve() != table)
    warn_of_unread(others)
    return others


def _subfolders(root: Path) -> set[str]:
    return {path.name for path in root.iterdir() if path.is_dir()} if root.is_dir() else set()


def _has_splits(table: Path | None) -> bool:
    return table is not None and any(row.get("split") for row in read_identities(table).rows)


def _read_split_records(root: Path, layout: FolderLayout) -> dict[str, list[_Record]]:
    if layout.csv is not None:
        records = _read_csv(root, layout.csv, needs_split=True)
        return {split: [r for r in records if r.split == split] for split in SPLITS}
    found = [split for split in SPLITS if (root / split).is_dir()]
    if not {"query", "gallery"} <= set(found):
        raise DataError(
            f"{root} cannot be evaluated: it has no folders query and gallery, and no CSV with a column split was given"
            + _why_not_market(root, layout)
        )
    kind = _choose_kind({root / split: list(list_images(root / split)) for split in found}, layout)
    layout = replace(layout, identity_from=kind)  # the same rule for all splits; else pids would differ
    return {split: _read_records(root / split, layout) for split in found}


def _why_not_market(root: Path, layout: FolderLayout) -> str:
    if find_market1501(root) is None:
        return ", and it is not in Market-1501's layout (folders query, bounding_box_test)"
    given = "the pattern" if layout.pattern else f"identity_from={layout.identity_from!r}"
    return f"; this is a Market-1501 folder, whose file names contain the identity: leave out {given}"


def _read_records(root: Path, layout: FolderLayout) -> list[_Record]:
    if layout.csv is not None:
        return _read_csv(root, layout.csv)
    paths = list(list_images(root))
    if not paths:
        raise no_images(root)
    kind = _choose_kind({root: paths}, layout)
    if kind == "pattern":
        return _by_pattern(root, paths, layout.pattern or "")
    return _by_market_name(root, paths) if kind == "market1501" else _by_subfolder(root, paths)


def _choose_kind(images: Mapping[Path, Sequence[Path]], layout: FolderLayout) -> IdentityFrom:
    """Resolve ``auto`` for the images of these folders.

    Raises:
        DataError: most images are named as in Market-1501 but some are not (the message lists these), and fewer images
            are in sub-folders, so sub-folders are not taken for identities.
    """
    if layout.identity_from != "auto":
        return layout.identity_from
    if layout.pattern:
        return "pattern"
    odd = [path for paths in images.values() for path in paths if parse_name(path) is None]
    num_images = sum(map(len, images.values()))
    in_subfolders = sum(path.parent != root for root, paths in images.items() for path in paths)
    if odd and num_images - len(odd) > max(in_subfolders, len(odd)):
        _refuse(
            [str(path) for path in odd],
            f"are not named like 0002_c1s1_000451_03.jpg, unlike the other {num_images - len(odd)} (move or rename "
            "them, or give a pattern or a CSV with the identities)",
        )
    return "subfolders" if odd else "market1501"


def _by_subfolder(root: Path, paths: list[Path]) -> list[_Record]:
    loose = [path.name for path in paths if path.parent == root]
    _refuse(loose, f"in {root} are not in a folder of an identity (IDENTITY/x.jpg or IDENTITY/CAMERA/x.jpg)")
    records = []
    for path in paths:
        parts = path.relative_to(root).parts
        records.append(_Record(path, parts[0], parts[1] if len(parts) > 2 else None))
    return records


def _by_pattern(root: Path, paths: list[Path], pattern: str) -> list[_Record]:
    expression = re.compile(pattern)
    records, unmatched = [], []
    for path in paths:
        relative = path.relative_to(root).as_posix()
        match = expression.search(relative)
        if match is None or not match["identity"]:
            unmatched.append(relative)
            continue
        groups = match.groupdict()
        time_s = parse_time(groups["time"], relative) if groups.get("time") else None
        identity = match["identity"]
        records.append(_Record(path, identity, groups.get("camera"), time_s, pid=RESERVED.get(identity)))
    _refuse(unmatched, f"in {root} do not match the pattern {pattern!r}")
    return records


def _by_market_name(root: Path, paths: list[Path]) -> list[_Record]:
    parsed = [(path, parse_name(path)) for path in paths]
    _refuse([p.name for p, ids in parsed if ids is None], f"in {root} are not named like 0002_c1s1_000451_03.jpg")
    return [_Record(path, str(ids[0]), str(ids[1]), numbers=ids) for path, ids in parsed if ids is not None]


def _read_csv(root: Path, file: Path, needs_split: bool = False) -> list[_Record]:
    table = read_identities(file)
    if needs_split and "split" not in table.header:
        raise DataError(f"{file} has no column split; add it, with {', '.join(SPLITS)} as values")
    wheres = [f"{file}, line {line}" for line in table.lines]
    places = locate_images(root, [(row["path"] or "", where) for row, where in zip(table.rows, wheres, strict=True)])
    records: dict[Path, _Record] = {}
    for row, where, path in zip(table.rows, wheres, places, strict=True):
        if path is None:
            place = root / (row["path"] or "")
            raise DataError(
                f"{where}: {place} is a folder; list its images"
                if os.path.isdir(place)  # noqa: PTH112  Path.is_dir raises if the path is too long
                else f"{where}: no such file: {place}"
            )
        if not row["identity"]:
            raise DataError(f"{where}: {row['path']} has no identity")
        if path in records:
            raise DataError(f"{where}: {row['path']} is listed twice")
        time_s = parse_time(time, where) if (time := row.get("time")) else None
        identity, camera, split = row["identity"], row.get("camera") or None, row.get("split") or None
        if needs_split and split not in SPLITS:
            raise DataError(
                f"{where}: the split is {split or ''!r}; it must be {', '.join(SPLITS[:-1])} or {SPLITS[-1]}"
            )
        records[path] = _Record(path, identity, camera, time_s, split, pid=RESERVED.get(identity))
    return [records[path] for path in sorted(records)]


def find_unlisted(root: Path, crops: Iterable[Crop]) -> tuple[str, ...]:
    """List the images below ``root`` that are not among ``crops``, as paths relative to ``root``."""
    listed = {crop.path for crop in crops}
    return tuple(path.relative_to(root).as_posix() for path in list_images(root) if path not in listed)


def _find_beside(root: Path, splits: Collection[str]) -> tuple[str, ...]:
    """List the images below ``root`` outside the folders of the splits; folders that cannot be read are left out."""
    images: list[Path] = []
    for place in sorted(root.iterdir()):
        if place.is_dir() and place.name not in splits and not place.name.startswith("."):
            with suppress(DataError):
                images.extend(list_images(place))
        elif place.is_file() and is_image_file(place):
            images.append(place)
    return tuple(path.relative_to(root).as_posix() for path in images)


def inside(root: Path, relative: str, where: str) -> Path:
    """Return ``root / relative`` after checking that it is inside ``root``.

    Args:
        root: a folder.
        relative: a path from a file.
        where: the place in that file, for the message.

    Raises:
        DataError: ``relative`` is empty, absolute, or leads out of ``root``.
    """
    path = Path(relative)
    if not relative:
        raise DataError(f"{where}: the path is empty")
    if path.is_absolute() or not (root / path).resolve().is_relative_to(root.resolve()):
        raise DataError(f"{where}: the path {relative!r} is outside {root}")
    return root / path


def parse_time(text: str, where: str, refuse_year: bool = False, zone: tzinfo = UTC) -> float:
    """Convert a time to seconds. A number of seconds is returned as it is. An ISO 8601 time becomes seconds since
    1970-01-01 UTC.

    Args:
        text: the time.
        where: its file and line, or its flag. Error messages start with it.
        refuse_year: refuse an integer from 1900 to 2100, which is rather a year than seconds.
        zone: time zone of an ISO 8601 time without one.

    Raises:
        DataError: ``text`` is neither; or it is a number that looks like a date (20240601) or like milliseconds (above
            1e11), or like a year if ``refuse_year`` is set; or the time occurs twice or not at all in ``zone``.
    """
    try:
        seconds = float("" if "_" in text else text)  # Python reads 1_0 as 10
    except ValueError:
        pass
    else:
        if not math.isfinite(seconds):
            raise DataError(f"{where}: time {text!r} is not a finite number of seconds")
        if abs(seconds) > MAX_SECONDS:
            raise DataError(
                f"{where}: time {text!r} is above 1e11 s and looks like milliseconds; write seconds, or "
                "ISO 8601 such as 2024-06-01T12:00:00"
            )
        if date := _as_date(text.strip(), refuse_year):
            raise DataError(
                f"{where}: time {text!r} looks like a date; write {date}, or seconds with a decimal point: "
                f"{text.strip()}.0"
            )
        return seconds
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise DataError(f"{where}: time {text!r} is neither a number of seconds nor ISO 8601") from error
    return to_unix_time(moment, zone, f"{where}: time {text!r}")


def to_unix_time(moment: datetime, zone: tzinfo, what: str) -> float:
    """Convert a time to Unix time. One without a zone is in ``zone``.

    Raises:
        DataError: the time occurs twice or not at all, because the clock is changed. The message starts with ``what``.
    """
    if moment.tzinfo is not None:
        return moment.timestamp()
    first, second = (moment.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    if first.utcoffset() != second.utcoffset():
        text = moment.isoformat()
        twice = (first.utcoffset() or timedelta()) > (second.utcoffset() or timedelta())
        raise DataError(
            f"{what}: {text} occurs {'twice' if twice else 'not at all'} in {zone}, because the clock is changed; "
            f"give its zone too: {first.isoformat()} or {second.isoformat()}"
        )
    return first.timestamp()


def _as_date(text: str, refuse_year: bool) -> str | None:
    """The date YYYY-MM-DD if ``text`` is YYYYMMDD, or YYYY and ``refuse_year`` is set, from 1900 to 2100."""
    whole = f"{text}0101" if refuse_year and len(text) == 4 else text
    if re.fullmatch(r"[0-9]{8}", whole) is None or not 1900 <= int(whole[:4]) <= 2100:
        return None
    try:
        return datetime.fromisoformat(whole).date().isoformat()
    except ValueError:
        return None


def _refuse(names: list[str], what: str) -> None:
    if names:
        raise DataError(f"{len(names)} image(s) {what}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}")


def _number(records: dict[str, list[_Record]]) -> dict[str, list[Crop]]:
    """Assign pids and camids to the sorted names, the same in all splits, and build the crops."""
    every = [record for split in records.values() for record in split]
    pids = _sorted_map(record.identity for record in every if record.pid is None)
    camids = _sorted_map(record.camera for record in every if record.camera)
    unknown = 0
    crops: dict[str, list[Crop]] = {}
    for split, members in records.items():
        crops[split] = []
        for record in members:
            if record.numbers is not None:
                pid, camid = record.numbers
            else:
                pid = record.pid if record.pid is not None else pids[record.identity]
                camid = camids.get(record.camera or "", 0)
            if camid == 0 and record.numbers is None:
                unknown += 1
                camid = -unknown
            crops[split].append(Crop(record.path, pid, camid, record.identity, record.camera or "", record.time_s))
    return crops


def _sorted_map(names: Iterable[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(sorted(set(names)), start=1)}
