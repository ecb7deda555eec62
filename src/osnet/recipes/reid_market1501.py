"""Recipes on Market-1501. "Expect" gives published rank-1 / mAP in percent; we have not run them in full.

Augmentation follows the paper: random flip, crop and patch from scratch; random flip and erasing from ImageNet weights.
The code of several public repositories quotes this paragraph, and the author confirms it in Torchreid issues 221 and
257. The model zoo's weights were trained with random flip only, according to the names of their files.
"""

from dataclasses import replace
from typing import Any

from osnet.data.augmentation import Augmentation
from osnet.tasks.reid import ReidLoss, ReidRecipe

_SCRATCH = ReidRecipe(
    name="market1501-osnet-x1-0-scratch",
    epochs=350,
    optimizer="sgd",
    lr=0.065,
    schedule="multi_step",
    milestones=(150, 225, 300),
    augmentation=Augmentation(crop=0.5, flip=0.5, patch=0.5),
)
FLIP = Augmentation(flip=0.5)
"""Augmentation of the weights in Torchreid's model zoo."""
_FINETUNE = ReidRecipe(
    name="market1501-osnet-x1-0",
    pretrained="imagenet",
    frozen_epochs=10,
    augmentation=Augmentation(flip=0.5, erase=0.5),
)
_SMALL: dict[str, Any] = {"lr": 0.003, "epochs": 180, "step_epochs": 80, "batch_size": 128}
"""Values of Torchreid's config for the widths x0.5 and x0.25."""


def market1501_osnet_x1_0_scratch() -> ReidRecipe:
    """OSNet x1.0 from scratch.

    Command: osnet train market1501-osnet-x1-0-scratch --data Market-1501-v15.09.15 --out RUN
    Source: learning rate 0.065, 350 epochs, x0.1 at epochs 150, 225 and 300 are from Torchreid issue 217, "according to
    your paper". SGD's momentum 0.9 is Torchreid's default. Batch 64 and weight decay 5e-4 are from its configs. Label
    smoothing 0.1 is from the paper. Random flip, crop and patch are from the paper as public code quotes it, and from
    the author in issue 221 (in issue 217 he advised crop and erasing). Their probability 0.5 is Torchreid's default.
    Expect: 93.6 / 81.0 (paper, Table 5, row 1). Users got 92.0 / 77.6 and 93.7 / 80.6 (issue 274).
    """
    return _SCRATCH


def market1501_osnet_x0_75_scratch() -> ReidRecipe:
    """OSNet x0.75 from scratch.

    Command: osnet train market1501-osnet-x0-75-scratch --data Market-1501-v15.09.15 --out RUN
    Source: the values of x1.0; the paper trains this width from ImageNet weights only.
    Expect: not published.
    """
    return replace(_SCRATCH, name="market1501-osnet-x0-75-scratch", model="osnet_x0_75")


def market1501_osnet_x0_5_scratch() -> ReidRecipe:
    """OSNet x0.5 from scratch.

    Command: osnet train market1501-osnet-x0-5-scratch --data Market-1501-v15.09.15 --out RUN
    Source: the values of x1.0; the paper trains this width from ImageNet weights only.
    Expect: not published.
    """
    return replace(_SCRATCH, name="market1501-osnet-x0-5-scratch", model="osnet_x0_5")


def market1501_osnet_x0_25_scratch() -> ReidRecipe:
    """OSNet x0.25 from scratch.

    Command: osnet train market1501-osnet-x0-25-scratch --data Market-1501-v15.09.15 --out RUN
    Source: the values of x1.0; the paper trains this width from ImageNet weights only.
    Expect: not published.
    """
    return replace(_SCRATCH, name="market1501-osnet-x0-25-scratch", model="osnet_x0_25")


def market1501_osnet_x1_0() -> ReidRecipe:
    """OSNet x1.0 from ImageNet weights.

    Command: osnet train market1501-osnet-x1-0 --data Market-1501-v15.09.15 --out RUN
    Source: from Torchreid's config of the released weights and issue 200: AMSGrad, learning rate 0.0015, 150 epochs,
    x0.1 every 60 epochs, batch 64, weight decay 5e-4, the classifier alone in the first 10 epochs. Random flip and
    erasing are from the paper as public code quotes it, and from the author in issue 257. The probability 0.5 of
    erasing is Torchreid's default.
    Expect: 94.8 / 84.9 (paper, Table 6).
    """
    return _FINETUNE


def market1501_osnet_x0_75() -> ReidRecipe:
    """OSNet x0.75 from ImageNet weights.

    Command: osnet train market1501-osnet-x0-75 --data Market-1501-v15.09.15 --out RUN
    Source: Torchreid's config, with the same values as for x1.0.
    Expect: 94.5 / 84.1 (paper, Table 6).
    """
    return replace(_FINETUNE, name="market1501-osnet-x0-75", model="osnet_x0_75")


