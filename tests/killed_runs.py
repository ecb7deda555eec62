"""Index footage in child processes that are killed at random. ``test_video_archive.py`` runs this as a script:

    python tests/killed_runs.py gate.mp4 det.txt WEIGHTS OUT KILLS SEED

The interpreter starts once; each attempt is a fork of it. Prints how many kills hit a running child.
"""

import os
import signal
import sys
import time

import numpy as np
import torch

from osnet import Embedder
from osnet.video import IndexSettings, index_footage, make_detector, make_tracker

STARTS = "2026-11-28T08:00:00+00:00"
MOST_FRAMES = 135
"""A segment has 120 frames, so about one attempt in ten commits one."""


def index(footage: str, boxes: str, weights: str, out: str, pipe: int) -> None:
    """Index everything; write a byte into ``pipe`` after each frame."""
    embedder = Embedder(weights, device="cpu", backend="torch")

    def tell(_done: float, _total: float, _what: str) -> None:
        os.write(pipe, b".")
        time.sleep(0.002)

    index_footage(
        footage, out, camera="gate", starts=STARTS, detector=make_detector(boxes), tracker=make_tracker("bytetrack"),
        embedder=embedder, settings=IndexSettings(segment_s=10, overlap_s=2), on_progress=tell,
    )  # fmt: skip


def attempt(arguments: list[str], num_frames: int | None, delay_s: float = 0.0) -> bool:
    """Index in a child. Kill it ``delay_s`` after ``num_frames`` frames. True if it was alive then."""
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        os.close(ours)
        try:
            index(*arguments, theirs)
        except BaseException as error:
            sys.stderr.write(f"{error!r}\n")
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    os.close(theirs)
    seen = 0
    while (num_frames is None or seen < num_frames) and (got := os.read(ours, 1 if num_frames else 4096)):
        seen += len(got)
    os.close(ours)
    if num_frames is None:
        _, status = os.waitpid(child, 0)
        if status:
            raise SystemExit(f"the last attempt, without a kill, failed with status {status}")
        return False
    time.sleep(delay_s)
    alive = os.waitpid(child, os.WNOHANG) == (0, 0)
    if alive:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return alive


def main() -> None:
    *arguments, kills, seed = sys.argv[1:]
    torch.set_num_threads(1)
    dice = np.random.default_rng(int(seed))
    met = 0
    for _ in range(int(kills)):
        # Counted in frames, so that the load of the machine does not matter. With the delay, some kills hit a write.
        met += attempt(arguments, int(dice.integers(1, MOST_FRAMES)), float(dice.uniform(0, 0.05)))
    attempt(arguments, None)
    sys.stdout.write(str(met))


if __name__ == "__main__":
    main()
