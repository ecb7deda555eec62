"""Search by attributes: how many of the first ten hits have all of them by label, compared with random crops.

The test part of a data set is indexed without its labels and searched as with `osnet search GALLERY --with ...
--min-probability 0`. Attribute names are PA-100K's, which generated people have too.

    python benchmarks/attribute_search.py --data pa100k --weights RUN/best --out found.json
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from osnet.data.attributes.dataset import AttributeSplit
from osnet.data.attributes.reader import read_attributes
from osnet.embedding.attribute_predictor import AttributePredictor, find_attributes
from osnet.files import check_writable, write_json
from osnet.gallery import Gallery, attribute_probabilities
from osnet.tasks.attribute_task import labelled
from osnet.types import Item

TOP = 10
DESCRIPTIONS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("Female", "Skirt&Dress"), ()),
    (("Backpack",), ("Female",)),
    (("ShortSleeve", "Shorts"), ()),
    (("LongSleeve", "Trousers"), ("Female",)),
    (("Female", "ShortSleeve"), ("Trousers",)),
    (("Backpack", "LongSleeve"), ("Hat",)),
    (("UpperLogo", "Trousers"), ()),
    (("Female", "LongSleeve"), ("HandBag",)),
)
"""Wanted and unwanted attributes. Combinations that no image has are skipped."""


@dataclass(frozen=True)
class Settings:
    """Data set with attributes, weights with an attribute head, and the result file."""

    data: Path
    weights: Path
    out: Path


def index_test(predictor: AttributePredictor, test: AttributeSplit, folder: Path) -> Gallery:
    gallery = Gallery.open(folder, predictor)
    seen = predictor.embed_named(test.paths)
    items = [Item(name) for name in seen.names]
    probabilities = attribute_probabilities(predictor, seen.probabilities)
    gallery.add_embeddings(seen.vectors, items, weights_sha256=predictor.sha256(), attributes=probabilities)
    return gallery


def main(settings: Settings) -> None:
    check_writable(settings.out)
    dataset = read_attributes(settings.data, "skip")
    predictor, test = AttributePredictor(settings.weights), labelled(dataset.test)
    row_of = {str(path): row for row, path in enumerate(test.paths)}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        gallery = index_test(predictor, test, Path(folder) / "gallery")
        for having, lacking in DESCRIPTIONS:
            wanted = [(column, 1) for column in find_attributes(dataset.attributes, having)]
            wanted += [(column, 0) for column in find_attributes(dataset.attributes, lacking)]
            fits = np.all([test.labels[:, column] == value for column, value in wanted], axis=0)
            if not fits.any():
                continue
            hits = gallery.search_attributes(having, lacking, top=TOP)
            rows.append({
                "with": having, "without": lacking, "right": int(sum(fits[row_of[hit.item.source]] for hit in hits)),
                "by_chance": TOP * float(fits.mean()), "fitting": int(fits.sum()),
            })  # fmt: skip
            print(f"{', '.join(having)} without {', '.join(lacking) or '-'}: {rows[-1]['right']} of {TOP}, "
                  f"{rows[-1]['by_chance']:.1f} by chance")  # fmt: skip
    content = {"data": dataset.name, "images": len(test), "weights": predictor.network.card.source,
               "network_sha256": predictor.sha256(), "top": TOP, "rows": rows}  # fmt: skip
    write_json(settings.out, json.loads(json.dumps(content)))


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
