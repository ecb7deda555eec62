"""Looking for the bytes of deleted rows in files."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

PIECE = 24
"""Bytes of an embedding that are looked for: six float32 values."""
PIECES = 2
"""Pieces that are taken of an embedding."""


class Traces:
    """Bytes by which deleted rows would be recognised: pieces of the embeddings, and the sources."""

    def __init__(self, vectors_ND: NDArray[np.float32], sources: Sequence[str], kept: Iterable[bytes] = ()) -> None:
        """Take the traces of rows before they are deleted.

        Args:
            vectors_ND: their embeddings.
            sources: their sources.
            kept: what stays in the same files. A piece that occurs in it proves nothing and is left out.
        """
        pieces = {source.encode("utf-8", "surrogatepass") for source in sources if len(source) >= 4}
        for row in np.asarray(vectors_ND, dtype="<f4"):
            pieces.update(pieces_of(row))
        for content in kept:
            pieces = {piece for piece in pieces if piece not in content}
        self.pieces = sorted(pieces)

    def are_in(self, content: bytes) -> bool:
        """True if one of them is in ``content``."""
        return any(piece in content for piece in self.pieces)


def pieces_of(vector_D: NDArray[np.float32]) -> list[bytes]:
    """Up to ``PIECES`` pieces of an embedding; those that are mostly zeros are left out: others have them, too."""
    step = PIECE // 4
    parts = [vector_D[start : start + step] for start in range(0, max(1, len(vector_D) - step + 1), step)]
    return [part.astype("<f4").tobytes() for part in parts if np.count_nonzero(part) >= min(4, len(vector_D))][:PIECES]
