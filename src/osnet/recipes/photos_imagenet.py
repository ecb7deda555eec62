"""Recipes on ImageNet from the paper's supplement (section C, Table A), one for every network. We have not run them.

From the supplement: SGD, learning rate 0.4, batch 1024, weight decay 4e-5, 120 epochs, a random 224 x 224 crop of the
256 x 256 image, random flip, one centre crop in testing. The supplement leaves these details open, and we chose them:

- momentum 0.9, not Nesterov's
- a cosine schedule to 0, after 5 epochs of warm-up from a hundredth of the rate, because 0.4 at once can diverge
- the image is stretched to 256 x 256, the literal reading; ``--keep-aspect`` resizes the shorter side and crops
- weight decay of all parameters, no label smoothing, no dropout
- ImageNet's mean and standard deviation
"""

from collections.abc import Callable

from osnet.models.counting import TABLE_A
from osnet.photos.photo_augmentation import PhotoAugmentation
from osnet.tasks.classification import ClassificationRecipe
from osnet.training.recipe import Recipe

SOURCE = (
    "from the supplement, section C: SGD, learning rate 0.4, batch 1024, weight decay 4e-5, 120 epochs, random crop\n"
    "    of 256 x 256, random flip. Our choice: momentum 0.9, cosine after 5 epochs of warm-up, images stretched to\n"
    "    256 x 256."
)


def make_imagenet(model: str) -> ClassificationRecipe:
    """Make the supplement's recipe for the network named ``model``."""
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
    """Make a function that returns ``recipe`` and has a recipe's docstring: title, command, source and results."""

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
"""Recipes for ``TABLE_A`` (the table's networks and the single-scale baseline), and for OSNet x0.25."""
