"""Recipes of Torchreid's model zoo that are trained on some benchmarks and tested on another."""

from dataclasses import replace

from osnet.data.augmentation import Augmentation
from osnet.recipes import reid_market1501 as market1501
from osnet.recipes.published_runs import Printed, Run, make_run
from osnet.recipes.reid_same_domain import FINETUNE
from osnet.tasks.reid import ReidRecipe

ZOO = "Torchreid's model zoo"
MARKET, DUKE, MSMT, CUHK = "market1501", "dukemtmcreid", "msmt17", "cuhk03"
JITTERED = Augmentation(flip=0.5, jitter=1.0)
Scores = tuple[float, float]

# Trained on all images of MSMT17: (rank-1, mAP) in percent on Market-1501 and on DukeMTMC-reID.
FROM_MSMT17: dict[str, tuple[Scores, Scores]] = {
    "osnet_x1_0": ((66.6, 37.5), (66.0, 45.3)),
    "osnet_x0_75": ((63.6, 35.5), (65.3, 44.5)),
    "osnet_x0_5": ((64.3, 34.9), (65.2, 43.3)),
    "osnet_x0_25": ((59.9, 31.0), (61.5, 39.6)),
    "osnet_ibn_x1_0": ((66.5, 37.2), (67.4, 45.6)),
    "osnet_ain_x1_0": ((70.1, 43.3), (71.1, 52.7)),
}
# Trained on three of the four benchmarks: (rank-1, mAP) in percent on the fourth, for each of TARGETS.
TARGETS = (MARKET, DUKE, CUHK, MSMT)
MULTI_SOURCE: dict[str, tuple[Scores, Scores, Scores, Scores]] = {
    "osnet_x1_0": ((72.5, 44.2), (65.2, 47.0), (23.9, 23.3), (33.2, 12.6)),
    "osnet_ibn_x1_0": ((73.0, 44.9), (64.6, 45.7), (25.7, 25.4), (39.8, 16.2)),
    "osnet_ain_x1_0": ((73.3, 45.8), (65.6, 47.2), (27.4, 27.1), (40.2, 16.2)),
}


def market1501_osnet_ibn_x1_0() -> ReidRecipe:
    """OSNet-IBN x1.0 from ImageNet weights, for use on cameras of other data sets.

    Command: osnet train market1501-osnet-ibn-x1-0 --data market1501=DATA --out RUN
    Source: Torchreid's config: the values of OSNet x1.0, with colour jitter.
    Expect: 48.5 / 26.7 on dukemtmcreid (Torchreid's model zoo).
    """
    base = market1501.market1501_osnet_x1_0()
    return replace(base, name="market1501-osnet-ibn-x1-0", model="osnet_ibn_x1_0", augmentation=JITTERED)


def _base(model: str) -> ReidRecipe:
    """The recipe on Market-1501 from which the zoo's recipe for ``model`` differs in a few values."""
    if model == "osnet_ain_x1_0":
        return market1501.market1501_osnet_ain_x1_0()
    if model == "osnet_ibn_x1_0":
        return market1501_osnet_ibn_x1_0()
    return replace(FINETUNE[model.removeprefix("osnet_")](), augmentation=JITTERED)


def _slug(model: str) -> str:
    return model.replace("_", "-")


def _duke_to_market() -> list[Run]:
    scores = {"osnet_ibn_x1_0": (57.7, 26.1), "osnet_ain_x1_0": (61.0, 30.6)}
    return [
        make_run(
            replace(_base(model), name=f"dukemtmcreid-{_slug(model)}"),
            f"{model} from ImageNet weights on DukeMTMC-reID, for use on cameras of other data sets.",
            [DUKE],
            "Torchreid's config",
            [Printed(ZOO, MARKET, *values)],
        )
        for model, values in scores.items()
    ]


def _from_msmt17() -> list[Run]:
    runs = []
    for model, (market, duke) in FROM_MSMT17.items():
        epochs = (
            {"epochs": 50}
            if model == "osnet_ain_x1_0"
            else {"epochs": 150, "step_epochs": 60, "lr": 0.0015, "batch_size": 64}
        )
        recipe = replace(_base(model), name=f"msmt17-combineall-{_slug(model)}", **epochs)
        printed = [Printed(ZOO, MARKET, *market), Printed(ZOO, DUKE, *duke)]
        source = "the names of the released files, which give learning rate, epochs, batch size and augmentation"
        title = f"{model} from ImageNet weights on all images of MSMT17, for use on cameras of other data sets."
        runs.append(make_run(recipe, title, [MSMT], source, printed, combine_all=True))
    return runs


def _multi_source() -> list[Run]:
    runs = []
    for model, scores in MULTI_SOURCE.items():
        for target, values in zip(TARGETS, scores, strict=True):
            sources = [name for name in TARGETS if name != target]
            recipe = replace(
                market1501.market1501_osnet_ain_x1_0(),
                name=f"multi-source-{_slug(model)}-to-{target}",
                model=model,
                epochs=50,
            )
            title = f"{model} from ImageNet weights on {', '.join(sources)} together, tested on {target}."
            source = (
                "the model zoo: the AIN recipe with 50 epochs, cosine distance. It does not say whether query and "
                "gallery images were used for training"
            )
            runs.append(make_run(recipe, title, sources, source, [Printed(ZOO, target, *values)]))
    return runs


RUNS: list[Run] = [
    Run(market1501_osnet_ibn_x1_0, (MARKET,), (Printed(ZOO, DUKE, 48.5, 26.7),)),
    *_duke_to_market(),
    *_from_msmt17(),
    *_multi_source(),
]
