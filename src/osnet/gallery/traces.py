"""Looking for the bytes of deleted rows in files."""

import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

PIECE = 24
"""Bytes of an embedding that are looked for: six float32 values."""
PIECES = 2
"""Pieces that are taken of an embedding."""
WORDS_AT_ONCE = 1 << 20


class Traces:
    """Bytes by which deleted rows would be recognised: pieces of the embeddings, and the sources."""

    def __init__(self, vectors_ND: NDArray[np.float32], sources: Sequence[str], kept: Iterable[bytes] = ()) -> None:
        """Take the traces of rows before they are deleted.

        Args:
            vectors_ND: their embeddings.
            sources: their sources.
            kept: what stays in the same files. A piece that occurs in it proves nothing and is left out.
        """
        texts = {source.encode("utf-8", "surrogatepass") for source in sources if len(source) >= 4}
        pieces = {piece for row in np.asarray(vectors_ND, dtype="<f4") for piece in pieces_of(row) if len(piece) >= 4}
        for content in kept:
            texts -= set(_find_texts(texts, content))
            pieces -= set(_find_pieces(pieces, content))
        self._texts, self._pieces = texts, pieces

    def are_in(self, content: bytes) -> bool:
        """True if one of them is in ``content``."""
        return any(True for _ in _find_texts(self._texts, content)) or any(
            True for _ in _find_pieces(self._pieces, content)
        )


def _find_texts(texts: set[bytes], content: bytes) -> Iterator[bytes]:
    """Those of ``texts`` that are in ``content``: it is read once, and again only if there is one."""
    if texts and re.search(b"|".join(map(re.escape, sorted(texts))), content):
        yield from (text for text in texts if text in content)


def _find_pieces(pieces: set[bytes], content: bytes) -> Iterator[bytes]:
    """Those of ``pieces`` that are in ``content``, at any place: found by their first four bytes."""
    if not pieces or len(content) < 4:
        return
    first = np.array([int.from_bytes(piece[:4], "little") for piece in pieces], np.uint32)
    low = np.zeros(1 << 16, bool)
    low[first & 0xFFFF] = True
    for shift in range(4):
        for start in range(shift, len(content) - 3, 4 * WORDS_AT_ONCE):
            count = min(WORDS_AT_ONCE, (len(content) - start) // 4)
            words = np.frombuffer(content, "<u4", count, start)
            near = np.flatnonzero(low[words & 0xFFFF])
            for place in near[np.isin(words[near], first)].tolist():
                at = start + 4 * place
                yield from (piece for piece in pieces if content.startswith(piece, at))


def pieces_of(vector_D: NDArray[np.float32]) -> list[bytes]:
    """Up to ``PIECES`` pieces of an embedding, those with the fewest zeros: others have zeros, too.

    A piece whose values are mostly zeros is no evidence and is left out.
    """
    step = min(PIECE // 4, len(vector_D))
    filled = np.convolve(vector_D != 0, np.ones(step, int), "valid")
    chosen: list[int] = []
    for start in np.argsort(-filled, kind="stable").tolist():
        if len(chosen) < PIECES and filled[start] >= min(4, step) and all(abs(start - s) >= step for s in chosen):
            chosen.append(start)
    return [vector_D[start : start + step].astype("<f4").tobytes() for start in chosen]
