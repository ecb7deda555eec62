"""Recordings: which files are footage, their order, and when they begin by their names."""

import glob
import re
import warnings
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, tzinfo
from pathlib import Path

from osnet.data.folder import to_unix_time
from osnet.data.loading import list_files
from osnet.errors import DataError
from osnet.video.protocols import FootageError, FootageWarning
from osnet.video.source import open_container

SUFFIXES = frozenset(
    [
        ".3gp",
        ".asf",
        ".avi",
        ".dav",
        ".flv",
        ".h264",
        ".h265",
        ".hevc",
        ".m2ts",
        ".m4v",
        ".mjpeg",
        ".mjpg",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
        ".mts",
        ".mxf",
        ".nut",
        ".ogv",
        ".ts",
        ".vob",
        ".webm",
        ".wmv",
    ]
)
"""Files of a folder with these extensions are footage. Of other files, the content decides."""
MAX_NAMED = 5
"""A warning names at most this many of the files that were left out."""


def list_footage(footage: str | Path) -> list[Path]:
    """List the video files that a path, a folder or a pattern with ``*`` stands for, in the order of their names.

    Numbers in names are compared as numbers: 2 comes before 10. In a folder, sub-folders and links are followed, but
    not hidden folders. A file with an unknown extension is footage if it can be opened as a video. What is left out is
    named by a ``FootageWarning``.

    Raises:
        FootageError: there is no such file, no video in the folder, or a folder that cannot be read.
    """
    path = Path(footage)
    if path.is_file():
        return [path]
    if path.is_dir():
        try:
            every = list(list_files(path, hidden=True))
        except DataError as error:
            raise FootageError(str(error)) from error
        found = [p for p in every if p.is_file() and (p.suffix.lower() in SUFFIXES or _is_video(p))]
        others = _describe_others(path, set(every).difference(found))
        if not found:
            raise FootageError(
                f"no video files in {path}; a video has one of the extensions {' '.join(sorted(SUFFIXES))}, or can be "
                "opened as one" + (f"; {others}" if others else "")
            )
    else:
        matches = [Path(p) for p in glob.glob(str(footage), recursive=True)]  # noqa: PTH207  it may begin at the root
        found = [p for p in matches if p.is_file()]
        if not found:
            raise FootageError(
                f"no such footage: {footage} is neither a file nor a folder, and matches no files as a pattern"
            )
        inside = {folder for p in found for folder in p.parents}
        others = _describe_others(footage, {p for p in matches if not p.is_file() and p not in inside})
    if others:
        warnings.warn(FootageWarning(others), stacklevel=2)
    return sorted(found, key=natural_order)


def natural_order(path: Path) -> tuple[list[list[str | int]], str]:
    """Key that sorts files by folder and name, with numbers as numbers: ``cam_2.mp4`` before ``cam_10.mp4``."""
    parts = (*path.parent.parts, path.stem, path.suffix)
    split = [re.split(r"([0-9]+)", part) for part in parts]
    return [[int(text) if place % 2 else text for place, text in enumerate(part)] for part in split], str(path)


def _is_video(path: Path) -> bool:
    """Whether a file has a video stream that can be opened, other than the picture of a piece of music."""
    try:
        with open_container(path) as (_, stream):
            return stream.codec_context.width > 0 and not stream.disposition & stream.disposition.attached_pic
    except FootageError:
        return False


def _describe_others(where: str | Path, others: Iterable[Path]) -> str:
    """Say in one line what was left out: an example of each extension first. Empty if there is nothing."""
    ordered = sorted(others, key=natural_order)
    files, folders = [p for p in ordered if not p.is_dir()], [p for p in ordered if p.is_dir()]
    first = {p.suffix.lower(): p for p in reversed(files)}.values()
    files.sort(key=lambda p: p not in first)
    said = []
    for one, many, group in (
        ("file that is no video", "files that are no videos", files),
        ("folder", "folders", folders),
    ):
        names = [str(p.relative_to(where) if p.is_relative_to(where) else p) + "/" * p.is_dir() for p in group]
        if names:
            few = len(names) <= MAX_NAMED
            named = ", ".join(names[:MAX_NAMED])
            said.append(f"{len(names)} {one if len(names) == 1 else many}{': ' if few else ', such as '}{named}")
    return f"left out of {where}: {'; '.join(said)}" if said else ""


MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


FIELDS = {
    "Y": r"[0-9]{4}", "y": r"[0-9]{2}", "m": r"[0-9]{2}", "b": "|".join(MONTHS), "d": r"[0-9]{2}", "H": r"[0-9]{2}",
    "I": r"[0-9]{2}", "p": "am|pm", "M": r"[0-9]{2}", "S": r"[0-9]{2}", "f": r"[0-9]{1,6}",
    "z": r"[-+][0-9]{2}:?[0-9]{2}|z",
}  # fmt: skip
"""What each letter of a pattern for names stands for, on every machine."""


