"""Scripts outside the package: every name that they import from it exists."""

import ast
import importlib
from pathlib import Path

import pytest

from osnet.errors import MissingExtraError

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(path for folder in ("benchmarks", "docs", "examples") for path in (ROOT / folder).rglob("*.py"))


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) > 35


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_names_imported_from_the_package_exist(script: Path) -> None:
    missing = []
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "osnet":
            try:
                module = importlib.import_module(node.module or "")
            except (MissingExtraError, ModuleNotFoundError) as error:
                if (getattr(error, "name", None) or "").startswith("osnet"):
                    missing.append(node.module)
                continue
            for alias in node.names:
                if not hasattr(module, alias.name):
                    try:
                        importlib.import_module(f"{node.module}.{alias.name}")
                    except ModuleNotFoundError:
                        missing.append(f"{node.module}.{alias.name}")
    assert missing == [], f"{script.name} imports what is not there"
