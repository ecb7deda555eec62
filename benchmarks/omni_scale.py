"""OSNet and its single-scale baseline (paper, Table 5), trained from scratch on Market-1501.

Each run is one network with one seed, trained with the paper's recipe (random flip, crop and patch; SGD; rate 0.065),
whose 350 epochs and milestones are scaled to fewer epochs. A tenth of the training people is held out. The weights with
the best score on these people are scored once on the test set. Distances are Euclidean, as in the paper.

A plan is a list of runs, most important first. Each process takes the first run that is neither done nor taken, so
several processes can share a plan. The same command resumes an interrupted plan:

    python benchmarks/omni_scale.py --data MARKET1501 --work STATE --plan cpu
    python benchmarks/omni_scale.py --data MARKET1501 --work STATE --plan gpu --minutes 8.5    # repeat until "all done"
    python benchmarks/omni_scale.py --work STATE --plan cpu --report benchmarks/results/omni-scale-cpu.json

``--data`` is the folder of Market-1501 or its archive (tar.xz), which is unpacked into STATE. STATE contains images,
weights and vectors, so it must be outside the repository, or in a folder that git ignores. A report needs no data and
can be made at any time.

On a CPU: 30 epochs in float32 at 128 x 64; 20 epochs in bfloat16 at 256 x 128, faster on processors with AMX. A
complete short schedule, with all its rate steps, tells more than the first part of a longer one. On a GPU: 60 epochs
in bfloat16, with images and batches in its memory.
"""

import json
import os
import platform
import signal
import tarfile
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from device_batches import DeviceEpochs
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from PIL import Image

from osnet.data.loading import read_image
from osnet.data.reid.catalog import read_source
from osnet.data.training_set import TrainingSet
from osnet.embedding.embedder import Embedder
from osnet.evaluation.evaluate import evaluate
from osnet.evaluation.scoring import Scoring
from osnet.features.embedding_files import read_vectors
from osnet.files import make_folder, write_json
from osnet.metrics.bootstrap import cluster_interval
from osnet.metrics.ranking import rank_scores
from osnet.models.counting import count_cost
from osnet.recipes.reid_market1501 import market1501_osnet_x1_0_scratch
from osnet.tasks.reid import ReidPlan, ReidRecipe
from osnet.training.epochs import Epochs
from osnet.training.task import Plan
from osnet.training.trainer import RunOptions, Trainer
from osnet.types import ReidDataset
from osnet.weights.factory import create_model

PlanName = Literal["cpu", "gpu", "tiny"]
HELD_OUT = 0.1
SCORE = "validation_mAP"
WIDENED = "osnet_t1_widened"
"""The single-scale baseline, widened to the number of parameters of OSNet."""
REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Run:
    """One training run."""

    model: str
    """A name of ``osnet models``, or ``osnet_t1_widened``."""
    width: float
    size_hw: tuple[int, int]
    epochs: int
    seed: int
    batch_size: int = 64
    precision: Literal["fp32", "bf16"] = "bf16"

    @property
    def group(self) -> str:
        """Name of the group of runs that differ only in network and seed."""
        end = "-bf16" if self.precision == "bf16" else ""
        return f"x{self.width:g}-{self.size_hw[0]}x{self.size_hw[1]}-{self.epochs}epochs{end}"

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return f"{self.group}-{self.model}-seed{self.seed}"


def make_cpu_plan() -> list[Run]:
    """x0.5 at 128 x 64, then at 256 x 128, with short but complete schedules."""

    def small(model: str, seed: int) -> Run:
        return Run(model, 0.5, (128, 64), 30, seed, precision="fp32")

    def large(model: str, seed: int) -> Run:
        return Run(model, 0.5, (256, 128), 20, seed)

    return [
        small("osnet_x1_0", 1), small("osnet_t1", 1), small("osnet_x1_0", 2), small("osnet_t1", 2),
        small(WIDENED, 1), small(WIDENED, 2),
        large("osnet_x1_0", 1), large("osnet_t1", 1), small("osnet_t2", 1), small("osnet_add", 1),
        small("osnet_x1_0", 3), small(WIDENED, 3), small("osnet_t1", 3), small("osnet_x1_0", 4), small(WIDENED, 4),
    ]  # fmt: skip


