"""Training for re-identification: classification of the training identities, optionally with a triplet loss."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from osnet.data.augmentation import Augmentation
from osnet.data.joining import join_training
from osnet.data.reid.catalog import read_source
from osnet.data.samplers import BatchSampler, GroupedBatches, RandomBatches
from osnet.data.training_set import TrainingSet, check_headers, hold_out
from osnet.embedding.embedder import Embedder
from osnet.errors import DataError, ModelError
from osnet.losses import LABEL_SMOOTHING, MARGIN, batch_hard_triplet, smoothed_cross_entropy
from osnet.metrics.ranking import rank_scores
from osnet.models.layers import make_neck
from osnet.models.network import Network
from osnet.models.registry import build_network as build
from osnet.training.data_list import Row, list_crops
from osnet.training.epochs import Batch
from osnet.training.recipe import Recipe, build_network
from osnet.training.task import Plan, Task
from osnet.types import Distance, Preprocessing, ReidDataset, Split
from osnet.weights.card import Card
from osnet.weights.checkpoint import save_weights

Sampler = Literal["random", "identity", "camera", "data set"]


@dataclass(frozen=True)
class ReidLoss:
    """Weights and settings of the losses.

    With a BNNeck (Luo et al., CVPRW 2019) a BatchNorm without shift is between the embedding and the classifier, which
    has no bias. The triplet loss takes the embedding before the BatchNorm. The saved network includes the BatchNorm, so
    search uses the embedding after it.

    Raises:
        ModelError: a value is out of range, or the weights of both losses are 0.
    """

    cross_entropy: float = 1.0
    """Weight of the label-smoothed cross-entropy over training identities."""
    smoothing: float = LABEL_SMOOTHING
    """Label smoothing of the cross-entropy, from 0 to less than 1."""
    triplet: float = 0.0
    """Weight of the batch-hard triplet loss. Above 0 it needs the sampler ``identity``."""
    margin: float = MARGIN
    """Margin of the triplet loss."""
    soft_margin: bool = False
    """Use the soft margin instead of ``margin``."""
    bnneck: bool = False
    """Use a BNNeck: a BatchNorm between embedding and classifier. Search uses the embedding after it."""

    def __post_init__(self) -> None:
        check_losses(self.smoothing, cross_entropy=self.cross_entropy, triplet=self.triplet)
        if not 0 <= self.margin < math.inf:
            raise ModelError(f"margin {self.margin} must be at least 0")


def check_losses(smoothing: float, **weights: float) -> None:
    """Check the label smoothing and the weights of losses.

    Raises:
        ModelError: one is out of range, or all weights are 0.
    """
    if not 0 <= smoothing < 1:
        raise ModelError(f"smoothing {smoothing} must be at least 0 and less than 1")
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise ModelError(f"the weight of the loss {name} is {weight}; it must be at least 0")
    if not any(weights.values()):
        raise ModelError(f"the weights of all losses are 0 ({', '.join(weights)}); one must be above 0")


class ReidTask(Task):
    """A network with an identity classifier on top.

    Args:
        network: maps images to embeddings.
        num_classes: number of training identities.
        loss: weights and settings of the losses.

    Raises:
        ModelError: ``loss.bnneck`` is set, but the network already includes a BNNeck.
    """

    def __init__(self, network: Network, num_classes: int, loss: ReidLoss) -> None:
        super().__init__()
        self.network: Network = network
        self.loss = loss
        size = network.config.embedding_size
        if loss.bnneck and network.config.neck:
            raise ModelError("bnneck=True, but the network already includes a BNNeck; pass without_neck(network)")
        self.neck: nn.Module = make_neck(size) if loss.bnneck else nn.Identity()
        self.classifier = nn.Linear(size, num_classes, bias=not loss.bnneck)
        nn.init.normal_(self.classifier.weight, 0, 0.01)
        if self.classifier.bias is not None:
            nn.init.zeros_(self.classifier.bias)
        if not loss.cross_entropy:  # no loss uses them, and DDP waits for the gradients of all trained parameters
            self.neck.requires_grad_(False)
            self.classifier.requires_grad_(False)

    def forward(self, batch: Batch, frozen: bool = False) -> dict[str, Tensor]:
        """Compute the losses of ``image`` (B, 3, H, W) with ``label`` (B,).

        With ``frozen`` only the classifier is trained: the network runs in eval mode and without gradients, and there
        is no triplet loss.

        Returns:
            ``loss``, ``accuracy`` and the losses that are used: ``cross_entropy``, ``triplet``.
        """
        labels = batch["label"]
        embeddings = embed(self.network, batch["image"], frozen)
        logits = self.classifier(self.neck(embeddings))
        scalars = {"accuracy": (logits.detach().argmax(1) == labels).float().mean()}
        total = logits.new_zeros(())
        if self.loss.cross_entropy:
            scalars["cross_entropy"] = smoothed_cross_entropy(logits, labels, self.loss.smoothing)
            total = total + self.loss.cross_entropy * scalars["cross_entropy"]
        if self.loss.triplet and not frozen:
            margin = None if self.loss.soft_margin else self.loss.margin
            scalars["triplet"] = batch_hard_triplet(embeddings, labels, margin)
            total = total + self.loss.triplet * scalars["triplet"]
        return {"loss": total, **{name: value.detach() for name, value in scalars.items()}}

    def search_network(self) -> Network:
        """The network that computes the embeddings for search; with a BNNeck a copy, in eval mode, that includes it."""
        if not self.loss.bnneck:
            return self.network
        device = next(self.network.parameters()).device
        whole = build(replace(self.network.config, neck=True), device)
        neck = {f"neck.{key}": value for key, value in self.neck.state_dict().items()}
        whole.load_state_dict({**self.network.state_dict(), **neck})
        return whole.eval()


def embed(network: nn.Module, images: Tensor, frozen: bool) -> Tensor:
    """Embed images in training: (B, 3, H, W) -> (B, D).

    With ``frozen`` there are no gradients, and the network runs in eval mode, which keeps BatchNorm's statistics.
    """
    if not frozen:
        return network(images)
    network.eval()
    with torch.no_grad():
        return network(images)


@dataclass(frozen=True)
class ReidRecipe(Recipe):
    """Settings of a training run for re-identification. All fields can be changed on the command line.

    Raises:
        ModelError: a value is outside its range, or values contradict each other.
    """

    augmentation: Augmentation = field(default_factory=Augmentation)
    """Augmentation of training images."""
    loss: ReidLoss = field(default_factory=ReidLoss)
    """Losses."""
    sampler: Sampler = "random"
    """How batches are drawn: at random, or K images of each chosen identity, camera or data set. The images of a data
    set without a camera label count as one camera."""
    images_per_label: int = 4
    """Images of each group in a batch (K), for the samplers ``identity``, ``camera`` and ``data set``."""
    validation: float = 0.0
    """Share of the training identities, 0 to 0.5, that is held out to choose the best epoch; 0: no validation."""
    distance: Distance = "euclidean"
    """Distance of the validation score. It is stored in the card and used by evaluation and search."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("images_per_label", 1, 1000)
        self.check_range("validation", 0, 0.5)
        if self.frozen_epochs and not self.loss.cross_entropy:
            raise ModelError(
                f"recipe {self.name}: frozen_epochs {self.frozen_epochs} train only the classifier, so they need a "
                "cross_entropy above 0; set frozen_epochs to 0"
            )
        if self.loss.triplet and self.sampler != "identity":
            raise ModelError(f"recipe {self.name}: a triplet loss needs sampler 'identity', not {self.sampler!r}")
        if self.loss.triplet and self.images_per_label < 2:
            raise ModelError(f"recipe {self.name}: a triplet loss needs at least 2 images_per_label")
        if self.loss.triplet and self.batch_size < 2 * self.images_per_label:
            raise ModelError(
                f"recipe {self.name}: a triplet loss needs two identities in a batch; {self.batch_size} images with "
                f"{self.images_per_label} per label have one"
            )

    def read(self, folders: Sequence[Path], combine_all: bool = False, work_dir: Path | None = None) -> ReidDataset:
        """Read folders, and benchmarks given as NAME=FOLDER (``read_source``). Several are joined into one data set.

        Raises:
            DataError: a data set cannot be read, or they cannot be joined.
        """
        datasets = [read_source(folder, work_dir) for folder in folders]
        return datasets[0] if len(datasets) == 1 and not combine_all else join_training(datasets, combine_all)

    def plan(self, dataset: ReidDataset) -> Plan:
        """Prepare training on the train split. Query and gallery are not used.

        Raises:
            DataError: there are no training images, or not enough for the sampler or the validation.
            ImageError: a file is not a readable image.
        """
        return ReidPlan(self, dataset)


