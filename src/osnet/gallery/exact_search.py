"""The k rows with the highest cosines, exactly, without computing all cosines exactly.

A first pass bounds each cosine from below and above. Let t be the k-th largest lower bound. At least k rows reach t,
so a row whose upper bound is below t is not among the best k. The others are scored again in float64 from the stored
float32 vectors, and ranked. Rows that tie with the k-th are among them. The result is that of scoring all rows in
float64, for any data; bounds that are wide cost time and never a hit.

The bounds, for a query u and a row v (both float32 with lengths near 1):

- a float32 product: |fl(u.v) - u.v| <= gamma |u||v|, gamma = D e / (1 - D e), e = 2^-24 (Higham, Accuracy and
  Stability of Numerical Algorithms, 2nd ed., section 3.1), in any order of additions;
- 8-bit codes: v = s c + r with integers c from -127 to 127, and u = p q + w with 16-bit integers q. The sum of c q is
  an exact 32-bit integer, and u.v = s p (c.q) + u.r + w.(s c), so |u.v - s p (c.q)| <= |u||r| + |w|(|v| + |r|). The
  length |r| is stored with each row.

Shapes: N rows, D embedding, Q queries, K hits.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osnet.forks import import_compiled
from osnet.gallery.columns import Indices
from osnet.runtime.backends import count_cores

Floats = NDArray[np.float32]
Codes = NDArray[np.int8]

ROUNDING = 2.0**-24
LENGTH = 1.0 + 1e-4
"""No stored vector and no query is longer. They are scaled to length 1 in float32, so they miss it by some 1e-7."""
SLACK = 2e-6
"""Covers the float32 arithmetic on the bounds themselves: a handful of roundings of values below 2."""
STEP = 2.0**-20
"""Lengths of remainders are rounded up to multiples of this, so that files do not depend on the order of additions."""
ROWS_AT_ONCE = 1 << 12
"""Rows of one float32 product."""
CODES_AT_ONCE = 1 << 14
"""Rows that a thread takes at once."""
EXACT_AT_ONCE = 1 << 12
"""Rows that are scored in float64 at once (16 MiB)."""
MAX_CODED_QUERIES = 4
"""For more queries a float32 product is faster: it reads the rows once for all."""
MAX_THREADS = 8
CODES_FROM = 5_000
"""For fewer rows a float32 product is fast enough, and needs no compiled code."""


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a gallery."""

    start: int
    """Number of the first row."""
    vectors: Floats
    """(N, D), of length 1."""
    codes: Codes | None = None
    """(N, D), of ``encode``."""
    scales: Floats | None = None
    """(N, 2): scale and length of the remainder of each row, of ``encode``."""


