"""The README's examples run unchanged, in order, in an empty folder, without a network connection."""

import os
import re
import shlex
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import pytest

from conftest import ROOT
from osnet.cli import main

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_readme_commands_and_code_run(tmp_path: Path, random_weights: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    offline = {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1"}
    offline.pop("OSNET_WEIGHTS", None)
    (commands,), (code,) = blocks("sh"), blocks("python")
    shell = ["bash", "-euo", "pipefail", "-c", commands]
    done = subprocess.run(shell, cwd=tmp_path, env=offline, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^ +1 +0\.\d+ +camera-", done.stdout, re.MULTILINE)
    assert (tmp_path / "demo" / "index.html").exists()
    for name in ("hits.png", "best.mp4", "when.png"):
        assert (tmp_path / name).stat().st_size > 5_000
    named = {**offline, "OSNET_WEIGHTS": str(random_weights)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=named, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("[") == 7, "must print a matrix of six rows"


def named_commands() -> list[str]:
    lines = [line.split("#")[0] for line in "\n".join(blocks("sh")).splitlines()]
    return [line.strip() for line in lines if line.strip().startswith("osnet ")]


@pytest.mark.parametrize("line", named_commands())
def test_commands_and_options_exist(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The command has a help text, is not a group of commands, and has every option."""
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


def test_links_of_the_readme_exist() -> None:
    """mkdocs checks only the links of its own pages."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_start_page_links_every_page() -> None:
    """The README calls it the list of all pages."""
    docs = ROOT / "docs"
    links = set(re.findall(r"\]\(([^)#]+\.md)\)", (docs / "index.md").read_text(encoding="utf-8")))
    assert links == {page.relative_to(docs).as_posix() for page in docs.rglob("*.md")} - {"index.md"}


def test_pages_have_no_placeholders() -> None:
    """No page contains a placeholder such as @TABLE@."""
    assert len(PAGES) > 5
    marked = {page.name: found for page in PAGES if (found := re.findall(r"@+[A-Z0-9]+@+", page.read_text("utf-8")))}
    assert not marked
