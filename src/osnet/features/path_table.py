"""Who is on which image: a CSV with the columns ``path``, ``identity`` and, if known, ``camera`` and ``split``.

An image and a row belong together if their paths are the same, or if one of the two is the end of the other, part by
part: ``img/q0.jpg`` in the table is ``/data/own/img/q0.jpg``, and the other way round. Where that would fit twice,
it is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from osnet.data.table import path_ends, path_key, read_identities
from osnet.errors import DataError


@dataclass(frozen=True)
class Row:
    """What the table says of an image."""

    path: str
    identity: str
    camera: str
    """Empty where it is unknown."""
    split: str


class PathTable:
    """The rows of a CSV, looked up by the names of images.

    Raises:
        DataError: it cannot be read, has no such columns, or a row lacks a path or an identity or comes twice.
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
                    f"{self.file}, line {number}: {row.path or 'a row'} has no path or no identity, or is listed twice"
                )
            self._rows[key] = row

    def find(self, names: Sequence[str]) -> list[Row | None]:
        """The row of each image, None where there is none.

        Time grows with the parts of all paths together, on both sides.

        Args:
            names: of all images that are to be told apart; one that comes several times is one image.

        Raises:
            DataError: two rows for an image, or two images for a row; both are named.
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
                    f"{self.file}: {name_of[key]} could be {one} or {other}; write its whole path into the table"
                )
            for row_key in row_keys:
                if (first := owner.setdefault(row_key, key)) != key:
                    raise DataError(
                        f"{self.file}: the row of {self._rows[row_key].path} could be of {name_of[first]} or of "
                        f"{name_of[key]}; write whole paths into the table"
                    )
