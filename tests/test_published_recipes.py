"""Every value of every published recipe against a table written from the sources, not from the recipes.

Other tests check the augmentation. Sources, as named in the comments below:

- paper: Zhou et al., ICCV 2019. Label smoothing 0.1, 256 x 128, for all of its re-identification.
- issue N: of KaiyangZhou/deep-person-reid, where the author answers. 217: from scratch SGD, rate 0.065, 350 epochs,
  x0.1 at 150, 225 and 300, "according to your paper". 200: from ImageNet weights, the classifier alone for 10 epochs.
- configs: Torchreid's files of the released weights: AMSGrad, 0.0015, 150 epochs, x0.1 every 60, batch 64, weight decay
  5e-4, first beta 0.9; x0.5 and x0.25 with 0.003, 180, 80, 128; OSNet-AIN with 100 epochs and a cosine.
- zoo: Torchreid's MODEL_ZOO.md: 50 epochs for several data sets together.
- supplement: of the paper, sections B (PA-100K) and C (ImageNet).
- train.sh: the authors' code for PA-100K: batch 32, weight decay 5e-4, maximum pooling, weights of form A.
- WRN: Zagoruyko & Komodakis, BMVC 2016, section 3.
- ours: our own choice; the recipe's docstring says so.
"""

from dataclasses import asdict
from typing import Any

import pytest

from osnet.recipes import RECIPES
from osnet.tasks.reid import ReidRecipe

Values = dict[str, Any]

