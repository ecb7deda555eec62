"""Classification of things: a classifier on top of the embedding. Supplement, section C.

Shapes: B batch, C classes, D embedding.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from osnet.data.samplers import BatchSampler, RandomBatches
from osnet.data.training_set import check_headers
from osnet.data.transforms import normalize, to_fractions
from osnet.embedding.class_predictor import ClassPredictor
from osnet.errors import DataError
from osnet.losses import smoothed_cross_entropy_sum
from osnet.models.config import Stem
from osnet.models.network import Network
from osnet.photos.image_folder import PhotoBytes, Photos, PhotoSamples
from osnet.photos.photo_augmentation import PhotoAugmentation
from osnet.photos.reader import PhotoDataset, PhotoSet, read_photos
from osnet.photos.shards import PackedIndex
from osnet.tasks.photo_accuracy import score_photos
from osnet.tasks.photo_batches import ByteEpochs, PackedEpochs
from osnet.tasks.reid import embed
from osnet.training.data_list import Row, names_below
from osnet.training.epochs import Batch, Epochs, SampledEpochs
from osnet.training.recipe import Recipe, build_network, one_folder
from osnet.training.task import Plan, Task
from osnet.types import Interpolation, Preprocessing
from osnet.weights.card import Card
from osnet.weights.checkpoint import save_weights

MAX_SCORED_AT_ONCE = 256


class ClassificationTask(Task):
    """A network with a classifier on top.

    Args:
        network: image -> embedding.
        num_classes: C.
        preprocessing: normalises batches that come as bytes.
        smoothing: of the labels.
        dropout: before the classifier.
    """

    def __init__(
        self,
        network: Network,
        num_classes: int,
        preprocessing: Preprocessing,
        smoothing: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.network: Network = network
        self.preprocessing, self.smoothing = preprocessing, smoothing
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(network.config.embedding_size, num_classes)
        nn.init.normal_(self.classifier.weight, 0, 0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, batch: Batch, frozen: bool = False) -> dict[str, Tensor]:
        """``image`` (B, 3, H, W), uint8 or normalised, and ``label`` (B,) -> ``loss``, ``accuracy``.

        The loss is a mean over images, so parts of a batch of equal size can be averaged.
        """
        images, labels = batch["image"], batch["label"]
        if images.dtype == torch.uint8:
            images = normalize(to_fractions(images), self.preprocessing)
        logits = self.classifier(self.dropout(embed(self.network, images, frozen)))
        total, _ = smoothed_cross_entropy_sum(logits, labels, self.smoothing)
        return {"loss": total / len(labels), "accuracy": (logits.detach().argmax(1) == labels).float().mean()}


@dataclass(frozen=True)
class ClassificationRecipe(Recipe):
    """A training run for classification. Every field can be overridden on the command line.

    Raises:
        ModelError: a value that cannot be, or values that do not fit together.
    """

    size_hw: tuple[int, int] = (224, 224)
    augmentation: PhotoAugmentation = field(default_factory=PhotoAugmentation)
    crop_from: tuple[int, int] | None = None
    """Height and width that pictures are resized to before ``size_hw`` is cut out: at random in training (window
    ``cut``), from the middle in testing."""
    keep_aspect: bool = False
    """Resize until ``crop_from`` is just covered, rather than squash the picture to it."""
    interpolation: Interpolation = "bilinear"
    stem: Stem = "imagenet"
    """``cifar`` for 32 x 32 images."""
    depth: tuple[int, int, int] | None = None
    """OSNet's blocks, such as 3 8 6; None: the name's."""
    projection: int | None = None
    """Of the other networks: outputs of a layer like OSNet's on top; None: the name's (0)."""
    smoothing: float = 0.0
    """Of the labels; the supplement speaks of none for classification."""
    dropout: float = 0.0
    """Before the classifier."""
    accumulation: int = 1
    """Parts into which each process splits its part of a batch, one after the other: for memory. The gradients are
    those of the whole batch but for BatchNorm, whose statistics are of the parts."""
    validation: int = 0
    """Images of train, classes in proportion, held out to pick the best epoch by; the same whatever the seed."""
    in_memory: bool = False
    """Decode a folder of small images of one size once, and keep it as bytes (on the GPU if there is one)."""
    packed_readers: int = 4
    """Processes (of each training process) that read packed photographs; the order depends on it. 0: none."""
    check_images: bool = True
    """Look at the beginning of every file first; takes minutes for a million."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low, high in (
            ("smoothing", 0, 0.99),
            ("dropout", 0, 0.99),
            ("accumulation", 1, 65536),
            ("validation", 0, 10**9),
            ("packed_readers", 0, 1024),
        ):
            self.check_range(name, low, high)

    def network_settings(self) -> dict[str, Any]:
        """With the stem; depth and projection where they are given."""
        given = {"depth": self.depth, "projection": self.projection}
        return {
            **super().network_settings(),
            "stem": self.stem,
            **{k: v for k, v in given.items() if v is not None},
        }

    @property
    def preprocessing(self) -> Preprocessing:
        """Of tests, and the sizes of training."""
        return Preprocessing(
            size_hw=self.size_hw,
            crop_from=self.crop_from,
            keep_aspect=self.keep_aspect,
            interpolation=self.interpolation,
        )

    def read(self, folders: Sequence[Path], combine_all: bool = False, work_dir: Path | None = None) -> PhotoDataset:
        """One source, as ``read_photos`` takes it; a folder of classes alone is trained on.

        Raises:
            DataError: there are several, or it cannot be read.
        """
        dataset = read_photos(one_folder(self, folders, combine_all, work_dir))
        if dataset.train is None and dataset.val is None:
            dataset = PhotoDataset(dataset.name, dataset.classes, train=dataset.test)
        return dataset.in_memory() if self.in_memory else dataset

    def plan(self, dataset: PhotoDataset) -> Plan:
        """The train part trains. The best epoch is picked on images held out of it, or on ``val`` where there is a
        ``test`` too; ImageNet's val is its test, and not looked at.

        Raises:
            DataError: a data set that cannot be trained on.
        """
        return ClassificationPlan(self, dataset)


