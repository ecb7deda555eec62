"""Mutation testing: put small faults into the code, run the tests that should fail, and list surviving faults.

The faults are cosmic-ray's: it replaces a number, a comparison, an operator, a condition and so on. All of them would
take days, so each module gets a random sample, which depends only on the seed and the code. cosmic-ray needs a separate
environment; the tests run with the Python that ``--python`` names:

    python -m venv mutants && mutants/bin/pip install cosmic-ray==8.7.0
    nice mutants/bin/python tests/mutation/run.py --python .venv/bin/python --minutes 25 [GROUP or MODULE ...]

``--minutes`` is processor time, so that a busy machine tries as much as an idle one. Modules without a result come
first. The faults are put into a copy of the repository, never into the repository itself. The results go into
``results.json`` next to this script, by module. A survivor's ``why`` is written by hand: why it is harmless, or which
test was added for it. A new run copies it if the same fault survives again, so an empty ``why`` marks a new survivor.
"""

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cosmic_ray.commands import init
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.testing import run_tests
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name("results.json")
LEFT_OUT = ("core/NoOp", "core/RemoveDecorator", "core/ReplaceBinaryOperator_BitOr")
"""No change; removed decorators (numba's changes speed, dataclass's crashes); ``|``, used here in type hints."""

READERS = ("data", "mutation_findings", "benchmarks", "benchmarks_sets", "benchmarks_drawn", "benchmarks_cuhk03")
GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    "losses": {"losses": ("losses", "attribute_metrics", "golden_runs")},
    "metrics": {
        "metrics/ranking": ("peer", "ranking", "streaming"),
        "metrics/matching_rules": ("peer", "streaming", "ranking"),
        "metrics/rank_counting": ("streaming", "ranking"),
        "metrics/distance_blocks": ("expansion", "reranking"),
        "metrics/nearest_neighbors": ("reranking",),
        "metrics/k_reciprocal": ("reranking",),
        "metrics/rerank_kernels": ("reranking",),
        "metrics/score_blocks": ("decisions", "pair_scores"),
        "metrics/thresholds": ("decisions",),
        "metrics/bootstrap": ("decisions", "comparison"),
        "metrics/pair_scores": ("pair_scores",),
        "metrics/attribute_metrics": ("attribute_metrics",),
        "metrics/top_k": ("top_k",),
        "metrics/query_expansion": ("expansion", "reranking"),
    },
    "training": {
        "training/optimizer": ("golden_runs",),
        "training/recipe": ("golden_runs", "published_recipes", "training"),
        "training/trainer": ("golden_runs", "training"),
        "training/epochs": ("golden_runs", "training"),
        "tasks/reid": ("golden_runs", "training"),
        "recipes/reid_market1501": ("published_recipes",),
    },
    "data/reid": {
        f"data/reid/{name}": READERS
        for name in (
            "market1501", "dukemtmcreid", "msmt17", "cuhk01", "cuhk02", "cuhk03", "cuhk03_images", "viper", "grid",
            "ilids", "prid", "sensereid", "cuhksysu", "random_splits", "benchmark", "catalog", "layout",
        )
    },
    "weights": {
        "weights/checkpoint": ("mutation_findings", "weights"),
        "weights/torchreid": ("mutation_findings", "peer", "weights"),
        "weights/card": ("weights",),
    },
}  # fmt: skip
"""Group -> module -> the test files that must detect a fault in it."""
NUM_FAULTS = {"losses": 10, "metrics": 3, "training": 5, "data/reid": 2, "weights": 6}
"""Faults tried in each module of the group."""


@dataclass
class Fault:
    """A replaced piece of code that no test detected."""

    module: str
    line: int
    operator: str
    occurrence: int
    before: str
    after: str
    why: str = ""
    """Why it is harmless; empty: not yet known."""

    def key(self) -> tuple[str, str, str, str]:
        """Identifies the fault when lines move."""
        return self.module, self.operator, self.before, self.after


