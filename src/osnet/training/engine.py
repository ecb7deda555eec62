"""The loop, for any task: on a CPU, a GPU, several GPUs or several nodes, killed and resumed at any batch.

A run's folder holds ``recipe.json`` (resolved, with versions), ``state.pt`` (all that is needed to go on),
``weights/`` (the last epoch's), ``best/`` (by validation, if there is one), ``metrics.jsonl`` and TensorBoard's
``events/``. The state is saved at the end of every epoch before anything is scored, every five
minutes, and when the run is stopped by Ctrl-C or by an error.
"""

import json
import math
import os
import platform
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from osnet.errors import DataError, OsnetError, OutputError, TrainingError, require_extra
from osnet.files import TEMPORARY_PREFIX, make_folder, write_json, written_aside
from osnet.training.epochs import Batch, split_batch
from osnet.training.optimizer import Average, make_optimizer
from osnet.training.recipe import Recipe, learning_rate
from osnet.training.state import Progress, load_state, save_state
from osnet.training.task import Task

SAVE_EVERY_S = 300.0
VALIDATION = "validation_"
"""Names of validation scores in the log begin so."""
OURS = ("recipe.json", "state.pt", "weights", "best", "metrics.jsonl", "events")
"""What a run's folder holds."""
DrawProgress = Callable[[Iterable[Any], int, str], Iterable[Any]]


@dataclass(frozen=True)
class RunOptions:
    """How to run, as opposed to what: changing these does not change the result on one process."""

    workers: int | None = None
    """Processes that decode and augment; 0 does it in the loop. None: up to 8 for a GPU; on a CPU 2 where it has more
    than 2 cores, else 0, since they would take the cores from the network."""
    cpu: bool = False
    """Do not use a GPU even if there is one."""
    save_every_s: float = SAVE_EVERY_S


