"""Training for attributes: one sigmoid per attribute on top of the embedding (supplement of the paper, section B).

Shapes: B batch size, D embedding size, A number of attributes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from osnet.data.attributes.dataset import AttributeDataset, AttributeSplit
from osnet.data.attributes.reader import read_attributes
from osnet.data.attributes.samples import AttributeSamples
from osnet.data.augmentation import Augmentation
from osnet.data.samplers import BatchSampler, RandomBatches
from osnet.data.training_set import check_headers
from osnet.embedding.attribute_predictor import AttributePredictor
from osnet.errors import DataError
from osnet.losses import weigh_per_attribute, weigh_per_label, weighted_multi_label
from osnet.metrics.attribute_metrics import AttributeScores, choose_thresholds, score_attributes
from osnet.models.config import Pooling
from osnet.models.heads import AttributeHead, find_switched_off
from osnet.models.network import Network
from osnet.tasks.reid import embed
from osnet.training.data_list import Row, list_crops
from osnet.training.epochs import Batch
from osnet.training.recipe import Recipe, build_network, one_folder
from osnet.training.task import Plan, Task
from osnet.types import Preprocessing
from osnet.weights.card import Card
from osnet.weights.checkpoint import save_weights

LossForm = Literal["per_attribute", "per_label", "none"]


@dataclass(frozen=True)
class AttributeLoss:
    """Weights of labels in the sigmoid cross-entropy. p is an attribute's share of positives in the training data.

    ``per_attribute`` is the weighting of DeepMAR and of the authors' code for the paper's results (form A).
    ``per_label`` balances positives and negatives (form B). See ``weigh_per_attribute`` and ``weigh_per_label``.
    """

    form: LossForm = "per_attribute"
    """per_attribute: exp(-p) for both labels; per_label: exp(1 - p) for positives, exp(p) for negatives; none: 1."""

    def weights(self, ratios_A: Tensor) -> Tensor:
        """Shares of positives (A,) -> label weights (2, A): row 0 for label 0, row 1 for label 1."""
        if self.form == "none":
            return torch.ones(2, len(ratios_A))
        return (weigh_per_attribute if self.form == "per_attribute" else weigh_per_label)(ratios_A)


class AttributeTask(Task):
    """A network with an attribute head on top.

    Args:
        network: maps images to embeddings.
        names: names of the A attributes.
        ratios_A: share of positives of each attribute in the training data.
        loss: weights of labels.
    """

    label_weights: Tensor
    """(2, A): row 0 for label 0, row 1 for label 1."""

    def __init__(self, network: Network, names: Sequence[str], ratios_A: ArrayLike, loss: AttributeLoss) -> None:
        super().__init__()
        self.network: Network = network
        self.head = AttributeHead(network.config.embedding_size, names)
        self.register_buffer("label_weights", loss.weights(torch.as_tensor(np.asarray(ratios_A), dtype=torch.float32)))

    def forward(self, batch: Batch, frozen: bool = False) -> dict[str, Tensor]:
        """Compute ``loss`` and ``right`` of ``image`` (B, 3, H, W) with ``attributes`` (B, A): 0, 1 or NaN (unknown).

        ``right`` is the share of known labels that are predicted correctly, from 0 to 1.
        """
        logits_BA = self.head(embed(self.network, batch["image"], frozen))
        return attribute_losses(logits_BA, batch["attributes"], self.label_weights)


def attribute_losses(logits_BA: Tensor, labels_BA: Tensor, weights_2A: Tensor) -> dict[str, Tensor]:
    """Loss and accuracy of attribute predictions.

    Returns:
        ``loss``, the mean over the known labels of all processes, and ``right``, the share of this process's known
        labels that are predicted correctly.
    """
    total, count = weighted_multi_label(logits_BA, labels_BA, weights_2A)
    right = ((logits_BA.detach() >= 0) == (labels_BA > 0)) & ~labels_BA.isnan()
    return {"loss": total / mean_count(count), "right": right.sum() / count.clamp(min=1)}


def mean_count(count: Tensor) -> Tensor:
    """The mean of a count over all processes, at least 1e-6 so that it can be divided by.

    A loss is a sum over known labels divided by this mean. DDP averages gradients over processes, and that gives the
    gradient of the mean over all known labels of all processes.
    """
    count = count.float()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(count)
        count = count / torch.distributed.get_world_size()
    return count.clamp(min=1e-6)


@dataclass(frozen=True)
class AttributeRecipe(Recipe):
    """Settings of a training run for attributes. All fields can be changed on the command line.

    Raises:
        ModelError: a value is outside its range, or values contradict each other.
    """

    augmentation: Augmentation = field(default_factory=Augmentation)
    """Augmentation of training images."""
    loss: AttributeLoss = field(default_factory=AttributeLoss)
    """Weights of labels in the loss."""
    pooling: Pooling = "max"
    """Pooling before the embedding. The authors' code for attributes uses the maximum."""
    skip_mismatches: bool = False
    """Leave out images without labels and labels without images, instead of stopping with an error."""
    evaluate_every: int = 1
    """Number of epochs between scores on the validation part."""

    def network_settings(self) -> dict[str, Any]:
        """Fields of the network's config that this recipe changes, including the pooling."""
        return {**super().network_settings(), "pooling": self.pooling}

    def read(
        self, folders: Sequence[Path], combine_all: bool = False, work_dir: Path | None = None
    ) -> AttributeDataset:
        """Read one data set with ``read_attributes``.

        Raises:
            DataError: there is not exactly one folder, or it cannot be read.
        """
        return read_attributes(
            one_folder(self, folders, combine_all, work_dir), "skip" if self.skip_mismatches else "raise"
        )

    def plan(self, dataset: AttributeDataset) -> Plan:
        """Prepare training on the train part. The val part chooses the best epoch; the test part is not used.

        Raises:
            DataError: there are no training images with attributes.
            ImageError: a file is not a readable image.
        """
        return AttributePlan(self, dataset)


