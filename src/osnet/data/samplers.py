"""Choose the images of each batch. The batches depend only on (seed, epoch, rank).

Samplers have no hidden state, so a run can resume at any batch. If there are several processes, all of them compute the
same global batches and each takes its own part. Therefore no image is used by two processes.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from osnet.errors import DataError

Batch = list[int]


class BatchSampler(ABC):
    """Draws batches of image indices for each epoch.

    Args:
        labels: one label per image, by which batches are composed.
        batch_size: number of images in a global batch, over all processes.
        seed: seed of the random numbers.
        rank: index of this process, from 0.
        num_ranks: number of processes. Each gets an equal part of every batch.

    Raises:
        DataError: ``rank`` or ``batch_size`` is invalid, or there are fewer images than one batch needs.
    """

    def __init__(
        self, labels: Sequence[int], batch_size: int, seed: int = 0, rank: int = 0, num_ranks: int = 1
    ) -> None:
        if not 0 <= rank < num_ranks:
            raise DataError(f"rank {rank} is outside 0 to {num_ranks - 1}")
        if batch_size < 1 or batch_size % num_ranks:
            raise DataError(
                f"batch size {batch_size} must be a positive multiple of the number of processes, {num_ranks}"
            )
        if len(labels) < batch_size:
            raise DataError(
                f"{len(labels)} images are fewer than one batch of {batch_size}; use a smaller batch or more images"
            )
        self.labels = np.asarray(labels)
        self.batch_size, self.seed, self.rank, self.num_ranks = batch_size, seed, rank, num_ranks

    def batches(self, epoch: int) -> list[Batch]:
        """This process's part of each batch of ``epoch``, in order. An incomplete last batch is left out."""
        share = self.batch_size // self.num_ranks
        start = self.rank * share
        return [batch[start : start + share] for batch in self._draw(np.random.default_rng([self.seed, epoch]))]

    @abstractmethod
    def _draw(self, rng: np.random.Generator) -> list[Batch]:
        """Draw the global batches of one epoch."""


class RandomBatches(BatchSampler):
    """Uses every image at most once per epoch, in random order."""

    def _draw(self, rng: np.random.Generator) -> list[Batch]:
        order = rng.permutation(len(self.labels)).tolist()
        return [order[i : i + self.batch_size] for i in range(0, len(order) - self.batch_size + 1, self.batch_size)]


class GroupedBatches(BatchSampler):
    """Makes batches of P labels with K images each. Labels are identities, cameras or data sets.

    For identities, this is P x K sampling (Hermans et al. 2017, section 2). The images of a label are shuffled and
    divided into groups of K. If the last group is too small, it is filled with other images of the label, or with
    repeated images if the label has fewer than K. Groups are then combined into batches in which each label occurs
    once, until fewer than P labels have groups left.

    Args:
        labels: one identity, camera or data set per image.
        batch_size: P x K, over all processes.
        per_label: K, the number of images per label.
        seed: seed of the random numbers.
        rank: index of this process, from 0. Each process gets all K images of its labels.
        num_ranks: number of processes.

    Raises:
        DataError: ``batch_size`` is not a multiple of K times the number of processes, there are fewer than P labels,
            or ``BatchSampler`` raises it.
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
                f"batch size {batch_size} must be a multiple of {per_label} images per label x {num_ranks} processes, "
                "both at least 1"
            )
        self.per_label = per_label
        self.per_batch = batch_size // per_label
        self.members = {int(label): np.flatnonzero(self.labels == label) for label in np.unique(self.labels)}
        if len(self.members) < self.per_batch:
            raise DataError(
                f"{len(self.members)} labels are fewer than the {self.per_batch} that one batch of {batch_size} needs; "
                "use a smaller batch or more images per label"
            )

    def _draw(self, rng: np.random.Generator) -> list[Batch]:
        groups = {label: self._divide(members, rng) for label, members in self.members.items()}
        batches: list[Batch] = []
        while len(open_labels := [label for label, left in groups.items() if left]) >= self.per_batch:
            # Labels with the most groups left come first, ties in random order. This leaves few images unused.
            tie = rng.permutation(len(open_labels))
            order = sorted(range(len(open_labels)), key=lambda i: (-len(groups[open_labels[i]]), tie[i]))
            chosen = rng.permutation([open_labels[i] for i in order[: self.per_batch]]).tolist()
            batches.append([index for label in chosen for index in groups[label].pop()])
        return [batches[i] for i in rng.permutation(len(batches))]

    def _divide(self, members: np.ndarray, rng: np.random.Generator) -> list[Batch]:
        """Divide the images of one label into groups of K."""
        order = rng.permutation(members).tolist()
        groups = [order[i : i + self.per_label] for i in range(0, len(order), self.per_label)]
        missing = self.per_label - len(groups[-1])
        if missing:
            rest = [index for index in order if index not in groups[-1]]
            pool = rest if len(rest) >= missing else order
            groups[-1] = groups[-1] + rng.choice(pool, missing, replace=len(pool) < missing).tolist()
        return groups
