"""The report as one HTML file without scripts or external resources. Needs the extra ``figures``."""

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
from osnet.figures.activation import LayerMap, overlay_map
from osnet.figures.canvas import name_camera
from osnet.figures.curves import (
    Line,
    LineStyle,
    draw_intervals,
    draw_lines,
    draw_scores,
    make_precision_recall,
    make_roc,
)
from osnet.figures.embeddings import COLOURS
from osnet.figures.match import MatchMaps, overlay_parts
from osnet.files import written_aside
from osnet.metrics.pair_scores import PairCurves
from osnet.types import Crop, Hit, RankedList

THUMB_WH = (64, 128)
MAX_ROWS = 1000
"""Largest number of rows in the table of single queries; the queries with the lowest average precision are kept."""


@dataclass(frozen=True)
class Look:
    """Activation maps of one network for one ranked list."""

    maps: Sequence[tuple[Path, LayerMap]]
    """The query and the first hits, each with its activation map."""
    match: MatchMaps | None = None
    """Contribution of image regions to the first hit's score, and to its lead over the next person."""
    hit: Path | None = None
    """Path of the first hit."""


@dataclass(frozen=True)
class ShownQuery:
    """One query with the ranked list of each network."""

    title: str
    lists: Mapping[str, RankedList]
    """By network; all lists have the same query."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Remark on a wrong hit, by its identity, such as ``alike but for the logo``."""
    looks: Mapping[str, Look] = field(default_factory=dict)
    """By network."""


@dataclass(frozen=True)
class ShownFailures:
    """Failed queries with the same probable cause."""

    name: str
    about: str
    total: int
    """Number of queries in the group."""
    queries: Sequence[ShownQuery]
    """The queries to show: those with the lowest average precision."""


@dataclass(frozen=True)
class EmbeddingMap:
    """A two-dimensional map of images."""

    places: NDArray[np.float64]
    """(N, 2) in [0, 1]."""
    crops: Sequence[Crop]
    about: str


@dataclass(frozen=True)
class QueryRow:
    """One row of the table of queries."""

    name: str
    ap: float
    """Average precision, a fraction; NaN without a match."""
    first_rank: float
    """Rank of the first match."""
    found: str
    """Person and camera of the first hit."""
    score: float
    """Cosine of the query and its first hit."""


