"""osnet demo."""

from pathlib import Path

from osnet.cli.common import app, draw_progress
from osnet.demo import FULL, QUICK, comparison, run_demo
from osnet.errors import DataError


@app.command
def demo(
    *,
    out: Path | None = None,
    quick: bool = False,
    compare: bool = False,
    data: Path | None = None,
    weights: str | None = None,
    device: str = "auto",
) -> None:
    """Paint footage of several cameras, find the people in it, search for them by image, and write a page.

    It takes under three minutes on two cores and needs no data. With --compare it generates people instead, trains
    OSNet and its single-scale baseline, and writes a report; that takes some minutes more. With --data and --weights it
    scores the weights on the data, indexes the gallery, and draws ranked lists. After an interruption the same command
    resumes.

    Args:
        out: a folder for the results; default: out/demo, out/demo-quick, out/comparison or out/comparison-quick.
        quick: use very little data, to see in under a minute that everything works.
        compare: train and compare two networks instead.
        data: a data set in Market-1501's layout, or with folders query and gallery.
        weights: a path, or a short name like osnet_x0_25_msmt17.
        device: auto, cpu, cuda, cuda:1, mps; for --compare and --data.
    """
    if (data is None) != (weights is None):
        raise DataError("--data and --weights go together; give both or neither")
    if compare and data is not None:
        raise DataError("--compare trains on generated people; leave out --data and --weights")
    out = out or Path("out") / (("comparison" if compare else "demo") + ("-quick" if quick else ""))
    if data is not None and weights is not None:
        comparison.run_demo_on(data, weights, out, device, draw_progress)
    elif compare:
        size = comparison.QUICK if quick else comparison.FULL
        comparison.run_comparison(out, size, device, draw_progress)
    else:
        run_demo(out, QUICK if quick else FULL, draw_progress)
