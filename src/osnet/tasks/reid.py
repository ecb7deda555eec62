"""Re-identification as classification of the training identities, with or without triplets."""

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
    """Which losses, how much of each."""

    cross_entropy: float = 1.0
    """Weight of the label-smoothed cross-entropy over training identities."""
    smoothing: float = LABEL_SMOOTHING
    triplet: float = 0.0
    """Weight of the batch-hard triplet loss; above 0 it needs batches by identity."""
    margin: float = MARGIN
    soft_margin: bool = False
    """The soft margin instead of ``margin``."""
    bnneck: bool = False
    """A BatchNorm without shift between embedding and classifier, and a classifier without bias
    (Luo et al., CVPRW 2019). As in that paper the triplet loss sees the embedding before it, and what is searched with
    comes after it: the saved network includes it."""


class ReidTask(Task):
    """A network with a classifier of identities on top.

    Args:
        network: image -> embedding.
        num_classes: training identities.
        loss: which losses.
    """

    def __init__(self, network: Network, num_classes: int, loss: ReidLoss) -> None:
        super().__init__()
        self.network: Network = network
        self.loss = loss
        size = network.config.embedding_size
        if loss.bnneck and network.config.neck:
            raise ModelError("a network with a neck of its own under a BNNeck; give it without: without_neck(network)")
        self.neck: nn.Module = make_neck(size) if loss.bnneck else nn.Identity()
        self.classifier = nn.Linear(size, num_classes, bias=not loss.bnneck)
        nn.init.normal_(self.classifier.weight, 0, 0.01)
        if self.classifier.bias is not None:
            nn.init.zeros_(self.classifier.bias)

    def forward(self, batch: Batch, frozen: bool = False) -> dict[str, Tensor]:
        """``image`` (B, 3, H, W) and ``label`` (B,) -> ``loss`` and the scalars to watch.

        ``frozen`` trains the classifier alone: the network runs in eval mode and without gradients.
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

    def searched(self) -> Network:
        """The network that is saved and searched with, in eval mode: with BNNeck a copy that includes it."""
        if not self.loss.bnneck:
            return self.network
        device = next(self.network.parameters()).device
        whole = build(replace(self.network.config, neck=True), device)
        neck = {f"neck.{key}": value for key, value in self.neck.state_dict().items()}
        whole.load_state_dict({**self.network.state_dict(), **neck})
        return whole.eval()


def embed(network: nn.Module, images: Tensor, frozen: bool) -> Tensor:
    """(B, 3, H, W) -> (B, D); ``frozen``: in eval mode, so that BatchNorms stay as they are, and without gradients."""
    if not frozen:
        return network(images)
    network.eval()
    with torch.no_grad():
        return network(images)


@dataclass(frozen=True)
class ReidRecipe(Recipe):
    """A training run for re-identification. Every field can be overridden on the command line.

    Raises:
        ModelError: a value that cannot be, or values that do not fit together.
    """

    augmentation: Augmentation = field(default_factory=Augmentation)
    loss: ReidLoss = field(default_factory=ReidLoss)
    sampler: Sampler = "random"
    images_per_label: int = 4
    """K, for the samplers by identity, by camera and by data set."""
    validation: float = 0.0
    """Share of the training identities held out to pick the best epoch; 0: all train, the last epoch counts."""
    distance: Distance = "euclidean"
    """By which the published figures are, and held-out identities are scored; the weights' card says so."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("images_per_label", 1, 1000)
        self.check_range("validation", 0, 0.5)
        if self.loss.triplet and self.sampler != "identity":
            raise ModelError(f"recipe {self.name}: a triplet loss needs sampler 'identity', not {self.sampler!r}")
        if self.loss.triplet and self.images_per_label < 2:
            raise ModelError(f"recipe {self.name}: a triplet loss needs at least 2 images_per_label")

    def read(self, folders: Sequence[Path], combine_all: bool = False, work_dir: Path | None = None) -> ReidDataset:
        """Folders, and benchmarks as NAME=FOLDER (``read_source``); several train as one.

        Raises:
            DataError: they cannot be read or joined.
        """
        datasets = [read_source(folder, work_dir) for folder in folders]
        return datasets[0] if len(datasets) == 1 and not combine_all else join_training(datasets, combine_all)

    def plan(self, dataset: ReidDataset) -> Plan:
        """The train split is used; query and gallery are not looked at.

        Raises:
            DataError: a data set that cannot be trained on.
        """
        return ReidPlan(self, dataset)


class ReidPlan(Plan):
    """Identities as classes; validation is a search among held-out identities."""

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
        """Images and identities."""
        return {"images": len(self.samples), "identities": len(self.samples.pids)}

    def list_data(self) -> Iterator[tuple[Row, Path | None]]:
        """Crops that train, with their class; those that are held out."""
        yield from list_crops("train", self.samples.crops, self.samples.labels)
        for split in (self.query, self.gallery):
            yield from list_crops(split.name, split.crops, split.pids)

    def make_sampler(self, rank: int, num_ranks: int) -> BatchSampler:
        """By the recipe's ``sampler``."""
        recipe = self.recipe
        if recipe.sampler == "random":
            return RandomBatches(self.samples.labels, recipe.batch_size, recipe.seed, rank, num_ranks)
        labels = {
            "identity": self.samples.labels,
            "camera": [crop.camid for crop in self.samples.crops],
            "data set": [crop.dsetid for crop in self.samples.crops],
        }[recipe.sampler]
        return GroupedBatches(labels, recipe.batch_size, recipe.images_per_label, recipe.seed, rank, num_ranks)

    def save(self, task: ReidTask, folder: Path) -> None:
        """The network, and the classifier beside it."""
        save_weights(task.searched(), folder, self.card, task.classifier.state_dict())

    def score(self, task: ReidTask) -> dict[str, float]:
        """mAP of the held-out queries in the held-out gallery."""
        embedder = Embedder(task.searched(), preprocessing=self.preprocessing, normalize=False)
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
