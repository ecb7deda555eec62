"""Recipes on CIFAR-10 and CIFAR-100: OSNet at two depths and four widths, ablations of OSNet, and other networks.

The paper refers to He et al. and Zagoruyko & Komodakis for its training on CIFAR; we could not check its table again.
The recipes use the values that the latter published (Wide Residual Networks, BMVC 2016, section 3): SGD with momentum
0.9, batch 128, learning rate 0.1, times 0.2 at epochs 60, 120 and 160 of 200, weight decay 5e-4, a random window after
padding by 4 pixels, random flip. Three things differ: our momentum is not Nesterov's, we normalise with ImageNet's mean
and standard deviation, not those of the data set, and the 3x3 stem is our choice.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from osnet.photos.photo_augmentation import PhotoAugmentation
from osnet.recipes.photos_imagenet import as_command
from osnet.tasks.classification import ClassificationRecipe
from osnet.training.recipe import Recipe

SOURCE = "Zagoruyko & Komodakis, BMVC 2016, to whom the paper refers. Our choice: the 3x3 stem, plain momentum"
WITHOUT = "the network is our choice, for comparison"
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "osnet-x1-0": ("OSNet x1.0, 2-2-2 (78 layers)", {"model": "osnet_x1_0"}),
    "osnet-3-8-6": ("OSNet x1.0, 3-8-6 (210 layers)", {"model": "osnet_x1_0", "depth": (3, 8, 6)}),
    "osnet-x0-75": ("OSNet x0.75", {"model": "osnet_x0_75"}),
    "osnet-x0-5": ("OSNet x0.5", {"model": "osnet_x0_5"}),
    "osnet-x0-25": ("OSNet x0.25", {"model": "osnet_x0_25"}),
    "osnet-t1": ("The single-scale baseline (T=1)", {"model": "osnet_t1"}),
    "osnet-add": ("OSNet with addition instead of gates", {"model": "osnet_add"}),
    "osnet-g4-all": ("OSNet with 4 groups in all pointwise convolutions", {"model": "osnet_x1_0_g4_all"}),
    "mobilenetv2-x1-0": ("MobileNetV2 x1.0", {"model": "mobilenetv2_x1_0"}),
    "mobilenetv1-x1-0": ("MobileNetV1 x1.0", {"model": "mobilenetv1_x1_0"}),
    "shufflenet-x1-0-g3": ("ShuffleNet x1.0 (3 groups)", {"model": "shufflenet_x1_0_g3"}),
    "squeezenet1-0": ("SqueezeNet 1.0", {"model": "squeezenet1_0"}),
}
"""Title and changed fields (relative to OSNet x1.0) of each network, by the recipe's name without the data set."""
ERRORS = {
    ("cifar10", "osnet-x1-0"): 4.41,
    ("cifar100", "osnet-x1-0"): 19.21,
    ("cifar10", "osnet-3-8-6"): 4.18,
    ("cifar100", "osnet-3-8-6"): 18.88,
}
"""The paper's error rates in percent by data set and network, quoted from memory."""


def make_cifar(data: str, network: str) -> ClassificationRecipe:
    """Make the recipe for a network of ``NETWORKS`` on ``cifar10`` or ``cifar100``."""
    recipe = ClassificationRecipe(
        name=f"{data}-{network}",
        size_hw=(32, 32),
        stem="cifar",
        epochs=200,
        batch_size=128,
        optimizer="sgd",
        lr=0.1,
        weight_decay=5e-4,
        momentum=0.9,
        schedule="multi_step",
        milestones=(60, 120, 160),
        decay=0.2,
        in_memory=True,
        augmentation=PhotoAugmentation(window="padded", flip=0.5, pad=4),
    )
    return replace(recipe, **NETWORKS[network][1])


def _runs() -> tuple[Callable[[], Recipe], ...]:
    runs = []
    for data, title, archive in (
        ("cifar10", "CIFAR-10", "cifar-10-binary.tar.gz"),
        ("cifar100", "CIFAR-100", "cifar-100-binary.tar.gz"),
    ):
        for network, (label, _) in NETWORKS.items():
            error = ERRORS.get((data, network))
            expect = (
                "not published"
                if error is None
                else (
                    f"an error of {error} %, top-1 {100 - error:.2f} (the paper's table of CIFAR, quoted from memory, "
                    "unconfirmed)"
                )
            )
            source = SOURCE if network.startswith("osnet-x") or network == "osnet-3-8-6" else f"{SOURCE}; {WITHOUT}"
            runs.append(as_command(make_cifar(data, network), f"{label} on {title}.", archive, source, expect))
    return tuple(runs)


RUNS = _runs()
"""A recipe for each network on each of the two data sets."""
