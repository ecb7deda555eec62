"""How every figure of ours looks, and how it becomes a file or a piece of a page. Needs the extra ``figures``."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from osnet.errors import OutputError, require_extra
from osnet.files import check_writable, printable, written_aside

# Okabe and Ito's colours, which people with colour blindness can tell apart; they hold on white and on near-black.
STYLES = (
    ("#0072b2", "-", "o"),
    ("#d55e00", "--", "s"),
    ("#009e73", "-.", "^"),
    ("#cc79a7", ":", "D"),
    ("#e69f00", "-", "v"),
)
GREY = "#888888"
INK = "#010203"
"""Drawn in this colour, then replaced by the page's own."""
SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "osnet",
    "pdf.fonttype": 42,
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.35,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GREY,
}
FILE_TYPES = (".png", ".pdf", ".svg")
DPI = 200


def plain(text: str) -> str:
    """A user's name as text for matplotlib: no formula between ``$``, escapes for what cannot be drawn."""
    return printable(text).replace("$", r"\$")


def check_figure_path(path: str | Path) -> None:
    """Fail before any work if no figure can be written at ``path``.

    Raises:
        OutputError: an ending other than .png, .pdf, .svg, or no place to write.
        MissingExtraError: without matplotlib.
    """
    if Path(path).suffix.lower() not in FILE_TYPES:
        raise OutputError(f"{path} must end in {', '.join(FILE_TYPES)}")
    check_writable(path)
    require_extra("matplotlib", "figures")


@contextmanager
def new_figure(size_in: tuple[float, float], layout: str | None = "constrained") -> Iterator[Any]:
    """An empty figure, width and height in inches; no window system and no global state of matplotlib's are touched."""
    matplotlib = require_extra("matplotlib", "figures")
    module = require_extra("matplotlib.figure", "figures")
    with matplotlib.rc_context(SETTINGS):
        yield module.Figure(figsize=size_in, layout=layout)


@contextmanager
def new_axes(size_in: tuple[float, float]) -> Iterator[tuple[Any, Any]]:
    """A figure with one pair of axes."""
    with new_figure(size_in) as figure:
        yield figure, figure.subplots()


def save_figure(figure: Any, path: str | Path) -> None:
    """PNG (200 dots per inch), PDF or SVG by the ending, on white; the same figure gives the same bytes.

    Raises:
        OutputError: another ending, or it cannot be written.
    """
    check_figure_path(path)
    kind = Path(path).suffix.lower()[1:]
    metadata = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Creator": None, "Producer": None}}.get(
        kind, {"Date": None, "Creator": None}
    )
    with written_aside(path) as aside:
        figure.savefig(aside, format=kind, dpi=DPI, facecolor="white", metadata=metadata)


def as_svg(figure: Any, name: str) -> str:
    """The SVG element alone, scalable, without date, in the page's text colour; ``name`` is in all its ids."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    head, rest = svg[svg.index("<svg") :].split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)  # the viewBox stays: it fills what it is put into
    prefix = re.sub(r"[^a-z0-9]+", "-", name.lower())
    rest = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{prefix}-", rest)  # ids must differ within a page
    return f"{head}>{rest}".replace(INK, "currentColor")


class Sheet:
    """A figure whose parts are placed in inches from the left and from the top: nothing moves, nothing overlaps."""

    def __init__(self, figure: Any) -> None:
        self.figure = figure
        self.width_in, self.height_in = (float(v) for v in figure.get_size_inches())

    def add_axes(self, x: float, y: float, width: float, height: float) -> Any:
        """Axes whose left upper corner is at (x, y)."""
        top = self.height_in - y - height
        return self.figure.add_axes(
            (x / self.width_in, top / self.height_in, width / self.width_in, height / self.height_in)
        )

    def add_image(self, pixels: Any, x: float, y: float, width: float, height: float) -> Any:
        """A picture without axes, as large as fits, centred, at the top of its place."""
        axes = self.add_axes(x, y, width, height)
        axes.imshow(pixels)
        axes.set_anchor("N")
        axes.set_axis_off()
        return axes

    def write(self, x: float, y: float, text: str, **style: Any) -> None:
        """Text whose upper edge is at y; ``ha`` says what x is."""
        style = {"va": "top", "fontsize": 7, "linespacing": 1.25, **style}
        self.figure.text(x / self.width_in, 1 - y / self.height_in, plain(text), **style)
