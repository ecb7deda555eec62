"""Recipes of `osnet demo --compare`, for generated people. Their results say nothing about accuracy on real people."""

from dataclasses import replace

from osnet.data.augmentation import Augmentation
from osnet.tasks.reid import ReidRecipe

_DEMO = ReidRecipe(
    name="demo-osnet-x0-25",
    model="osnet_x0_25",
    size_hw=(128, 64),
    epochs=14,
    batch_size=32,
    optimizer="adamw",
    lr=0.012,
    weight_decay=0.01,
    schedule="cosine",
    warmup_epochs=2,
    augmentation=Augmentation(crop=0.5, flip=0.5),
    distance="cosine",
)


def demo_osnet_x0_25() -> ReidRecipe:
    """OSNet x0.25 from scratch at 128 x 64; a few minutes on two cores. Not a recipe of the paper.

    Command: osnet train demo-osnet-x0-25 --data GENERATED --out RUN (`osnet demo --compare` runs it)
    Source: our choice. We trained both networks once with each learning rate 0.0015, 0.003, 0.006 and 0.012, on people
    generated with another seed than the comparison's. The mAP was 34, 42, 45, 50 % for OSNet and 39, 44, 49, 48 %
    for the single-scale baseline. Both use the rate with the best average.
    Expect: the scores in the comparison's report.
    """
    return _DEMO


def demo_osnet_t1_x0_25() -> ReidRecipe:
    """The single-scale baseline (T = 1) of the same width, trained in the same way.

    Command: osnet train demo-osnet-t1-x0-25 --data GENERATED --out RUN (`osnet demo --compare` runs it)
    Source: training as for OSNet; the baseline is from the paper, section 4.4.
    Expect: the scores in the comparison's report.
    """
    return replace(_DEMO, name="demo-osnet-t1-x0-25", model="osnet_t1", width=0.25)
