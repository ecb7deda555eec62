"""Read CSV files written by users, and find the images that their rows refer to."""

import csv
import io
import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from osnet.data.loading import list_images
from osnet.errors import DataError
from osnet.files import plain_path

COLUMNS = ("path", "identity", "camera", "time", "split")
"""The columns of a CSV with identities. The first two are required."""
IDENTITIES = "the columns path and identity, and at least one row"
OTHER_NAMES = {
    "path": ("paths", "filepath", "imagepath", "imgpath"),
    "identity": ("identities", "identityid", "pid", "pids", "person", "personid", "id"),
    "camera": ("cameras", "cameraid", "cam", "cams", "camid", "camids"),
    "time": ("times", "timestamp", "timestamps", "datetime"),
    "split": ("splits", "subset"),
}
"""Names of columns, in lower case and without spaces, ``_`` and ``-``, that are refused where the column is missing."""
RESERVED_SPELLING = re.compile(r"[-\u2212]0*1(\.0*)?|[-+\u2212]?0+(\.0*)?")
"""Matches -1 and 0 in any spelling, such as -1.0 or 0000."""
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
OTHER_FILES = {
    b"\xff\xfe": "text in UTF-16",
    b"\xfe\xff": "text in UTF-16",
    b"PK\x03\x04": "an Excel workbook or another archive",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
}
"""Kinds of files that are not CSV in UTF-8, by their first bytes."""


class Table(NamedTuple):
    """The content of a CSV file."""

    header: list[str]
    rows: list[dict[str, str | None]]
    """The values of each row by column; only spaces count as empty. Columns missing at the end of a row are None."""
    lines: list[int]
    """For each row, its line number in the file. If a quoted value spans several lines, the last of them."""


def read_table(file: Path, needed: Sequence[str], known: Collection[str], wanted: str) -> Table:
    """Read a CSV file.

    Args:
        file: path of a CSV file in UTF-8, with commas.
        needed: columns that must exist.
        known: columns that have a meaning. A similar name (other case, spaces or quotes, or ``camid`` for ``camera``)
            is an error, because the column would be ignored. So is a line break in a value.
        wanted: description of the expected header, for error messages.

    Raises:
        DataError: the file cannot be read or is not CSV in UTF-8 with commas, a column is missing, misspelled or occurs
            twice, a row has more values than columns, or a quote is not closed. The message says what was found.
    """
    first = 1
    try:
        reader = csv.reader(io.StringIO(_read_text(file), newline=""), strict=True)
        header = next(reader, [])
        _check_header(file, header, needed, known, wanted)
        table = Table(header, [], [])
        first = reader.line_num + 1
        for values in reader:
            where = f"{file}, line {reader.line_num}"
            if any(values[len(header) :]):
                raise DataError(
                    f"{where}: the row has {len(values)} values for {len(header)} columns; a value with a comma needs "
                    'quotes: "a,b"'
                )
            if values:
                cells = [value if value.strip() else "" for value in values[: len(header)]]
                row = dict(zip(header, [*cells, *[None] * (len(header) - len(cells))], strict=True))
                for column in known if reader.line_num > first else ():
                    if {"\r", "\n"} & set(row.get(column) or ""):
                        raise DataError(
                            f"{file}, line {first}: {column} {row[column]!r} contains a line break; is a quote "
                            "not closed?"
                        )
                table.rows.append(row)
                table.lines.append(reader.line_num)
            first = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"cannot read {file}, line {first}: {error}; is a quote not closed?") from error
    return table


def read_identities(file: Path) -> Table:
    """Read a CSV that lists the identities of images.

    Raises:
        DataError: the file cannot be read (see ``read_table``), the columns ``path`` and ``identity`` are missing,
            there is no row, an identity is another spelling of -1 or 0, or the names of two identities or two cameras
            differ only in spaces or in the encoding of their accents (Unicode NFC and NFD).
    """
    table = read_table(file, ("path", "identity"), COLUMNS, IDENTITIES)
    if not table.rows:
        raise DataError(f"{file} needs a header with {IDENTITIES}; it has no rows")
    for column in ("identity", "camera"):
        spelled: dict[str, str] = {}
        for row, line in zip(table.rows, table.lines, strict=True):
            name = row.get(column) or ""
            composed = unicodedata.normalize("NFC", name)
            first = spelled.setdefault(" ".join(composed.split()), name)
            if first != name:
                in_spaces = composed != unicodedata.normalize("NFC", first)
                show, what = (repr, "spaces") if in_spaces else (ascii, "the encoding of its accents")
                raise DataError(
                    f"{file}, line {line}: {column} {show(name)} differs from {show(first)} in {what} only; use one "
                    "spelling"
                )
            if column == "identity" and name not in ("-1", "0") and RESERVED_SPELLING.fullmatch(name.strip()):
                raise DataError(
                    f"{file}, line {line}: identity {name!r}: write -1 for junk or 0 for a distractor; a person needs "
                    "another name"
                )
    return table


def _read_text(file: Path) -> str:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}") from error
    kind = next((kind for head, kind in OTHER_FILES.items() if content.startswith(head)), None)
    if kind is None and b"\0" in content[:1024]:
        kind = "text in UTF-16, or not text"
    if kind is not None:
        raise DataError(f"cannot read {file}: it is {kind}; save it as CSV in UTF-8, with commas")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"cannot read {file}: line {line} contains the byte 0x{content[error.start]:02x}, which is not valid in "
            "UTF-8; save it as CSV in UTF-8"
        ) from error


