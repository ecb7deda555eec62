"""Training for identities and attributes with one network and two heads. Images may have either label or both."""

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
from osnet.tasks.reid import check_losses, embed
from osnet.training.epochs import Batch
from osnet.training.recipe import Recipe
from osnet.training.task import Plan
from osnet.weights.checkpoint import save_weights


@dataclass(frozen=True)
class JointLoss:
    """Weights of the two losses.

    Raises:
        ModelError: a value is out of range, or both weights are 0.
    """

    cross_entropy: float = 1.0
    """Weight of the label-smoothed cross-entropy over training identities: a mean over images with a known identity."""
    smoothing: float = LABEL_SMOOTHING
    """Label smoothing of the cross-entropy, from 0 to less than 1."""
    attributes: float = 1.0
    """Weight of the attribute loss: a mean over known labels."""

    def __post_init__(self) -> None:
        check_losses(self.smoothing, cross_entropy=self.cross_entropy, attributes=self.attributes)


class JointTask(AttributeTask):
    """A network with an attribute head and an identity classifier on the same embedding.

    Args:
        network: maps images to embeddings.
        num_classes: number of training identities.
        names: names of the A attributes.
        ratios_A: share of positives of each attribute in the training data.
        weighting: weights of attribute labels.
        mix: weights of the two losses.
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
        """Compute the losses of ``image`` (B, 3, H, W).

        ``attributes`` (B, A) are 0, 1 or NaN (unknown). ``label`` (B,) is the identity class, or -1 (unknown). A loss
        without any known label in the batch is 0.

        Returns:
            ``loss``, ``cross_entropy``, ``accuracy`` of identities, ``attributes`` (their loss) and ``right`` (the
            share of known attribute labels that are predicted correctly).
        """
        embeddings = embed(self.network, batch["image"], frozen)
        attributes = attribute_losses(self.head(embeddings), batch["attributes"], self.label_weights)
        labels, logits = batch["label"], self.classifier(embeddings)
        total, count = smoothed_cross_entropy_sum(logits, labels, self.mix.smoothing)
        cross_entropy = total / mean_count(count)
        accuracy = (logits.detach().argmax(1) == labels).sum() / count.clamp(min=1)
        return {
            "loss": self.mix.cross_entropy * cross_entropy + self.mix.attributes * attributes["loss"],
            "cross_entropy": cross_entropy.detach(),
            "accuracy": accuracy,
            "attributes": attributes["loss"].detach(),
            "right": attributes["right"],
        }


@dataclass(frozen=True)
class JointRecipe(Recipe):
    """Settings of a training run for identities and attributes. All fields can be changed on the command line.

    Raises:
        ModelError: a value is outside its range, or values contradict each other.
    """

    augmentation: Augmentation = field(default_factory=Augmentation)
    """Augmentation of training images."""
    loss: AttributeLoss = field(default_factory=AttributeLoss)
    """Weights of attribute labels in the loss."""
    mix: JointLoss = field(default_factory=JointLoss)
    """Weights of the two losses."""
    pooling: Pooling = "avg"
    """Pooling before the embedding. The average is usual for re-identification."""
    sampler: Literal["random", "data set"] = "random"
    """How batches are drawn: ``random``, or ``data set`` for equally many images of each data set."""
    images_per_label: int = 16
    """Images of each data set in a batch, for the sampler ``data set``."""
    skip_mismatches: bool = False
    """Leave out images without labels and labels without images, instead of stopping with an error."""
    evaluate_every: int = 1
    """Number of epochs between scores on the validation part."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("images_per_label", 1, 100_000)

    def network_settings(self) -> dict[str, Any]:
        """Fields of the network's config that this recipe changes, including the pooling."""
        return {**super().network_settings(), "pooling": self.pooling}

    def read(
        self, folders: Sequence[Path], combine_all: bool = False, work_dir: Path | None = None
    ) -> AttributeDataset:
        """Read and join folders with attributes (and perhaps identities), and data sets that ``read_source`` accepts.

        Raises:
            DataError: a data set cannot be read, they cannot be joined, or ``combine_all`` is set.
        """
        if combine_all:
            raise DataError(f"recipe {self.name} trains on training parts only; leave out combine_all")
        on_mismatch = "skip" if self.skip_mismatches else "raise"
        return join_labels(
            [read_attributes(f, on_mismatch) if knows_attributes(f) else read_source(f, work_dir) for f in folders]  # type: ignore[arg-type]
        )

    def plan(self, dataset: AttributeDataset) -> Plan:
        """Prepare training on the train part. The mA on the val part chooses the best epoch; test is not used.

        Raises:
            DataError: there are no training images with attributes, or fewer than two identities.
            ImageError: a file is not a readable image.
        """
        return JointPlan(self, dataset)


class JointPlan(LabelledPlan):
    """Training for identities and attributes. Validation is the attributes' mA."""

    def __init__(self, recipe: JointRecipe, dataset: AttributeDataset) -> None:
        self.recipe = recipe
        network = self.prepare(recipe, dataset)
        self.samples = AttributeSamples(dataset.train, recipe.augmentation, self.preprocessing, recipe.seed)
        if len(self.samples.pids) < 2:
            raise DataError(
                f"{dataset.root} has {len(self.samples.pids)} training identities; recipe {recipe.name} needs at least "
                "two. For attributes alone use a recipe pa100k-..."
            )
        self.task = JointTask(
            network, len(self.samples.pids), dataset.attributes, dataset.positive_ratios(), recipe.loss, recipe.mix
        )

    def describe_data(self) -> dict[str, Any]:
        """Sizes of the parts, attributes, mismatches, and numbers of identities and of images that have one."""
        known = sum(label != NO_LABEL for label in self.samples.labels)
        return {**super().describe_data(), "identities": len(self.samples.pids), "images_with_identity": known}

    def make_sampler(self, rank: int, num_ranks: int) -> BatchSampler:
        """Make the recipe's sampler."""
        recipe = self.recipe
        if recipe.sampler == "random":
            return RandomBatches(self.samples.labels, recipe.batch_size, recipe.seed, rank, num_ranks)
        dsetids = [crop.dsetid for crop in self.dataset.train.crops]
        return GroupedBatches(dsetids, recipe.batch_size, recipe.images_per_label, recipe.seed, rank, num_ranks)

    def save(self, task: JointTask, folder: Path) -> None:
        """Save the network with both heads."""
        head = self.finished_head(task)
        save_weights(task.network, folder, self.finished_card(head, folder), task.classifier.state_dict(), head)
