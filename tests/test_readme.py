"""The README's examples are run as they stand, on real crops with real weights."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.fixture
def place(tmp_path: Path, msmt17_pth: Path, people_mini: Path) -> Path:
    """A folder with what the examples name."""
    shutil.copytree(people_mini, tmp_path / "people-mini")
    shutil.copytree(people_mini / "bounding_box_test", tmp_path / "crops")
    shutil.copy(people_mini / "query" / "0010_c1s2_000001_00.jpg", tmp_path / "photo.jpg")
    shutil.copy(msmt17_pth, tmp_path / "osnet_x0_25_msmt17.pth")
    return tmp_path


def environment(msmt17_pth: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "OSNET_WEIGHTS": str(msmt17_pth.parent), "HF_HUB_OFFLINE": "1"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_python_examples(place: Path, msmt17_pth: Path) -> None:
    assert len(blocks("python")) == 1
    for code in blocks("python") * 2:  # what ran once must run again
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=place, env=environment(msmt17_pth), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("1 0.9"), "the first hit should be the same man"
        assert "0010_" in done.stdout.splitlines()[0]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_shell_examples(place: Path, msmt17_pth: Path) -> None:
    (code,) = blocks("sh")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code], cwd=place, env=environment(msmt17_pth), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    out = done.stdout
    assert "201,864" in out
    assert len(re.findall(r"mAP +100\.00 %", out)) == 2
    assert "accept at a cosine of 0." in out
    assert "234 vectors of 512" in out
    assert "234 crops added" in out
    assert re.search(r"^ +1 +0\.9\d+ +10 ", out, re.MULTILINE)
    assert "items removed" in out
    assert (place / "hits.png").stat().st_size > 10_000
    assert (place / "back.pt").exists()


def test_every_command_of_the_readme_exists() -> None:
    named = set(re.findall(r"^osnet (\w+)", "\n".join(blocks("sh")), re.MULTILINE))
    source = "".join(path.read_text() for path in (ROOT / "src" / "osnet" / "cli").glob("*.py"))
    for name in named:
        assert f"def {name}(" in source or f'name="{name}"' in source


def test_the_file_map_is_true() -> None:
    listed = set(re.findall(r"\b([a-z0-9_]+\.py)\b", (ROOT / "docs" / "map.md").read_text(encoding="utf-8")))
    there = {p.name for p in (ROOT / "src" / "osnet").rglob("*.py") if not p.name.startswith("__")}
    benchmarks = {p.name for p in (ROOT / "benchmarks").glob("*.py")}
    assert there | benchmarks == listed


def test_no_page_waits_for_its_figures() -> None:
    """A page may not be published with a mark such as @TABLE@ where its figures were to come."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    assert len(pages) > 5
    marked = {page.name: found for page in pages if (found := re.findall(r"@+[A-Z0-9]+@+", page.read_text("utf-8")))}
    assert not marked
