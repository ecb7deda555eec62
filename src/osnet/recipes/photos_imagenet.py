"""The supplement's runs on ImageNet (section C, Table A): one recipe for every network. None has been run here.

What the supplement says: SGD, rate 0.4, batch 1024, weight decay 4e-5, 120 epochs, a random 224 x 224 crop of the
256 x 256 image, mirroring; one centre crop in testing. What it leaves open, and we chose: momentum 0.9 (plain, not
Nesterov's); the rate falls along a cosine to 0, after 5 epochs in which it grows from a hundredth, since 0.4 at once
can diverge; "the 256 x 256 image" is the picture squashed to that size, which is the literal reading
(``--keep-aspect`` resizes the shorter side and cuts instead); weight decay holds for all parameters; no label smoothing
and no dropout; ImageNet's mean and deviation of colours.
"""

from collections.abc import Callable

from osnet.models.counting import TABLE_A
from osnet.photos.photo_augmentation import PhotoAugmentation
from osnet.tasks.classification import ClassificationRecipe
from osnet.training.recipe import Recipe

SOURCE = (
    "SGD, rate 0.4, batch 1024, weight decay 4e-5, 120 epochs, random crop of 256 x 256, mirroring: the supplement,\n"
    "    section C. Ours: momentum 0.9, cosine after 5 epochs of warm-up, squashed rather than cut to 256 x 256."
)


def make_imagenet(model: str) -> ClassificationRecipe:
    """The supplement's recipe for a network by its name."""
    return ClassificationRecipe(
        name=f"imagenet-{model.replace('_', '-')}",
        model=model,
        size_hw=(224, 224),
        crop_from=(256, 256),
        epochs=120,
        batch_size=1024,
        optimizer="sgd",
        lr=0.4,
        weight_decay=4e-5,
        momentum=0.9,
        schedule="cosine",
        warmup_epochs=5,
        augmentation=PhotoAugmentation(window="cut", flip=0.5),
    )


def as_command(
    recipe: ClassificationRecipe, title: str, data: str, source: str, expect: str
) -> Callable[[], ClassificationRecipe]:
    """A function that returns ``recipe``, with the docstring that every recipe has."""

    def make() -> ClassificationRecipe:
        return recipe

    make.__name__ = make.__qualname__ = recipe.name.replace("-", "_")
    command = f"osnet train {recipe.name} --data {data} --out RUN"
    make.__doc__ = f"{title}\n\n    Command: {command}\n    Source: {source}\n    Expect: {expect}.\n    "
    return make


def _runs() -> tuple[Callable[[], Recipe], ...]:
    rows = {row.model: (row.label, row.top1) for row in TABLE_A}
    rows["osnet_x0_25"] = ("OSNet x0.25", None)
    runs = []
    for model, (label, top1) in rows.items():
        expect = "not published" if top1 is None else f"top-1 {top1} (supplement, Table A)"
        runs.append(as_command(make_imagenet(model), f"{label} on ImageNet.", "IMAGENET", SOURCE, expect))
    return tuple(runs)


RUNS = _runs()
"""Table A's rows, the single-scale baseline, and OSNet x0.25, which the table has not."""