def make_gpu_plan() -> list[Run]:
    """x1.0 at 256 x 128."""

    def run(model: str, seed: int) -> Run:
        return Run(model, 1.0, (256, 128), 60, seed)

    return [
        *(run(model, seed) for seed in (1, 2) for model in ("osnet_x1_0", "osnet_t1")),
        *(run(model, 1) for model in (WIDENED, "osnet_add", "osnet_concat", "osnet_separate_gates")),
    ]


def make_tiny_plan() -> list[Run]:
    """The GPU plan at a size for tests."""
    tiny = Run("osnet_x1_0", 0.25, (32, 16), 2, 1, batch_size=8)
    return [tiny, replace(tiny, model="osnet_t1"), replace(tiny, model=WIDENED), replace(tiny, seed=2)]


PLANS = {"cpu": make_cpu_plan, "gpu": make_gpu_plan, "tiny": make_tiny_plan}


@cache
def network_settings(model: str, width: float) -> tuple[str, float]:
    """A model of ``osnet models`` and its width; the widened baseline has as many parameters as OSNet."""
    if model != WIDENED:
        return model, width
    wanted = count_parameters("osnet_x1_0", width)
    widths = np.arange(round(100 * width), round(200 * width) + 1) / 100
    nearest = min(widths, key=lambda w: abs(count_parameters("osnet_t1", float(w)) - wanted))
    return "osnet_t1", float(nearest)


def count_parameters(model: str, width: float) -> int:
    """Number of parameters, without a classifier."""
    with torch.device("meta"):
        return sum(p.numel() for p in create_model(model, width=width).parameters())


def count_run(run: Run) -> dict[str, float]:
    """Width, parameters and multiply-adds."""
    model, width = network_settings(run.model, run.width)
    with torch.device("meta"):
        cost = count_cost(create_model(model, width=width), run.size_hw)
    return {"width": width, "parameters": cost.params, "multiply_adds": cost.madds}


class KeptInMemory(TrainingSet):
    """Decodes each image once and keeps its pixels in memory (24 KB for 128 x 64)."""

    pictures: dict[int, NDArray[np.uint8]]

    def read(self, index: int) -> Image.Image:
        """See the base class."""
        if index not in self.pictures:
            self.pictures[index] = np.asarray(read_image(self.crops[index].path))
        return Image.fromarray(self.pictures[index])


@dataclass(frozen=True)
class KeptRecipe(ReidRecipe):
    """The library's recipe, with images in memory."""

    def plan(self, dataset: ReidDataset) -> Plan:
        """See the base class."""
        plan = ReidPlan(self, dataset)
        samples = plan.samples
        plan.samples = KeptInMemory(samples.crops, samples.augmentation, samples.preprocessing, samples.seed)
        plan.samples.pictures = {}
        return plan


class DevicePlan(ReidPlan):
    """The library's plan, with images in the device's memory."""

    def make_epochs(self, rank: int, num_ranks: int, device: torch.device) -> Epochs:
        """See the base class."""
        return DeviceEpochs(self.samples, self.make_sampler(rank, num_ranks), device, min(8, os.cpu_count() or 1))


@dataclass(frozen=True)
class DeviceRecipe(ReidRecipe):
    """The library's recipe, with images and batches in the device's memory."""

    def plan(self, dataset: ReidDataset) -> Plan:
        """See the base class."""
        return DevicePlan(self, dataset)