class LabelledPlan(Plan):
    """The base of plans with attributes: attributes alone, or attributes and identities."""

    metric = "mA"
    samples: AttributeSamples

    def prepare(self, recipe: Recipe, dataset: AttributeDataset) -> Network:
        """Check the data, and build the network and its card.

        Heads must be made right after this call: it leaves PyTorch's random generator in a state that depends on the
        recipe's seed alone.
        """
        if not len(dataset.train) or not dataset.attributes:
            raise DataError(f"{dataset.root} has no training images with attribute labels")
        self.dataset = dataset
        self.preprocessing = Preprocessing(size_hw=recipe.size_hw)
        self.val = labelled(dataset.val)
        if any(np.isin((0, 1), column).all() for column in self.val.labels.T):
            self.validated_on = "the validation part"
        check_headers([*dataset.train.paths, *self.val.paths])
        network = build_network(recipe, dataset.train.paths, self.preprocessing)
        self.card = Card(
            network.config,
            preprocessing=self.preprocessing,
            training_data=dataset.name,
            licence="as the training data",
            source=f"recipe {recipe.name}",
        )
        self._scored: tuple[Any, tuple[float, ...]] | None = None
        return network

    def describe_data(self) -> dict[str, Any]:
        """Sizes of the parts, names of the attributes, and mismatches of files and labels."""
        data = self.dataset
        return {
            "images": len(data.train),
            "validation_images": len(self.val),
            "attributes": list(data.attributes),
            "problems": list(data.problems),
            "notes": list(data.notes),
        }

    def list_data(self) -> Iterator[tuple[Row, Path | None]]:
        """Rows of the attributes' names, the training images (with their identity class) and the validation images."""
        yield ["attributes", 0, "names", *self.dataset.attributes], None
        train = self.dataset.train
        columns = zip(_as_text(train), self.samples.labels, strict=True)
        yield from list_crops("train", train.crops, [list(column) for column in columns])
        yield from list_crops("validation", self.val.crops, _as_text(self.val))

    def score(self, task: Any) -> dict[str, float]:
        """``mA``, ``accuracy`` and ``F1`` on the validation part, with thresholds of 0.5."""
        predictor = AttributePredictor(task.network, normalize=False, preprocessing=self.preprocessing, head=task.head)
        scores, probabilities = score_split(predictor, self.val, self.dataset.attributes)
        thresholds = choose_thresholds(probabilities, self.val.labels, self.dataset.attributes)
        self._scored = (task, tuple(round(float(value), 6) for value in thresholds))
        assert scores.mean_accuracy is not None  # there is validation only if some attribute has both labels
        return {"mA": scores.mean_accuracy, "accuracy": scores.accuracy, "F1": scores.f1}

    def finished_head(self, task: Any) -> AttributeHead:
        """The task's head. If ``score`` was called with this task, the head has the thresholds chosen there."""
        head: AttributeHead = task.head
        if self._scored is not None and self._scored[0] is task:
            head.thresholds = self._scored[1]
        return head

    def finished_card(self, head: AttributeHead, folder: Path) -> Card:
        """The card for weights in ``folder``.

        Attributes that a card in the run's folder switches off stay off when the run is resumed.
        """
        off = find_switched_off(folder.parent)
        return replace(self.card, attributes=head.names, attributes_off=tuple(n for n in head.names if n in off))