def encode(vectors_ND: Floats) -> tuple[Codes, Floats]:
    """(N, D) 8-bit codes of vectors, and (N, 2): scale, and an upper bound on the length of what the codes miss."""
    size = vectors_ND.shape[1]
    codes, scales = np.empty(vectors_ND.shape, np.int8), np.empty((len(vectors_ND), 2), np.float32)
    growth = 1 + (size + 8) * ROUNDING
    for start in range(0, len(vectors_ND), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        vectors = np.asarray(vectors_ND[part])
        scale = np.maximum(np.abs(vectors).max(axis=1, initial=0), np.float32(1e-30)) / np.float32(127)
        rounded = np.rint(vectors / scale[:, None])
        np.clip(rounded, -127, 127, out=rounded)
        codes[part] = rounded
        rounded *= scale[:, None]
        np.subtract(vectors, rounded, out=rounded)
        scales[part, 0] = scale
        missed = np.sqrt(np.einsum("nd,nd->n", rounded, rounded, dtype=np.float64)) * growth + 4 * ROUNDING
        scales[part, 1] = np.ceil(missed / STEP) * STEP
    return codes, scales


@dataclass
class _Best:
    """The candidates of one query."""

    lowest: Floats
    """(K,): the k largest lower bounds so far, ascending; -inf at first."""
    rows: list[Indices] = field(default_factory=list)
    uppers: list[Floats] = field(default_factory=list)

    @property
    def threshold(self) -> np.float32:
        """The k-th largest lower bound so far."""
        threshold: np.float32 = self.lowest[0]
        return threshold

    def add(self, rows: Indices, scores: Floats, errors: Floats | np.float32) -> None:
        """Rows with scores that are off by at most ``errors``."""
        uppers = scores + errors
        passing = np.flatnonzero(uppers >= self.threshold)
        if not len(passing):
            return
        lowers = scores[passing] - (errors[passing] if isinstance(errors, np.ndarray) else errors)
        self.lowest = np.sort(np.concatenate([self.lowest, lowers]))[len(lowers) :]
        uppers = uppers[passing]
        kept = uppers >= self.threshold
        self.rows.append(rows[passing[kept]])
        self.uppers.append(uppers[kept])

    def candidates(self) -> Indices:
        if not self.rows:
            return np.empty(0, np.intp)
        return np.concatenate(self.rows)[np.concatenate(self.uppers) >= self.threshold]


def find_candidates(
    blocks: Callable[[], Iterable[Block]],
    units_QD: Floats,
    top: int,
    num_rows: int,
    chosen: Indices | None = None,
) -> list[Indices]:
    """For each query, rows among which the best ``top`` are.

    Args:
        blocks: gives all rows, in the order of ``start``.
        units_QD: queries of length 1.
        top: K, at least 1.
        num_rows: the number of rows in all blocks: codes are read only in a large gallery.
        chosen: only these rows, ascending; None: all.
    """
    top = max(1, min(top, num_rows))
    if num_rows >= CODES_FROM and len(units_QD) <= MAX_CODED_QUERIES:
        return [_keep(*scan_codes(_choose(blocks(), chosen), unit, top), top) for unit in units_QD]
    best = [_Best(np.full(top, -np.inf, np.float32)) for _ in units_QD]
    for block, rows in _choose(blocks(), chosen):
        _multiply(block, rows, units_QD, best)
    return [one.candidates() for one in best]


def _keep(rows: Indices, scores: Floats, errors: Floats, top: int) -> Indices:
    """Those of ``rows`` whose upper bounds reach the k-th largest lower bound, ascending."""
    lowers = scores - errors
    threshold = np.partition(lowers, len(lowers) - top)[len(lowers) - top] if len(lowers) > top else -np.inf
    return np.sort(rows[scores + errors >= threshold])


def _choose(blocks: Iterable[Block], chosen: Indices | None) -> Iterator[tuple[Block, Indices | None]]:
    """The blocks with chosen rows, and the places of these in the block; None: all."""
    for block in blocks:
        if chosen is None:
            yield block, None
            continue
        first, last = np.searchsorted(chosen, [block.start, block.start + len(block.vectors)])
        if first < last:
            yield block, None if last - first == len(block.vectors) else chosen[first:last] - block.start


def _multiply(block: Block, rows: Indices | None, units_QD: Floats, best: list[_Best]) -> None:
    """Bounds from a float32 product."""
    error = np.float32(bound_rounding(units_QD.shape[1]) * LENGTH * LENGTH + SLACK)
    count = len(block.vectors) if rows is None else len(rows)
    for start in range(0, count, ROWS_AT_ONCE):
        places = np.arange(start, min(count, start + ROWS_AT_ONCE)) if rows is None else rows[start:][:ROWS_AT_ONCE]
        part = block.vectors[start : start + ROWS_AT_ONCE] if rows is None else block.vectors[places]
        products = units_QD @ part.T if len(units_QD) > 1 else (part @ units_QD[0])[None]
        limits = np.array([one.threshold for one in best], np.float32)
        for query in np.flatnonzero((products + error).max(axis=1, initial=-np.inf) >= limits).tolist():
            best[query].add(places + block.start, products[query], error)


def score_exactly(vectors_ND: Floats, unit_D: Floats) -> NDArray[np.float64]:
    """(N,): cosines in float64. Each row is summed by itself, so equal rows have equal scores."""
    query = unit_D.astype(np.float64)
    parts = [
        (np.asarray(vectors_ND[start : start + EXACT_AT_ONCE], dtype=np.float64) * query).sum(axis=1)
        for start in range(0, len(vectors_ND), EXACT_AT_ONCE)
    ]
    return np.clip(np.concatenate([np.empty(0), *parts]), -1, 1)


def scan_codes(
    blocks: Iterable[tuple[Block, Indices | None]], unit_D: Floats, top: int
) -> tuple[Indices, Floats, Floats]:
    """Numbers of rows, their scores, and bounds on the errors of these, from the codes. Threads share the rows.

    Rows that cannot be among the best ``top`` may be missing.

    Args:
        blocks: blocks, and which of their rows are wanted (None: all). Without codes, vectors are used.
        unit_D: the query.
        top: K, at least 1.
    """
    kernel = _kernel()
    largest = max(float(np.abs(unit_D).max()), 1e-30)
    most = min(32767, (2**31 - 1) // (127 * len(unit_D)))  # the sum must fit 32 bits
    scale, exact = largest / most, unit_D.astype(np.float64)
    query = np.clip(np.rint(exact / scale), -most, most).astype(np.int16)
    missed = float(np.linalg.norm(exact - query * scale)) * (1 + 1e-9) + 1e-12
    bounds = scale, LENGTH + missed, missed * LENGTH + SLACK
    threads = min(MAX_THREADS, count_cores())
    heaps = [np.full(top, -np.inf, np.float32) for _ in range(threads)]  # lower bounds: one for each thread

    def score(parts: list[tuple[Block, Indices]]) -> tuple[Indices, Floats, Floats]:
        heap, room, found = heaps.pop(), sum(len(rows) for _, rows in parts), 0
        passing = np.empty(room, np.int64)
        scores, errors = np.empty(room, np.float32), np.empty(room, np.float32)
        for block, rows in parts:
            if block.codes is None or block.scales is None:
                here = slice(found, found + len(rows))
                passing[here], scores[here] = rows + block.start, block.vectors[rows] @ unit_D
                errors[here] = bound_rounding(len(unit_D)) * LENGTH * LENGTH + SLACK
                found += len(rows)
            else:
                found = kernel(
                    *(block.codes, block.scales, rows, query, *bounds, heap),
                    *(block.start, found, passing, scores, errors),
                )
        heaps.append(heap)
        return passing[:found].copy(), scores[:found].copy(), errors[:found].copy()

    found = [(np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.float32))]
    if threads == 1:
        for parts in _share(blocks):
            found.append(score(parts))
    else:
        waiting: deque[Future[tuple[Indices, Floats, Floats]]] = deque()
        pool = _pool(os.getpid(), threads)
        try:
            for parts in _share(blocks):  # a few at a time: each may keep files open
                waiting.append(pool.submit(score, parts))
                if len(waiting) > 2 * threads:
                    found.append(waiting.popleft().result())
            for one in waiting:
                found.append(one.result())
        finally:
            wait(waiting)
    return (
        np.concatenate([rows for rows, _, _ in found]),
        np.concatenate([scores for _, scores, _ in found]),
        np.concatenate([errors for _, _, errors in found]),
    )


def _share(blocks: Iterable[tuple[Block, Indices | None]]) -> Iterator[list[tuple[Block, Indices]]]:
    """Parts of blocks, in groups of about ``CODES_AT_ONCE`` rows: small ones cost more to hand over than to score."""
    group: list[tuple[Block, Indices]] = []
    room, all_rows = CODES_AT_ONCE, np.empty(0, np.int64)
    for block, rows in blocks:
        if rows is None:
            if len(block.vectors) > len(all_rows):  # made anew for each of many blocks, they would take time
                all_rows = np.arange(max(CODES_AT_ONCE, len(block.vectors)))
            rows = all_rows[: len(block.vectors)]
        for start in range(0, len(rows), CODES_AT_ONCE):
            group.append((block, rows[start : start + CODES_AT_ONCE]))
            room -= len(group[-1][1])
            if room <= 0:
                yield group
                group, room = [], CODES_AT_ONCE
    if group:
        yield group


def bound_rounding(size: int) -> float:
    """Gamma: the largest relative error of a float32 product of ``size`` terms."""
    return size * ROUNDING / (1 - size * ROUNDING)


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads of a process: a fork has none of its parent's. Starting them for each search took 1 to 3 ms."""
    return ThreadPoolExecutor(threads, thread_name_prefix=f"osnet-search-{process}")


@cache
def _kernel() -> Any:
    """The loop over codes. numba compiles it at the first use (a second or two) and keeps it."""
    return import_compiled("osnet.gallery.code_kernel").find_passing