class ReidPlan(Plan):
    """Training identities are the classes. Validation is the mAP of a search among held-out identities."""

    metric = "mAP"
    task: ReidTask
    samples: TrainingSet

    def __init__(self, recipe: ReidRecipe, dataset: ReidDataset) -> None:
        self.recipe = recipe
        self.preprocessing = Preprocessing(size_hw=recipe.size_hw)
        train, query, gallery = dataset.train, Split("query", ()), Split("gallery", ())
        if not len(train):
            raise DataError(f"{dataset.root} has no training images")
        if recipe.validation:
            train, query, gallery = hold_out(train, recipe.validation, recipe.seed)
            self.validated_on = "the held-out identities"
        self.query, self.gallery = query, gallery
        self.samples = TrainingSet(train.crops, recipe.augmentation, self.preprocessing, recipe.seed)
        check_headers(crop.path for crop in [*self.samples.crops, *query.crops, *gallery.crops])
        network = build_network(recipe, [crop.path for crop in self.samples.crops], self.preprocessing)
        self.task = ReidTask(network, len(self.samples.pids), recipe.loss)
        self.card = Card(
            network.config,
            preprocessing=self.preprocessing,
            training_data=dataset.name,
            licence="as the training data",
            source=f"recipe {recipe.name}",
            distance=recipe.distance,
        )

    def describe_data(self) -> dict[str, Any]:
        """Numbers of images and identities."""
        return {"images": len(self.samples), "identities": len(self.samples.pids)}

    def list_data(self) -> Iterator[tuple[Row, Path | None]]:
        """Rows of the training crops, with their class index, and of the held-out crops."""
        yield from list_crops("train", self.samples.crops, self.samples.labels)
        for split in (self.query, self.gallery):
            yield from list_crops(split.name, split.crops, split.pids)

    def make_sampler(self, rank: int, num_ranks: int) -> BatchSampler:
        """Make the recipe's sampler."""
        recipe = self.recipe
        if recipe.sampler == "random":
            return RandomBatches(self.samples.labels, recipe.batch_size, recipe.seed, rank, num_ranks)
        if recipe.loss.triplet and recipe.batch_size < 2 * recipe.images_per_label * num_ranks:
            raise DataError(
                f"batch size {recipe.batch_size} with {recipe.images_per_label} images per label gives each of "
                f"{num_ranks} processes one identity, but a triplet loss needs two; choose a batch size of at least "
                f"{2 * recipe.images_per_label * num_ranks}"
            )
        labels = {
            "identity": self.samples.labels,
            "camera": [c.camid if c.camid >= 0 else -1 - c.dsetid for c in self.samples.crops],
            "data set": [crop.dsetid for crop in self.samples.crops],
        }[recipe.sampler]
        return GroupedBatches(labels, recipe.batch_size, recipe.images_per_label, recipe.seed, rank, num_ranks)

    def save(self, task: ReidTask, folder: Path) -> None:
        """Save the network with its classifier."""
        save_weights(task.search_network(), folder, self.card, task.classifier.state_dict())

    def score(self, task: ReidTask) -> dict[str, float]:
        """``mAP`` of the held-out queries in the held-out gallery."""
        embedder = Embedder(task.search_network(), preprocessing=self.preprocessing, normalize=False)
        query_QD, gallery_GD = embedder.embed(self.query.paths), embedder.embed(self.gallery.paths)
        query, gallery = self.query, self.gallery
        scores = rank_scores(
            query_QD,
            gallery_GD,
            query.pids,
            gallery.pids,
            query.camids,
            gallery.camids,
            distance=self.recipe.distance,
        )
        return {"mAP": scores.mean_ap}