@contextmanager
def copied_repository() -> Iterator[Path]:
    """Copy tracked and new files into a temporary folder, which becomes the working directory."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    with tempfile.TemporaryDirectory() as folder:
        for name in filter(None, names):
            if (ROOT / name).is_file():
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, Path(folder) / name)
        before = Path.cwd()
        os.chdir(folder)
        os.environ |= {"PYTHONPATH": str(Path(folder) / "src"), "OMP_NUM_THREADS": "1"}
        try:
            yield Path(folder)
        finally:
            os.chdir(before)


def test_command(python: str, tests: tuple[str, ...]) -> str:
    files = [f"tests/test_{name}.py" for name in tests if Path(f"tests/test_{name}.py").exists()]
    return f"{python} -m pytest -q -x -p no:cacheprovider -m 'not slow' {' '.join(files)}"


def sample_faults(module: str, number: int, seed: int) -> list[MutationSpec]:
    """Sample places in the code and one fault at each, so that long expressions do not fill the sample."""
    path = Path("src/osnet") / f"{module}.py"
    with tempfile.TemporaryDirectory() as folder, use_db(f"{folder}/faults.sqlite", WorkDB.Mode.create) as database:
        init([path], database, {})
        specs = [spec for item in database.work_items for spec in item.mutations]
    places: dict[tuple[int, int], list[MutationSpec]] = {}
    for spec in sorted(specs, key=lambda spec: (spec.start_pos, spec.operator_name, spec.occurrence)):
        if not spec.operator_name.startswith(LEFT_OUT):
            places.setdefault(spec.start_pos, []).append(spec)
    rng = random.Random(f"{seed} {module}")
    chosen = rng.sample(sorted(places), min(number, len(places)))
    return [rng.choice(places[place]) for place in chosen]


def changed_lines(diff: str, sign: str) -> str:
    lines = [line[1:].strip() for line in diff.splitlines() if line.startswith(sign) and line[:3] != 3 * sign]
    return " ".join(lines)


def try_fault(module: str, spec: MutationSpec, command: str, timeout_s: float) -> Fault | None:
    """The fault, if it survives."""
    result = mutate_and_test([spec], command, timeout_s)
    if result.test_outcome != TestOutcome.SURVIVED:
        return None
    before, after = (changed_lines(result.diff or "", sign) for sign in "-+")
    return Fault(module, spec.start_pos[0], spec.operator_name, spec.occurrence, before, after)


def minutes_used() -> float:
    """Processor time of the test runs that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (used.ru_utime + used.ru_stime) / 60


def run_module(module: str, group: str, python: str, seed: int, known: list[Fault]) -> dict[str, Any]:
    command, begun = test_command(python, GROUPS[group][module]), time.monotonic()
    outcome, output = run_tests(command, 3600)
    if outcome != TestOutcome.SURVIVED:
        raise SystemExit(f"the tests of {module} fail without a fault:\n{output}")
    timeout_s = 60 + 5 * (time.monotonic() - begun)
    specs = sample_faults(module, NUM_FAULTS[group], seed)
    survivors = [fault for spec in specs if (fault := try_fault(module, spec, command, timeout_s)) is not None]
    whys = {fault.key(): fault.why for fault in known}
    for fault in survivors:
        fault.why = whys.get(fault.key(), "")
        sys.stdout.write(f"survives: {fault.module}:{fault.line}: {fault.before} -> {fault.after}\n")
    sys.stdout.write(f"{module}: {len(specs)} faults, {len(survivors)} survive\n")
    sys.stdout.flush()
    return {"seed": seed, "tried": len(specs), "survivors": [asdict(fault) for fault in survivors]}


def read_results() -> dict[str, dict[str, Any]]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def main() -> None:
    parser = argparse.ArgumentParser(description="Put small faults into the code and list those that no test detects.")
    parser.add_argument("names", nargs="*", help=f"groups ({', '.join(GROUPS)}) or modules; all by default")
    parser.add_argument("--python", required=True, help="the Python that runs the tests")
    parser.add_argument("--minutes", type=float, default=25.0, help="processor time; no module is started after it")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    python = str(Path(shutil.which(options.python) or options.python).absolute())
    modules = [(group, module) for group, tests in GROUPS.items() for module in tests]
    if options.names:
        modules = [pair for pair in modules if {*pair} & {*options.names}]
    with copied_repository():
        for group, module in sorted(modules, key=lambda pair: pair[1] in read_results()):
            if minutes_used() > options.minutes:
                break
            known = [Fault(**fault) for fault in read_results().get(module, {}).get("survivors", [])]
            found = run_module(module, group, python, options.seed, known)
            RESULTS.write_text(json.dumps(dict(sorted((read_results() | {module: found}).items())), indent=1) + "\n")


if __name__ == "__main__":
    main()
