"""Recipes for attributes on PA-100K, and for attributes and identities together. We have not run them in full."""

from collections.abc import Callable
from dataclasses import replace

from osnet.data.augmentation import Augmentation
from osnet.tasks.attribute_task import AttributeRecipe
from osnet.tasks.joint import JointRecipe
from osnet.training.recipe import Recipe

_AUTHORS = AttributeRecipe(
    name="pa100k-osnet-x1-0",
    epochs=50,
    batch_size=32,
    optimizer="sgd",
    lr=0.065,
    schedule="multi_step",
    milestones=(30, 40),
    augmentation=Augmentation(crop=0.5, flip=0.5),
)


def pa100k_osnet_x1_0() -> AttributeRecipe:
    """OSNet x1.0 on PA-100K from scratch, as in the paper's supplement.

    Command: osnet train pa100k-osnet-x1-0 --data pa100k --out RUN
    Source: from the supplement, section B: SGD, momentum 0.9, learning rate 0.065, 50 epochs, x0.1 at epochs 30 and 40,
    random translation and flip. From the authors' code: batch 32, weight decay 5e-4, 256 x 128, maximum pooling, loss
    weights exp(-p). Two differences: we choose the best epoch on the validation part, their code on the test part; we
    count the share of positives p in the labels, their code loads all images for it.
    Expect: mA 74.6, accuracy 76.0, precision 88.3, recall 82.5, F1 85.3 (paper, Table 7; quoted from memory,
    unconfirmed).
    """
    return _AUTHORS


def pa100k_osnet_x0_75() -> AttributeRecipe:
    """OSNet x0.75 on PA-100K from scratch.

    Command: osnet train pa100k-osnet-x0-75 --data pa100k --out RUN
    Source: the values of x1.0; the supplement has that width only.
    Expect: not published.
    """
    return replace(_AUTHORS, name="pa100k-osnet-x0-75", model="osnet_x0_75")


def pa100k_osnet_x0_5() -> AttributeRecipe:
    """OSNet x0.5 on PA-100K from scratch.

    Command: osnet train pa100k-osnet-x0-5 --data pa100k --out RUN
    Source: the values of x1.0; the supplement has that width only.
    Expect: not published.
    """
    return replace(_AUTHORS, name="pa100k-osnet-x0-5", model="osnet_x0_5")


def pa100k_osnet_x0_25() -> AttributeRecipe:
    """OSNet x0.25 on PA-100K from scratch.

    Command: osnet train pa100k-osnet-x0-25 --data pa100k --out RUN
    Source: the values of x1.0; the supplement has that width only.
    Expect: not published.
    """
    return replace(_AUTHORS, name="pa100k-osnet-x0-25", model="osnet_x0_25")


def both_osnet_x1_0() -> JointRecipe:
    """OSNet x1.0 with heads for identities and attributes, for data with either label or both.

    Command: osnet train both-osnet-x1-0 --data Market-1501-v15.09.15 pa100k --out RUN
    Source: our choice: the optimiser of the released re-identification weights, learning rate 0.0015, ImageNet weights,
    average pooling, and weight 1 for both losses.
    Expect: unknown.
    """
    return JointRecipe(
        name="both-osnet-x1-0", pretrained="imagenet", epochs=60, step_epochs=30, augmentation=Augmentation(flip=0.5)
    )


def both_osnet_x0_25() -> JointRecipe:
    """OSNet x0.25 with heads for identities and attributes, from scratch.

    Command: osnet train both-osnet-x0-25 --data GENERATED --out RUN
    Source: our choice; the learning rate and schedule are similar to the demo's.
    Expect: unknown.
    """
    return JointRecipe(
        name="both-osnet-x0-25",
        model="osnet_x0_25",
        size_hw=(128, 64),
        epochs=20,
        batch_size=32,
        optimizer="adamw",
        lr=0.006,
        weight_decay=0.01,
        schedule="cosine",
        warmup_epochs=2,
        augmentation=Augmentation(crop=0.5, flip=0.5),
    )


RUNS: tuple[Callable[[], Recipe], ...] = (
    pa100k_osnet_x1_0,
    pa100k_osnet_x0_75,
    pa100k_osnet_x0_5,
    pa100k_osnet_x0_25,
    both_osnet_x1_0,
    both_osnet_x0_25,
)
"""All recipes of this file."""
