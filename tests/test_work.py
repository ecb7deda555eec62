"""Work lists on several processes: no item is lost or done twice, and the results are the same bytes."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import osnet.work.runners as runners
from conftest import write_picture
from osnet import Embedder
from osnet.errors import OutputError
from osnet.features.embedding_files import embed_files, read_vectors
from osnet.runtime.distributed import leave_processes
from osnet.work import Runner, WorkList, run_work
from osnet.work.embedding import embed_on_many
from osnet.work.work_list import MAX_DEATHS, MAX_TRIES, QuarantineError
from small_runs import join_as_rank, spawn


def items(count: int, seconds: float = 0.0) -> list[dict[str, Any]]:
    return [{"label": f"item {n}", "seconds": seconds} for n in range(count)]


def plan(folder: Path, listed: list[dict[str, Any]]) -> WorkList:
    return WorkList.plan(folder, "probe", {"rounds": 200}, listed)


def results(work: WorkList) -> list[bytes]:
    return [work.result(item).read_bytes() for item in work.items]


def test_only_new_items_are_done(tmp_path: Path) -> None:
    work = plan(tmp_path / "w", items(5))
    first = next(iter(work.items))
    run_work(work, workers=2)
    assert work.todo() == []
    assert len(set(results(work))) == 5
    before = work.result(first).stat().st_mtime_ns
    again = plan(tmp_path / "w", [*items(5)[:4], {"label": "another"}])
    assert again.todo() == list(again.items)[4:], "what has not changed is not done again"
    assert len(list((tmp_path / "w" / "results").iterdir())) == 4, "what is no longer on the list is deleted"
    done: list[int] = []
    run_work(again, on_done=lambda: done.append(1))
    assert len(done) == 1
    assert work.result(first).stat().st_mtime_ns == before
    other = WorkList.plan(tmp_path / "w", "probe", {"rounds": 100}, items(5))
    assert len(other.todo()) == 5, "other settings give other results"


def test_an_item_that_always_fails_is_quarantined_and_named(tmp_path: Path) -> None:
    listed = items(6)
    listed[2]["fails"] = True
    work = plan(tmp_path / "w", listed)
    with pytest.raises(QuarantineError, match=r"1 of 6.*item 2: ValueError: item 2 fails"):
        run_work(work, workers=2)
    (aside,) = work.quarantined()
    assert (aside.item, aside.label) == (list(work.items)[2], "item 2")
    assert json.loads((tmp_path / "w" / "tries" / f"{aside.item}.json").read_text())["tries"] == MAX_TRIES
    assert len(work.todo()) == 1, "the others are done"
    listed[2]["fails"] = False
    run_work(plan(tmp_path / "w", listed))
    assert work.quarantined() == []


def test_an_item_that_kills_its_worker_is_quarantined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runners, "_ask", lambda process, item: process.kill())
    monkeypatch.setattr("osnet.work.work_list.MAX_DEATHS", 3)
    assert MAX_DEATHS > 3
    with pytest.raises(QuarantineError, match="item 0: the worker ended with status -9"):
        run_work(plan(tmp_path / "w", items(1)))


def test_a_full_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk of one node is full: its tries fail, nothing half-written counts, and the next call does the rest."""
    work = plan(tmp_path / "w", items(3))
    real = Path.replace

    def full(self: Path, target: Path) -> Path:
        if Path(target).suffix == ".bin":
            raise OSError(28, "No space left on device")
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(QuarantineError, match="No space left"):
            run_work(work, "torchrun")  # in this process
    assert list((tmp_path / "w" / "results").iterdir()) == []
    run_work(work, "torchrun")
    assert len(results(work)) == 3


def test_bad_work_lists_are_refused(tmp_path: Path) -> None:
    work = plan(tmp_path / "w", items(2))
    with work.locked(), pytest.raises(OutputError, match="another process works"):
        run_work(WorkList(tmp_path / "w"))
    with pytest.raises(OutputError, match="'spark'"):
        run_work(work, "spark")  # type: ignore[arg-type]
    with pytest.raises(OutputError, match="workers 0"):
        run_work(work, workers=0)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "thesis.txt").write_text("precious")
    with pytest.raises(OutputError, match="thesis"):
        plan(tmp_path / "x", items(1))
    for content in ("", "[]", '{"format": "other"}', '{"format": "osnet-work-1", "task": "os:system", "settings": 3}'):
        (tmp_path / "w" / "work.json").write_text(content)
        with pytest.raises(OutputError, match="no list of work"):
            WorkList(tmp_path / "w")
    with pytest.raises(QuarantineError, match="no task 'os:system'"):
        run_work(WorkList.plan(tmp_path / "h", "os:system", {}, items(1)), "torchrun")