EVERY: Values = {
    "width": None, "pretrained": None, "size_hw": (256, 128), "milestones": (), "step_epochs": 60, "decay": 0.1,
    "warmup_epochs": 0, "frozen_epochs": 0, "backbone_lr_factor": 1.0, "ema": 0.0, "momentum": 0.9,
    "precision": "fp32", "sync_batchnorm": False, "seed": 1, "evaluate_every": 10, "weight_decay": 5e-4,
}  # fmt: skip
"""Size: paper. Momentum, weight decay: Torchreid's defaults and configs. No warm-up, no EMA, one rate: configs."""
SMOOTHED: Values = {
    "cross_entropy": 1.0, "smoothing": 0.1, "triplet": 0.0, "margin": 0.3, "soft_margin": False, "bnneck": False,
}  # fmt: skip
"""Paper; the margin, which only a triplet uses: Torchreid's default."""
REID: Values = EVERY | {"loss": SMOOTHED, "sampler": "random", "images_per_label": 4, "validation": 0.0,
    "distance": "euclidean",
}  # fmt: skip
"""Distance: Tables 3 to 6 and the zoo use Euclidean distance."""
SCRATCH = REID | {
    "optimizer": "sgd", "lr": 0.065, "epochs": 350, "schedule": "multi_step", "milestones": (150, 225, 300),
    "batch_size": 64,
}  # fmt: skip
"""Issue 217; batch: configs."""
FINETUNED = REID | {
    "pretrained": "imagenet", "optimizer": "amsgrad", "lr": 0.0015, "epochs": 150, "schedule": "step",
    "step_epochs": 60, "batch_size": 64, "frozen_epochs": 10,
}  # fmt: skip
"""Configs and issue 200."""
SMALL = FINETUNED | {"lr": 0.003, "epochs": 180, "step_epochs": 80, "batch_size": 128}
"""Configs, for x0.5 and x0.25."""
AIN = FINETUNED | {"epochs": 100, "schedule": "cosine", "distance": "cosine"}
"""Configs, which use cosine distance."""
SEVERAL = AIN | {"epochs": 50}
"""Zoo."""
VIPER = FINETUNED | {"pretrained": "msmt17", "epochs": 60, "step_epochs": 20}
"""Ours."""
STRONG = FINETUNED | {
    "frozen_epochs": 0, "epochs": 120, "optimizer": "adamw", "lr": 0.001, "weight_decay": 0.01, "schedule": "cosine",
    "warmup_epochs": 10, "sampler": "identity", "ema": 0.999, "loss": SMOOTHED | {"triplet": 1.0, "bnneck": True},
    "distance": "cosine",
}  # fmt: skip
"""Ours, after Luo et al., CVPRW 2019: BNNeck, margin 0.3, 10 epochs of warm-up, 16 people x 4 images."""
DEMO = REID | {
    "size_hw": (128, 64), "epochs": 14, "batch_size": 32, "optimizer": "adamw", "lr": 0.012, "weight_decay": 0.01,
    "schedule": "cosine", "warmup_epochs": 2, "distance": "cosine",
}  # fmt: skip
"""Ours."""
PA100K = EVERY | {
    "optimizer": "sgd", "lr": 0.065, "epochs": 50, "schedule": "multi_step", "milestones": (30, 40), "batch_size": 32,
    "evaluate_every": 1, "loss": {"form": "per_attribute"}, "pooling": "max", "skip_mismatches": False,
}  # fmt: skip
"""Supplement, B; batch, decay, pooling, form: train.sh."""
BOTH = EVERY | {
    "pretrained": "imagenet", "optimizer": "amsgrad", "lr": 0.0015, "epochs": 60, "schedule": "step",
    "step_epochs": 30, "batch_size": 64, "evaluate_every": 1, "loss": {"form": "per_attribute"},
    "mix": {"cross_entropy": 1.0, "smoothing": 0.1, "attributes": 1.0}, "pooling": "avg", "sampler": "random",
    "images_per_label": 16, "skip_mismatches": False,
}  # fmt: skip
"""Ours; optimiser and rate: configs."""
BOTH_SMALL = BOTH | {
    "pretrained": None, "size_hw": (128, 64), "epochs": 20, "batch_size": 32, "optimizer": "adamw", "lr": 0.006,
    "weight_decay": 0.01, "schedule": "cosine", "warmup_epochs": 2, "step_epochs": 60,
}  # fmt: skip
"""Ours."""
CLASSES: Values = EVERY | {
    "optimizer": "sgd", "keep_aspect": False, "interpolation": "bilinear", "depth": None, "projection": None,
    "smoothing": 0.0, "dropout": 0.0, "accumulation": 1, "validation": 0, "packed_readers": 4, "check_images": True,
}  # fmt: skip
IMAGENET = CLASSES | {
    "lr": 0.4, "batch_size": 1024, "weight_decay": 4e-5, "epochs": 120, "size_hw": (224, 224), "crop_from": (256, 256),
    "schedule": "cosine", "warmup_epochs": 5, "stem": "imagenet", "in_memory": False,
}  # fmt: skip
"""Supplement, C; schedule, warm-up, momentum: ours."""
CIFAR = CLASSES | {
    "lr": 0.1, "batch_size": 128, "epochs": 200, "schedule": "multi_step", "milestones": (60, 120, 160), "decay": 0.2,
    "size_hw": (32, 32), "crop_from": None, "stem": "cifar", "in_memory": True,
}  # fmt: skip
"""WRN; the stem: ours."""

TABLE: dict[str, tuple[Values, str]] = {}
"""Name -> values and network."""


def rows(values: Values, *names: str, **more: Any) -> None:
    """Add rows from texts ``RECIPE NETWORK``, with the values that differ in ``more``."""
    for text in names:
        name, _, network = text.partition(" ")
        TABLE[name] = (values | more, network)


WIDTHS = ("x1_0", "x0_75", "x0_5", "x0_25")
for width in WIDTHS:
    slug, network = width.replace("_", "-"), f"osnet_{width}"
    finetuned = SMALL if width in ("x0_5", "x0_25") else FINETUNED
    rows(SCRATCH, f"market1501-osnet-{slug}-scratch {network}")
    for data in ("market1501", "dukemtmcreid", "msmt17"):
        rows(finetuned, f"{data}-osnet-{slug}-zoo {network}")
        if data == "market1501" or width == "x1_0":  # the paper has the other widths only on Market-1501
            rows(finetuned, f"{data}-osnet-{slug} {network}")
    for size in ((192, 96), (128, 64), (64, 32)):
        rows(finetuned, f"market1501-osnet-{slug}-{size[0]}x{size[1]} {network}", size_hw=size)
    # The released files' names state rate, epochs and batch size: 0.0015, 150 and 64 for every width.
    rows(FINETUNED, f"msmt17-combineall-osnet-{slug} {network}")
    rows(PA100K, f"pa100k-osnet-{slug} {network}")
    rows(IMAGENET, f"imagenet-osnet-{slug} {network}")
    rows(CIFAR, f"cifar10-osnet-{slug} {network}", f"cifar100-osnet-{slug} {network}")
