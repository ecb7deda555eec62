"""CSV files that users write."""

import csv
from pathlib import Path

from osnet.errors import DataError


def read_table(file: Path) -> tuple[list[str], list[dict[str, str | None]]]:
    """The header and the rows by column; a row that is too short holds None.

    Raises:
        DataError: it cannot be read, or is no text in UTF-8.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            reader = csv.DictReader(text)
            return list(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {file}: {error}") from error


def read_identities(file: Path) -> list[dict[str, str | None]]:
    """The rows of a table that says who is on which image.

    Raises:
        DataError: as ``read_table``, no columns ``path`` and ``identity``, or no row.
    """
    header, rows = read_table(file)
    if not rows or not {"path", "identity"} <= set(header):
        raise DataError(f"{file} needs a header with the columns path and identity, and at least one row")
    return rows
