"""Run native code with a dead page before and after every buffer: reading or writing beyond one ends the process.

    python guard_pages.py [SECONDS] [SEED]

Without arguments, a list of cases that ``test_native.py`` runs; with them, drawn cases for so long.
"""

import ctypes
import faulthandler
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from osnet import OSNet, OSNetConfig
from osnet.runtime.backends import generate_pixels, run_plainly
from osnet.runtime.folding import fold
from osnet.runtime.native import program as native
from osnet.types import Preprocessing

PAGE, ROOM = 4096, 1 << 32
NO_ACCESS, READ_WRITE, PRIVATE_ANONYMOUS_NORESERVE = 0, 3, 0x4022
"""Linux's numbers."""
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class Region:
    """Addresses that nothing may touch, but for what ``take`` gives out."""

    def __init__(self, at_end: bool) -> None:
        self.at_end = at_end
        """Buffers end where a dead page begins; otherwise they begin where one ends."""
        self.base = libc.mmap(None, ROOM, NO_ACCESS, PRIVATE_ANONYMOUS_NORESERVE, -1, 0)
        self.used = 0

    def take(self, num_bytes: int, at_end: bool | None = None) -> int:
        pages = -(-num_bytes // PAGE) * PAGE
        start = self.base + self.used
        assert self.used + pages + PAGE < ROOM
        assert libc.mprotect(start, pages, READ_WRITE) == 0
        self.used += pages + PAGE
        return start + (pages - num_bytes if (self.at_end if at_end is None else at_end) else 0)

    def copy(self, array: np.ndarray) -> int:
        address = self.take(array.nbytes)
        ctypes.memmove(address, array.ctypes.data, array.nbytes)
        return address

    def close(self) -> None:
        libc.munmap(self.base, ROOM)


def make_plan_class(region: Region, shared: bool) -> type[native.Plan]:
    """Plans whose maps and constants lie in ``region``; with ``shared`` maps use each other's memory, as they do."""

    class GuardedPlan(native.Plan):
        def reserve(self, num_bytes: int) -> int:
            return region.take(num_bytes) - region.base

        def map(self, height: int, width: int, channels: int) -> native.Map:
            if shared:
                return super().map(height, width, channels)
            num_bytes = 4 * height * width * channels
            return native.Map(self.reserve(num_bytes), num_bytes, height, width, channels)

        def constant(self, tensor: Tensor) -> int:
            return region.copy(np.ascontiguousarray(tensor.detach().numpy(), dtype=np.float32))

    return GuardedPlan


def run(
    settings: dict[str, Any], size_hw: tuple[int, int], batch: int, uint8: bool, threads: int, at_end: bool,
    shared: bool, seed: int = 0,
) -> float:  # fmt: skip
    """The largest difference from PyTorch, relative to the largest component."""
    torch.manual_seed(seed)
    network, preprocessing = OSNet(OSNetConfig(**settings)).eval(), Preprocessing(size_hw=size_hw)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.bias, 0, 0.2)
    pixels = generate_pixels(batch, size_hw, seed)
    expected = run_plainly(network, pixels, preprocessing).numpy()
    images = pixels.numpy() if uint8 else pixels.float().numpy()
    region, plain = Region(at_end), native.Plan
    region.take(native.HEADER, at_end=False)  # the arena's beginning, at offset 0
    native.Plan = make_plan_class(region, shared)  # type: ignore[misc]
    try:
        plan = native.lay_out(fold(network, preprocessing), size_hw, uint8)
        out_bytes = 4 * plan.embedding_size
        steps, pictures, out = (
            region.copy(np.array(plan.steps, np.int64)),
            region.copy(images),
            region.take(batch * out_bytes),
        )
        counter = region.take(64)

        def work(thread: int) -> None:
            plan.kernels.run(
                steps, len(plan.steps), region.base, pictures, images[0].nbytes, out, out_bytes, batch, thread,
                threads, counter,
            )  # fmt: skip

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(threads)))
        found = np.frombuffer(ctypes.string_at(out, batch * out_bytes), np.float32).reshape(expected.shape)
        return float(np.abs(found - expected).max() / max(1e-3, np.abs(expected).max()))
    finally:
        native.Plan = plain  # type: ignore[misc]
        region.close()


CASES: list[tuple[dict[str, Any], tuple[int, int], int]] = [
    ({"width": 0.25}, (96, 160), 3),
    ({"width": 0.25, "embedding_size": 20}, (32, 32), 33),
    ({"width": 0.75, "depth": (1, 2, 1)}, (64, 32), 9),
    ({"width": 0.125, "streams": 3, "stream_depth": 5}, (32, 224), 5),
    ({"width": 1.0, "depth": (1, 1, 1), "streams": 2, "embedding_size": 4}, (64, 64), 2),
    ({"width": 1.5, "depth": (1, 1, 1), "streams": 1}, (32, 64), 1),
]


def draw(rng: random.Random) -> tuple[Any, ...]:
    settings = {
        "width": rng.choice([0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 1.0, 1.5]),
        "streams": rng.choice([1, 2, 3, 4, 4, 4]),
        "depth": rng.choice([(1, 1, 1), (2, 2, 2), (1, 2, 1), (1, 1, 3)]),
        "embedding_size": rng.choice([512, 64, 8, 4, 12, 20, 256]),
        "stream_depth": rng.choice([None, None, 1, 2, 5]),
        "aggregation": rng.choice(["unified_gate"] * 6 + ["streamwise_gate", "addition"]),
    }
    size_hw = rng.choice([(32, 32), (64, 32), (32, 64), (96, 32), (160, 64), (256, 128), (96, 160), (32, 224)])
    batch = rng.choice([1, 2, 3, 4, 5, 7, 8, 9, 31, 33] if size_hw[0] * size_hw[1] < 9000 else [1, 2, 3, 5])
    return settings, size_hw, batch, *(rng.random() < 0.5 for _ in range(4)), rng.randrange(10**6)


def main() -> None:
    faulthandler.enable()
    torch.set_num_threads(1)
    worst, done = 0.0, 0
    if len(sys.argv) > 1:
        rng, start = random.Random(int(sys.argv[2])), time.monotonic()
        while time.monotonic() - start < float(sys.argv[1]):
            settings, size_hw, batch, uint8, two, at_end, shared, seed = draw(rng)
            try:
                off = run(settings, size_hw, batch, uint8, 1 + two, at_end, shared, seed)
            except native.UnknownStepError:
                continue
            worst, done = max(worst, off), done + 1
            if not off < 1e-4:
                print(f"off by {off}: {settings} {size_hw} {batch} {uint8} {two} {at_end} {shared} {seed}")
    else:
        for number, (settings, size_hw, batch) in enumerate(CASES):
            for at_end in (True, False):
                off = run(settings, size_hw, batch, number % 2 == 0, 1 + (number + at_end) % 2, at_end, number % 3 == 0)
                worst, done = max(worst, off), done + 1
    print(f"{done} runs, worst {worst:.1e}")
    if not worst < 1e-4:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
