"""The loop, for any task: on a CPU, a GPU, several GPUs or several nodes, killed and resumed at any batch.

A run's folder holds ``recipe.json`` (resolved, with versions), ``data.jsonl`` (what is trained on), ``state.pt`` (all
that is needed to go on), ``weights/`` (the last epoch's), ``best/`` (by validation, if there is one), ``metrics.jsonl``
and TensorBoard's ``events/``. The state is saved at the end of every epoch before anything is scored, every five
minutes, and when the run is stopped by Ctrl-C, by SIGTERM or by an error.

Several processes stop together, at the same batch: what stops one of them (a signal, an image that cannot be read, a
full disk) is told to the others before the next batch. Only the first one reads and writes the run's folder.
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
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from osnet.errors import DataError, OutputError, TrainingError, require_extra
from osnet.files import TEMPORARY_PREFIX, make_folder, write_json
from osnet.progress import Progress as DrawProgress
from osnet.runtime.distributed import any_of_all, gather_bytes, share_bytes
from osnet.training.data_list import DATA_FILE, DataList, check_same
from osnet.training.epochs import Batch, split_batch
from osnet.training.metrics_log import EVENTS, LOG_FILE, VALIDATION, MetricsLog
from osnet.training.optimizer import Average, make_optimizer
from osnet.training.recipe import Recipe, learning_rate
from osnet.training.state import STATE_FILE, Progress, parse_state, read_state, save_state
from osnet.training.stopping import buffers_kept_on_error, interruptible
from osnet.training.task import Task

SAVE_EVERY_S = 300.0
OURS = ("recipe.json", DATA_FILE, STATE_FILE, "weights", "best", LOG_FILE, EVENTS)
"""What a run's folder holds."""


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
        DataError: a data set that cannot be trained on, ``out`` holds a run of another recipe or on other data, or a
            process would have a single image at a time.
        OutputError: no permission, or too little space on the disk.
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
            raise DataError("the processes find different training data; each machine needs the same data set")
        state = parse_state(share_bytes(read_state(self.out)), self.out)
        if state is not None:
            self._check_state(state, data)
        if self.accelerator.is_main_process:
            make_folder(self.out)
            self._check_disk(task)
        there = state is not None and DataList.read(self.out).sha256() == self._data_sha256
        self._unwritten = None if there else data
        task = task.to(memory_format=torch.channels_last)  # as the images are; gradients then have the same strides
        optimizer = make_optimizer(recipe, task)
        self.task, self.optimizer = self.accelerator.prepare(task, optimizer)
        self.average = Average(self._bare(), recipe.ema)
        self.progress = Progress()
        self._saved: Progress | None = None
        self._saved_at = time.monotonic()
        self._mid_update = False
        self.log = MetricsLog(self.out)
        self._stopping = threading.Event()
        if state is not None:
            self._resume(state)

    def run(self, draw: DrawProgress | None = None) -> Path:
        """Train to the end. Returns the folder of the last epoch's weights.

        Raises:
            TrainingError: the loss is not finite, with the step and the batch's files; or another process failed.
            ImageError: a training image cannot be read.
            KeyboardInterrupt: it was asked to stop, here or in another process, by Ctrl-C or SIGTERM.

        Whatever is raised, the state after the last whole batch is saved first.
        """
        with interruptible() as self._stopping:
            try:
                self._in_first(self._begin)
                self._publish()
                while self.progress.epoch < self.recipe.epochs:
                    self._train_epoch(draw)
                    self._finish_epoch()
                self._agree(stop=self._stopping.is_set())  # while the last epoch was scored: the caller must hear of it
            except Exception as error:
                self._save_after(error)
                raise
        return self.out / "weights"

    def save(self) -> None:
        """Write the state, so that the next batch can be trained by another process."""
        if self.accelerator.is_main_process:
            if self._unwritten is not None:
                self._unwritten.write(self.out)
            self._unwritten = None  # of a million images it is large
            tensors = {"task": self._bare().state_dict(), "optimizer": self.optimizer.state_dict()}
            tensors["average"] = self.average.state
            save_state(self.out, _plain(self.recipe), self._data_sha256, self.progress, tensors)
        self._saved, self._saved_at = replace(self.progress), time.monotonic()

    def _begin(self) -> None:
        """What a run's folder begins with."""
        write_json(self.out / "recipe.json", describe_run(self.recipe, self.plan.describe_data()))
        if self.progress.step == 0:
            self.save()  # from here on the folder is a run, whatever happens

    def _save_after(self, error: Exception) -> None:
        """Keep what was trained before an error, unless it is on the disk already."""
        if self._mid_update or self._saved == self.progress:
            return
        try:
            self.save()
        except Exception as another:
            error.add_note(f"the state could not be saved either: {another}")

    def _agree(self, stop: bool = False, failure: Exception | None = None) -> None:
        """Wait for the other processes, however long it takes; leave with them if one fails or is asked to stop.

        The state is saved first, and nobody leaves before: ``torchrun`` ends all others as soon as one has left.
        """
        stop, failed = any_of_all(stop, failure is not None)
        if not (stop or failed):
            return
        reasons = gather_bytes(f"{type(failure).__name__}: {failure}".encode() if failure is not None else b"")
        number = next((number for number, reason in enumerate(reasons) if reason), 0)
        leaving = failure or (
            TrainingError(f"process {number} of {len(reasons)} failed: {reasons[number].decode(errors='replace')}")
            if failed
            else KeyboardInterrupt()
        )
        unsaved: Exception | None = None
        try:
            self.save()
        except Exception as error:
            unsaved = error
        any_of_all(False)
        if unsaved is not None and failure is None:
            raise unsaved
        raise leaving

    def _in_first(self, work: Callable[[], None]) -> None:
        """``work`` in the first process, which the others wait for; if it fails, they hear of it."""
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
        """Before any long work: ``out`` is a run of this recipe, or can become one."""
        there = next(path for path in (self.out.absolute(), *self.out.absolute().parents) if path.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            reason = "no permission to write in it" if there.is_dir() else "it is no folder"
            raise OutputError(f"cannot make the folder {self.out}: {there}: {reason}")
        if not self.out.is_dir() or (self.out / STATE_FILE).exists():
            return
        names = [path.name for path in self.out.iterdir()]
        if others := [name for name in names if name not in OURS and not name.startswith(TEMPORARY_PREFIX)]:
            raise DataError(f"{self.out} holds {', '.join(others[:5])} and no run; choose another folder")

    def _check_share(self, task: nn.Module) -> None:
        """BatchNorm takes mean and variance over a batch; of one image there is none."""
        ranks, size = self.accelerator.num_processes, self.recipe.batch_size
        norms = [module for module in task.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        alone = [norm for norm in norms if ranks == 1 or not isinstance(norm, nn.SyncBatchNorm)]
        parts = ranks * self.plan.num_micro_batches
        if alone and size == parts:
            raise DataError(
                f"batch size {size} for {ranks} processes x {self.plan.num_micro_batches} parts leaves one image at a "
                f"time, and BatchNorm needs two. Choose a batch size of at least {2 * parts}"
            )

    def _check_disk(self, task: nn.Module) -> None:
        """The state holds weights, up to three optimiser moments and an average; twice, while it is replaced."""
        need = 12 * sum(p.numel() * 4 for p in task.parameters()) + (1 << 20)
        free = shutil.disk_usage(self.out).free
        if free < need:
            raise OutputError(f"{self.out} has {free >> 20} MB left; this run needs {need >> 20} MB")

    def _check_state(self, state: dict[str, Any], data: DataList) -> None:
        """A run goes on with the recipe and the data that it began with."""
        if state["recipe"] != _plain(self.recipe):
            differing = sorted(k for k, v in _plain(self.recipe).items() if state["recipe"].get(k) != v)
            raise DataError(f"{self.out} holds a run that differs in {', '.join(differing)}; choose another folder")
        before = state.get("data_sha256")
        if before is None:
            warnings.warn(f"{self.out} was begun by a version that kept no list of its training data; whether they are "
                          "still the same cannot be checked", stacklevel=3)  # fmt: skip
        elif resized := check_same(self.out, before, data):
            warnings.warn(f"{len(resized)} training images have another size than when {self.out} was begun: "
                          f"{', '.join(resized[:5])}", stacklevel=3)  # fmt: skip

    def _resume(self, state: dict[str, Any]) -> None:
        self._bare().load_state_dict(state["task"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.state = {k: v.to(self.accelerator.device) for k, v in state["average"].items()}
        self.progress = Progress(**state["progress"])
        before, now = self.progress.num_ranks, self.accelerator.num_processes
        if self.epochs.tied and self.progress.batch and before != now:
            raise DataError(f"{self.out} stopped in mid-epoch with {before} processes, and the order of what it reads "
                            f"depends on their number; go on with as many, not {now}")  # fmt: skip
        if self.accelerator.is_main_process:
            self.log.cut(self.progress)

    def _train_epoch(self, draw: DrawProgress | None) -> None:
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
        """This process's batches, each once all processes have theirs. Between them the state is saved when due."""
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
                    failure = error
            self._agree(stop, failure)
            if batch is None:
                return
            yield batch

    def _step(self, batch: Batch, frozen: bool) -> None:
        torch.manual_seed(self._step_seed())  # what a task draws on the device is no hidden state either
        self.optimizer.zero_grad(set_to_none=True)
        parts = split_batch(batch, self.plan.num_micro_batches)
        sums: dict[str, float] = {}
        with buffers_kept_on_error(self._bare()):
            for number, part in enumerate(parts, 1):
                with self.accelerator.no_sync(self.task) if number < len(parts) else nullcontext():
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
        self._in_first(lambda: self._log({"step": progress.step, "epoch": progress.epoch + 1, **means, "lr": rate}))
        progress.epoch, progress.batch, progress.sums = progress.epoch + 1, 0, {}
        self._in_first(self.save)
        self._publish()

    def _publish(self) -> None:
        """Export the weights of the epoch that ended last, and score them if it is time; once, even after a kill."""
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
    """As JSON would give it back: lists for tuples."""
    content: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    return content


def describe_run(recipe: Recipe, data: dict[str, Any]) -> dict[str, Any]:
    """What ``recipe.json`` says: the resolved recipe, the data's size, and the versions."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    return {"kind": type(recipe).__name__, "recipe": _plain(recipe), "data": data, "versions": versions}
