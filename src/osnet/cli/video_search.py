"""`osnet search` in an archive of footage."""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from osnet.cli.gallery import choose_weights
from osnet.embedding.embedder import Embedder
from osnet.figures.ranked_list import save_ranked_lists
from osnet.files import check_writable
from osnet.gallery import Where
from osnet.types import Hit, RankedList
from osnet.video.archive import ARCHIVE_FILE, Archive, Pool, format_time
from osnet.video.drawing import write_clip


def is_archive(folder: Path) -> bool:
    """True if ``folder`` is an archive of footage, not a gallery."""
    return (folder / ARCHIVE_FILE).is_file()


def search_archive(
    folder: Path,
    photo: Path,
    where: Where,
    *,
    top: int,
    pool: Pool,
    weights: str | None,
    device: str,
    as_json: bool,
    sheet: Path | None,
    clip: Path | None,
) -> None:
    """Search an archive by an image. Print the hits, draw them into ``sheet``, and write the best one to ``clip``."""
    store = Archive.open(folder, Embedder(choose_weights(folder, ARCHIVE_FILE, weights), device, 1))
    for path in (sheet, clip):
        if path is not None:
            check_writable(path, reads=[segment["footage"]["path"] for segment in store.segments])
    hits = store.search(photo, top=top, where=where, pool=pool)
    for name in sorted((where.cameras or frozenset()) - set(store.cameras)):
        there = ", ".join(map(repr, store.cameras)) or "none"
        print(f"note: the archive has no camera {name!r}; it has {there}", file=sys.stderr)
    if as_json:
        print(json.dumps({"query": str(photo), "hits": [_hit_json(store, hit) for hit in hits]}, indent=2))
    else:
        _print_hits(store, hits)
    if sheet is not None:
        _draw_sheet(store, photo, hits, sheet, f"{photo.name} in {folder.name}")
        if not as_json:
            print(f"the hits are drawn in {sheet}")
    if clip is not None and hits:
        best = store.tracklet(hits[0].item.source)
        write_clip(best, clip, label=f"{hits[0].score:.3f}")
        if not as_json:
            print(f"footage of the best hit: {clip}")


def _print_hits(store: Archive, hits: list[Hit]) -> None:
    print(f"{'rank':>4}  {'score':>6}  {'camera':<12}{'from':<24}{'to':<14}thumbnail")
    for hit in hits:
        seen = store.tracklet(hit.item.source)
        begin, end = format_time(seen.begin_s), format_time(seen.end_s)
        print(f"{hit.rank:>4}  {hit.score:6.3f}  {seen.camera:<12}{begin:<24}{end[11:]:<14}{seen.best_crop.path}")
    if not hits:
        print("no tracklet of the archive meets these conditions")


def _hit_json(store: Archive, hit: Hit) -> dict[str, Any]:
    seen = store.tracklet(hit.item.source)
    return {
        "rank": hit.rank,
        "score": hit.score,
        **asdict(hit.item),
        "end_s": seen.end_s,
        "from": format_time(seen.begin_s),
        "to": format_time(seen.end_s),
        "thumbnail": str(seen.best_crop.path),
        "footage": str(seen.footage),
        "frames": [int(seen.numbers[0]), int(seen.numbers[-1])],
    }


def _draw_sheet(store: Archive, photo: Path, hits: list[Hit], sheet: Path, title: str) -> None:
    shown = []
    for hit in hits:
        seen = store.tracklet(hit.item.source)
        caption = f"{seen.camera}\n{format_time(seen.begin_s)[11:19]}"
        shown.append(replace(hit, item=replace(hit.item, source=str(seen.best_crop.path), camera=caption)))
    save_ranked_lists([RankedList(photo, shown)], sheet, title)
