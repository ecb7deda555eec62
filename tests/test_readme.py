"""The README's examples are run as they stand, on real crops with real weights."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import pytest

from conftest import ROOT
from osnet.cli import main

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
    assert "234 embeddings of 512" in out
    assert "234 crops added" in out
    assert re.search(r"^ +1 +0\.9\d+ +10 ", out, re.MULTILINE)
    assert "items removed" in out
    assert (place / "hits.png").stat().st_size > 10_000
    assert (place / "back.pt").exists()


def described_commands() -> list[str]:
    lines = [line.split("#")[0] for line in "\n".join(blocks("sh")).splitlines()]
    return [part.strip() for line in lines for part in line.split("&&") if part.strip().startswith("osnet ")]


@pytest.mark.parametrize("line", described_commands())
def test_commands_and_options_of_the_readme_exist(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The command's own help is asked: it must be a command, not a group of some, and have every option."""
    words = shlex.split(line)[1:]
    with pytest.raises(SystemExit) as stopped:
        main([*takewhile(re.compile("[a-z][a-z0-9-]*").fullmatch, words[:2]), "--help"])
    assert stopped.value.code == 0
    help_text = capsys.readouterr().out
    usage = help_text.split("\n\n")[0]
    name = re.match(r"usage: osnet ([a-z0-9 -]+) \[-h\]", usage)
    assert name is not None, f"no such command: {usage}"
    assert line.startswith(f"osnet {name[1]}")
    assert not usage.removeprefix(name[0]).lstrip().startswith("{"), "a group of commands"
    for option in (word for word in words if word.startswith("--")):
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", help_text), option


def test_no_page_waits_for_its_figures() -> None:
    """A page may not be published with a mark such as @TABLE@ where its figures were to come."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    assert len(pages) > 5
    marked = {page.name: found for page in pages if (found := re.findall(r"@+[A-Z0-9]+@+", page.read_text("utf-8")))}
    assert not marked
