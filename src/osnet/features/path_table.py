"""Identities of images from a CSV with the columns ``path``, ``identity`` and optionally ``camera`` and ``split``.

An image and a row match if their paths are equal, or if one path ends with the other, compared by path components:
``img/q0.jpg`` in the table matches the image ``/data/own/img/q0.jpg``, and vice versa. Ambiguous matches are errors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from osnet.data.table import path_ends, path_key, read_identities
from osnet.errors import DataError


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    path: str
    identity: str
    camera: str
    """Empty if unknown."""
    split: str


class PathTable:
    """Rows of a CSV, looked up by image path.

    Raises:
        DataError: the file cannot be read or lacks a column, or a row has no path or identity or repeats a path.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)
        self._rows: dict[str, Row] = {}
        table = read_identities(self.file)
        for number, values in zip(table.lines, table.rows, strict=True):
            row = Row(*(values.get(column) or "" for column in ("path", "identity", "camera", "split")))
            key = path_key(row.path)
            if not key or not row.identity or key in self._rows:
                raise DataError(
                    f"{self.file}, line {number}: {row.path or 'a row'} has no path or identity, or repeats a path"
                )
            self._rows[key] = row

    def find(self, names: Sequence[str]) -> list[Row | None]:
        """Find the row of each image; None if an image has no row.

        The time is linear in the total number of path components of images and rows.

        Args:
            names: paths of all images. Pass all in one call, so that ambiguities are found. A repeated path counts as
                one image.

        Raises:
            DataError: two rows match one image, or two images match one row. The message has their paths.
        """
        keys = [path_key(name) for name in names]
        name_of = dict(zip(keys, names, strict=True))
        keys_of = {key: [key] for key in name_of if key in self._rows}
        others: dict[str, list[str]] = {
            key: [end for end in path_ends(key) if end in self._rows] for key in name_of if key not in keys_of
        }
        for row_key in self._rows if others else ():
            for end in path_ends(row_key):
                if end in others:
                    others[end].append(row_key)
        keys_of |= others
        self._refuse_doubles(name_of, keys_of)
        return [self._rows[keys_of[key][0]] if keys_of[key] else None for key in keys]

    def _refuse_doubles(self, name_of: dict[str, str], keys_of: dict[str, list[str]]) -> None:
        owner: dict[str, str] = {}
        for key, row_keys in keys_of.items():
            if len(row_keys) > 1:
                one, other = (self._rows[row_key].path for row_key in row_keys[:2])
                raise DataError(
                    f"{self.file}: {name_of[key]} matches the rows {one} and {other}; write full paths into the table"
                )
            for row_key in row_keys:
                if (first := owner.setdefault(row_key, key)) != key:
                    raise DataError(
                        f"{self.file}: the row {self._rows[row_key].path} matches {name_of[first]} and {name_of[key]}; "
                        "write full paths into the table"
                    )
