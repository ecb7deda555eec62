"""Segments of the format ``osnet-gallery-1``: an array of vectors, lines of JSON, an array of probabilities.

They are read as they are. The first write to such a gallery writes all of them anew, in the present format.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from osnet.errors import GalleryError
from osnet.features.array_files import read_array
from osnet.files import sha256_file
from osnet.gallery.columns import Columns
from osnet.gallery.segment_file import Rows
from osnet.gallery.stamps import FileStamp
from osnet.types import Item


@dataclass(frozen=True)
class OldSegment:
    """Rows that were written together, in files of their own."""

    number: int
    count: int
    vectors_sha256: str
    items_sha256: str
    attributes_sha256: str = ""
    """Empty in a gallery without attributes."""

    @property
    def files(self) -> dict[str, str]:
        """File names by kind: vectors, items, and attributes if there are any."""
        names = {"vectors": f"vectors-{self.number:06d}.npy", "items": f"items-{self.number:06d}.jsonl"}
        if self.attributes_sha256:
            names["attributes"] = f"attributes-{self.number:06d}.npy"
        return names


def read_old_segment(folder: Path, segment: OldSegment, embedding_size: int, num_attributes: int, first: int) -> Rows:
    """Read one segment; ``first`` is the number of items in those before it.

    Raises:
        GalleryError: a file is damaged.
        FileNotFoundError: a file is missing, because another process replaced the segment meanwhile.
    """
    for kind, name in segment.files.items():
        if sha256_file(folder / name) != getattr(segment, f"{kind}_sha256"):
            raise GalleryError(f"{folder / name} is damaged: its SHA-256 is not the one in gallery.json")
    path = folder / segment.files["vectors"]
    try:
        vectors = read_array(path)
        known = {field.name for field in fields(Item)}
        with (folder / segment.files["items"]).open(encoding="utf-8") as file:
            lines = [json.loads(line) for line in file]
        items = [Item(**{k: v for k, v in line.items() if k in known}) for line in lines]
        columns = Columns.of(items, [FileStamp.read(line.get("file")) for line in lines], first)
        probabilities = np.empty((len(items), 0), dtype=np.float32)
        if num_attributes:
            probabilities = read_array(folder / segment.files["attributes"])
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise GalleryError(f"{path} or {segment.files['items']} cannot be read: {error}") from error
    wanted = ((vectors, embedding_size), (probabilities, num_attributes))
    right = all(a.dtype == np.float32 and a.shape == (segment.count, size) for a, size in wanted)
    if not right or len(items) != segment.count:
        raise GalleryError(f"the files of {path.name} do not hold the {segment.count} rows that gallery.json lists")
    return Rows(vectors, None, None, probabilities, columns)
