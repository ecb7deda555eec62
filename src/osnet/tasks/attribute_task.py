"""Attributes: a sigmoid for each on top of the embedding. Supplement, section B.

Shapes: B batch, D embedding, A attributes.
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
    """How labels weigh in the sigmoid cross-entropy. p is an attribute's share of positives in training."""

    form: LossForm = "per_attribute"
    """``per_attribute`` is form A, exp(-p) whatever the label: DeepMAR, and what the authors' code does for the paper's
    figures. ``per_label`` is form B, exp(1 - p) for positives and exp(p) for negatives, which balances the two.
    ``none``: all weigh 1."""

    def weights(self, ratios_A: Tensor) -> Tensor:
        """(A,) -> (2, A): of label 0 and of label 1."""
        if self.form == "none":
            return torch.ones(2, len(ratios_A))
        return (weigh_per_attribute if self.form == "per_attribute" else weigh_per_label)(ratios_A)


class AttributeTask(Task):
    """A network with an attribute head on top.

    Args:
        network: image -> embedding.
        names: A attributes.
        ratios_A: of each the share of positives in training.
        loss: how labels weigh.
    """

    label_weights: Tensor
    """(2, A): of label 0 and of label 1."""

    def __init__(self, network: Network, names: Sequence[str], ratios_A: ArrayLike, loss: AttributeLoss) -> None:
        super().__init__()
        self.network: Network = network
        self.head = AttributeHead(network.config.embedding_size, names)
        self.register_buffer("label_weights", loss.weights(torch.as_tensor(np.asarray(ratios_A), dtype=torch.float32)))

    def forward(self, batch: Batch, frozen: bool = False) -> dict[str, Tensor]:
        """``image`` (B, 3, H, W) and ``attributes`` (B, A) of 0, 1 or NaN -> ``loss``, ``right``."""
        logits_BA = self.head(embed(self.network, batch["image"], frozen))
        return attribute_losses(logits_BA, batch["attributes"], self.label_weights)


def attribute_losses(logits_BA: Tensor, labels_BA: Tensor, weights_2A: Tensor) -> dict[str, Tensor]:
    """``loss``: the mean over the known labels of all processes; ``right``: the share predicted right, here."""
    total, count = weighted_multi_label(logits_BA, labels_BA, weights_2A)
    right = ((logits_BA.detach() >= 0) == (labels_BA > 0)) & ~labels_BA.isnan()
    return {"loss": total / mean_count(count), "right": right.sum() / count.clamp(min=1)}


def mean_count(count: Tensor) -> Tensor:
    """The mean of a count over all processes, at least a trifle: DDP averages gradients over processes, so a sum here
    divided by it becomes the mean over everything that counts."""
    count = count.float()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(count)
        count = count / torch.distributed.get_world_size()
    return count.clamp(min=1e-6)


@dataclass(frozen=True)
class AttributeRecipe(Recipe):
    """A training run for attributes. Every field can be overridden on the command line.

    Raises:
        ModelError: a value that cannot be, or values that do not fit together.
    """

    augmentation: Augmentation = field(default_factory=Augmentation)
    loss: AttributeLoss = field(default_factory=AttributeLoss)
    pooling: Pooling = "max"
    """Before the embedding; the authors' code for attributes takes the maximum, not the average."""
    skip_mismatches: bool = False
    """Go on where files and labels do not match, without these."""
    evaluate_every: int = 1
    """Epochs between scores on the validation part."""

    def network_settings(self) -> dict[str, Any]:
        """With the pooling."""
        return {**super().network_settings(), "pooling": self.pooling}

    def read(
        self, folders: Sequence[Path], combine_all: bool = False, work_dir: Path | None = None
    ) -> AttributeDataset:
        """One data set, as ``read_attributes`` takes it.

        Raises:
            DataError: there are several, or it cannot be read.
        """
        return read_attributes(
            one_folder(self, folders, combine_all, work_dir), "skip" if self.skip_mismatches else "raise"
        )

    def plan(self, dataset: AttributeDataset) -> Plan:
        """The train part trains, the val part picks the best epoch; test is not looked at.

        Raises:
            DataError: a data set that cannot be trained on.
        """
        return AttributePlan(self, dataset)


