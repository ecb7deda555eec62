"""The report: one HTML file that needs no network and no server. Needs the extra ``figures``."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from PIL import Image

from osnet.comparison import METRICS, Comparison
from osnet.data.loading import read_image
from osnet.errors import ImageError, require_extra
from osnet.figures.curves import Line, draw_intervals, draw_lines
from osnet.figures.ranks import RankedList
from osnet.files import written_aside
from osnet.types import Hit

THUMB_WH = (64, 128)


@dataclass(frozen=True)
class ShownQuery:
    """One query with what each entrant found for it."""

    title: str
    lists: Mapping[str, RankedList]
    """By entrant; all have the same query."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """What to say of a wrong hit, by its identity: ``alike but for the logo``."""


@dataclass(frozen=True)
class Report:
    """What a report says, from top to bottom."""

    title: str
    caution: str
    """What the numbers do not show; stands above them."""
    findings: Sequence[str]
    """Sentences; the first things that are read."""
    comparison: Comparison
    queries: Sequence[ShownQuery] = ()
    losses: Mapping[str, Line] = field(default_factory=dict)
    """Training curves: epoch and loss."""
    sheet: Sequence[Sequence[Path]] = ()
    """Rows of images to look at: one person a row."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """How it was made: name and value."""


def write_report(report: Report, path: str | Path) -> None:
    """Write the page, all or nothing.

    Every text is escaped. Images are put in as JPEG thumbnails; one that cannot be read any more leaves a
    cell that says so.

    Raises:
        MissingExtraError: without matplotlib or Jinja.
        OutputError: it cannot be written.
    """
    page = render_report(report)
    with written_aside(path) as aside:
        aside.write_text(page, encoding="utf-8")


def render_report(report: Report) -> str:
    """The page as text."""
    jinja2 = require_extra("jinja2", "figures")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                                     lstrip_blocks=True)  # fmt: skip
    source = resources.files("osnet.figures").joinpath("report.html").read_text(encoding="utf-8")
    everything = report.comparison.groups[0]
    ranks = list(range(1, 1 + len(next(iter(everything.cmc.values())))))
    names = report.comparison.entrants
    curves = {name: Line(ranks, cmc) for name, cmc in everything.cmc.items()}
    y_label = "queries with a right match by then"
    figures = {"cmc": draw_lines(curves, "rank", y_label, names=names, percent=True, whole_x=True)}
    if report.losses:
        figures["losses"] = draw_lines(report.losses, "epoch", "training loss", names=names, whole_x=True)
    differences = [(g, d) for g in report.comparison.groups for d in g.differences if d.metric == "mAP"]
    forests = {}
    for first, second in dict.fromkeys((d.first, d.second) for _, d in differences):
        rows = {g.name: d.interval for g, d in differences if (d.first, d.second) == (first, second)}
        forests[f"{first} minus {second}"] = draw_intervals(rows, f"mAP of {first} minus {second}, points")
    thumbs = _Thumbs()
    return str(
        environment.from_string(source).render(
            report=report, metrics=METRICS, figures=figures, forests=forests, differences=differences,
            queries=[_show(query, thumbs) for query in report.queries],
            sheet=[[thumbs.of(image) for image in row] for row in report.sheet],
        )
    )  # fmt: skip


@dataclass(frozen=True)
class _Cell:
    image: str
    """A data URI, or empty."""
    name: str
    verdict: str
    """``same``, ``other`` or empty."""
    lines: Sequence[str]


def _show(query: ShownQuery, thumbs: "_Thumbs") -> dict[str, object]:
    first = next(iter(query.lists.values()))
    cell = _Cell(thumbs.of(first.query), first.query.name, "", [f"person {first.identity}" if first.identity else ""])
    rows = {
        name: [_judge(ranked, hit, query.notes, thumbs) for hit in ranked.hits] for name, ranked in query.lists.items()
    }
    return {"title": query.title, "query": cell, "rows": rows}


def _judge(ranked: RankedList, hit: Hit, notes: Mapping[str, str], thumbs: "_Thumbs") -> _Cell:
    verdict = "" if ranked.identity is None else "same" if hit.item.identity == ranked.identity else "other"
    lines = [f"{hit.rank}.  {hit.score:.3f}", f"person {hit.item.identity or 'unknown'}"]
    if hit.item.camera:
        lines.append(f"camera {hit.item.camera}")
    if verdict == "other" and hit.item.identity is not None and hit.item.identity in notes:
        lines.append(notes[hit.item.identity])
    return _Cell(thumbs.of(Path(hit.item.source)), Path(hit.item.source).name, verdict, lines)


class _Thumbs:
    """Data URIs of images, each made once."""

    def __init__(self) -> None:
        self._made: dict[Path, str] = {}

    def of(self, path: Path) -> str:
        """A JPEG of 64 x 128 pixels; empty if the image cannot be read."""
        if path not in self._made:
            self._made[path] = _as_data_uri(path)
        return self._made[path]


def _as_data_uri(path: Path) -> str:
    try:
        image = read_image(path)
    except ImageError:
        return ""
    file = io.BytesIO()
    image.resize(THUMB_WH, Image.Resampling.LANCZOS).save(file, format="JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