def market1501_osnet_x0_5() -> ReidRecipe:
    """OSNet x0.5 from ImageNet weights.

    Command: osnet train market1501-osnet-x0-5 --data Market-1501-v15.09.15 --out RUN
    Source: as for x1.0; from Torchreid's config for the two small widths: learning rate 0.003, 180 epochs, x0.1 every
    80 epochs, batch 128.
    Expect: 93.4 / 82.6 (paper, Table 6).
    """
    return replace(_FINETUNE, name="market1501-osnet-x0-5", model="osnet_x0_5", **_SMALL)


def market1501_osnet_x0_25() -> ReidRecipe:
    """OSNet x0.25 from ImageNet weights.

    Command: osnet train market1501-osnet-x0-25 --data Market-1501-v15.09.15 --out RUN
    Source: as for x0.5.
    Expect: 92.2 / 77.8 (paper, Table 6).
    """
    return replace(market1501_osnet_x0_5(), name="market1501-osnet-x0-25", model="osnet_x0_25")


def market1501_osnet_x1_0_zoo() -> ReidRecipe:
    """OSNet x1.0 from ImageNet weights, as the model zoo's weights were trained.

    Command: osnet train market1501-osnet-x1-0-zoo --data Market-1501-v15.09.15 --out RUN
    Source: as market1501-osnet-x1-0, but random flip only (Torchreid's config, and the name of the released file).
    Expect: 94.2 / 82.6 (Torchreid's model zoo).
    """
    return replace(_FINETUNE, name="market1501-osnet-x1-0-zoo", augmentation=FLIP)


def market1501_osnet_x0_75_zoo() -> ReidRecipe:
    """OSNet x0.75 from ImageNet weights, as the model zoo's weights were trained.

    Command: osnet train market1501-osnet-x0-75-zoo --data Market-1501-v15.09.15 --out RUN
    Source: as for x1.0.
    Expect: 93.7 / 81.2 (Torchreid's model zoo).
    """
    return replace(market1501_osnet_x1_0_zoo(), name="market1501-osnet-x0-75-zoo", model="osnet_x0_75")


def market1501_osnet_x0_5_zoo() -> ReidRecipe:
    """OSNet x0.5 from ImageNet weights, as the model zoo's weights were trained.

    Command: osnet train market1501-osnet-x0-5-zoo --data Market-1501-v15.09.15 --out RUN
    Source: as market1501-osnet-x0-5, but random flip only.
    Expect: 92.5 / 79.8 (Torchreid's model zoo).
    """
    return replace(market1501_osnet_x1_0_zoo(), name="market1501-osnet-x0-5-zoo", model="osnet_x0_5", **_SMALL)


def market1501_osnet_x0_25_zoo() -> ReidRecipe:
    """OSNet x0.25 from ImageNet weights, as the model zoo's weights were trained.

    Command: osnet train market1501-osnet-x0-25-zoo --data Market-1501-v15.09.15 --out RUN
    Source: as for x0.5.
    Expect: 91.2 / 75.0 (Torchreid's model zoo).
    """
    return replace(market1501_osnet_x0_5_zoo(), name="market1501-osnet-x0-25-zoo", model="osnet_x0_25")


def market1501_osnet_ain_x1_0() -> ReidRecipe:
    """OSNet-AIN x1.0 from ImageNet weights, for use on cameras of other data sets.

    Command: osnet train market1501-osnet-ain-x1-0 --data Market-1501-v15.09.15 --out RUN
    Source: Torchreid's config: learning rate 0.0015, 100 epochs, cosine schedule, batch 64, the classifier alone in the
    first 10 epochs, random flip and colour jitter, cosine distance.
    Expect: 52.4 / 30.5 when tested on DukeMTMC-reID (Torchreid's model zoo).
    """
    return replace(
        _FINETUNE,
        name="market1501-osnet-ain-x1-0",
        model="osnet_ain_x1_0",
        epochs=100,
        schedule="cosine",
        augmentation=Augmentation(flip=0.5, jitter=1.0),
        distance="cosine",
    )


def market1501_osnet_x1_0_strong() -> ReidRecipe:
    """OSNet x1.0 with a stronger, more recent recipe. Not a recipe of the paper.

    Command: osnet train market1501-osnet-x1-0-strong --data Market-1501-v15.09.15 --out RUN
    Source: from Luo et al., "Bag of Tricks", CVPRW 2019: BNNeck, cross-entropy + triplet loss (margin 0.3), 10 epochs
    of warm-up, random crop and erasing, 16 identities x 4 images. AdamW and the cosine schedule are our choice.
    Expect: unknown; a user of fast-reid reports 94.71 / 85.64 for OSNet with a similar recipe (its issue 154).
    """
    return replace(
        _FINETUNE,
        name="market1501-osnet-x1-0-strong",
        frozen_epochs=0,
        epochs=120,
        optimizer="adamw",
        lr=0.001,
        weight_decay=0.01,
        schedule="cosine",
        warmup_epochs=10,
        sampler="identity",
        loss=ReidLoss(triplet=1.0, bnneck=True),
        augmentation=Augmentation(crop=0.5, flip=0.5, erase=0.5),
        ema=0.999,
        distance="cosine",
    )
