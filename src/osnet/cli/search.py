"""osnet search."""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from osnet.cli.common import JsonFlag, Texts, app, name_some
from osnet.cli.gallery import forget_switched_off, make_where, open_gallery, tell_unknown
from osnet.cli.video_search import is_archive, search_archive
from osnet.embedding.attribute_predictor import find_attributes
from osnet.errors import DataError
from osnet.figures.attribute_sheet import SheetCrop, save_attribute_sheet
from osnet.figures.ranked_list import save_ranked_lists
from osnet.files import check_writable
from osnet.gallery import Gallery, Where
from osnet.types import Hit, RankedList
from osnet.video.archive import Pool

StoreArg = Annotated[Path, Positional, tyro.conf.arg(metavar="STORE")]


@app.command
def search(
    store: StoreArg,
    image: Annotated[Path | None, Positional, tyro.conf.arg(metavar="IMAGE")] = None,
    *,
    having: Annotated[Texts, tyro.conf.arg(name="with")] = (),
    lacking: Annotated[Texts, tyro.conf.arg(name="without")] = (),
    min_probability: float | None = None,
    top: int = 10,
    identity: Texts = (),
    camera: Texts = (),
    after: str | None = None,
    before: str | None = None,
    source: str | None = None,
    weights: str | None = None,
    pool: Pool | None = None,
    as_json: JsonFlag = False,
    sheet: Path | None = None,
    clip: Path | None = None,
    device: str = "auto",
) -> None:
    """Search a gallery by an image, by a description, or by both; or search an archive of footage by an image.

    With an image, the score is a cosine. Without one, it is the geometric mean of the probabilities of the attributes,
    from 0 to 1. Higher is better. Only items that fit the description are listed. In an archive the hits are tracklets:
    a camera, from when to when, and a thumbnail.

    Args:
        store: the folder of a gallery (`osnet index`) or of an archive (`osnet video index`).
        image: a crop of one person or thing; give it before --with and --without.
        having: attributes that items must have, such as: backpack "long sleeve".
        lacking: attributes that items must not have, such as: hat.
        min_probability: the probability from which an attribute counts as present; default: the threshold of each
            attribute. 0 lists all items in the order of their scores.
        top: number of hits.
        identity: only these identities.
        camera: only these cameras.
        after: only crops taken at this time or later (seconds, or ISO 8601, UTC by default); only tracklets that end
            at this time or later.
        before: only crops taken at this time or earlier; only tracklets that begin at this time or earlier.
        source: only this source (a whole path); or, if no item has it, sources that match it as a pattern, such as
            '*/monday/*'.
        weights: the weights of the gallery or archive, if not its own copy; any others are refused.
        pool: in an archive, compare with the mean of a tracklet, with its best crop, or with both (the default).
        as_json: print JSON.
        sheet: also draw the hits into this PNG.
        clip: in an archive, also write the footage of the best hit here, with its box drawn (.mp4).
        device: auto, cpu, cuda, cuda:1, mps.
    """
    for path in (sheet, clip):
        if path is not None:
            check_writable(path, reads=[] if image is None else [image])
    where = make_where(identity, camera, after, before, source)
    if is_archive(store):
        described = {
            "--with": having,
            "--without": lacking,
            "--min-probability": min_probability,
            "--identity": identity,
        }
        if given := next((flag for flag, value in described.items() if value not in ((), None)), None):
            raise DataError(f"{given} needs a gallery; the archive {store} stores no attributes and no identities")
        if image is None:
            raise DataError(f"nothing to search {store} for: give an image")
        search_archive(
            store,
            image,
            where,
            top=top,
            pool=pool or "both",
            weights=weights,
            device=device,
            as_json=as_json,
            sheet=sheet,
            clip=clip,
        )
        return
    for flag, value in {"--clip": clip, "--pool": pool}.items():
        if value is not None:
            raise DataError(f"{flag} needs an archive of footage (`osnet video index`); {store} is not one")
    if image is None and not having + lacking:
        raise DataError("nothing to search for: give an image, or a description: --with backpack --without hat")
    if min_probability is not None and not having + lacking:
        raise DataError("--min-probability needs a description: --with backpack --without hat")
    where = _fitting(where, having, lacking, min_probability)
    gallery = Gallery.open(store)  # raises if it does not exist; a search must not create a gallery
    if image is None:
        forget_switched_off(gallery)
        hits = gallery.search_attributes(having, lacking, top=top, where=where)
    else:
        gallery, _ = open_gallery(store, weights, device, 1)
        hits = gallery.search(image, top=top, where=where)
    if changed := gallery.find_changed(hit.item.source for hit in hits):
        shown = "; the sheet shows them as they are now" if sheet is not None else ""
        print(
            f"note: {len(changed)} hits have changed since they were indexed{shown}: {name_some(changed)}",
            file=sys.stderr,
        )
    if where.identities or where.cameras:
        tell_unknown(where, gallery)
    asked = [gallery.attributes[i] for i in find_attributes(gallery.attributes, having + lacking)]
    _print_hits(hits, asked, None if image is None else str(image), (having, lacking), as_json)
    if sheet is not None:
        check_writable(sheet, reads=[hit.item.source for hit in hits])
    if sheet is not None and image is not None:
        save_ranked_lists([RankedList(image, hits)], sheet, f"{image.name} in {store}")
    elif sheet is not None:
        words = [f"with {name}" for name in having] + [f"without {name}" for name in lacking]
        _draw_described(hits, asked, sheet, f"{', '.join(words)} in {store}")
    if sheet is not None and not as_json:
        print(f"the hits are drawn in {sheet}")


def _fitting(where: Where, having: tuple[str, ...], lacking: tuple[str, ...], min_probability: float | None) -> Where:
    """Add the description to the conditions, unless ``min_probability`` is 0."""
    if min_probability == 0:
        return where
    if min_probability is not None and not 0 < min_probability <= 1:
        raise DataError(f"--min-probability {min_probability:g} must be from 0 to 1")
    return replace(where, having=frozenset(having), lacking=frozenset(lacking), min_probability=min_probability)


def _draw_described(hits: list[Hit], asked: list[str], sheet: Path, title: str) -> None:
    found = [SheetCrop(Path(h.item.source), tuple(_percents(h, asked)), heading=f"{h.score:.3f}") for h in hits]
    save_attribute_sheet(found, sheet, title)


def _print_hits(
    hits: list[Hit], asked: list[str], image: str | None, words: tuple[tuple[str, ...], tuple[str, ...]], as_json: bool
) -> None:
    if as_json:
        query = {"query": image, "with": list(words[0]), "without": list(words[1])}
        print(json.dumps({**query, "hits": [_hit_json(hit) for hit in hits]}, indent=2))
        return
    print(
        f"{'rank':>4}  {'score':>6}  {'identity':<10}{'camera':<8}source"
        + ("  [attributes asked for]" if asked else "")
    )
    for hit in hits:
        item = hit.item
        said = f"  [{', '.join(_percents(hit, asked))}]" if asked else ""
        print(f"{hit.rank:>4}  {hit.score:6.3f}  {item.identity or '-':<10}{item.camera or '-':<8}{item.source}{said}")
    if not hits:
        print("no item of the gallery meets these conditions")


def _percents(hit: Hit, names: list[str]) -> list[str]:
    return [f"{name} {100 * (hit.attributes or {})[name]:.0f} %" for name in names]


def _hit_json(hit: Hit) -> dict[str, Any]:
    said = {} if hit.attributes is None else {"attributes": hit.attributes}
    return {"rank": hit.rank, "score": hit.score, **asdict(hit.item), **said}
