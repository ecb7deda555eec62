"""Recipes that are trained and tested on one benchmark: the paper's Tables 3 and 4, and Torchreid's model zoo."""

from dataclasses import replace

from osnet.recipes import reid_market1501 as market1501
from osnet.recipes.published_runs import Printed, Run, make_run
from osnet.tasks.reid import ReidRecipe

TABLE3, TABLE4, ZOO = "paper, Table 3", "paper, Table 4", "Torchreid's model zoo"
UNCONFIRMED = "quoted from memory, unconfirmed"
NAMES = {"cuhk03": "CUHK03, 767/700, detected", "dukemtmcreid": "DukeMTMC-reID", "msmt17": "MSMT17"}
WIDTHS = {"x1_0": "x1.0", "x0_75": "x0.75", "x0_5": "x0.5", "x0_25": "x0.25"}
SOURCE = (
    "the values of the Market-1501 recipe of this width; the paper and Torchreid's configs use them for all benchmarks"
)
FINETUNE = {
    "x1_0": market1501.market1501_osnet_x1_0,
    "x0_75": market1501.market1501_osnet_x0_75,
    "x0_5": market1501.market1501_osnet_x0_5,
    "x0_25": market1501.market1501_osnet_x0_25,
}
ZOO_FINETUNE = {
    "x1_0": market1501.market1501_osnet_x1_0_zoo,
    "x0_75": market1501.market1501_osnet_x0_75_zoo,
    "x0_5": market1501.market1501_osnet_x0_5_zoo,
    "x0_25": market1501.market1501_osnet_x0_25_zoo,
}
# (rank-1, mAP) in percent, by benchmark and width.
ZOO_SCORES = {
    "dukemtmcreid": {"x1_0": (87.0, 70.2), "x0_75": (85.8, 69.8), "x0_5": (85.1, 67.4), "x0_25": (82.0, 61.4)},
    "msmt17": {"x1_0": (74.9, 43.8), "x0_75": (72.8, 41.4), "x0_5": (69.7, 37.5), "x0_25": (61.4, 29.5)},
}
PAPER_SCRATCH = {
    "cuhk03": Printed(TABLE3, "cuhk03", 57.1, 54.2, "read in Torchreid issues 279 and 318"),
    "dukemtmcreid": Printed(TABLE3, "dukemtmcreid", 84.7, 68.6, UNCONFIRMED),
    "msmt17": Printed(TABLE3, "msmt17", 71.0, 43.3, f"{UNCONFIRMED}; issue 279 writes 43.4"),
}
PAPER_FINETUNED = {
    "cuhk03": Printed(TABLE3, "cuhk03", 72.3, 67.8, "read in Torchreid issue 279"),
    "dukemtmcreid": Printed(TABLE3, "dukemtmcreid", 88.6, 73.5, UNCONFIRMED),
    "msmt17": Printed(TABLE3, "msmt17", 78.7, 52.9, "read in Torchreid issue 279"),
}


def _short(benchmark: str, suffix: str) -> str:
    return f"{benchmark}-osnet-{suffix.replace('_', '-')}"


def _same_domain() -> list[Run]:
    runs = []
    for benchmark, title in NAMES.items():
        scratch = replace(market1501.market1501_osnet_x1_0_scratch(), name=f"{_short(benchmark, 'x1_0')}-scratch")
        runs.append(
            make_run(scratch, f"OSNet x1.0 from scratch on {title}.", [benchmark], SOURCE, [PAPER_SCRATCH[benchmark]])
        )
        for suffix, width in WIDTHS.items():
            about = f"OSNet {width} from ImageNet weights on {title}"
            if suffix == "x1_0":
                recipe = replace(FINETUNE[suffix](), name=_short(benchmark, suffix))
                runs.append(make_run(recipe, f"{about}.", [benchmark], SOURCE, [PAPER_FINETUNED[benchmark]]))
            if scores := ZOO_SCORES.get(benchmark, {}).get(suffix):
                recipe = replace(ZOO_FINETUNE[suffix](), name=f"{_short(benchmark, suffix)}-zoo")
                about = f"{about}, as the model zoo's weights were trained."
                runs.append(make_run(recipe, about, [benchmark], SOURCE, [Printed(ZOO, benchmark, *scores)]))
    return runs


def _small_sets() -> list[Run]:
    """VIPeR and GRID, fine-tuned from a network that was trained on larger re-identification data."""
    start: ReidRecipe = replace(market1501.market1501_osnet_x1_0(), pretrained="msmt17", epochs=60, step_epochs=20)
    source = (
        "the paper fine-tunes a network trained on large re-identification data sets; we could not find out which sets "
        "and how many epochs (Torchreid issue 329). MSMT17 weights and 60 epochs are our choice"
    )
    scores = {"viper": ("VIPeR", 68.0, 56.6), "grid": ("GRID", 38.2, 24.8)}
    remark = "mean over all splits; a user got {} (Torchreid issue 329)"
    return [
        make_run(
            replace(start, name=_short(name, "x1_0")),
            f"OSNet x1.0 on {title}, one of its splits.",
            [name],
            source,
            [Printed(TABLE4, name, rank1, None, remark.format(users))],
        )
        for name, (title, rank1, users) in scores.items()
    ]


RUNS: list[Run] = [*_same_domain(), *_small_sets()]