class Trainer:
    """One run. ``run()`` trains to the end, or from where an earlier call stopped.

    Args:
        recipe: what to do; its class says for which task.
        dataset: what the recipe's ``plan`` takes: a ``ReidDataset`` for re-identification.
        out: the run's folder; one with a state in it is resumed.
        options: how to run.

    Raises:
        DataError: a data set that cannot be trained on, or ``out`` holds another recipe's run.
        OutputError: no permission, or too little space on the disk.
        MissingExtraError: the extra ``train`` is not installed.
    """

    def __init__(self, recipe: Recipe, dataset: Any, out: str | Path, options: RunOptions | None = None) -> None:
        accelerate = require_extra("accelerate", "train")
        self.recipe, self.out, self.options = recipe, make_folder(out), options or RunOptions()
        self.plan = recipe.plan(dataset)
        self.preprocessing = self.plan.preprocessing
        task = self.plan.task
        if recipe.sync_batchnorm:
            task = nn.SyncBatchNorm.convert_sync_batchnorm(task)  # type: ignore[no-untyped-call]
        self._check_disk(task)
        kwargs = accelerate.DistributedDataParallelKwargs(find_unused_parameters=recipe.frozen_epochs > 0)
        self.accelerator = accelerate.Accelerator(
            cpu=self.options.cpu,
            mixed_precision="bf16" if recipe.precision == "bf16" else "no",
            kwargs_handlers=[kwargs],
        )
        self.epochs = self.plan.make_epochs(
            self.accelerator.process_index, self.accelerator.num_processes, self.accelerator.device
        )
        task = task.to(memory_format=torch.channels_last)  # as the images are; gradients then have the same strides
        optimizer = make_optimizer(recipe, task)
        self.task, self.optimizer = self.accelerator.prepare(task, optimizer)
        self.average = Average(self._bare(), recipe.ema)
        self.progress = Progress()
        self._events: Any = None
        self._stopping = threading.Event()
        self._resume()

    def run(self, draw: DrawProgress | None = None) -> Path:
        """Train to the end. Returns the folder of the last epoch's weights.

        Raises:
            TrainingError: the loss is not finite; it names the step and the batch's files.
            ImageError: a training image cannot be read. Here too the state is saved first.
        """
        if self.accelerator.is_main_process:
            write_json(self.out / "recipe.json", describe_run(self.recipe, self.plan.describe_data()))
        if self.progress.step == 0:
            self.save()  # from here on the folder is a run, whatever happens
        with _interruptible() as self._stopping:
            try:
                self._publish()
                while self.progress.epoch < self.recipe.epochs:
                    self._train_epoch(draw)
                    self._finish_epoch()
                if self._stopping.is_set():  # asked for while the last epoch was scored: the caller must hear of it
                    raise KeyboardInterrupt
            except OsnetError:  # raised between batches: what was trained before is whole
                self.save()
                raise
        return self.out / "weights"

    def save(self) -> None:
        """Write the state, so that the next batch can be trained by another process."""
        if self.accelerator.is_main_process:
            tensors = {"task": self._bare().state_dict(), "optimizer": self.optimizer.state_dict()}
            save_state(self.out, _plain(self.recipe), self.progress, {**tensors, "average": self.average.state})
        self._saved_at = time.monotonic()

    def _workers(self) -> int:
        if self.options.workers is not None:
            return self.options.workers
        cores = os.cpu_count() or 1
        return min(8, cores) if self.accelerator.device.type == "cuda" else 2 * (cores > 2)

    def _bare(self) -> Task:
        task: Task = self.accelerator.unwrap_model(self.task)
        return task

    def _check_disk(self, task: nn.Module) -> None:
        """The state holds weights, up to three optimiser moments and an average; twice, while it is replaced."""
        need = 12 * sum(p.numel() * 4 for p in task.parameters()) + (1 << 20)
        free = shutil.disk_usage(self.out).free
        if free < need:
            raise OutputError(f"{self.out} has {free >> 20} MB left; this run needs {need >> 20} MB")

    def _resume(self) -> None:
        self._saved_at = time.monotonic()
        state = load_state(self.out)
        if state is None:
            others = [
                p.name for p in self.out.iterdir() if p.name not in OURS and not p.name.startswith(TEMPORARY_PREFIX)
            ]
            if others:
                raise DataError(f"{self.out} holds {', '.join(others[:5])} and no run; choose another folder")
            return
        if state["recipe"] != _plain(self.recipe):
            differing = sorted(k for k, v in _plain(self.recipe).items() if state["recipe"].get(k) != v)
            raise DataError(f"{self.out} holds a run that differs in {', '.join(differing)}; choose another folder")
        self._bare().load_state_dict(state["task"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.state = {k: v.to(self.accelerator.device) for k, v in state["average"].items()}
        self.progress = Progress(**state["progress"])
        before, now = self.progress.num_ranks, self.accelerator.num_processes
        if self.epochs.tied and self.progress.batch and before != now:
            raise DataError(f"{self.out} stopped in mid-epoch with {before} processes, and the order of what it reads "
                            f"depends on their number; go on with as many, not {now}")  # fmt: skip
        self._cut_metrics()

    def _cut_metrics(self) -> None:
        """Forget what was logged after the state that is resumed."""
        path = self.out / "metrics.jsonl"
        if path.exists() and self.accelerator.is_main_process:
            lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
            rows = [line for line in lines if _belongs(json.loads(line), self.progress)]
            with written_aside(path) as aside:
                aside.write_text("".join(rows))

    def _train_epoch(self, draw: DrawProgress | None) -> None:
        progress, recipe = self.progress, self.recipe
        batches, left = self.epochs.load(progress.epoch, progress.batch, self._workers())
        total, progress.num_ranks = progress.batch + left, self.accelerator.num_processes
        frozen = progress.epoch < recipe.frozen_epochs
        self.task.train()
        if draw is not None and self.accelerator.is_main_process:
            batches = draw(batches, left, f"epoch {progress.epoch + 1}/{recipe.epochs}")
        for batch in batches:
            self._set_rate(learning_rate(recipe, progress.epoch, progress.batch, total))
            self._step(batch, frozen)
            progress.batch += 1
            progress.step += 1
            if time.monotonic() - self._saved_at > self.options.save_every_s:
                self.save()
            if self._stopping.is_set():
                self.save()
                raise KeyboardInterrupt

    def _step(self, batch: Batch, frozen: bool) -> None:
        torch.manual_seed(self._step_seed())  # what a task draws on the device is no hidden state either
        self.optimizer.zero_grad(set_to_none=True)
        parts = split_batch(batch, self.plan.num_micro_batches)
        sums: dict[str, float] = {}
        for number, part in enumerate(parts, 1):
            with self.accelerator.no_sync(self.task) if number < len(parts) else nullcontext():
                values = self._add_gradients(part, frozen, len(parts))
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value / len(parts)
        self.optimizer.step()
        self.average.update(self._bare())
        for name, value in sums.items():
            self.progress.sums[name] = self.progress.sums.get(name, 0.0) + value

    def _add_gradients(self, batch: Batch, frozen: bool, num_parts: int) -> dict[str, float]:
        """Forward and backward of one of ``num_parts`` parts of a batch; its scalars."""
        there = {name: value.to(self.accelerator.device, non_blocking=True) for name, value in batch.items()}
        # Channels last: on a CPU, depthwise convolutions train several times faster so.
        there["image"] = there["image"].contiguous(memory_format=torch.channels_last)
        with self.accelerator.autocast():
            scalars = self.task(there, frozen=frozen)
        numbers = torch.stack([value.detach().float() for value in scalars.values()]).tolist()  # one wait, not many
        values = dict(zip(scalars, numbers, strict=True))
        if not math.isfinite(values["loss"]):
            raise TrainingError(self._describe_bad_batch(values))
        self.accelerator.backward(scalars["loss"] / num_parts)
        return values

    def _step_seed(self) -> int:
        """A number of (seed, step, rank) alone."""
        entropy = [self.recipe.seed, self.progress.step, self.accelerator.process_index]
        return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])

    def _describe_bad_batch(self, values: dict[str, float]) -> str:
        files = self.epochs.name_batch(self.progress.epoch, self.progress.batch)
        return (
            f"the loss is {values['loss']} at step {self.progress.step} (epoch {self.progress.epoch + 1}, batch "
            f"{self.progress.batch + 1}); a lower lr than {self.recipe.lr} may help. Files: {', '.join(files)}"
        )

    def _set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]

    def _finish_epoch(self) -> None:
        """Log and save, then export and score."""
        progress = self.progress
        sums = torch.tensor(list(progress.sums.values()), device=self.accelerator.device)
        sums = self.accelerator.reduce(sums, "mean")  # over processes, each of which saw its own images
        means = {name: value / max(1, progress.batch) for name, value in zip(progress.sums, sums.tolist(), strict=True)}
        rate = self.optimizer.param_groups[-1]["lr"]
        self._log({"step": progress.step, "epoch": progress.epoch + 1, **means, "lr": rate})
        progress.epoch, progress.batch, progress.sums = progress.epoch + 1, 0, {}
        self.save()
        self._publish()

    def _publish(self) -> None:
        """Export the weights of the epoch that ended last, and score them if it is time; once, even after a kill."""
        progress, recipe = self.progress, self.recipe
        if progress.published == progress.epoch:
            return
        if self.accelerator.is_main_process:
            task = self.average.apply_to(self._bare())
            due = progress.epoch == recipe.epochs or progress.epoch % recipe.evaluate_every == 0
            scores = self.plan.score(task) if self.plan.validated_on is not None and due else {}
            self.plan.save(task, self.out / "weights")
            if scores:
                if scores[self.plan.metric] > progress.best_score:
                    progress.best_score, progress.best_epoch = scores[self.plan.metric], progress.epoch
                    self.plan.save(task, self.out / "best")
                named = {f"{VALIDATION}{name}": value for name, value in scores.items()}
                self._log({"step": progress.step, "epoch": progress.epoch, **named})
        progress.published = progress.epoch
        self.save()
        self.accelerator.wait_for_everyone()

    def _log(self, row: dict[str, Any]) -> None:
        if not self.accelerator.is_main_process:
            return
        with (self.out / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self._events is None:
            tensorboard = require_extra("torch.utils.tensorboard", "train")
            self._events = tensorboard.SummaryWriter(str(self.out / "events"))
        for name, value in row.items():
            if name not in ("step", "epoch"):
                self._events.add_scalar(name, value, row["step"])
        self._events.flush()


def _belongs(row: dict[str, Any], progress: Progress) -> bool:
    """True if a logged row is of a time before ``progress``; a score belongs to what has been published."""
    if any(name.startswith(VALIDATION) for name in row):
        return bool(row["epoch"] <= progress.published)
    return bool(row["step"] <= progress.step and row["epoch"] <= progress.epoch)


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets (and SIGTERM, which clusters send), so that a run stops between batches.

    A second one stops at once.
    """
    stopping = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return

    def ask(_signal: int, _frame: object) -> None:
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _plain(recipe: Recipe) -> dict[str, Any]:
    """As JSON would give it back: lists for tuples."""
    content: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    return content


def describe_run(recipe: Recipe, data: dict[str, Any]) -> dict[str, Any]:
    """What ``recipe.json`` says: the resolved recipe, the data's size, and the versions."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    return {"kind": type(recipe).__name__, "recipe": _plain(recipe), "data": data, "versions": versions}
