"""Runners: this machine's processes, torchrun, or Ray. All go by what has a result in the list's folder.

A worker that dies costs the item that it was doing; another one is started, and the item is done again. An item that
fails three times is set aside and named. Starting the list again resumes it.
"""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any, Literal, get_args

from osnet.errors import OutputError, require_extra
from osnet.work.work_list import WorkList
from osnet.work.worker import Worker

Runner = Literal["local", "torchrun", "ray"]
OnDone = Callable[[], None]


def run_work(
    work: WorkList,
    runner: Runner = "local",
    *,
    workers: int = 1,
    gpus: float = 0.0,
    on_done: OnDone = lambda: None,
) -> None:
    """Do everything on the list that has no result.

    Args:
        work: the list.
        runner: ``local``: processes on this machine. ``torchrun``: this process is one of several that torchrun has
            started; each does its share, and all return when all are done. ``ray``: actors on a Ray cluster
            (``RAY_ADDRESS``), or on this machine if there is none.
        workers: number of processes or actors; torchrun has its own.
        gpus: GPUs of each Ray actor, such as 0.25.
        on_done: called for each item that is done or set aside.

    Raises:
        OutputError: another process runs the list, or no node can hold an actor.
        QuarantineError: items failed three times; the others are done.
        MissingExtraError: Ray is not installed.
    """
    if runner not in get_args(Runner):
        raise OutputError(f"unknown runner {runner!r}; choose from {', '.join(get_args(Runner))}")
    if workers < 1:
        raise OutputError(f"workers {workers} must be at least 1")
    if runner == "torchrun":
        _run_share(work, on_done)
    else:
        with work.locked():
            work.forget_tries()
            if runner == "local":
                _run_local(work, min(workers, max(1, len(work.todo()))), on_done)
            else:
                _run_ray(work, workers, gpus, on_done)
    work.check_complete()


def _run_local(work: WorkList, workers: int, on_done: OnDone) -> None:
    """A thread for each worker process hands it items, and starts another when it dies."""
    todo: queue.SimpleQueue[str] = queue.SimpleQueue()
    listed = work.todo()
    for item in listed:
        todo.put(item)
    open_items, changed, stop = len(listed), threading.Condition(), threading.Event()
    processes: set[subprocess.Popen[str]] = set()
    errors: list[BaseException] = []

    def serve() -> None:
        nonlocal open_items
        process: subprocess.Popen[str] | None = None
        while not stop.is_set():
            try:
                item = todo.get(timeout=0.1)
            except queue.Empty:
                with changed:
                    if not open_items:
                        break
                continue
            if process is None:
                process = _start_worker(work)
                processes.add(process)
            answer = _ask(process, item)
            if answer is None and stop.is_set():  # interrupted: the worker was ended with us
                break
            if answer is None:
                processes.discard(process)
                status, process = _end(process), None
                again = work.record_failure(item, f"the worker ended with status {status}", died=True)
            else:
                again = answer["error"] is not None and work.record_failure(item, answer["error"])
            if again:
                todo.put(item)
                continue
            with changed:
                open_items -= 1
                on_done()

    def guarded() -> None:
        try:
            serve()
        except BaseException as error:
            errors.append(error)
            stop.set()

    threads = [threading.Thread(target=guarded, daemon=True) for _ in range(workers)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        stop.set()
        for process in list(processes):
            if process.stdin is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()
            if sys.exc_info()[0] is not None:
                process.terminate()
            process.wait()
    if errors:
        raise errors[0]


def _start_worker(work: WorkList) -> "subprocess.Popen[str]":
    """Each worker computes with one thread, so that results do not depend on how many there are."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    return subprocess.Popen(  # noqa: S603 our own module, and a folder
        [sys.executable, "-m", "osnet.work", str(work.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **dict.fromkeys(names, "1")},
    )


def _end(process: "subprocess.Popen[str]") -> int:
    """The exit status of a worker that gave no answer. One that still runs after ten seconds is killed."""
    try:
        return process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _ask(process: "subprocess.Popen[str]", item: str) -> dict[str, Any] | None:
    """A worker's answer; None if it has died."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(item + "\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
    except (OSError, ValueError):
        return None
    return answer if isinstance(answer, dict) and answer.get("item") == item else None


def _run_share(work: WorkList, on_done: OnDone) -> None:
    """The items of this process; returns when all processes are done."""
    from osnet.runtime.distributed import any_of_all, join_processes

    rank, size = join_processes()
    if rank == 0:
        work.forget_tries()
    any_of_all(False)  # wait: no process may count tries before they are forgotten
    worker = Worker(str(work.folder))
    for item in list(work.items)[rank::size]:
        while (error := worker.do(item)) is not None:
            if not work.record_failure(item, error):
                break
        on_done()
    any_of_all(False)


def _run_ray(work: WorkList, workers: int, gpus: float, on_done: OnDone) -> None:
    """An actor for each worker, which holds the network."""
    ray: Any = require_extra("ray", "ray")
    started_here = not ray.is_initialized()
    if started_here:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        address = os.environ.get("RAY_ADDRESS")
        ray.init(address=address, include_dashboard=False, log_to_driver=False)
    try:
        _check_nodes(ray.nodes(), gpus, of_cluster=not started_here or "RAY_ADDRESS" in os.environ)
        actor = ray.remote(num_cpus=1, num_gpus=gpus)(Worker)
        todo = work.todo()
        idle: list[Any] = [None] * min(workers, max(1, len(todo)))  # None: an actor is started when it gets an item
        running: dict[Any, tuple[Any, str]] = {}
        while todo or running:
            while todo and idle:
                one, item = idle.pop() or actor.remote(str(work.folder)), todo.pop(0)
                running[one.do.remote(item)] = (one, item)
            (done, *_), _ = ray.wait(list(running), num_returns=1)
            one, item = running.pop(done)
            try:
                error, died = ray.get(done), False
            except ray.exceptions.RayError as lost:
                error, died, one = f"the actor ended: {type(lost).__name__}", True, None
            idle.append(one)
            if error is not None and work.record_failure(item, error, died=died):
                todo.append(item)
            else:
                on_done()
            if not todo:  # actors that are done make room for those that Ray has not been able to start
                one, idle = None, [None] * len(idle)
    finally:
        if started_here:
            ray.shutdown()


def _check_nodes(nodes: list[dict[str, Any]], gpus: float, *, of_cluster: bool) -> None:
    """An actor that no node can hold would wait for ever; a cluster may still add nodes, so it only warns there."""
    most = max((node["Resources"].get("GPU", 0.0) for node in nodes if node["Alive"]), default=0.0)
    if gpus <= most:
        return
    trouble = f"no Ray node has {gpus:g} GPUs for an actor; the most is {most:g}"
    if not of_cluster:
        raise OutputError(f"{trouble}; use fewer (--gpus)")
    warnings.warn(f"{trouble}. The items wait until the cluster adds such a node", stacklevel=2)