def _check_header(file: Path, header: list[str], needed: Sequence[str], known: Collection[str], wanted: str) -> None:
    missing = [column for column in needed if column not in header]
    for separator, name in SEPARATORS.items():
        if missing and any(separator in column for column in header):
            raise DataError(
                f"{file} has {name} between its columns ({separator.join(header)!r}); save it with commas, in UTF-8"
            )
    for column in header:
        meant = column.strip(" \t\xa0\ufeff'\"").lower()
        if meant in known and meant not in header:
            raise DataError(f"{file} has a column {column!r}; rename it to {meant!r}")
        plain = re.sub(r"[\s_-]", "", meant)
        for name in known:
            if name not in header and plain in OTHER_NAMES[name]:
                raise DataError(
                    f"{file} has a column {column!r} and no column {name!r}; rename it to {name!r}, or to another name "
                    "if it means something else"
                )
    if missing:
        found = ", ".join(map(repr, header)) or "an empty first line"
        raise DataError(f"{file} needs a header with {wanted}; found: {found}")
    if twice := [column for column in known if header.count(column) > 1]:
        raise DataError(f"{file} has the column {twice[0]!r} {header.count(twice[0])} times; keep one of them")


def path_key(path: str) -> str:
    """Normalise a path from any operating system: ``/`` as the separator, without ``.`` and ``..``."""
    parts: list[str] = []
    for part in path.replace("\\", "/").split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def path_ends(key: str) -> Iterator[str]:
    """Yield the shorter ends of a normalised path: ``b/c`` and ``c`` for ``a/b/c``."""
    start = key.find("/") + 1
    while start:
        yield key[start:]
        start = key.find("/", start) + 1


def locate_images(root: Path, places: Sequence[tuple[str, str]]) -> list[Path | None]:
    """Find the image below ``root`` that each row of a table refers to.

    A path matches an image in these cases. Backslashes count as slashes.

    * ``root / path`` is the image.
    * The path is the end of the image's absolute path, for example if it starts with the name of ``root``.
    * The path ends with the name of ``root`` and the image's path below it, for example if the table was written on
      another machine.

    Args:
        root: the folder.
        places: for each row, its path and a name of the row for error messages.

    Returns:
        For each row, the path as ``list_images`` yields it, or None if no image matches.

    Raises:
        DataError: a path is empty, refers to a file outside ``root``, or matches two images.
    """
    base, real = plain_path(root), root.resolve()
    found = [_locate_directly(root, base, real, path, where) for path, where in places]
    wanted = {path_key(path) for (path, _), image in zip(places, found, strict=True) if image is None}
    if not wanted:
        return found
    by_key: dict[str, list[Path]] = {key: [] for key in wanted}
    own: dict[str, Path] = {}
    for image in list_images(root):
        below = path_key(str(image.relative_to(root)))
        key = path_key(f"{base}/{below}")
        own[f"{base.name}/{below}"] = image
        for end in (key, *path_ends(key)):
            if end in wanted:
                by_key[end].append(image)
    chosen: list[Path | None] = []
    for (path, where), direct in zip(places, found, strict=True):
        if direct is not None:
            chosen.append(direct)
            continue
        key = path_key(path)
        named = [own[end] for end in (key, *path_ends(key)) if end in own]
        ends = [] if _leads_out(path) else by_key[key]
        chosen.append(_only_one(root, list(dict.fromkeys([*ends, *named])), path, where))
    return chosen


def _leads_out(path: str) -> bool:
    """Whether a path is absolute or leads out of the folder. Such a path must contain the folder's name to match."""
    slashed = path.replace("\\", "/")
    depth = 0
    for part in slashed.split("/"):
        depth += -1 if part == ".." else part not in ("", ".")
        if depth < 0:
            return True
    return slashed.startswith("/") or re.match("[A-Za-z]:", slashed) is not None


def _locate_directly(root: Path, base: Path, real: Path, text: str, where: str) -> Path | None:
    """Return the file with this path, as written or with ``/`` instead of ``\\``, or None if there is none."""
    for spelled in dict.fromkeys((text, text.replace("\\", "/"))) if text else ():
        path = Path(spelled)
        whole = path if path.is_absolute() else root / path
        if not _is_file(whole):
            continue
        if whole.resolve().is_relative_to(real):
            plain = plain_path(whole)
            inner = plain.relative_to(base) if plain.is_relative_to(base) else whole.resolve().relative_to(real)
            return root / inner
        raise DataError(f"{where}: the path {text!r} is outside {root}")
    if not text:
        raise DataError(f"{where}: the path is empty")
    return None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # the path is too long or contains a zero byte, so no such file exists
        return False


def _only_one(root: Path, images: list[Path], text: str, where: str) -> Path | None:
    if len(images) > 1:
        raise DataError(f"{where}: {text} matches both {images[0]} and {images[1]}; write the path relative to {root}")
    if images:
        return images[0]
    if _leads_out(text):
        raise DataError(
            f"{where}: the path {text!r} is outside {root}, and does not end with {root.absolute().name} and the path "
            "of an image below it; write paths relative to the folder"
        )
    return None