for data in ("cuhk03", "dukemtmcreid", "msmt17"):
    rows(SCRATCH, f"{data}-osnet-x1-0-scratch osnet_x1_0")
rows(FINETUNED, "cuhk03-osnet-x1-0 osnet_x1_0")
for network in (
    "osnet_full_conv", "osnet_same_depth", "osnet_concat", "osnet_add", "osnet_separate_gates",
    "osnet_streamwise_gate", "osnet_static_gates", "osnet_t1", "osnet_t2", "osnet_t3",
):  # fmt: skip
    rows(SCRATCH, f"market1501-{network.replace('_', '-')}-scratch {network}")
rows(VIPER, "viper-osnet-x1-0 osnet_x1_0", "grid-osnet-x1-0 osnet_x1_0")
for data in ("market1501", "dukemtmcreid", "msmt17-combineall"):
    rows(FINETUNED, f"{data}-osnet-ibn-x1-0 osnet_ibn_x1_0")
rows(AIN, "market1501-osnet-ain-x1-0 osnet_ain_x1_0", "dukemtmcreid-osnet-ain-x1-0 osnet_ain_x1_0")
rows(SEVERAL, "msmt17-combineall-osnet-ain-x1-0 osnet_ain_x1_0")
for target in ("market1501", "dukemtmcreid", "cuhk03", "msmt17"):
    for kind in ("", "_ibn", "_ain"):
        rows(SEVERAL, f"multi-source-osnet{kind.replace('_', '-')}-x1-0-to-{target} osnet{kind}_x1_0")
rows(STRONG, "market1501-osnet-x1-0-strong osnet_x1_0")
rows(DEMO, "demo-osnet-x0-25 osnet_x0_25")
rows(DEMO, "demo-osnet-t1-x0-25 osnet_t1", width=0.25)
rows(BOTH, "both-osnet-x1-0 osnet_x1_0")
rows(BOTH_SMALL, "both-osnet-x0-25 osnet_x0_25")
for network in (
    "squeezenet1_0", "mobilenetv1_x0_5", "mobilenetv1_x0_75", "mobilenetv1_x1_0", "shufflenet_x1_0_g8",
    "shufflenet_x1_5_g3", "shufflenet_x2_0_g3", "mobilenetv2_x1_0", "mobilenetv2_x1_4", "osnet_t1",
):  # fmt: skip
    rows(IMAGENET, f"imagenet-{network.replace('_', '-')} {network}")
for data in ("cifar10", "cifar100"):
    for name, network in {
        "osnet-t1": "osnet_t1", "osnet-add": "osnet_add", "osnet-g4-all": "osnet_x1_0_g4_all",
        "mobilenetv2-x1-0": "mobilenetv2_x1_0", "mobilenetv1-x1-0": "mobilenetv1_x1_0",
        "shufflenet-x1-0-g3": "shufflenet_x1_0_g3", "squeezenet1-0": "squeezenet1_0",
    }.items():  # fmt: skip
        rows(CIFAR, f"{data}-{name} {network}")
    rows(CIFAR, f"{data}-osnet-3-8-6 osnet_x1_0", depth=(3, 8, 6))


def test_the_table_has_every_recipe() -> None:
    assert sorted(TABLE) == sorted(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_every_value_matches_its_source(name: str) -> None:
    values, model = TABLE[name]
    got = asdict(RECIPES[name]())
    got.pop("augmentation")
    assert got == values | {"name": name, "model": model}


def test_reid_recipe_defaults_are_the_fine_tuning_values() -> None:
    """Those of the released weights."""
    got = asdict(ReidRecipe("custom"))
    got.pop("augmentation")
    assert got == FINETUNED | {"name": "custom", "model": "osnet_x1_0", "pretrained": None, "frozen_epochs": 0}
