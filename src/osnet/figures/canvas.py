"""Common style of all figures, and writing them as files or SVG elements. Needs the extra ``figures``."""

import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from osnet.errors import OutputError, require_extra
from osnet.files import check_writable, printable, written_aside

# Okabe and Ito's colours, distinguishable with colour blindness, on light and on dark backgrounds.
STYLES = (
    ("#0072b2", "-", "o"),
    ("#d55e00", "--", "s"),
    ("#009e73", "-.", "^"),
    ("#cc79a7", ":", "D"),
    ("#e69f00", "-", "v"),
)
GREY = "#888888"


def style_of(number: int) -> tuple[str, str, str]:
    """Colour, dash and marker of a curve: the first five are ``STYLES``; 25 differ in colour or marker."""
    other = STYLES[(number + number // len(STYLES)) % len(STYLES)]
    return STYLES[number % len(STYLES)][0], other[1], other[2]


INK = "#010203"
"""Placeholder colour, which ``as_svg`` replaces by the page's text colour."""
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
    """Escape text for matplotlib: ``$`` does not start a formula, and characters that cannot be drawn are escaped."""
    return printable(text).replace("$", r"\$")


def name_camera(camera: str) -> str:
    """A camera's name as a caption has it: ``camera 1``, but ``camera-1`` as it is."""
    return camera if camera.lower().startswith("cam") else f"camera {camera}"


def check_figure_path(path: str | Path, reads: Iterable[str | Path] = ()) -> None:
    """Check before any work that a figure can be written at ``path``.

    Args:
        path: the file to write.
        reads: images that are read meanwhile; ``path`` must be none of them.

    Raises:
        OutputError: the path does not end in .png, .pdf or .svg, is one of ``reads``, or cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    if Path(path).suffix.lower() not in FILE_TYPES:
        raise OutputError(f"{path} must end in one of {', '.join(FILE_TYPES)}")
    check_writable(path, reads)
    require_extra("matplotlib", "figures")


@contextmanager
def new_figure(size_in: tuple[float, float], layout: str | None = "constrained") -> Iterator[Any]:
    """An empty figure of (width, height) in inches. Needs no window system, keeps matplotlib's global state."""
    matplotlib = require_extra("matplotlib", "figures")
    module = require_extra("matplotlib.figure", "figures")
    with matplotlib.rc_context(SETTINGS):
        yield module.Figure(figsize=size_in, layout=layout)


@contextmanager
def new_axes(size_in: tuple[float, float]) -> Iterator[tuple[Any, Any]]:
    """A figure with one set of axes."""
    with new_figure(size_in) as figure:
        yield figure, figure.subplots()


def save_figure(figure: Any, path: str | Path) -> None:
    """Write PNG (200 dpi), PDF or SVG, by the file ending, on white. Equal figures give equal bytes.

    Raises:
        OutputError: the path has another ending or cannot be written.
    """
    check_figure_path(path)
    kind = Path(path).suffix.lower()[1:]
    metadata = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Creator": None, "Producer": None}}.get(
        kind, {"Date": None, "Creator": None}
    )
    with written_aside(path) as aside:
        figure.savefig(aside, format=kind, dpi=DPI, facecolor="white", metadata=metadata)


def as_svg(figure: Any, name: str) -> str:
    """The figure as an SVG element for a page: scalable, in the page's text colour. ``name`` prefixes all its ids."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    head, rest = svg[svg.index("<svg") :].split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)  # the viewBox stays, so the element fills its container
    prefix = re.sub(r"[^a-z0-9]+", "-", name.lower())
    rest = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{prefix}-", rest)  # ids must be unique within a page
    return f"{head}>{rest}".replace(INK, "currentColor")


class Sheet:
    """A figure whose parts are placed at fixed positions, in inches from the left and from the top."""

    def __init__(self, figure: Any) -> None:
        self.figure = figure
        self.width_in, self.height_in = (float(v) for v in figure.get_size_inches())

    def add_axes(self, x: float, y: float, width: float, height: float) -> Any:
        """Add axes with the upper left corner at (x, y)."""
        top = self.height_in - y - height
        return self.figure.add_axes(
            (x / self.width_in, top / self.height_in, width / self.width_in, height / self.height_in)
        )

    def add_image(self, pixels: Any, x: float, y: float, width: float, height: float) -> Any:
        """Add an image without axes, as large as fits, aligned to the top centre."""
        axes = self.add_axes(x, y, width, height)
        axes.imshow(pixels)
        axes.set_anchor("N")
        axes.set_axis_off()
        return axes

    def write(self, x: float, y: float, text: str, **style: Any) -> None:
        """Write text with its upper edge at ``y``; ``ha`` (matplotlib's) sets the meaning of ``x``."""
        style = {"va": "top", "fontsize": 7, "linespacing": 1.25, **style}
        self.figure.text(x / self.width_in, 1 - y / self.height_in, plain(text), **style)
