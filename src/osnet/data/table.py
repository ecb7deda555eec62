"""CSV files that users write, and which image of a folder a row means."""

import csv
import io
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from osnet.data.loading import list_images
from osnet.errors import DataError
from osnet.files import plain_path

COLUMNS = ("path", "identity", "camera", "time", "split")
"""What a table of people can say."""
IDENTITIES = "the columns path and identity, and at least one row"
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
OTHER_FILES = {
    b"\xff\xfe": "text in UTF-16",
    b"\xfe\xff": "text in UTF-16",
    b"PK\x03\x04": "an Excel workbook or another archive",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
}
"""By their first bytes."""


class Table(NamedTuple):
    """A CSV file."""

    header: list[str]
    rows: list[dict[str, str | None]]
    """By column; a row that is too short holds None."""
    lines: list[int]
    """Of each row, its line in the file (the last one, where a quoted value has several)."""


def read_table(file: Path, needed: Sequence[str], known: Collection[str], wanted: str) -> Table:
    """The header and the rows.

    Args:
        file: in UTF-8, with commas.
        needed: columns that must be there.
        known: columns with a meaning: one that is only nearly called so is refused, since it would be passed over.
        wanted: the header in words, for a message.

    Raises:
        DataError: it cannot be read, is no such text, has no such columns, or a row has more values than columns. The
            message says what was found.
    """
    try:
        reader = csv.reader(io.StringIO(_read_text(file), newline=""))
        header = next(reader, [])
        _check_header(file, header, needed, known, wanted)
        table = Table(header, [], [])
        for values in reader:
            where = f"{file}, line {reader.line_num}"
            if any(values[len(header) :]):
                raise DataError(
                    f"{where}: more values than columns ({len(values)} for {len(header)}); a value that holds a comma "
                    'needs quotes: "a,b"'
                )
            if values:
                padded = [*values[: len(header)], *[None] * (len(header) - len(values))]
                table.rows.append(dict(zip(header, padded, strict=True)))
                table.lines.append(reader.line_num)
    except csv.Error as error:
        raise DataError(f"cannot read {file}: {error}") from error
    return table


def read_identities(file: Path) -> Table:
    """A table that says who is on which image.

    Raises:
        DataError: as ``read_table``; no columns ``path`` and ``identity``; no row; or two identities or cameras that
            differ only in spaces at their ends.
    """
    table = read_table(file, ("path", "identity"), COLUMNS, IDENTITIES)
    if not table.rows:
        raise DataError(f"{file} needs a header with {IDENTITIES}; it has no row")
    for column in ("identity", "camera"):
        first: dict[str, str] = {}
        for row, line in zip(table.rows, table.lines, strict=True):
            name = row.get(column) or ""
            if first.setdefault(name.strip(), name) != name:
                raise DataError(
                    f"{file}, line {line}: {column} {name!r} differs from {first[name.strip()]!r} in spaces only; "
                    "write both alike"
                )
    return table


def _read_text(file: Path) -> str:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}") from error
    kind = next((kind for head, kind in OTHER_FILES.items() if content.startswith(head)), None)
    if kind is None and b"\0" in content[:1024]:
        kind = "text in UTF-16, or no text at all"
    if kind is not None:
        raise DataError(f"cannot read {file}: it is {kind}; save it as CSV in UTF-8, with commas")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"cannot read {file}: line {line} holds the byte 0x{content[error.start]:02x}, which is not UTF-8; save "
            "it as CSV in UTF-8"
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
            raise DataError(f"{file} has a column {column!r}; it must be called {meant!r}")
    if missing:
        found = ", ".join(map(repr, header)) or "nothing in its first line"
        raise DataError(f"{file} needs a header with {wanted}; found: {found}")
    if twice := [column for column in known if header.count(column) > 1]:
        raise DataError(f"{file} has the column {twice[0]!r} {header.count(twice[0])} times; leave one")


def path_key(path: str) -> str:
    """The parts of a path with ``/`` between them, whatever system wrote it; ``a/..`` is nothing."""
    parts: list[str] = []
    for part in path.replace("\\", "/").split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def path_ends(key: str) -> Iterator[str]:
    """What is left of a key without its first part, without its first two, and so on."""
    start = key.find("/") + 1
    while start:
        yield key[start:]
        start = key.find("/", start) + 1


def locate_images(root: Path, places: Sequence[tuple[str, str]]) -> list[Path | None]:
    """Which image below ``root`` each row of a table means.

    It is ``root / path`` if that is a file. Else the path may be the end of an image's whole path (``root``'s own name
    in front), or end with ``root``'s name and the image's path below it (written on another machine); a backslash is a
    slash. A path that is a file outside of ``root`` means that one, and is refused.

    Args:
        root: the folder.
        places: of each row, the path and how to name the row in a message.

    Returns:
        Paths as ``list_images`` gives them; None where there is no such image.

    Raises:
        DataError: a path that is empty, leads out, or could be two images.
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
    """True if a path begins somewhere else than in the folder: then it must at least have the folder's name in it."""
    plain = path.replace("\\", "/")
    depth = 0
    for part in plain.split("/"):
        depth += -1 if part == ".." else part not in ("", ".")
        if depth < 0:
            return True
    return plain.startswith("/") or re.match("[A-Za-z]:", plain) is not None


def _locate_directly(root: Path, base: Path, real: Path, text: str, where: str) -> Path | None:
    """The file that the path is, as it stands or with ``/`` for ``\\``."""
    for spelled in dict.fromkeys((text, text.replace("\\", "/"))) if text else ():
        path = Path(spelled)
        whole = path if path.is_absolute() else root / path
        if not _is_file(whole):
            continue
        if whole.resolve().is_relative_to(real):
            plain = plain_path(whole)
            inner = plain.relative_to(base) if plain.is_relative_to(base) else whole.resolve().relative_to(real)
            return root / inner
        raise DataError(f"{where}: the path {text!r} does not lie inside {root}")
    if not text:
        raise DataError(f"{where}: the path {text!r} does not lie inside {root}")
    return None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or with a zero byte: no path of a file
        return False


def _only_one(root: Path, images: list[Path], text: str, where: str) -> Path | None:
    if len(images) > 1:
        raise DataError(
            f"{where}: {text} could be {images[0]} or {images[1]}; write its path below {root} into the table"
        )
    if images:
        return images[0]
    if _leads_out(text):
        raise DataError(
            f"{where}: the path {text!r} does not lie inside {root}, and does not end with {root.absolute().name} and "
            "the path of an image below it; write paths below the folder"
        )
    return None