def make_recipe(run: Run, plan: PlanName) -> ReidRecipe:
    """The paper's recipe from scratch, with proportionally fewer epochs and earlier milestones."""
    paper = market1501_osnet_x1_0_scratch()
    model, width = network_settings(run.model, run.width)
    values = {name: getattr(paper, name) for name in paper.__dataclass_fields__}
    milestones = tuple(round(step * run.epochs / paper.epochs) for step in paper.milestones)
    values |= {"name": run.name, "model": model, "width": width, "seed": run.seed, "epochs": run.epochs,
               "milestones": milestones, "batch_size": run.batch_size, "size_hw": run.size_hw,
               "precision": run.precision,
               "validation": HELD_OUT, "evaluate_every": max(1, run.epochs // 15)}  # fmt: skip
    return KeptRecipe(**values) if plan == "cpu" else DeviceRecipe(**values)


@dataclass
class Clock:
    """Records the time of each epoch, in parts if it is interrupted, and stops the trainer at the deadline."""

    path: Path
    deadline: float
    """In seconds of ``time.monotonic``."""
    stopped: bool = field(default=False, init=False)
    _epoch: Iterator[Any] | None = field(default=None, init=False)

    def draw(self, batches: Iterable[Any], total: int, label: str) -> Iterator[Any]:
        """Progress function for ``Trainer.run``, called once per epoch."""
        self._epoch = self._time(batches, int(label.split()[1].split("/")[0]))
        return self._epoch

    def close(self) -> None:
        """Record an interrupted epoch."""
        if isinstance(self._epoch, Generator):
            self._epoch.close()

    def _time(self, batches: Iterable[Any], epoch: int) -> Iterator[Any]:
        wall, cpu, done = time.monotonic(), time.process_time(), 0
        try:
            for batch in batches:
                done += 1
                yield batch
                if time.monotonic() > self.deadline and not self.stopped:
                    self.stopped = True
                    signal.raise_signal(signal.SIGTERM)  # the trainer saves and stops between two batches
        finally:
            row = {"epoch": epoch, "batches": done,
                   "wall_s": time.monotonic() - wall, "cpu_s": time.process_time() - cpu}  # fmt: skip
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


@dataclass(frozen=True)
class Settings:
    """Plan, data, folders and limits."""

    work: Path
    """Folder for unpacked data, runs and vectors, outside the repository."""
    plan: PlanName
    data: Path | None = None
    """Folder or archive of Market-1501."""
    report: Path | None = None
    """Only write a report of the runs in ``work`` to this file; what it has of other runs stays in it."""
    only: tuple[str, ...] = ()
    """Only run those whose name contains one of these."""
    minutes: float = 1e6
    """Save and stop after this time; the same command resumes."""
    threads: int = 1
    """Threads of torch, on a CPU."""
    device: Literal["cpu", "cuda"] | None = None
    """By default the plan's."""

    def __post_init__(self) -> None:
        if self.work.resolve().is_relative_to(REPOSITORY) and not self.work.resolve().is_relative_to(
            REPOSITORY / "out"
        ):
            raise SystemExit(f"--work {self.work} is in the repository, and will contain images of people; choose a "
                             "folder outside, or one below out/, which git ignores")  # fmt: skip
        if self.report is None and self.data is None:
            raise SystemExit("--data is missing: the folder or archive of Market-1501 (only a report needs none)")

    @property
    def on_cpu(self) -> bool:
        """Whether no GPU is used."""
        return self.device == "cpu" or (self.device is None and self.plan != "gpu")


def read_market(data: Path, work: Path) -> ReidDataset:
    """Read the data set; an archive is unpacked once."""
    if data.is_dir():
        return read_source(data)
    with FileLock(work / "unpacking.lock"):
        if not (work / "market1501").exists():
            aside = make_folder(work / "unpacking")
            with tarfile.open(data) as archive:
                archive.extractall(aside, filter="data")
            aside.rename(work / "market1501")
    (folder,) = (path for path in (work / "market1501").iterdir() if path.is_dir())
    return read_source(folder)


def run_one(run: Run, settings: Settings, dataset: ReidDataset, deadline: float) -> None:
    """Train or resume, then score once on the test set."""
    folder = make_folder(settings.work / run.name)
    recipe = make_recipe(run, settings.plan)
    trainer = Trainer(recipe, dataset, folder / "run", RunOptions(workers=0, cpu=settings.on_cpu))
    with closing(Clock(folder / "times.jsonl", deadline)) as clock:
        trainer.run(clock.draw)
    start, cpu = time.monotonic(), time.process_time()
    embedder = Embedder(folder / "run" / "best", device="cpu" if settings.on_cpu else "cuda", normalize=False,
                        num_workers=settings.threads if settings.on_cpu else None, batch_size=64)  # fmt: skip
    scores = {}
    for distance in ("euclidean", "cosine"):
        scoring = Scoring(distance=distance)  # type: ignore[arg-type]
        found = evaluate(embedder, dataset, scoring=scoring, features=folder / "features")
        scores[distance] = found.scores
    query, gallery = (read_vectors(folder / "features" / f"{part}-raw.npz")[0].vectors for part in ("query", "gallery"))
    labels = (dataset.query.pids, dataset.gallery.pids, dataset.query.camids, dataset.gallery.camids)
    ranks = rank_scores(query, gallery, *labels, distance="euclidean")
    write_json(folder / "result.json", {
        "scores": scores,
        "best_epoch": trainer.progress.best_epoch,
        "held_out_mAP": trainer.progress.best_score,
        "testing": {"wall_s": time.monotonic() - start, "cpu_s": time.process_time() - cpu},
        "pids": list(dataset.query.pids),
        "ap_per_query": [round(float(ap), 6) for ap in ranks.ap_per_query],
        "machine": describe_machine(settings),
    })  # fmt: skip


def describe_machine(settings: Settings) -> dict[str, Any]:
    """The machine of the run."""
    return {"python": platform.python_version(), "torch": torch.__version__, "cores": os.cpu_count(),
            "threads": settings.threads, "nice": os.nice(0),
            "device": platform.machine() if settings.on_cpu else torch.cuda.get_device_name()}  # fmt: skip


def run_plan(settings: Settings, runs: Sequence[Run]) -> bool:
    """Run all open runs in order. False if the time is up or other processes are still running some."""
    deadline = time.monotonic() + 60 * settings.minutes
    dataset = read_market(settings.data or Path(), make_folder(settings.work))
    runs = [run for run in runs if not settings.only or any(part in run.name for part in settings.only)]
    for run in runs:
        folder = make_folder(settings.work / run.name)
        try:
            with FileLock(folder / "taken.lock", timeout=0):
                if not (folder / "result.json").exists():
                    print(f"{run.name}: {describe_progress(folder)}", flush=True)
                    run_one(run, settings, dataset, deadline)
                    print(f"{run.name}: done", flush=True)
        except Timeout:
            continue
        except KeyboardInterrupt:
            print(f"{run.name}: stopped and saved; resume with the same command", flush=True)
            return False
    return all((settings.work / run.name / "result.json").exists() for run in runs)


def describe_progress(folder: Path) -> str:
    """Text for the log."""
    rows = read_rows(folder / "run" / "metrics.jsonl")
    return f"resumes after epoch {rows[-1]['epoch']}" if rows else "starts"


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON lines file, without an incomplete last line."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(True) if line.endswith("\n")]


CONTRASTS = (
    ("osnet_x1_0", "osnet_t1", 9), ("osnet_x1_0", WIDENED, None), ("osnet_x1_0", "osnet_t2", 10),
    ("osnet_x1_0", "osnet_add", 5), ("osnet_x1_0", "osnet_concat", 4), ("osnet_x1_0", "osnet_separate_gates", 6),
)  # fmt: skip
"""Two networks, and the second's row in Table 5; OSNet is row 1."""


def make_report(settings: Settings, runs: Sequence[Run], earlier: dict[str, Any] | None = None) -> dict[str, Any]:
    """The results so far, of finished and unfinished runs.

    Args:
        settings: the folder of the state.
        runs: those of the plan.
        earlier: a report, from which a run is taken if the state has fewer of its epochs: the state may be gone.
    """
    kept = (earlier or {}).get("runs", {})
    report: dict[str, Any] = {"plan": settings.plan, "runs": {}, "contrasts": []}
    for run in runs:
        found, before = summarize_run(settings.work / run.name, run), kept.get(run.name)
        report["runs"][run.name] = before if before and before["epochs_done"] > found["epochs_done"] else found
    contrasts = {(c["group"], c["first"], c["second"]): c for c in (earlier or {}).get("contrasts", [])}
    for group in dict.fromkeys(run.group for run in runs):
        for first, second, row in CONTRASTS:
            pairs = [(a, b) for a in runs for b in runs if (a.model, b.model) == (first, second)
                     and a.group == b.group == group and a.seed == b.seed]  # fmt: skip
            if pairs:
                found = contrast(report["runs"], pairs)
                found = keep_seeds(found, contrasts.get((group, first, second), {}))
                report["contrasts"].append(found | {"table_5_row": row})
    return report


def summarize_run(folder: Path, run: Run) -> dict[str, Any]:
    """A run as a report has it."""
    result, curve = read_result(folder), read_curve(folder)
    kept = ("scores", "best_epoch", "held_out_mAP", "testing", "machine", "pids", "ap_per_query")
    return {
        "run": asdict(run), "cost": count_run(run), "epochs_done": sum("loss" in row for row in curve),
        "finished": bool(result), "held_out_distance": read_distance(folder),
        **({name: result[name] for name in kept} if result else {}), "curve": curve,
    }  # fmt: skip


def read_result(folder: Path) -> dict[str, Any] | None:
    """The result of a run, or None if it is not finished."""
    path = folder / "result.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def read_distance(folder: Path) -> str:
    """Distance used on the held-out people; runs from before recipes had a distance used cosine."""
    path = folder / "run" / "recipe.json"
    recipe = json.loads(path.read_text(encoding="utf-8"))["recipe"] if path.exists() else {}
    return str(recipe.get("distance", "cosine"))


def read_curve(folder: Path) -> list[dict[str, float]]:
    """Per epoch: loss, seconds of training until its end, and held-out mAP if it was computed."""
    epochs: dict[int, dict[str, float]] = {}
    for row in read_rows(folder / "run" / "metrics.jsonl"):
        epochs.setdefault(row["epoch"], {"epoch": row["epoch"]}).update(
            {name: value for name, value in row.items() if name not in ("step", "epoch")}
        )
    spent = {"cpu_s": 0.0, "wall_s": 0.0}
    times = read_rows(folder / "times.jsonl")
    for number in sorted(epochs):
        for name in spent:
            spent[name] += sum(row[name] for row in times if row["epoch"] == number)
        epochs[number] |= spent
    return [epochs[number] for number in sorted(epochs)]


def contrast(summaries: dict[str, Any], pairs: list[tuple[Run, Run]]) -> dict[str, Any]:
    """First network minus second: on the test set if both are done, and on held-out people per epoch."""
    first, second = pairs[0]
    found: dict[str, Any] = {"group": first.group, "first": first.model, "second": second.model, "seeds": {}}
    differences = []
    for a, b in pairs:
        one, other = summaries[a.name], summaries[b.name]
        entry: dict[str, Any] = {"held_out": compare_curves(one["curve"], other["curve"])}
        if "ap_per_query" in one and "ap_per_query" in other:
            differences.append((np.array(one["ap_per_query"]) - np.array(other["ap_per_query"]), one["pids"]))
            entry["test_mAP"] = asdict(cluster_interval(*differences[-1]))
        found["seeds"][a.seed] = entry
    if differences:
        rows = np.stack([difference for difference, _ in differences])
        found["test_mAP_over_seeds"] = interval_over_seeds(rows, differences[0][1])
    found["verdict"] = judge(found)
    return found


def keep_seeds(found: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """``found``, with test scores of further seeds from an earlier report that did not keep each query's precision.

    People cannot be resampled over such seeds, so the interval of old and new ones is Student's, of the seeds' means.
    """
    before = {int(seed): entry["test_mAP"] for seed, entry in known.get("seeds", {}).items() if "test_mAP" in entry}
    now = {seed: entry["test_mAP"] for seed, entry in found["seeds"].items() if "test_mAP" in entry}
    if before.keys() <= now.keys():
        return found
    seeds = {seed: entry | {"test_mAP": before[seed]} if seed in before.keys() - now.keys() else entry
             for seed, entry in found["seeds"].items()}  # fmt: skip
    over = known["test_mAP_over_seeds"]
    if not now.keys() <= before.keys():
        by_seed = [float(value["mean"]) for _, value in sorted((before | now).items())]
        low, high = student_interval(by_seed)
        over = {"mean": float(np.mean(by_seed)), "low": low, "high": high, "num_seeds": len(by_seed),
                "num_people": over["num_people"], "by_seed": by_seed, "interval": "Student's, over seeds"}  # fmt: skip
    found |= {"seeds": seeds, "test_mAP_over_seeds": over}
    return found | {"verdict": judge(found)}


def compare_curves(a: list[dict[str, float]], b: list[dict[str, float]]) -> dict[str, Any]:
    """Held-out mAP of both at equal epochs, and of the first at the second's training time."""
    scores = [{row["epoch"]: row for row in curve if SCORE in row} for curve in (a, b)]
    rows = []
    for epoch in sorted(scores[1]):
        other = scores[1][epoch]
        by_then = [row[SCORE] for row in a if SCORE in row and row["cpu_s"] <= other["cpu_s"]]
        rows.append({"epoch": epoch, "second": other[SCORE], "second_cpu_s": other["cpu_s"],
                     "first": scores[0][epoch][SCORE] if epoch in scores[0] else None,
                     "first_at_equal_time": by_then[-1] if by_then else None})  # fmt: skip
    return {"by_epoch": rows}


def interval_over_seeds(differences_SQ: Any, pids: Sequence[int], num_resamples: int = 2000) -> dict[str, Any]:
    """Mean difference with a bootstrap interval over seeds and people; with one seed, over people only.

    It cannot reach beyond the seeds that were run. With two or three it therefore holds for other seeds less often than
    in 95 % of cases; ``judge`` takes that into account.
    """
    names, index = np.unique(pids, return_inverse=True)
    counts = np.bincount(index)
    sums = np.stack([np.bincount(index, weights=row) for row in differences_SQ])
    rng = np.random.default_rng(0)
    means = []
    for _ in range(num_resamples):
        seeds = rng.integers(0, len(sums), len(sums))
        people = rng.integers(0, len(names), len(names))
        means.append(sums[np.ix_(seeds, people)].mean(0).sum() / counts[people].sum())
    low, high = np.quantile(means, (0.025, 0.975))
    return {"mean": float(differences_SQ.mean()), "low": float(low), "high": float(high), "num_seeds": len(sums),
            "num_people": len(names), "by_seed": [float(row.mean()) for row in differences_SQ]}  # fmt: skip


STUDENT = {2: 12.706, 3: 4.303, 4: 3.182}
"""By number of seeds: the 97.5 % quantile of Student's t distribution with one degree of freedom less."""


def student_interval(by_seed: Sequence[float]) -> tuple[float, float]:
    """Student's 95 % interval of the mean over seeds."""
    mean, half = float(np.mean(by_seed)), float(STUDENT[len(by_seed)] * np.std(by_seed, ddof=1) / len(by_seed) ** 0.5)
    return mean - half, mean + half


def judge(found: dict[str, Any]) -> str:
    """Whether the paper's claim, that the first is better, is confirmed; needs at least two seeds.

    Both intervals must be on one side of 0: the one over seeds and people, and Student's of the seeds' differences.
    """
    over = found.get("test_mAP_over_seeds")
    if over is None or over["num_seeds"] < 2:
        return "open"
    lows, highs = zip((over["low"], over["high"]), student_interval(over["by_seed"]), strict=True)
    low, high = min(lows), max(highs)
    return "confirmed" if low > 0 else "refuted" if high < 0 else "open"


def main(settings: Settings) -> None:
    runs = PLANS[settings.plan]()
    if settings.report is not None:
        path = settings.report
        earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        write_json(path, make_report(settings, runs, earlier))
        return
    torch.set_num_threads(settings.threads)
    torch.backends.cudnn.benchmark = True
    print("all done" if run_plan(settings, runs) else "not all done", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