class LabelledPlan(Plan):
    """What training with attributes shares, whether or not identities are learned too."""

    metric = "mA"
    samples: AttributeSamples

    def prepare(self, recipe: Recipe, dataset: AttributeDataset) -> Network:
        """Samples, checks, the network; the recipe's seed is set when it returns, for the heads."""
        if not len(dataset.train) or not dataset.attributes:
            raise DataError(f"{dataset.root} has no training images with attributes")
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
        """Sizes of the parts, attributes, what does not match."""
        data = self.dataset
        return {
            "images": len(data.train),
            "validation_images": len(self.val),
            "attributes": list(data.attributes),
            "problems": list(data.problems),
            "notes": list(data.notes),
        }

    def list_data(self) -> Iterator[tuple[Row, Path | None]]:
        """The attributes; images that train, with their class of identities; the validation part."""
        yield ["attributes", 0, "names", *self.dataset.attributes], None
        train = self.dataset.train
        columns = zip(_as_text(train), self.samples.labels, strict=True)
        yield from list_crops("train", train.crops, [list(column) for column in columns])
        yield from list_crops("validation", self.val.crops, _as_text(self.val))

    def score(self, task: Any) -> dict[str, float]:
        """On the validation part, with thresholds of 0.5."""
        predictor = AttributePredictor(task.network, normalize=False, preprocessing=self.preprocessing, head=task.head)
        scores, probabilities = score_split(predictor, self.val, self.dataset.attributes)
        thresholds = choose_thresholds(probabilities, self.val.labels, self.dataset.attributes)
        self._scored = (task, tuple(round(float(value), 6) for value in thresholds))
        assert scores.mean_accuracy is not None  # some attribute has both labels, or nothing is validated
        return {"mA": scores.mean_accuracy, "accuracy": scores.accuracy, "F1": scores.f1}

    def finished_head(self, task: Any) -> AttributeHead:
        """The head with the thresholds chosen on validation, if this very task was scored."""
        head: AttributeHead = task.head
        if self._scored is not None and self._scored[0] is task:
            head.thresholds = self._scored[1]
        return head

    def finished_card(self, head: AttributeHead, folder: Path) -> Card:
        """The card for weights in ``folder``. What any card of the run switches off stays off when the run goes on."""
        off = find_switched_off(folder.parent)
        return replace(self.card, attributes=head.names, attributes_off=tuple(n for n in head.names if n in off))


def _as_text(split: AttributeSplit) -> list[str]:
    """Of each image a character for each attribute: 0, 1, or ? where nobody says."""
    return ["".join("?" if np.isnan(value) else str(int(value)) for value in row) for row in split.labels]


class AttributePlan(LabelledPlan):
    """Attributes alone, every image once per epoch."""

    def __init__(self, recipe: AttributeRecipe, dataset: AttributeDataset) -> None:
        self.recipe = recipe
        network = self.prepare(recipe, dataset)
        self.samples = AttributeSamples(dataset.train, recipe.augmentation, self.preprocessing, recipe.seed)
        self.task = AttributeTask(network, dataset.attributes, dataset.positive_ratios(), recipe.loss)

    def make_sampler(self, rank: int, num_ranks: int) -> BatchSampler:
        """Random batches."""
        return RandomBatches(self.samples.labels, self.recipe.batch_size, self.recipe.seed, rank, num_ranks)

    def save(self, task: AttributeTask, folder: Path) -> None:
        """The network, and the head beside it."""
        head = self.finished_head(task)
        save_weights(task.network, folder, self.finished_card(head, folder), attributes=head)


def labelled(split: AttributeSplit) -> AttributeSplit:
    """The images of which anything is known."""
    return split.take([i for i in range(len(split)) if not np.isnan(split.labels[i]).all()])


def score_split(
    predictor: AttributePredictor, split: AttributeSplit, names: Sequence[str], use_thresholds: bool = False
) -> tuple[AttributeScores, NDArray[np.float32]]:
    """Scores of the attributes that both the predictor and the data name, and the probabilities (N, A).

    Args:
        predictor: whose weights.
        split: images with labels.
        names: of the labels' columns.
        use_thresholds: the predictor's thresholds, which were chosen on validation; else 0.5.

    Raises:
        DataError: no image, or no attribute in common.
        ImageError: an image that cannot be read.
    """
    common = [name for name in names if name in predictor.attributes]
    if not common or not len(split):
        raise DataError(
            f"nothing to score: {len(split)} images, and of the attributes {', '.join(names)} the weights "
            f"know {', '.join(common) or 'none'}"
        )
    seen = predictor.predict(split.paths)
    columns = [predictor.attributes.index(name) for name in common]
    labels_NA = split.labels[:, [list(names).index(name) for name in common]]
    probabilities = seen.probabilities[:, columns]
    thresholds = [seen.thresholds[column] for column in columns] if use_thresholds else 0.5
    return score_attributes(probabilities, labels_NA, common, thresholds), probabilities
