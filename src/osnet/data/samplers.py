"""Which images make up a batch. Each sampler is a pure function of (seed, epoch, rank).

That is what makes a run resumable at any batch: nothing has a hidden state. With several processes, all
compute the same global batches and each takes its own part, so no image is seen by two of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from osnet.errors import DataError

Batch = list[int]


class BatchSampler(ABC):
    """Batches of indices into a split, epoch by epoch.

    Args:
        labels: what batches are composed by, one per image.
        batch_size: images per global batch, over all processes.
        seed: of the draws.
        rank: this process, from 0.
        num_ranks: how many processes there are; they share each batch evenly.

    Raises:
        DataError: numbers that cannot be, or fewer images than one batch needs.
    """

    def __init__(
        self, labels: Sequence[int], batch_size: int, seed: int = 0, rank: int = 0, num_ranks: int = 1
    ) -> None:
        if not 0 <= rank < num_ranks:
            raise DataError(f"rank {rank} is outside 0 to {num_ranks - 1}")
        if batch_size < 1 or batch_size % num_ranks:
            raise DataError(f"batch size {batch_size} must be a positive multiple of the {num_ranks} processes")
        if len(labels) < batch_size:
            raise DataError(f"{len(labels)} images are fewer than one batch of {batch_size}")
        self.labels = np.asarray(labels)
        self.batch_size, self.seed, self.rank, self.num_ranks = batch_size, seed, rank, num_ranks

    def batches(self, epoch: int) -> list[Batch]:
        """This process's part of every batch of ``epoch``, in order; incomplete batches are left out."""
        share = self.batch_size // self.num_ranks
        start = self.rank * share
        return [batch[start : start + share] for batch in self._draw(np.random.default_rng([self.seed, epoch]))]

    @abstractmethod
    def _draw(self, rng: np.random.Generator) -> list[Batch]:
        """Global batches of one epoch."""


class RandomBatches(BatchSampler):
    """Every image once per epoch, in random order."""

    def _draw(self, rng: np.random.Generator) -> list[Batch]:
        order = rng.permutation(len(self.labels)).tolist()
        return [order[i : i + self.batch_size] for i in range(0, len(order) - self.batch_size + 1, self.batch_size)]


class GroupedBatches(BatchSampler):
    """P labels in each batch, K images of each: P x K by identity, by camera or by data set.

    Hermans et al. 2017, section 2 (by identity). Images of a label are dealt out in runs of K; a run that
    is too short is filled up from the label's other images (or repeats, if it has fewer than K). Runs are
    then put together so that no batch holds a label twice, until fewer than P labels are left.

    Args:
        labels: identities, cameras or data sets.
        batch_size: P x K.
        per_label: K.
        seed: as for the base class.
        rank: as for the base class; each process gets whole labels.
        num_ranks: as for the base class.
    """

    def __init__(
        self,
        labels: Sequence[int],
        batch_size: int,
        per_label: int,
        seed: int = 0,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        super().__init__(labels, batch_size, seed, rank, num_ranks)
        if per_label < 1 or batch_size % (per_label * num_ranks):
            raise DataError(
                f"batch size {batch_size} must be a multiple of {per_label} images per label x {num_ranks} processes"
            )
        self.per_label = per_label
        self.per_batch = batch_size // per_label
        self.members = {int(label): np.flatnonzero(self.labels == label) for label in np.unique(self.labels)}
        if len(self.members) < self.per_batch:
            raise DataError(f"{len(self.members)} labels are fewer than the {self.per_batch} that one batch needs")

    def _draw(self, rng: np.random.Generator) -> list[Batch]:
        runs = {label: self._deal(members, rng) for label, members in self.members.items()}
        batches: list[Batch] = []
        while len(open_labels := [label for label, left in runs.items() if left]) >= self.per_batch:
            # Labels with most runs left come first, ties at random: so few images are left over.
            tie = rng.permutation(len(open_labels))
            order = sorted(range(len(open_labels)), key=lambda i: (-len(runs[open_labels[i]]), tie[i]))
            chosen = rng.permutation([open_labels[i] for i in order[: self.per_batch]]).tolist()
            batches.append([index for label in chosen for index in runs[label].pop()])
        return [batches[i] for i in rng.permutation(len(batches))]

    def _deal(self, members: np.ndarray, rng: np.random.Generator) -> list[Batch]:
        order = rng.permutation(members).tolist()
        runs = [order[i : i + self.per_label] for i in range(0, len(order), self.per_label)]
        missing = self.per_label - len(runs[-1])
        if missing:
            rest = [index for index in order if index not in runs[-1]]
            pool = rest if len(rest) >= missing else order
            runs[-1] = runs[-1] + rng.choice(pool, missing, replace=len(pool) < missing).tolist()
        return runs