class ClassificationPlan(Plan):
    """Every image once per epoch; validation is top-1."""

    metric = "top1"
    task: ClassificationTask

    def __init__(self, recipe: ClassificationRecipe, dataset: PhotoDataset) -> None:
        self.recipe = recipe
        self.preprocessing = recipe.preprocessing
        self.num_micro_batches = recipe.accumulation
        if dataset.train is None or not len(dataset.train) or len(dataset.classes) < 2:
            raise DataError(f"{dataset.name} has no training images of two classes or more")
        self.held: PhotoSet | None = dataset.val if dataset.test is not None else None
        if recipe.validation:
            dataset = dataset.hold_out(recipe.validation)
            self.held = dataset.val
        if self.held is not None:
            self.validated_on = "the held-out images" if recipe.validation else "the validation part"
        self.train: PhotoSet = dataset.train  # type: ignore[assignment]  # it is there, or was before it gave some away
        self.classes = dataset.classes
        if recipe.check_images:
            check_headers(path for part in (self.train, self.held) if isinstance(part, Photos) for path in part.paths)
        network = build_network(recipe)
        self.task = ClassificationTask(network, len(self.classes), self.preprocessing, recipe.smoothing, recipe.dropout)
        self.card = Card(
            network.config,
            preprocessing=self.preprocessing,
            training_data=dataset.name,
            classes=self.classes,
            licence="as the training data",
            source=f"recipe {recipe.name}",
        )

    def describe_data(self) -> dict[str, Any]:
        """Images and classes."""
        held = 0 if self.held is None else len(self.held)
        return {"images": len(self.train), "validation_images": held, "classes": len(self.classes)}

    def list_data(self) -> Iterator[tuple[Row, Path | None]]:
        """The classes; images that train; images that are held out."""
        yield ["classes", 0, "names", *self.classes], None
        yield from _list_photos("train", self.train)
        if self.held is not None:
            yield from _list_photos("validation", self.held)

    def make_epochs(self, rank: int, num_ranks: int, device: torch.device) -> Epochs:
        """By what holds the images."""
        recipe, train = self.recipe, self.train
        parts = num_ranks * recipe.accumulation
        if recipe.batch_size % parts:
            raise DataError(
                f"batch size {recipe.batch_size} must be a multiple of {num_ranks} processes x "
                f"{recipe.accumulation} accumulation steps"
            )
        pin = device.type == "cuda"
        if isinstance(train, PackedIndex):
            return PackedEpochs(
                train,
                recipe.batch_size // num_ranks,
                recipe.augmentation,
                self.preprocessing,
                recipe.seed,
                rank,
                num_ranks,
                recipe.packed_readers,
                pin,
            )
        sampler = self.make_sampler(rank, num_ranks)
        if isinstance(train, PhotoBytes):
            return ByteEpochs(train, recipe.augmentation, self.preprocessing, sampler, device)
        samples = PhotoSamples(train, recipe.augmentation, self.preprocessing, recipe.seed, as_bytes=True)
        return SampledEpochs(samples, sampler, pin)

    def make_sampler(self, rank: int, num_ranks: int) -> BatchSampler:
        """Random batches."""
        return RandomBatches(range(len(self.train)), self.recipe.batch_size, self.recipe.seed, rank, num_ranks)

    def save(self, task: ClassificationTask, folder: Path) -> None:
        """The network, and the classifier beside it."""
        save_weights(task.network, folder, self.card, task.classifier.state_dict())

    def score(self, task: ClassificationTask) -> dict[str, float]:
        """Top-1 and top-5 of the held-out images."""
        assert self.held is not None
        predictor = ClassPredictor(
            task.network,
            batch_size=MAX_SCORED_AT_ONCE,
            preprocessing=self.preprocessing,
            classifier=task.classifier,
            classes=self.classes,
        )
        return {f"top{k}": value for k, value in score_photos(predictor, self.held).top.items()}


def _list_photos(part: str, photos: PhotoSet) -> Iterator[tuple[Row, Path | None]]:
    """Files by path and class; packed ones by their shards; images in memory, which have no names, by their bytes."""
    if isinstance(photos, PackedIndex):
        yield from (([part, 0, shard.file, shard.num_images, shard.sha256], None) for shard in photos.shards)
    elif isinstance(photos, PhotoBytes):
        for number, (pixels, label) in enumerate(zip(photos.pixels.cpu(), photos.labels.tolist(), strict=True)):
            digest = hashlib.sha256(pixels.numpy()).hexdigest()
            yield [part, 0, f"image {number}", photos.classes[label], digest], None
    else:
        for name, path, label in zip(names_below(photos.paths), photos.paths, photos.labels, strict=True):
            yield [part, 0, name, photos.classes[label]], path