@dataclass(frozen=True)
class Report:
    """Content of a report, from top to bottom."""

    title: str
    caution: str
    """What the scores do not show; stands above them."""
    findings: Sequence[str]
    """The main results, one sentence each."""
    comparison: Comparison
    queries: Sequence[ShownQuery] = ()
    losses: Mapping[str, Line] = field(default_factory=dict)
    """Training loss by epoch, by network."""
    sheet: Sequence[Sequence[Path]] = ()
    """Rows of images, one person per row."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """How the report was made: name and value."""
    pairs: Mapping[str, PairCurves] = field(default_factory=dict)
    """By network: pair scores and the precision-recall curve."""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """By network: threshold on the cosine."""
    threshold_about: str = ""
    """Sentences that say where the thresholds come from."""
    failures: Sequence[ShownFailures] = ()
    failures_about: str = ""
    cameras: Mapping[tuple[str, str], tuple[float, int]] = field(default_factory=dict)
    """(query's camera, gallery's camera) -> (rank-1 within that camera, number of queries)."""
    embedding_map: EmbeddingMap | None = None
    rows: Sequence[QueryRow] = ()
    """All queries, lowest average precision first."""
    cards: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By network: the fields of its weights' card."""
    recipes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By network: the recipe it was trained with."""


def write_report(report: Report, path: str | Path) -> None:
    """Write the report as an HTML file, atomically.

    All texts are escaped. Each image is embedded once, as a JPEG thumbnail; an image that cannot be read leaves a cell
    that says so.

    Raises:
        MissingExtraError: matplotlib or Jinja is not installed.
        OutputError: the file cannot be written.
    """
    page = render_report(report)
    with written_aside(path) as aside:
        aside.write_text(page, encoding="utf-8", errors="backslashreplace")  # file names need not be valid UTF-8


def render_report(report: Report) -> str:
    """The report as HTML text."""
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
            name_camera=name_camera,
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
    """SVG elements by caption."""
    everything = report.comparison.groups[0]
    ranks = list(range(1, 1 + len(next(iter(everything.cmc.values())))))
    names = report.comparison.entrants
    curves = {name: Line(ranks, cmc) for name, cmc in everything.cmc.items()}
    label = "queries with a match by then"
    figures = {
        "Cumulative matching characteristics: the share of queries with a match up to each rank.": draw_lines(
            curves, "rank", label, LineStyle(names, percent=True, whole_x=True)
        )
    }
    if report.pairs:
        lines = {name: make_precision_recall(pairs) for name, pairs in report.pairs.items()}
        figures["Precision-recall curve: interpolated, mean over queries."] = draw_lines(
            lines, "recall", "precision", LineStyle(names, percent=True, y_limits=(0, 102))
        )
        lines = {name: make_roc(pairs.counts) for name, pairs in report.pairs.items()}
        figures["ROC of pairs (same person or not), with one threshold for all pairs."] = draw_lines(
            lines, "false positive rate", "true positive rate", LineStyle(names, percent=True, log_x=True)
        )
    for name, pairs in report.pairs.items():
        caption = f"{name}: pair scores by Market-1501's rule. {report.threshold_about}"
        figures[caption] = draw_scores(pairs.counts, report.thresholds[name], name)
    if report.losses:
        figures["Training loss: mean over each epoch."] = draw_lines(
            report.losses, "epoch", "training loss", LineStyle(names, whole_x=True)
        )
    return figures


@dataclass(frozen=True)
class _Cell:
    image: str
    """Name of a stored thumbnail, or a data URI; empty if the image cannot be read."""
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
        lines.append(name_camera(hit.item.camera))
    if verdict == "other" and hit.item.identity is not None and hit.item.identity in notes:
        lines.append(notes[hit.item.identity])
    return _Cell(thumbs.of(Path(hit.item.source)), Path(hit.item.source).name, verdict, lines)


def _show_look(look: Look, ranked: RankedList) -> dict[str, list[_Cell]]:
    """Cells with the activation maps and the score contributions as overlays."""
    images = {path: _small(path) for path, _ in look.maps}
    maps = [
        _Cell(
            _as_data_uri(overlay_map(image, seen.strength, part=seen.part)) if (image := images[path]) else "",
            path.name,
            "",
            ["query" if not place else f"{place}.", *seen.caption.split("\n")],
        )
        for place, (path, seen) in enumerate(look.maps)
    ]
    match, why = look.match, []
    query, hit = images.get(ranked.query), images.get(look.hit) if look.hit else None
    if match is not None and query is not None and hit is not None:
        greatest = max(float(match.query_for_hit.max()), float(match.hit_for_query.max()))
        parts = [
            (query, match.query_for_hit, greatest, match.query_part, ["query: parts that", "match the first hit"]),
            (hit, match.hit_for_query, greatest, match.hit_part, ["first hit: parts that", "match the query"]),
        ]
        if match.query_rather_than_next is not None:
            apart = match.query_rather_than_next
            said = [
                "query: for first hit (red)",
                "or the next person",
                f"(blue), {match.score - (match.next_score or 0):+.3f}",
            ]
            parts.append((query, apart, float(np.abs(apart).max()), match.query_part, said))
        why = [
            _Cell(_as_data_uri(overlay_parts(image, cells, top, place == 2, part)), " ".join(lines), "", lines)
            for place, (image, cells, top, part, lines) in enumerate(parts)
        ]
    return {"maps": maps, "why": why}


def _place(shown: EmbeddingMap | None, thumbs: "_Thumbs") -> list[dict[str, Any]]:
    """Positions of the thumbnails on a square of 1000 x 1000; later ones are drawn on top."""
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
    """Thumbnails, each stored once in the page and referenced by name."""

    def __init__(self) -> None:
        self._names: dict[Path, str] = {}
        self.stored: dict[str, str] = {}
        """Data URIs by name."""

    def of(self, path: Path) -> str:
        """Name of the stored JPEG of 64 x 128 pixels; empty if the image cannot be read."""
        if path not in self._names:
            image = _small(path)
            self._names[path] = f"thumb{len(self.stored)}" if image else ""
            if image:
                self.stored[self._names[path]] = _as_data_uri(np.asarray(image))
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