def descendants() -> dict[int, str]:
    """Processes that this one, or one of them, has started: their ids and names."""
    parents, names = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
                names[int(folder.name)] = (
                    (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )

    def is_ours(pid: int) -> bool:
        parent = parents.get(pid, 0)
        return parent == os.getpid() or (parent > 1 and is_ours(parent))

    return {pid: name for pid, name in names.items() if is_ours(pid)}


def share_by_torchrun(work: WorkList, folder: Path, *options: str) -> None:
    """Run the list with two processes."""
    script = folder / "share.py"
    script.write_text(
        "import sys\nfrom osnet.runtime.distributed import leave_processes\nfrom osnet.work import *\n"
        "run_work(WorkList(sys.argv[1]), 'torchrun')\nleave_processes()\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *options]
    subprocess.run([*command, str(script), str(work.folder)], check=True, timeout=300)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the workers in /proc")
@pytest.mark.parametrize(
    ("runner", "kills"),
    [
        ("local", 30),
        pytest.param("ray", 30, marks=pytest.mark.slow),
        pytest.param("torchrun", 12, marks=pytest.mark.slow),
    ],
)
def test_killed_at_random_moments(runner: Runner, kills: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL of any worker at any moment: the results are those of a run that nobody disturbed."""
    if runner == "ray":
        pytest.importorskip("ray")
    quiet = plan(tmp_path / "quiet", items(40))
    run_work(quiet, "torchrun")
    draw, finished = random.Random(3), threading.Event()
    killed: list[int] = []
    worker = {"local": "osnet.work", "ray": "ray::Worker.do", "torchrun": f"-u {tmp_path / 'share.py'}"}[runner]

    def run(work: WorkList) -> None:
        if runner == "torchrun":
            share_by_torchrun(work, tmp_path, "--max-restarts", "1000")
        else:
            run_work(work, runner, workers=3)

    def kill() -> None:
        pause = 3.0 if runner == "torchrun" else 0.3  # torchrun starts all workers anew
        while len(killed) < kills and not finished.is_set():
            time.sleep(draw.uniform(0, pause))
            alive = [pid for pid, name in descendants().items() if worker in name]
            if alive:
                killed.append(draw.choice(alive))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(killed[-1], signal.SIGKILL)

    monkeypatch.setattr("osnet.work.work_list.MAX_DEATHS", 1000)
    slow = [{**item, "seconds": 0.3} for item in items(40)]
    thread = threading.Thread(target=kill)
    thread.start()
    try:
        for number in range(30):
            work = plan(tmp_path / f"w{number}", slow)
            run(work)
            assert results(work) == results(quiet)
            plan(tmp_path / f"w{number}", slow)  # which removes what a killed worker was writing
            assert len(list((work.folder / "results").iterdir())) == 40
            if len(killed) == kills:
                break
    finally:
        finished.set()
        thread.join()
    assert len(killed) == kills


@pytest.mark.parametrize("runner", ["local", pytest.param("ray", marks=pytest.mark.slow)])
def test_killed_as_a_whole_it_resumes(runner: Runner, tmp_path: Path) -> None:
    """The process that runs the list is killed; its workers end by themselves, and the next call does the rest."""
    if runner == "ray":
        pytest.importorskip("ray")
    work = plan(tmp_path / "w", items(12, 0.1))
    code = f"from osnet.work import *; run_work(WorkList({str(work.folder)!r}), {runner!r}, workers=2)"
    head = subprocess.Popen([sys.executable, "-c", code])
    while len(work.todo()) > 8:
        assert head.poll() is None
        time.sleep(0.02)
    head.kill()
    head.wait()
    left = set(work.todo())
    assert len(left) >= 4
    done: list[int] = []
    run_work(work, runner, workers=2, on_done=lambda: done.append(1))
    assert len(done) <= len(left), "what was done is not done again"
    assert work.todo() == []
    quiet = plan(tmp_path / "quiet", items(12, 0.1))
    run_work(quiet, "torchrun")
    assert results(work) == results(quiet)


@pytest.mark.slow
def test_embedding_on_several_processes_gives_the_same_bytes(tiny_weights: Path, tmp_path: Path) -> None:
    paths = [write_picture(tmp_path / "crops" / f"{n}.png", n, (32, 64)) for n in range(9)]
    (tmp_path / "crops" / "bad.png").write_bytes(b"broken")
    paths.insert(4, tmp_path / "crops" / "bad.png")
    embedder = Embedder(tiny_weights, batch_size=2)
    made = {"embedder": embedder, "weights": str(tiny_weights), "paths": paths, "on_error": "skip", "block": 4}
    for workers in (1, 2):
        done = embed_on_many(**made, out=tmp_path / f"{workers}.npz", workers=workers)  # type: ignore[arg-type]
    assert (tmp_path / "1.npz").read_bytes() == (tmp_path / "2.npz").read_bytes()
    alone = embed_files(embedder, paths, tmp_path / "alone.npz", on_error="skip")
    assert done.names == alone.names
    assert [failure.name for failure in done.failures] == [str(paths[4])]
    np.testing.assert_allclose(read_vectors(tmp_path / "2.npz")[0].vectors, alone.vectors, atol=1e-5)


def share_items(rank: int, folder: str) -> None:
    """As one of two processes of torchrun; writes how many items were done, and why not all."""
    join_as_rank(rank, folder)
    done: list[int] = []
    with pytest.raises(QuarantineError) as caught:
        run_work(WorkList(Path(folder) / "w"), "torchrun", on_done=lambda: done.append(1))
    (Path(folder) / str(rank)).write_text(f"{len(done)} {caught.value}")
    leave_processes()


@pytest.mark.slow
def test_torchrun_processes_share_the_items(tmp_path: Path) -> None:
    listed = items(9)
    listed[4]["fails"] = True
    work = plan(tmp_path / "w", listed)
    spawn(share_items, tmp_path)
    said = [(tmp_path / rank).read_text() for rank in ("0", "1")]
    assert [line.split(" of")[0] for line in said] == ["5 1", "4 1"]
    assert all("item 4" in line for line in said)
    assert len(work.todo()) == 1


def test_ray_actors_that_no_node_can_hold() -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}}, {"Alive": False, "Resources": {"GPU": 8.0}}]
    runners._check_nodes(nodes, 1.0, of_cluster=False)
    with pytest.raises(OutputError, match=r"2 GPUs .* most is 1"):
        runners._check_nodes(nodes, 2.0, of_cluster=False)
    with pytest.warns(UserWarning, match="until the cluster adds"):
        runners._check_nodes(nodes, 2.0, of_cluster=True)


def test_ray_workers_share_the_items(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    listed = items(8)
    listed[5]["fails"] = True
    work = plan(tmp_path / "w", listed)
    with pytest.raises(QuarantineError, match="item 5"):
        run_work(work, "ray", workers=2)
    assert len(work.todo()) == 1


def test_workers_compute_by_the_backend_of_the_embedder(tiny_weights: Path, tmp_path: Path) -> None:
    """On a busy machine, workers that measure for themselves chose others, and the bytes of the results differed."""
    paths = [write_picture(tmp_path / f"{n}.png", n, (32, 64)) for n in range(3)]
    embedder = Embedder(tiny_weights, batch_size=2, backend="torch")
    made = {"embedder": embedder, "weights": str(tiny_weights), "paths": paths, "on_error": "skip", "block": 2}
    embed_on_many(**made, out=tmp_path / "e.npz", runner="torchrun")  # type: ignore[arg-type]
    assert WorkList(tmp_path / "e.npz.work").settings["backend"] == "torch"
    alone = embed_files(embedder, paths, tmp_path / "alone.npz", on_error="skip")
    np.testing.assert_allclose(read_vectors(tmp_path / "e.npz")[0].vectors, alone.vectors, atol=1e-6)


def test_a_wrong_name_of_the_result_is_refused_before_the_work(tiny_weights: Path, tmp_path: Path) -> None:
    paths = [write_picture(tmp_path / "crops" / "1.png", 1, (32, 64))]
    with pytest.raises(OutputError, match=r"e\.npy.*\.npz"):
        embed_on_many(Embedder(tiny_weights), str(tiny_weights), paths, tmp_path / "e.npy")
    assert not (tmp_path / "e.npy.work").exists()


def test_what_a_worker_prints_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library in C, or a program that the task starts, writes to the process's output itself."""
    work = plan(tmp_path / "w", items(2))
    noisy = (
        "import os, runpy, sys\n"
        "from osnet.work.probe import Probe\n"
        "do = Probe.__call__\n"
        "Probe.__call__ = lambda *given: (os.write(1, b'noise'), do(*given))\n"
        "sys.argv[0] = 'osnet.work'\n"
        "runpy.run_module('osnet.work', run_name='__main__')\n"
    )
    real = subprocess.Popen
    monkeypatch.setattr(
        runners.subprocess,
        "Popen",
        lambda command, **given: real([sys.executable, "-c", noisy, command[-1]], **given),
    )
    run_work(work)
    assert work.todo() == []
    assert list((tmp_path / "w" / "tries").iterdir()) == [], "no worker counts as dead"
