"""Every tutorial runs unchanged: its shell and Python blocks, in order, in an empty folder."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import ROOT
from osnet.cli.common import EXIT_ERROR
from warm_start import warm_commands

PAGES = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def commands() -> Iterator[Path]:
    with warm_commands() as folder:
        yield folder


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_tutorial_runs(page: Path, tmp_path: Path, random_weights: Path, commands: Path) -> None:
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    assert blocks, "a tutorial without code"
    environment = {
        **os.environ,
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "OSNET_WEIGHTS": str(random_weights),
        "HF_HUB_OFFLINE": "1",
    }
    python = ""
    for language, code in blocks:
        python += code if language == "python" else ""  # a later block may use names of an earlier one
        command = ["bash", "-euo", "pipefail", "-c", code] if language == "sh" else ["python", "-c", python]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"


def test_a_command_that_fails_is_noticed(commands: Path) -> None:
    environment = {**os.environ, "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}"}
    for code, status, text in (("print(1)", 0, "1\n"), ("raise SystemExit(3)", 3, ""), ("1 / 0", 1, "")):
        done = subprocess.run(["python", "-c", code], env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (status, text)
    done = subprocess.run(["osnet", "search", "nowhere", "x.jpg"], env=environment, capture_output=True, text=True)
    assert done.returncode == EXIT_ERROR
    assert "nowhere" in done.stderr
