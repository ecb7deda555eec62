"""Training for image classification: a classifier on top of the embedding (supplement of the paper, section C).

Shapes: B batch size, C number of classes, D embedding size.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
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
from osnet.photos.shards import PackedIndex, PackedPhotos
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
        network: maps images to embeddings.
        num_classes: number of classes, C.
        preprocessing: mean and standard deviation that normalise uint8 images.
        smoothing: label smoothing, from 0 to less than 1.
        dropout: probability of dropout before the classifier.
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
        """Compute ``loss`` and ``accuracy`` of ``image`` (B, 3, H, W), uint8 or normalised float, with ``label`` (B,).

        The loss is a mean over images, so the loss of a batch is the mean of the losses of equal parts.
        """
        images, labels = batch["image"], batch["label"]
        if images.dtype == torch.uint8:
            images = normalize(to_fractions(images), self.preprocessing)
        logits = self.classifier(self.dropout(embed(self.network, images, frozen)))
        total, _ = smoothed_cross_entropy_sum(logits, labels, self.smoothing)
        return {"loss": total / len(labels), "accuracy": (logits.detach().argmax(1) == labels).float().mean()}


@dataclass(frozen=True)
class ClassificationRecipe(Recipe):
    """Settings of a training run for image classification. All fields can be changed on the command line.

    With gradient accumulation the gradients stay those of the whole batch, except that BatchNorm uses the statistics of
    each part.

    Raises:
        ModelError: a value is outside its range, or values contradict each other.
    """

    size_hw: tuple[int, int] = (224, 224)
    """Height and width of the network's input, in pixels."""
    augmentation: PhotoAugmentation = field(default_factory=PhotoAugmentation)
    """Augmentation of training images."""
    crop_from: tuple[int, int] | None = None
    """Height and width before ``size_hw`` is cropped (training: at random, test: centre); None: no crop."""
    keep_aspect: bool = False
    """Keep the aspect ratio: resize the image until it just covers ``crop_from``, instead of stretching it."""
    interpolation: Interpolation = "bilinear"
    """Interpolation when images are resized."""
    stem: Stem = "imagenet"
    """First layers of the network; ``cifar`` suits images of 32 x 32 pixels."""
    depth: tuple[int, int, int] | None = None
    """Number of blocks in OSNet's three stages, such as 3 8 6; None: those of the named network."""
    projection: int | None = None
    """Output size of an additional layer like OSNet's, for the other networks; None: that of the named network (0)."""
    smoothing: float = 0.0
    """Label smoothing. The paper's supplement mentions none for classification."""
    dropout: float = 0.0
    """Probability of dropout before the classifier."""
    accumulation: int = 1
    """Parts of a batch that a process computes one after the other, to save memory (gradient accumulation)."""
    validation: int = 0
    """Training images held out to choose the best epoch, in proportion to the classes; independent of the seed."""
    in_memory: bool = False
    """Decode a folder of small images of one size once, and keep the pixels in memory (of the GPU if there is one)."""
    packed_readers: int = 4
    """Processes that read packed images, per training process; the order depends on it. 0: none."""
    check_images: bool = True
    """Read the header of every file before training; takes minutes for a million files."""

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
        """Fields of the network's config that this recipe changes: the stem, and depth and projection if given."""
        given = {"depth": self.depth, "projection": self.projection}
        return {
            **super().network_settings(),
            "stem": self.stem,
            **{k: v for k, v in given.items() if v is not None},
        }

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing that the weights' card will have."""
        return Preprocessing(
            size_hw=self.size_hw,
            crop_from=self.crop_from,
            keep_aspect=self.keep_aspect,
            interpolation=self.interpolation,
        )

    def read(self, folders: Sequence[Path], combine_all: bool = False, work_dir: Path | None = None) -> PhotoDataset:
        """Read one data set with ``read_photos``. A folder that contains classes directly is used for training.

        Raises:
            DataError: there is not exactly one folder, or it cannot be read.
        """
        dataset = read_photos(one_folder(self, folders, combine_all, work_dir))
        if dataset.train is None and dataset.val is None:
            dataset = PhotoDataset(dataset.name, dataset.classes, train=dataset.test)
        return dataset.in_memory() if self.in_memory else dataset

    def plan(self, dataset: PhotoDataset) -> Plan:
        """Prepare training on the train part.

        The best epoch is chosen on held-out training images if ``validation`` is set, otherwise on ``val`` if the data
        set also has a ``test`` part. ImageNet's val serves as its test part and is not used.

        Raises:
            DataError: there are no training images, or fewer than two classes.
            ImageError: a file is not a readable image.
        """
        return ClassificationPlan(self, dataset)


