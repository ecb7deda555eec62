"""The training loop for all tasks, on a CPU, on one or several GPUs, or on several machines.

A run can be stopped and resumed at any batch.

The folder of a run contains

    recipe.json     the recipe with all values, and versions of libraries
    data.jsonl      the list of training data
    state.pt        the state from which the run is resumed
    weights/        weights of the last epoch
    best/           weights of the epoch with the best validation score, if there is validation
    metrics.jsonl   the metrics log
    events/         the same metrics for TensorBoard

The state is saved at the end of every epoch (before validation), every five minutes, and when Ctrl-C, SIGTERM or an
error stops the run.

With several processes all stop at the same batch. Before each batch they tell each other about signals and errors, such
as an unreadable image or a full disk. Only process 0 reads and writes the folder.
"""

import json
import math
import os
import platform
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from osnet.errors import DataError, OutputError, TrainingError, require_extra
from osnet.files import TEMPORARY_PREFIX, make_folder, one_writer, write_json
from osnet.progress import Progress
from osnet.runtime.distributed import any_of_all, gather_bytes, share_bytes
from osnet.training.data_list import DATA_FILE, DataList, check_same
from osnet.training.epochs import Batch, split_batch
from osnet.training.metrics_log import VALIDATION, MetricsLog
from osnet.training.optimizer import Average, make_optimizer
from osnet.training.recipe import Recipe, learning_rate
from osnet.training.state import STATE_FILE, RunProgress, parse_state, read_state, save_state
from osnet.training.stopping import buffers_kept_on_error, interruptible
from osnet.training.task import Task

SAVE_EVERY_S = 300.0
LOCK_TIMEOUT_S = 30.0
"""A run waits this long for another process in its folder: the workers of a killed run hold its lock for seconds."""
FIRST_FILES = ("recipe.json", DATA_FILE)
"""Names of the files that a run writes before its first state."""


@dataclass(frozen=True)
class RunOptions:
    """Options of a run that do not change its result (with one process)."""

    workers: int | None = None
    """Number of processes that decode and augment images; 0: none. None: with a GPU up to 8; on a CPU 2 if it has more
    than 2 cores, otherwise 0, because they would slow the network down."""
    cpu: bool = False
    """Run on the CPU even if there is a GPU."""
    save_every_s: float = SAVE_EVERY_S
    """Seconds between two saved states."""