def start_from_name(path: Path, pattern: str, zone: tzinfo = UTC) -> float:
    """Read the Unix time from a file's name.

    Args:
        path: the file; its name is used without the extension.
        pattern: ``%Y`` or ``%y`` (year), ``%m`` or ``%b`` (month, or its three English letters), ``%d``, ``%H`` or
            ``%I`` with ``%p`` (hour; am or pm), ``%M``, ``%S``, ``%f`` (fraction of a second), ``%z`` (zone),
            ``%%`` (percent), and ``*`` for any text: ``gate_*_%Y%m%d_%H%M%S``.
        zone: time zone of the name, unless the pattern contains ``%z``.

    Raises:
        FootageError: the pattern has another letter, or does not give one moment; the name does not match it, matches
            it with several times, or has a time that occurs twice or not at all where the clock is changed.
    """
    parts = re.split(r"(%.|\*)", pattern)
    letters = [part[1] for part in parts[1::2] if part[0] == "%" and part != "%%"]
    _check_letters(pattern, letters)
    times = set()
    for star in (".*?", ".*"):  # the first and the last place that fits
        fields = {"*": star, "%%": "%", **{f"%{name}": f"(?P<{name}>(?i:{FIELDS[name]}))" for name in letters}}
        regex = "".join(fields[part] if place % 2 else re.escape(part) for place, part in enumerate(parts))
        match = re.fullmatch(regex, path.stem)
        try:
            if match is None:
                raise ValueError("it does not match")
            times.add(_moment(match.groupdict()))
        except (ValueError, OverflowError) as error:
            raise FootageError(f"no time can be read from {path.name} by the pattern {pattern!r}: {error}") from error
    if len(times) > 1:
        raise FootageError(
            f"{path.name} fits the pattern {pattern!r} in several ways ({', '.join(map(str, sorted(times)))}); write "
            "more of the name into the pattern"
        )
    try:
        return to_unix_time(times.pop(), zone, path.name)
    except DataError as error:
        raise FootageError(f"{error}; or index it by itself with such a start (--starts)") from error


def _check_letters(pattern: str, letters: list[str]) -> None:
    """Raise FootageError unless the letters of a pattern give one moment, at least a day."""
    works = "give one such as gate_*_%Y%m%d_%H%M%S"
    for letter in letters:
        if letter not in FIELDS:
            raise FootageError(f"the pattern {pattern!r} has %{letter}, which is not read; {works}")
    for kind, known in (("year", "Yy"), ("month", "mb"), ("day", "d"), ("hour", "HI"), ("half of the day", "p"),
                        ("minute", "M"), ("second", "S"), ("fraction", "f"), ("zone", "z")):  # fmt: skip
        if len(given := [letter for letter in letters if letter in known]) > 1:
            raise FootageError(f"the pattern {pattern!r} has {kind} twice, as %{' and %'.join(given)}; {works}")
        if not given and kind in ("year", "month", "day"):
            raise FootageError(f"the pattern {pattern!r} has no {kind}; {works}")
    if ("I" in letters) != ("p" in letters):
        raise FootageError(f"the pattern {pattern!r} needs %I and %p together, or %H, the hour from 00 to 23")
    for letter, before in (("f", "S"), ("S", "M"), ("M", "HI")):
        if letter in letters and not set(before) & set(letters):
            raise FootageError(f"the pattern {pattern!r} has %{letter} without %{before[0]}; {works}")


def _moment(fields: Mapping[str, str]) -> datetime:
    """The time of the fields of a name; naive if they have no zone. Raises ValueError if there is no such time."""
    year = int(fields["Y"]) if "Y" in fields else datetime.strptime(fields["y"], "%y").year
    month = int(fields["m"]) if "m" in fields else MONTHS.index(fields["b"].lower()) + 1
    hour = int(fields.get("H", 0))
    if "I" in fields:
        hour = int(fields["I"])
        if not 1 <= hour <= 12:
            raise ValueError(f"hour {hour} must be from 1 to 12")
        hour = hour % 12 + 12 * (fields["p"].lower() == "pm")
    zone = datetime.strptime(fields["z"].upper(), "%z").tzinfo if "z" in fields else None
    fraction = int(fields.get("f", "0").ljust(6, "0"))
    return datetime(
        year, month, int(fields["d"]), hour, int(fields.get("M", 0)), int(fields.get("S", 0)), fraction, tzinfo=zone
    )
