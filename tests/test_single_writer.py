"""Of several processes that start at the same time, one extracts a benchmark; all draw the same splits."""

import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from unittest.mock import Mock

import pytest
from filelock import FileLock

import layouts
from layouts import MAKERS
from osnet.data.reid.catalog import read_benchmark
from osnet.errors import OutputError
from osnet.files import one_writer

CHILD = """
import sys, time
from pathlib import Path
from PIL import Image
from osnet.data.reid import catalog, cuhk01
from osnet.data.reid import random_splits

root, me, pause_s = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
made = []

def save(*args, **kwargs):  # cuhk03: a pause between writing and renaming
    Image_save(*args, **kwargs)
    made.append(1)
    time.sleep(pause_s)

def check_header(*args):  # cuhk01: a pause in the middle of unpacking
    made.append(1)
    time.sleep(pause_s)

def write(*args):  # random splits: a pause between checking for the file and writing it
    time.sleep(10 * pause_s)
    original_write(*args)

Image_save, Image.Image.save = Image.Image.save, save
cuhk01.check_header = check_header
original_write, random_splits._write = random_splits._write, write
for name in sys.argv[4:]:
    made.clear()
    (root / f"{name}-ready-{me}").touch()
    while not (root / f"{name}-go").exists():
        time.sleep(0.001)
    benchmark = catalog.read_benchmark(name, root / name, **({"classic": True} if name == "cuhk03" else {}))
    print(len(made), len(benchmark.datasets), [crop.path.name for crop in benchmark.datasets[3].train.crops])
"""


def start(root: Path, me: int, pause_s: float, *names: str) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", CHILD, str(root), str(me), str(pause_s), *names]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(path: Path, children: list[subprocess.Popen[str]]) -> None:
    end = time.monotonic() + 500  # reached only by a hang
    while not path.exists():
        assert time.monotonic() < end, path
        assert not [child.communicate() for child in children if child.poll() is not None]
        time.sleep(0.005)


def make(name: str, root: Path) -> Path:
    folder = MAKERS[name](root)
    if name == "cuhk01":
        with zipfile.ZipFile(folder / "CUHK01.zip", "w") as archive:
            for path in sorted((folder / "campus").iterdir()):
                archive.write(path, f"campus/{path.name}")
        shutil.rmtree(folder / "campus")
    return folder


def test_two_processes_extract_and_draw_once(tmp_path: Path) -> None:
    folders = {name: make(name, tmp_path / name) for name in ("cuhk03", "cuhk01", "viper")}
    children, results = [start(tmp_path, me, 0.02, *folders) for me in range(2)], []
    try:
        for name in folders:
            for me in range(2):
                wait_until(tmp_path / f"{name}-ready-{me}", children)
            (tmp_path / f"{name}-go").touch()
        for child in children:
            out, err = child.communicate(timeout=500)
            assert (child.returncode, err) == (0, "")
            results.append([line.split(" ", 1) for line in out.splitlines()])
    finally:
        for child in children:
            child.kill()
    assert [rest for _, rest in results[0]] == [rest for _, rest in results[1]]  # the same splits and images
    one, other = ([int(count) for count, _ in lines] for lines in results)
    wanted = [len(layouts.cuhk03_names("detected")), 20]  # made by one of the processes, nothing by the other
    assert [sorted(pair) for pair in zip(one[:2], other[:2], strict=True)] == [[0, count] for count in wanted]
    for folder in folders.values():
        assert not [path for path in folder.rglob("*") if path.name.startswith(".")]


def test_the_lock_of_a_killed_process_is_released(tmp_path: Path) -> None:
    folder = make("cuhk03", tmp_path / "cuhk03")
    (tmp_path / "cuhk03-go").touch()
    child = start(tmp_path, 0, 600, "cuhk03")
    try:
        wait_until(folder / "images_detected" / ".writing-1_001_1_01.png", [child])
    finally:
        child.kill()
        child.communicate()
    assert (folder / ".writing-images_detected.json.lock").exists()
    assert len(read_benchmark("cuhk03", tmp_path / "cuhk03").crops) == len(layouts.cuhk03_names("detected"))
    assert not [path for path in folder.rglob("*") if path.name.startswith(".")]


def test_lock_times_out_and_leaves_no_file(tmp_path: Path) -> None:
    thing = tmp_path / "thing"
    late = pytest.raises(OutputError, match=r"another process .*thing")
    with one_writer(thing), late, one_writer(thing, timeout_s=0.05):
        pass
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyError), one_writer(thing):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_where_there_can_be_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing, thing = tmp_path / "no" / "thing", tmp_path / "thing"
    with pytest.raises(OutputError, match="there is no folder"), one_writer(missing, needs_lock=True):
        pass
    monkeypatch.setattr(FileLock, "acquire", Mock(side_effect=NotImplementedError("no flock")))
    with one_writer(thing):
        thing.touch()
    with pytest.raises(OutputError, match="no flock"), one_writer(thing, needs_lock=True):
        pass
    assert list(tmp_path.iterdir()) == [thing]