class Trainer:
    """A training run. ``run()`` trains to the end; it resumes the run that ``out`` contains, if any.

    Args:
        recipe: the settings; the class of the recipe decides the task.
        dataset: the argument of ``recipe.plan``, as ``recipe.read`` returns it; for re-identification a
            ``ReidDataset``.
        out: the run's folder.
        options: options that do not change the result.

    Raises:
        DataError: the data set cannot be trained on, ``out`` contains a run of another recipe or on other data, the
            processes found different data, or a process would get only one image at a time.
        OutputError: the folder cannot be written, or the disk has too little space.
        WeightsError: the saved state is damaged.
        MissingExtraError: the extra ``train`` is not installed.
    """

    def __init__(self, recipe: Recipe, dataset: Any, out: str | Path, options: RunOptions | None = None) -> None:
        accelerate = require_extra("accelerate", "train")
        self.recipe, self.out, self.options = recipe, Path(out), options or RunOptions()
        self._check_out()
        self.plan = recipe.plan(dataset)
        self.preprocessing = self.plan.preprocessing
        task = self.plan.task
        if recipe.sync_batchnorm:
            task = nn.SyncBatchNorm.convert_sync_batchnorm(task)  # type: ignore[no-untyped-call]
        kwargs = accelerate.DistributedDataParallelKwargs(find_unused_parameters=recipe.frozen_epochs > 0)
        accelerate.state.AcceleratorState._reset_state()  # else it refuses another precision than the last trainer's
        self.accelerator = accelerate.Accelerator(
            cpu=self.options.cpu,
            mixed_precision="bf16" if recipe.precision == "bf16" else "no",
            kwargs_handlers=[kwargs],
        )
        self._check_share(task)
        self.epochs = self.plan.make_epochs(
            self.accelerator.process_index, self.accelerator.num_processes, self.accelerator.device
        )
        data = DataList.of(self.plan.list_data())
        self._data_sha256 = data.sha256()
        if len(set(gather_bytes(self._data_sha256.encode()))) > 1:
            raise DataError(
                f"the {self.accelerator.num_processes} processes found different training data; each machine needs the "
                "same data set"
            )
        self._stamp = self._stamp_now()
        state = parse_state(share_bytes(read_state(self.out)), self.out)
        if state is not None:
            self._check_state(state, data)
        if self.accelerator.is_main_process:
            make_folder(self.out)
            self._check_disk(task)
        written = state is not None and DataList.read(self.out).sha256() == self._data_sha256
        self._unwritten = None if written else data
        task = task.to(memory_format=torch.channels_last)  # like the images, so that gradients have the same strides
        optimizer = make_optimizer(recipe, task)
        self.task, self.optimizer = self.accelerator.prepare(task, optimizer)
        self.average = Average(self._bare(), recipe.ema)
        self.progress = RunProgress()
        self._saved: RunProgress | None = None
        self._saved_at = time.monotonic()
        self._mid_update = False
        self.log = MetricsLog(self.out)
        self._stopping = threading.Event()
        if state is not None:
            self._resume(state)

    def run(self, draw: Progress | None = None) -> Path:
        """Train to the end.

        Before an error is raised, the state after the last complete batch is saved.

        Args:
            draw: draws a progress bar.

        Returns:
            The folder with the last epoch's weights.

        Raises:
            TrainingError: the loss is not finite (the message lists the step and the batch's files), or another process
                failed.
            ImageError: a training image cannot be read.
            OutputError: another process is training in ``out``, or has done so since this trainer was made.
            KeyboardInterrupt: this process or another one received Ctrl-C or SIGTERM.
        """
        with ExitStack() as stack, interruptible() as self._stopping:
            self._claim(stack)
            try:
                self._in_first(self._begin)
                self._publish()
                while self.progress.epoch < self.recipe.epochs:
                    self._train_epoch(draw)
                    self._finish_epoch()
                self._agree(stop=self._stopping.is_set())  # a signal that came during the last epoch's validation
            except Exception as error:
                self._save_after(error)
                raise
        return self.out / "weights"

    def save(self) -> None:
        """Save the state, from which another process can resume with the next batch."""
        if self.accelerator.is_main_process:
            if self._unwritten is not None:
                self._unwritten.write(self.out)
            self._unwritten = None  # frees memory: a list of a million images is large
            tensors = {"task": self._bare().state_dict(), "optimizer": self.optimizer.state_dict()}
            tensors["average"] = self.average.state
            save_state(self.out, _plain(self.recipe), self._data_sha256, self.progress, tensors)
            self._stamp = self._stamp_now()
        self._saved, self._saved_at = replace(self.progress), time.monotonic()

    def _claim(self, stack: ExitStack) -> None:
        """Lock the folder until ``stack`` is closed. If that fails, nothing is saved: the folder is another's."""
        failure: OutputError | None = None
        if self.accelerator.is_main_process:
            try:
                stack.enter_context(one_writer(self.out / STATE_FILE, LOCK_TIMEOUT_S))
                if self._stamp_now() != self._stamp:
                    raise OutputError(f"another process has trained in {self.out} meanwhile; start again to resume")
            except OutputError as error:
                failure = error
        if message := share_bytes(str(failure or "").encode()):
            raise failure or OutputError(message.decode())

    def _stamp_now(self) -> tuple[int, int] | None:
        """Tells whether the saved state was replaced; None if there is none."""
        path = self.out / STATE_FILE
        return (path.stat().st_ino, path.stat().st_mtime_ns) if path.exists() else None

    def _begin(self) -> None:
        """Write the recipe and a first state, which makes the folder a run. Clean the log of a resumed run."""
        self.log.cut(self.progress)
        write_json(self.out / "recipe.json", describe_run(self.recipe, self.plan.describe_data()))
        if self.progress.step == 0:
            self.save()

    def _save_after(self, error: Exception) -> None:
        """Save the state after an error, unless it is saved already or the optimiser step was incomplete."""
        if self._mid_update or self._saved == self.progress:
            return
        try:
            self.save()
        except Exception as another:
            error.add_note(f"the state could not be saved either: {another}")

    def _agree(self, stop: bool = False, failure: Exception | None = None) -> None:
        """Wait for the other processes. If one of them failed or has to stop, save the state and raise in all.

        No process raises before the state is saved, because ``torchrun`` kills the others as soon as one has exited.
        """
        stop, failed = any_of_all(stop, failure is not None)
        if not (stop or failed):
            return
        messages = gather_bytes(f"{type(failure).__name__}: {failure}".encode() if failure is not None else b"")
        rank = next((rank for rank, message in enumerate(messages) if message), 0)
        reason = failure or (
            TrainingError(f"process {rank} of {len(messages)} failed: {messages[rank].decode(errors='replace')}")
            if failed
            else KeyboardInterrupt()
        )
        save_error: Exception | None = None
        try:
            self.save()
        except Exception as error:
            save_error = error
        any_of_all(False)
        if save_error is not None and failure is None:
            raise save_error
        raise reason

    def _in_first(self, work: Callable[[], None]) -> None:
        """Run ``work`` in process 0 while the others wait. If it fails, all processes raise an error."""
        failure: Exception | None = None
        if self.accelerator.is_main_process:
            try:
                work()
            except Exception as error:
                failure = error
        self._agree(failure=failure)

    def _workers(self) -> int:
        if self.options.workers is not None:
            return self.options.workers
        cores = os.cpu_count() or 1
        return min(8, cores) if self.accelerator.device.type == "cuda" else 2 * (cores > 2)

    def _bare(self) -> Task:
        task: Task = self.accelerator.unwrap_model(self.task)
        return task

    def _check_out(self) -> None:
        """Raise an error unless ``out`` can become the folder of a run, or is one already."""
        existing = next(path for path in (self.out.absolute(), *self.out.absolute().parents) if path.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            reason = "is not writable" if existing.is_dir() else "is not a folder"
            raise OutputError(f"cannot make the folder {self.out}: {existing} {reason}")
        if not self.out.is_dir() or (self.out / STATE_FILE).exists():
            return
        names = [path.name for path in self.out.iterdir()]
        if others := [name for name in names if name not in FIRST_FILES and not name.startswith(TEMPORARY_PREFIX)]:
            raise DataError(f"{self.out} contains {', '.join(others[:5])} but no run; choose another folder")

    def _check_share(self, task: nn.Module) -> None:
        """Raise an error if BatchNorm would get a single image, which has no variance over the batch."""
        ranks, size = self.accelerator.num_processes, self.recipe.batch_size
        norms = [module for module in task.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        unsynchronised = [norm for norm in norms if ranks == 1 or not isinstance(norm, nn.SyncBatchNorm)]
        parts = ranks * self.plan.num_micro_batches
        if unsynchronised and size == parts:
            raise DataError(
                f"batch size {size} for {ranks} processes x {self.plan.num_micro_batches} parts gives one image at a "
                f"time, but BatchNorm needs two; choose a batch size of at least {2 * parts}"
            )

    def _check_disk(self, task: nn.Module) -> None:
        """Raise an error if the disk has too little space.

        A state has the weights, up to three optimiser moments and the average. Two states exist while one is replaced.
        """
        need = 12 * sum(p.numel() * 4 for p in task.parameters()) + (1 << 20)
        free = shutil.disk_usage(self.out).free
        if free < need:
            raise OutputError(
                f"{self.out} has {free >> 20} MB of free space; this run needs {need >> 20} MB. Free some or choose "
                "another folder"
            )

    def _check_state(self, state: dict[str, Any], data: DataList) -> None:
        """Raise an error if the run in ``out`` was started with another recipe or other data."""
        if state["recipe"] != _plain(self.recipe):
            differing = sorted(k for k, v in _plain(self.recipe).items() if state["recipe"].get(k) != v)
            raise DataError(
                f"{self.out} contains a run with other values of {', '.join(differing)}; choose another folder"
            )
        before = state.get("data_sha256")
        if before is None:
            warnings.warn(
                f"{self.out} was started by a version that stored no list of the training data, so it cannot be "
                "checked that the data are still the same",
                stacklevel=3,
            )
        elif resized := check_same(self.out, before, data):
            warnings.warn(
                f"the size of {len(resized)} training images has changed since {self.out} was started: "
                f"{', '.join(resized[:5])}",
                stacklevel=3,
            )

    def _resume(self, state: dict[str, Any]) -> None:
        self._bare().load_state_dict(state["task"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.state = {k: v.to(self.accelerator.device) for k, v in state["average"].items()}
        self.progress = RunProgress(**state["progress"])
        before, now = self.progress.num_ranks, self.accelerator.num_processes
        if self.epochs.tied and self.progress.batch and before != now:
            raise DataError(
                f"{self.out} was stopped inside an epoch with {before} processes, and the order of its data depends on "
                f"their number; resume it with {before}, not {now}"
            )

    def _train_epoch(self, draw: Progress | None) -> None:
        progress, recipe = self.progress, self.recipe
        batches, left = self.epochs.load(progress.epoch, progress.batch, self._workers())
        total, progress.num_ranks = progress.batch + left, self.accelerator.num_processes
        frozen = progress.epoch < recipe.frozen_epochs
        self.task.train()
        if draw is not None and self.accelerator.is_main_process:
            batches = draw(batches, left, f"epoch {progress.epoch + 1}/{recipe.epochs}")
        for batch in self._in_step(batches):
            self._set_rate(learning_rate(recipe, progress.epoch, progress.batch, total))
            self._step(batch, frozen)
            progress.batch += 1
            progress.step += 1

    def _in_step(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield this process's batches, each after all processes have loaded theirs. Save the state when it is due."""
        reader: Iterator[Batch] | None = None
        while True:
            batch, failure, stop = None, None, self._stopping.is_set()
            if not stop:
                try:
                    if time.monotonic() - self._saved_at > self.options.save_every_s:
                        self.save()
                    reader = iter(batches) if reader is None else reader
                    batch = next(reader, None)
                except Exception as error:
                    stop = self._stopping.is_set()  # then perhaps a worker got the signal too
                    failure = None if stop else error
            self._agree(stop, failure)
            if batch is None:
                return
            yield batch

    def _step(self, batch: Batch, frozen: bool) -> None:
        torch.manual_seed(self._step_seed())  # so that dropout does not depend on state that is not saved
        self.optimizer.zero_grad(set_to_none=True)
        parts = split_batch(batch, self.plan.num_micro_batches)
        sums: dict[str, float] = {}
        with buffers_kept_on_error(self._bare()):
            for index, part in enumerate(parts, 1):
                with self.accelerator.no_sync(self.task) if index < len(parts) else nullcontext():
                    values = self._add_gradients(part, frozen, len(parts))
                for name, value in values.items():
                    sums[name] = sums.get(name, 0.0) + value / len(parts)
        self._mid_update = True
        self.optimizer.step()
        self.average.update(self._bare())
        self._mid_update = False
        for name, value in sums.items():
            self.progress.sums[name] = self.progress.sums.get(name, 0.0) + value

    def _add_gradients(self, batch: Batch, frozen: bool, num_parts: int) -> dict[str, float]:
        """Forward and backward pass of one of ``num_parts`` parts of a batch. Returns its scalars."""
        moved = {name: value.to(self.accelerator.device, non_blocking=True) for name, value in batch.items()}
        # On a CPU, depthwise convolutions train several times faster in channels-last format.
        moved["image"] = moved["image"].contiguous(memory_format=torch.channels_last)
        with self.accelerator.autocast():
            scalars = self.task(moved, frozen=frozen)
        # Stacked, so that the GPU is waited for once.
        numbers = torch.stack([value.detach().float() for value in scalars.values()]).tolist()
        values = dict(zip(scalars, numbers, strict=True))
        if not math.isfinite(values["loss"]):
            raise TrainingError(self._describe_bad_batch(values))
        self.accelerator.backward(scalars["loss"] / num_parts)
        return values

    def _step_seed(self) -> int:
        """A seed that depends on the recipe's seed, the step and the rank alone."""
        entropy = [self.recipe.seed, self.progress.step, self.accelerator.process_index]
        return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])

    def _describe_bad_batch(self, values: dict[str, float]) -> str:
        files = self.epochs.name_batch(self.progress.epoch, self.progress.batch)
        return (
            f"the loss is {values['loss']} at step {self.progress.step} (epoch {self.progress.epoch + 1}, batch "
            f"{self.progress.batch + 1}); try an lr below {self.recipe.lr}. Files of the batch: {', '.join(files)}"
        )

    def _set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]

    def _finish_epoch(self) -> None:
        """Log the epoch's means, save the state, then export and score the weights."""
        progress = self.progress
        sums = torch.tensor(list(progress.sums.values()), device=self.accelerator.device)
        sums = self.accelerator.reduce(sums, "mean")  # over processes, each of which trained on its own images
        means = {name: value / max(1, progress.batch) for name, value in zip(progress.sums, sums.tolist(), strict=True)}
        rate = self.optimizer.param_groups[-1]["lr"]
        self._in_first(lambda: self._log({"step": progress.step, "epoch": progress.epoch + 1, **means, "lr": rate}))
        progress.epoch, progress.batch, progress.sums = progress.epoch + 1, 0, {}
        self._in_first(self.save)
        self._publish()

    def _publish(self) -> None:
        """Export the last epoch's weights, and score them if validation is due, unless that was done already."""
        if self.progress.published != self.progress.epoch:
            self._in_first(self._export)
            self.progress.published = self.progress.epoch

    def _export(self) -> None:
        progress, recipe = self.progress, self.recipe
        task = self.average.apply_to(self._bare())
        due = progress.epoch == recipe.epochs or progress.epoch % recipe.evaluate_every == 0
        scores = self.plan.score(task) if self.plan.validated_on is not None and due else {}
        self.plan.save(task, self.out / "weights")
        if scores:
            if scores[self.plan.metric] > progress.best_score:
                self.plan.save(task, self.out / "best")
                progress.best_score, progress.best_epoch = scores[self.plan.metric], progress.epoch
            named = {f"{VALIDATION}{name}": value for name, value in scores.items()}
            self._log({"step": progress.step, "epoch": progress.epoch, **named})
        progress.published = progress.epoch
        self.save()

    def _log(self, row: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            self.log.add(row)


def _plain(recipe: Recipe) -> dict[str, Any]:
    """The recipe's fields as JSON returns them, with lists for tuples."""
    content: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    return content


def describe_run(recipe: Recipe, data: dict[str, Any]) -> dict[str, Any]:
    """The content of ``recipe.json``: the recipe with all values, the size of the data, versions of libraries."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    return {"kind": type(recipe).__name__, "recipe": _plain(recipe), "data": data, "versions": versions}
