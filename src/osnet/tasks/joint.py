"""One backbone, two heads: identities and attributes, learned from images that have either label or both."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from numpy.typing import ArrayLike
from torch import Tensor, nn

from osnet.data.attributes.dataset import AttributeDataset
from osnet.data.attributes.reader import knows_attributes, read_attributes
from osnet.data.attributes.samples import NO_LABEL, AttributeSamples, join_labels
from osnet.data.augmentation import Augmentation
from osnet.data.reid.catalog import read_source
from osnet.data.samplers import BatchSampler, GroupedBatches, RandomBatches
from osnet.errors import DataError
from osnet.losses import LABEL_SMOOTHING, smoothed_cross_entropy_sum
from osnet.models.config import Pooling
from osnet.models.network import Network
from osnet.tasks.attribute_task import AttributeLoss, AttributeTask, LabelledPlan, attribute_losses, mean_count
from osnet.tasks.reid import embed
from osnet.training.epochs import Batch
from osnet.training.recipe import Recipe
from osnet.training.task import Plan
from osnet.weights.checkpoint import save_weights


@dataclass(frozen=True)
class JointLoss:
    """How much of each loss."""

    cross_entropy: float = 1.0
    """Weight of the label-smoothed cross-entropy over training identities, a mean over the images that have one."""
    smoothing: float = LABEL_SMOOTHING
    attributes: float = 1.0
    """Weight of the attributes' loss, a mean over the labels that are known."""


class JointTask(AttributeTask):
    """An attribute head and a classifier of identities on the same embedding.

    Args:
        network: image -> embedding.
        num_classes: training identities.
        names: A attributes.
        ratios_A: of each the share of positives in training.
        weighting: how attribute labels weigh.
        mix: how much of each loss.
    """

    def __init__(
        self,
        network: Network,
        num_classes: int,
        names: Sequence[str],
        ratios_A: ArrayLike,
        weighting: AttributeLoss,
        mix: JointLoss,
    ) -> None:
        super().__init__(network, names, ratios_A, weighting)
        self.mix = mix
        self.classifier = nn.Linear(network.config.embedding_size, num_classes)
        nn.init.normal_(self.classifier.weight, 0, 0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, batch: Batch, frozen: bool = False) -> dict[str, Tensor]:
        """``image``, ``attributes`` (B, A) with NaN for unknown, ``label`` (B,) with -1 for unknown -> ``loss``, ...

        A batch without one kind of label adds nothing for it.
        """
        embeddings = embed(self.network, batch["image"], frozen)
        described = attribute_losses(self.head(embeddings), batch["attributes"], self.label_weights)
        labels, logits = batch["label"], self.classifier(embeddings)
        total, count = smoothed_cross_entropy_sum(logits, labels, self.mix.smoothing)
        cross_entropy = total / mean_count(count)
        right = (logits.detach().argmax(1) == labels).sum() / count.clamp(min=1)
        return {
            "loss": self.mix.cross_entropy * cross_entropy + self.mix.attributes * described["loss"],
            "cross_entropy": cross_entropy.detach(),
            "accuracy": right,
            "attributes": described["loss"].detach(),
            "right": described["right"],
        }


@dataclass(frozen=True)
class JointRecipe(Recipe):
    """A training run for identities and attributes. Every field can be overridden on the command line.

    Raises:
        ModelError: a value that cannot be, or values that do not fit together.
    """

    augmentation: Augmentation = field(default_factory=Augmentation)
    loss: AttributeLoss = field(default_factory=AttributeLoss)
    mix: JointLoss = field(default_factory=JointLoss)
    pooling: Pooling = "avg"
    """Before the embedding; the average, as re-identification has it."""
    sampler: Literal["random", "data set"] = "random"
    """``data set``: as many images of each data set in every batch."""
    images_per_label: int = 16
    """Of each data set in a batch, for that sampler."""
    skip_mismatches: bool = False
    """Go on where files and labels do not match, without these."""
    evaluate_every: int = 1
    """Epochs between scores on the validation part."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("images_per_label", 1, 100_000)

    def network_settings(self) -> dict[str, Any]:
        """With the pooling."""
        return {**super().network_settings(), "pooling": self.pooling}

    def read(
        self, folders: Sequence[Path], combine_all: bool = False, work_dir: Path | None = None
    ) -> AttributeDataset:
        """Folders with attributes (and identities, where they have them), and whatever ``read_source`` takes; joined.

        Raises:
            DataError: they cannot be read or joined.
        """
        if combine_all:
            raise DataError(f"recipe {self.name} trains on training parts only, not on test images (combine_all)")
        on_mismatch = "skip" if self.skip_mismatches else "raise"
        return join_labels(
            [read_attributes(f, on_mismatch) if knows_attributes(f) else read_source(f, work_dir) for f in folders]  # type: ignore[arg-type]
        )

    def plan(self, dataset: AttributeDataset) -> Plan:
        """The train part trains, the val part picks the best epoch by its attributes' mA; test is not looked at.

        Raises:
            DataError: a data set that cannot be trained on.
        """
        return JointPlan(self, dataset)


class JointPlan(LabelledPlan):
    """Identities and attributes."""

    def __init__(self, recipe: JointRecipe, dataset: AttributeDataset) -> None:
        self.recipe = recipe
        network = self.prepare(recipe, dataset)
        self.samples = AttributeSamples(dataset.train, recipe.augmentation, self.preprocessing, recipe.seed)
        if len(self.samples.pids) < 2:
            raise DataError(
                f"{len(self.samples.pids)} identities to train on; it takes at least two. For attributes "
                "alone take one of the recipes pa100k-..."
            )
        self.task = JointTask(
            network, len(self.samples.pids), dataset.attributes, dataset.positive_ratios(), recipe.loss, recipe.mix
        )

    def describe_data(self) -> dict[str, Any]:
        """With the identities."""
        named = sum(label != NO_LABEL for label in self.samples.labels)
        return {**super().describe_data(), "identities": len(self.samples.pids), "images_with_identity": named}

    def make_sampler(self, rank: int, num_ranks: int) -> BatchSampler:
        """By the recipe's ``sampler``."""
        recipe = self.recipe
        if recipe.sampler == "random":
            return RandomBatches(self.samples.labels, recipe.batch_size, recipe.seed, rank, num_ranks)
        dsetids = [crop.dsetid for crop in self.dataset.train.crops]
        return GroupedBatches(dsetids, recipe.batch_size, recipe.images_per_label, recipe.seed, rank, num_ranks)

    def save(self, task: JointTask, folder: Path) -> None:
        """The network, and both heads beside it."""
        head = self.finished_head(task)
        save_weights(task.network, folder, self.finished_card(head, folder), task.classifier.state_dict(), head)
