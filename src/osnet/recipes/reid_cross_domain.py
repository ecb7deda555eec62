"""Runs that are searched on another benchmark than they were trained on: the model zoo's."""

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

# All images of MSMT17 -> Market-1501, DukeMTMC-reID
FROM_MSMT17: dict[str, tuple[Scores, Scores]] = {
    "osnet_x1_0": ((66.6, 37.5), (66.0, 45.3)),
    "osnet_x0_75": ((63.6, 35.5), (65.3, 44.5)),
    "osnet_x0_5": ((64.3, 34.9), (65.2, 43.3)),
    "osnet_x0_25": ((59.9, 31.0), (61.5, 39.6)),
    "osnet_ibn_x1_0": ((66.5, 37.2), (67.4, 45.6)),
    "osnet_ain_x1_0": ((70.1, 43.3), (71.1, 52.7)),
}
# Three benchmarks -> the fourth, in this order: Market-1501, DukeMTMC-reID, CUHK03, MSMT17
TARGETS = (MARKET, DUKE, CUHK, MSMT)
MULTI_SOURCE: dict[str, tuple[Scores, Scores, Scores, Scores]] = {
    "osnet_x1_0": ((72.5, 44.2), (65.2, 47.0), (23.9, 23.3), (33.2, 12.6)),
    "osnet_ibn_x1_0": ((73.0, 44.9), (64.6, 45.7), (25.7, 25.4), (39.8, 16.2)),
    "osnet_ain_x1_0": ((73.3, 45.8), (65.6, 47.2), (27.4, 27.1), (40.2, 16.2)),
}


def market1501_osnet_ibn_x1_0() -> ReidRecipe:
    """OSNet-IBN x1.0 from ImageNet weights, for use on other cameras than it was trained on.

    Command: osnet train market1501-osnet-ibn-x1-0 --data market1501=DATA --out RUN
    Source: OSNet x1.0's values with colour jitter: Torchreid's config.
    Expect: 48.5 / 26.7 on dukemtmcreid (Torchreid's model zoo).
    """
    base = market1501.market1501_osnet_x1_0()
    return replace(base, name="market1501-osnet-ibn-x1-0", model="osnet_ibn_x1_0", augmentation=JITTERED)


def _base(model: str) -> ReidRecipe:
    """The recipe that the zoo used for a network on other cameras."""
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
            f"{model} from ImageNet weights on DukeMTMC-reID, for use on other cameras.",
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
        source = "the names of the released files, which hold rate, epochs, batch and augmentation"
        title = f"{model} from ImageNet weights on all of MSMT17, for use on other cameras."
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
            title = f"{model} from ImageNet weights on {', '.join(sources)} together, searched on {target}."
            source = "the zoo: the AIN recipe with 50 epochs, cosine distance; whether all images train is not said"
            runs.append(make_run(recipe, title, sources, source, [Printed(ZOO, target, *values)]))
    return runs


RUNS: list[Run] = [
    Run(market1501_osnet_ibn_x1_0, (MARKET,), (Printed(ZOO, DUKE, 48.5, 26.7),)),
    *_duke_to_market(),
    *_from_msmt17(),
    *_multi_source(),
]