def _as_text(split: AttributeSplit) -> list[str]:
    """For each image a string with one character per attribute: 0, 1, or ? if unknown."""
    return ["".join("?" if np.isnan(value) else str(int(value)) for value in row) for row in split.labels]


class AttributePlan(LabelledPlan):
    """Training for attributes alone. Every image is used once per epoch."""

    def __init__(self, recipe: AttributeRecipe, dataset: AttributeDataset) -> None:
        self.recipe = recipe
        network = self.prepare(recipe, dataset)
        self.samples = AttributeSamples(dataset.train, recipe.augmentation, self.preprocessing, recipe.seed)
        self.task = AttributeTask(network, dataset.attributes, dataset.positive_ratios(), recipe.loss)

    def make_sampler(self, rank: int, num_ranks: int) -> BatchSampler:
        """Make a sampler of random batches."""
        return RandomBatches(self.samples.labels, self.recipe.batch_size, self.recipe.seed, rank, num_ranks)

    def save(self, task: AttributeTask, folder: Path) -> None:
        """Save the network with its attribute head."""
        head = self.finished_head(task)
        save_weights(task.network, folder, self.finished_card(head, folder), attributes=head)


def labelled(split: AttributeSplit) -> AttributeSplit:
    """The part of a split whose images have at least one known label."""
    return split.take([i for i in range(len(split)) if not np.isnan(split.labels[i]).all()])


def score_split(
    predictor: AttributePredictor, split: AttributeSplit, names: Sequence[str], use_thresholds: bool = False
) -> tuple[AttributeScores, NDArray[np.float32]]:
    """Score a predictor on the attributes that both it and the data have.

    Args:
        predictor: predictor of attributes.
        split: N images with labels.
        names: attribute names of the label columns.
        use_thresholds: use the predictor's thresholds, which were chosen on validation data; otherwise 0.5.

    Returns:
        The scores, and the probabilities (N, A) of the A common attributes in the order of ``names``.

    Raises:
        DataError: the split has no images, or there is no common attribute.
        ImageError: an image cannot be read.
    """
    common = [name for name in names if name in predictor.attributes]
    if not common or not len(split):
        raise DataError(
            f"nothing to score: {split.name} has {len(split)} images; its attributes are {', '.join(names)}, and the "
            f"weights predict {', '.join(predictor.attributes) or 'none'}"
        )
    predicted = predictor.predict(split.paths)
    columns = [predictor.attributes.index(name) for name in common]
    labels_NA = split.labels[:, [list(names).index(name) for name in common]]
    probabilities = predicted.probabilities[:, columns]
    thresholds = [predicted.thresholds[column] for column in columns] if use_thresholds else 0.5
    return score_attributes(probabilities, labels_NA, common, thresholds), probabilities
