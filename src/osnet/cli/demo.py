"""osnet demo."""

from pathlib import Path

from osnet.cli.common import app, draw_progress
from osnet.demo import FULL, QUICK, run_demo, run_demo_on
from osnet.errors import DataError


@app.command
def demo(
    *,
    data: Path | None = None,
    weights: str | None = None,
    out: Path | None = None,
    quick: bool = False,
    device: str = "auto",
) -> None:
    """Generate people, train OSNet and its single-scale baseline, compare them, search, and write a report.

    It takes some minutes on two cores. After an interruption the same command resumes. With --data and --weights
    nothing is generated or trained: the weights are scored on the data, the gallery is indexed, and ranked lists are
    drawn.

    Args:
        data: a data set in Market-1501's layout, or with folders query and gallery.
        weights: a path, or a short name like osnet_x0_25_msmt17.
        out: a folder for the results; default: out/demo, or out/demo-quick with --quick.
        quick: use a tiny data set and train for under a minute, to see that everything works.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    if (data is None) != (weights is None):
        raise DataError("--data and --weights go together; give both, or neither to generate people and train")
    out = out or Path("out") / ("demo-quick" if quick else "demo")
    if data is None or weights is None:
        run_demo(out, QUICK if quick else FULL, device, draw_progress)
    else:
        run_demo_on(data, weights, out, device, draw_progress)
