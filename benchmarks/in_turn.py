"""Measure contenders in turn (A B A B ...), each in its own process, so that their thread pools do not compete.

A worker script calls ``serve(work)``. The benchmark starts the workers and requests one block from each per round.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def serve(*tasks: Callable[[], Any]) -> None:
    """In a worker: warm up, print ``ready``, then for each line on stdin, seconds and index of a task, work that long.

    The task is called until the time has passed, and at least once. If a call is much shorter, an untimed call comes
    first, because the other contenders have replaced the processor's caches.
    """
    for work in tasks:
        work()
        work()
    out = sys.__stdout__
    assert out is not None
    out.write("ready\n")
    out.flush()
    short = [False] * len(tasks)
    for line in sys.stdin:
        seconds, which = float(line.split()[0]), int(line.split()[1])
        work = tasks[which]
        if short[which]:
            work()
        calls, start, cpu_start = 0, time.perf_counter(), time.process_time()
        while not calls or time.perf_counter() - start < seconds:
            work()
            calls += 1
        passed, cpu_s = time.perf_counter() - start, time.process_time() - cpu_start
        short[which] = 10 * passed / calls < seconds
        out.write(f"{passed / calls} {cpu_s / calls}\n")
        out.flush()


def pin(threads: int) -> None:
    """Call first in a worker: restricts it to this many cores, the same ones for every contender."""
    sys.stdout = sys.stderr  # some libraries print while they load
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


class Worker:
    """A contender in its own process."""

    def __init__(self, name: str, command: Sequence[str], threads: int) -> None:
        pinned = {key: str(threads) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        self.name, self.seconds, self.cpu_s = name, list[float](), list[float]()
        self.process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **pinned}
        )
        assert self.process.stdout is not None
        if self.process.stdout.readline().strip() != "ready":
            raise SystemExit(f"{name} does not start: {' '.join(command)}")

    def block(self, seconds: float, task: int = 0) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{seconds} {task}\n")
        self.process.stdin.flush()
        passed, cpu_s = map(float, self.process.stdout.readline().split())
        self.seconds.append(passed)
        self.cpu_s.append(cpu_s)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def compare(
    workers: list[Worker], rounds: int, block_s: float, task: int = 0, last: bool = True
) -> dict[str, dict[str, Any]]:
    """Rounds of one block per worker, of ``block_s`` seconds (0: one call), compared with the first worker.

    ``task`` is the index of the workers' task. ``last``: the workers are not needed any more.

    ``cpu_ratio`` compares processor time of all threads. On a busy machine, with one thread, it is disturbed least:
    waiting for a core is not counted, busy waiting is.
    """
    for worker in workers:
        worker.seconds, worker.cpu_s = [], []
    for _ in range(rounds):
        for worker in workers:
            worker.block(block_s, task)
    for worker in workers if last else ():
        worker.close()
    base = workers[0].seconds
    result = {}
    for worker in workers:
        within = statistics.median(a / b for a, b in zip(base, worker.seconds, strict=True))
        best = min(base) / min(worker.seconds)
        result[worker.name] = {
            "median_ms": 1e3 * statistics.median(worker.seconds), "best_ms": 1e3 * min(worker.seconds),
            "quartiles_ms": [1e3 * q for q in statistics.quantiles(worker.seconds, n=4)[::2]],
            "cpu_ms": 1e3 * min(worker.cpu_s), "cpu_ratio": min(workers[0].cpu_s) / min(worker.cpu_s),
            "ratio_within_rounds": within, "ratio_best": best, "ratio": min(within, best),
        }  # fmt: skip
    return result


def machine(threads: int) -> dict[str, Any]:
    """The machine and its load."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return {
        "cpu": model[0].split(":")[1].strip() if model else platform.processor(),
        "cores": os.cpu_count(), "threads": threads, "load": os.getloadavg(), "python": platform.python_version(),
    }  # fmt: skip


def write(path: Path | None, result: dict[str, Any]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