class ClassificationPlan(Plan):
    """Training for classification. Every image is used once per epoch. Validation is the top-1 accuracy."""

    metric = "top1"
    task: ClassificationTask

    def __init__(self, recipe: ClassificationRecipe, dataset: PhotoDataset) -> None:
        self.recipe = recipe
        self.preprocessing = recipe.preprocessing
        self.num_micro_batches = recipe.accumulation
        if dataset.train is None or not len(dataset.train) or len(dataset.classes) < 2:
            num_train = 0 if dataset.train is None else len(dataset.train)
            raise DataError(
                f"{dataset.name} has {num_train} training images of {len(dataset.classes)} classes; training needs "
                "images of at least two classes"
            )
        self.validation_set: PhotoSet | None = dataset.val if dataset.test is not None else None
        if recipe.validation:
            dataset = dataset.hold_out(recipe.validation)
            self.validation_set = dataset.val
        if self.validation_set is not None:
            self.validated_on = "the held-out images" if recipe.validation else "the validation part"
        self.train: PhotoSet = dataset.train  # type: ignore[assignment]  # checked above; hold_out keeps it
        self.classes = dataset.classes
        if recipe.check_images:
            parts = (self.train, self.validation_set)
            check_headers(path for part in parts if isinstance(part, Photos) for path in part.paths)
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
        """Numbers of images, validation images and classes."""
        num_validation = 0 if self.validation_set is None else len(self.validation_set)
        return {"images": len(self.train), "validation_images": num_validation, "classes": len(self.classes)}

    def list_data(self) -> Iterator[tuple[Row, Path | None]]:
        """Rows of the class names, of the training images and of the validation images."""
        yield ["classes", 0, "names", *self.classes], None
        yield from _list_photos("train", self.train)
        if self.validation_set is not None:
            yield from _list_photos("validation", self.validation_set)

    def make_epochs(self, rank: int, num_ranks: int, device: torch.device) -> Epochs:
        """Make the batches of one process from packed files, from memory or from image files.

        Raises:
            DataError: the batch size is not a multiple of the processes times the accumulation steps, or the data
                cannot be loaded with these settings.
        """
        recipe, train = self.recipe, self.train
        parts = num_ranks * recipe.accumulation
        if recipe.batch_size % parts:
            raise DataError(
                f"batch size {recipe.batch_size} must be a multiple of {num_ranks} processes x "
                f"{recipe.accumulation} accumulation steps"
            )
        pin = device.type == "cuda"
        if isinstance(train, PackedIndex):
            photos = partial(
                PackedPhotos,
                train,
                recipe.batch_size // num_ranks,
                recipe.augmentation,
                self.preprocessing,
                recipe.seed,
                rank=rank,
                num_ranks=num_ranks,
                num_workers=recipe.packed_readers,
                as_bytes=True,
            )
            return PackedEpochs(photos, pin)
        sampler = self.make_sampler(rank, num_ranks)
        if isinstance(train, PhotoBytes):
            return ByteEpochs(train, recipe.augmentation, self.preprocessing, sampler, device)
        samples = PhotoSamples(train, recipe.augmentation, self.preprocessing, recipe.seed, as_bytes=True)
        return SampledEpochs(samples, sampler, pin)

    def make_sampler(self, rank: int, num_ranks: int) -> BatchSampler:
        """Make a sampler of random batches."""
        return RandomBatches(range(len(self.train)), self.recipe.batch_size, self.recipe.seed, rank, num_ranks)

    def save(self, task: ClassificationTask, folder: Path) -> None:
        """Save the network with its classifier."""
        save_weights(task.network, folder, self.card, task.classifier.state_dict())

    def score(self, task: ClassificationTask) -> dict[str, float]:
        """``top1`` and, with more than five classes, ``top5`` accuracy on the validation images."""
        assert self.validation_set is not None
        predictor = ClassPredictor(
            task.network,
            batch_size=MAX_SCORED_AT_ONCE,
            preprocessing=self.preprocessing,
            classifier=task.classifier,
            classes=self.classes,
        )
        return {f"top{k}": value for k, value in score_photos(predictor, self.validation_set).top.items()}


def _list_photos(part: str, photos: PhotoSet) -> Iterator[tuple[Row, Path | None]]:
    """Rows of images: path and class of files, digests of packed shards, digests of the pixels of images in memory."""
    if isinstance(photos, PackedIndex):
        yield from (([part, 0, shard.file, shard.num_images, shard.sha256], None) for shard in photos.shards)
    elif isinstance(photos, PhotoBytes):
        for index, (pixels, label) in enumerate(zip(photos.pixels.cpu(), photos.labels.tolist(), strict=True)):
            digest = hashlib.sha256(pixels.numpy()).hexdigest()
            yield [part, 0, f"image {index}", photos.classes[label], digest], None
    else:
        for name, path, label in zip(names_below(photos.paths), photos.paths, photos.labels, strict=True):
            yield [part, 0, name, photos.classes[label]], path
