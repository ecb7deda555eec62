"""The report: one HTML file that needs no network, no server and no script. Needs the extra ``figures``."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from osnet.data.loading import read_image
from osnet.errors import ImageError, require_extra
from osnet.evaluation.comparison import METRICS, Comparison
from osnet.figures.activation import SeenMap, lay_over
from osnet.figures.curves import Line, draw_intervals, draw_lines, draw_scores, make_precision_recall, make_roc
from osnet.figures.embeddings import COLOURS
from osnet.figures.match import MatchMaps, lay_parts_over
from osnet.files import written_aside
from osnet.metrics.pair_scores import PairCurves
from osnet.types import Crop, Hit, RankedList

THUMB_WH = (64, 128)
MAX_ROWS = 1000
"""Of the table of single queries; the worst come first, so these are the ones that stay."""


@dataclass(frozen=True)
class Look:
    """What a network saw in one ranked list."""

    maps: Sequence[tuple[Path, SeenMap]]
    """The query and the first hits, with their activation maps."""
    match: MatchMaps | None = None
    """Why the first hit was one, and what set it apart from the next person."""
    hit: Path | None = None
    """The first hit."""


@dataclass(frozen=True)
class ShownQuery:
    """One query with what each entrant found for it."""

    title: str
    lists: Mapping[str, RankedList]
    """By entrant; all have the same query."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """What to say of a wrong hit, by its identity: ``alike but for the logo``."""
    looks: Mapping[str, Look] = field(default_factory=dict)
    """By entrant."""


@dataclass(frozen=True)
class ShownFailures:
    """Queries that failed in one way."""

    name: str
    about: str
    total: int
    """How many there are."""
    queries: Sequence[ShownQuery]
    """Those that are shown: the worst."""


@dataclass(frozen=True)
class EmbeddingMap:
    """Images at their places."""

    places: NDArray[np.float64]
    """(N, 2) in [0, 1]."""
    crops: Sequence[Crop]
    about: str


@dataclass(frozen=True)
class QueryRow:
    """One query in the table of all."""

    name: str
    ap: float
    """Fraction; NaN without a match."""
    first_rank: float
    """Of the first right match."""
    found: str
    """Who the first hit shows."""
    score: float


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
    pairs: Mapping[str, PairCurves] = field(default_factory=dict)
    """By entrant: scores of pairs, and precision by recall."""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """By entrant of ``pairs``."""
    threshold_about: str = ""
    """Where the thresholds come from."""
    failures: Sequence[ShownFailures] = ()
    failures_about: str = ""
    cameras: Mapping[tuple[str, str], tuple[float, int]] = field(default_factory=dict)
    """By query's and other camera: rank-1 there alone, and over how many queries."""
    embedding_map: EmbeddingMap | None = None
    rows: Sequence[QueryRow] = ()
    """Every query, the worst first."""
    cards: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By entrant, what its weights' card says: name and value."""
    recipes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By entrant, the recipe it was trained by."""


def write_report(report: Report, path: str | Path) -> None:
    """Write the page, all or nothing.

    Every text is escaped. Images are put in as JPEG thumbnails, each once; one that cannot be read any more leaves a
    cell that says so.

    Raises:
        MissingExtraError: without matplotlib or Jinja.
        OutputError: it cannot be written.
    """
    page = render_report(report)
    with written_aside(path) as aside:
        aside.write_text(page, encoding="utf-8", errors="backslashreplace")  # names may be no UTF-8


def render_report(report: Report) -> str:
    """The page as text."""
    jinja2 = require_extra("jinja2", "figures")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files("osnet.figures").joinpath("report.html").read_text(encoding="utf-8")
    differences = [(g, d) for g in report.comparison.groups for d in g.differences if d.metric == "mAP"]
    forests = {}
    for first, second in dict.fromkeys((d.first, d.second) for _, d in differences):
        rows = {g.name: d.interval for g, d in differences if (d.first, d.second) == (first, second)}
        name = f"mAP of {first} minus that of {second}, in points"
        forests[name] = draw_intervals(rows, "difference in mAP, points", name)
    thumbs = _Thumbs()
    cameras = sorted({camera for pair in report.cameras for camera in pair}, key=lambda name: (len(name), name))
    return str(
        environment.from_string(source).render(
            report=report,
            metrics=METRICS,
            figures=_draw_figures(report),
            forests=forests,
            differences=differences,
            queries=[_show(query, thumbs) for query in report.queries],
            failures=[
                {"group": group, "queries": [_show(query, thumbs) for query in group.queries]}
                for group in report.failures
            ],
            sheet=[[thumbs.of(image) for image in row] for row in report.sheet],
            dots=_place(report.embedding_map, thumbs),
            rows=report.rows[:MAX_ROWS],
            cameras=cameras,
            thumbs=thumbs,
        )
    )


def _draw_figures(report: Report) -> dict[str, str]:
    """Captions and SVG elements."""
    everything = report.comparison.groups[0]
    ranks = list(range(1, 1 + len(next(iter(everything.cmc.values())))))
    names = report.comparison.entrants
    curves = {name: Line(ranks, cmc) for name, cmc in everything.cmc.items()}
    label = "queries with a right match by then"
    figures = {
        "Cumulative matching characteristics: the share of queries with a right match by each rank.": draw_lines(
            curves, "rank", label, names=names, percent=True, whole_x=True
        )
    }
    if report.pairs:
        lines = {name: make_precision_recall(pairs) for name, pairs in report.pairs.items()}
        figures["Precision by recall, the mean over queries (interpolated)."] = draw_lines(
            lines, "recall", "precision", names=names, percent=True, equal=(0, 102)
        )
        lines = {name: make_roc(pairs.counts) for name, pairs in report.pairs.items()}
        figures["ROC of single pairs: same person or not, by one threshold for all."] = draw_lines(
            lines, "share of different pairs called the same", "same pairs found", names=names, percent=True, log_x=True
        )
    for name, pairs in report.pairs.items():
        caption = f"{name}: scores of pairs by the protocol's rule. {report.threshold_about}"
        figures[caption] = draw_scores(pairs.counts, report.thresholds[name], name)
    if report.losses:
        figures["Training loss: the mean over each epoch."] = draw_lines(
            report.losses, "epoch", "training loss", names=names, whole_x=True
        )
    return figures


@dataclass(frozen=True)
class _Cell:
    image: str
    """The name of a stored thumbnail, or a data URI, or empty."""
    name: str
    verdict: str
    """``same``, ``other`` or empty."""
    lines: Sequence[str]


def _show(query: ShownQuery, thumbs: "_Thumbs") -> dict[str, Any]:
    first = next(iter(query.lists.values()))
    cell = _Cell(thumbs.of(first.query), first.query.name, "", [f"person {first.identity}" if first.identity else ""])
    rows = {
        name: [_judge(ranked, hit, query.notes, thumbs) for hit in ranked.hits] for name, ranked in query.lists.items()
    }
    looks = {name: _show_look(look, query.lists[name]) for name, look in query.looks.items()}
    return {"title": query.title, "query": cell, "rows": rows, "looks": looks}


def _judge(ranked: RankedList, hit: Hit, notes: Mapping[str, str], thumbs: "_Thumbs") -> _Cell:
    verdict = "" if ranked.identity is None else "same" if hit.item.identity == ranked.identity else "other"
    lines = [f"{hit.rank}.  {hit.score:.3f}", f"person {hit.item.identity or 'unknown'}"]
    if hit.item.camera:
        lines.append(f"camera {hit.item.camera}")
    if verdict == "other" and hit.item.identity is not None and hit.item.identity in notes:
        lines.append(notes[hit.item.identity])
    return _Cell(thumbs.of(Path(hit.item.source)), Path(hit.item.source).name, verdict, lines)


def _show_look(look: Look, ranked: RankedList) -> dict[str, list[_Cell]]:
    """Cells with the maps laid over."""
    pictures = {path: _small(path) for path, _ in look.maps}
    maps = [
        _Cell(
            _as_data_uri(lay_over(picture, seen.strength)) if (picture := pictures[path]) else "",
            path.name,
            "",
            ["query" if not place else f"{place}.", *seen.caption.split("\n")],
        )
        for place, (path, seen) in enumerate(look.maps)
    ]
    match, why = look.match, []
    query, hit = pictures.get(ranked.query), pictures.get(look.hit) if look.hit else None
    if match is not None and query is not None and hit is not None:
        greatest = max(float(match.query_for_hit.max()), float(match.hit_for_query.max()))
        parts = [
            (query, match.query_for_hit, greatest, False, ["query: what speaks", "for the first hit"]),
            (hit, match.hit_for_query, greatest, False, ["first hit: what", "speaks for it"]),
        ]
        if match.query_rather_than_next is not None:
            apart = match.query_rather_than_next
            said = [
                "query: first hit (red)",
                "or the next person",
                f"(blue), {match.score - (match.next_score or 0):+.3f}",
            ]
            parts.append((query, apart, float(np.abs(apart).max()), True, said))
        why = [
            _Cell(_as_data_uri(lay_parts_over(picture, part, top, signed)), " ".join(lines), "", lines)
            for picture, part, top, signed, lines in parts
        ]
    return {"maps": maps, "why": why}


def _place(shown: EmbeddingMap | None, thumbs: "_Thumbs") -> list[dict[str, Any]]:
    """Thumbnails on a square of 1000, later ones above."""
    if shown is None:
        return []
    rank = {pid: number for number, pid in enumerate(sorted({crop.pid for crop in shown.crops}))}
    return [
        {
            "x": round(float(x) * 960),
            "y": round(float(1 - y) * 920),
            "image": thumbs.of(crop.path),
            "colour": COLOURS[rank[crop.pid] % len(COLOURS)],
            "name": f"person {crop.identity or crop.pid}",
        }
        for (x, y), crop in zip(shown.places, shown.crops, strict=True)
    ]


class _Thumbs:
    """Thumbnails, each stored once in the page and shown from there."""

    def __init__(self) -> None:
        self._names: dict[Path, str] = {}
        self.stored: dict[str, str] = {}
        """Data URIs by name."""

    def of(self, path: Path) -> str:
        """The name of a JPEG of 64 x 128 pixels; empty if the image cannot be read."""
        if path not in self._names:
            picture = _small(path)
            self._names[path] = f"thumb{len(self.stored)}" if picture else ""
            if picture:
                self.stored[self._names[path]] = _as_data_uri(np.asarray(picture))
        return self._names[path]


def _small(path: Path) -> Image.Image | None:
    try:
        return read_image(path).resize(THUMB_WH, Image.Resampling.LANCZOS)
    except ImageError:
        return None


def _as_data_uri(pixels: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
