"""Recipes for the paper's Table 5 (ablations) and Table 6 (widths and image sizes), on Market-1501."""

from dataclasses import replace

from osnet.recipes import reid_market1501 as market1501
from osnet.recipes.published_runs import Printed, Run, make_run
from osnet.recipes.reid_same_domain import FINETUNE, WIDTHS

TABLE5, TABLE6 = "paper, Table 5", "paper, Table 6"
READING = "not fully specified in the paper: our interpretation"
# By network: row of the table, description, rank-1 and mAP in percent, remark.
ROWS: dict[str, tuple[int, str, float, float, str]] = {
    "osnet_full_conv": (2, "full 3x3 convolutions", 94.0, 82.7, ""),
    "osnet_same_depth": (3, "four streams of one depth", 91.7, 77.9, READING),
    "osnet_concat": (4, "concatenation", 91.4, 77.4, READING),
    "osnet_add": (5, "addition", 92.0, 78.2, ""),
    "osnet_separate_gates": (6, "a gate for each stream", 92.9, 80.2, ""),
    "osnet_streamwise_gate": (7, "stream-wise gates", 92.6, 80.0, READING),
    "osnet_static_gates": (8, "learned-and-fixed gates", 91.6, 77.5, READING),
    "osnet_t1": (9, "a single scale", 86.5, 67.7, ""),
    "osnet_t2": (10, "two streams", 91.7, 77.0, ""),
    "osnet_t3": (11, "three streams", 92.8, 79.9, ""),
}
# Image sizes of SCORES. The size 256 x 128 is in reid_market1501.
SIZES_HW = ((192, 96), (128, 64), (64, 32))
# By width: rank-1 and mAP in percent, for each of SIZES_HW.
SCORES: dict[str, tuple[tuple[float, float], ...]] = {
    "x1_0": ((94.4, 83.7), (92.0, 80.3), (86.9, 67.3)),
    "x0_75": ((94.3, 82.4), (92.9, 79.5), (85.4, 65.5)),
    "x0_5": ((92.9, 80.8), (91.7, 78.5), (85.4, 66.0)),
    "x0_25": ((91.6, 76.1), (88.7, 71.8), (79.1, 56.0)),
}


def _table5() -> list[Run]:
    runs = []
    for model, (row, what, rank1, mean_ap, remark) in ROWS.items():
        name = f"market1501-{model.replace('_', '-')}-scratch"
        recipe = replace(market1501.market1501_osnet_x1_0_scratch(), name=name, model=model)
        printed = Printed(f"{TABLE5}, row {row}", "market1501", rank1, mean_ap, remark)
        source = "as for OSNet x1.0 from scratch (row 1)"
        runs.append(make_run(recipe, f"Ablation: {what}, from scratch.", ["market1501"], source, [printed]))
    return runs


def _table6() -> list[Run]:
    runs = []
    for suffix, scores in SCORES.items():
        for (height, width), (rank1, mean_ap) in zip(SIZES_HW, scores, strict=True):
            base = FINETUNE[suffix]()
            recipe = replace(base, name=f"{base.name}-{height}x{width}", size_hw=(height, width))
            printed = Printed(TABLE6, "market1501", rank1, mean_ap)
            source = f"as for {base.name}, at another resolution"
            title = f"OSNet {WIDTHS[suffix]} from ImageNet weights at {height} x {width}."
            runs.append(make_run(recipe, title, ["market1501"], source, [printed]))
    return runs


RUNS: list[Run] = [*_table5(), *_table6()]
