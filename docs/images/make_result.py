"""Make ``docs/images/result.png``: a query, its five best hits, and why they match. All people are generated.

python docs/images/make_result.py --weights osnet_x0_25_msmt17 [--data FOLDER] [--query NAME]

``--data`` is a folder of ``osnet data generate --identities 32 --cameras 4 --images 2``; without it, one is made.
"""

import argparse
import tempfile
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

from osnet import Embedder, read_market1501
from osnet.data.loading import read_image
from osnet.figures.canvas import Sheet, new_figure
from osnet.figures.match import explain_match, overlay_parts
from osnet.synthetic.generate import GeneratedSettings, generate_dataset

HERE = Path(__file__).parent
CELL_IN, GAP_IN, TEXT_IN, HITS = (1.1, 2.2), 0.14, 0.42, 5
SAME, OTHER, INK = "#1a7f37", "#c62828", "#1b1b1b"
QUERY = "0023_c2s1_000001_00.jpg"
CROP_WH = (128, 256)


def rank(embedder: Embedder, data: Path, name: str) -> tuple[Path, list[tuple[Path, float, bool, int]]]:
    """The query's path and its best hits in other cameras: path, cosine, whether it is the same person, camera."""
    dataset = read_market1501(data)
    query = next(crop for crop in dataset.query.crops if Path(crop.path).name == name)
    others = [crop for crop in dataset.gallery.crops if crop.camid != query.camid]
    scores = embedder.embed([crop.path for crop in others]) @ embedder.embed(query.path)[0]
    best = np.argsort(-scores, kind="stable")[:HITS]
    hits = [(Path(others[i].path), float(scores[i]), others[i].pid == query.pid, others[i].camid) for i in best]
    return Path(query.path), hits


def draw(embedder: Embedder, query: Path, hits: list[tuple[Path, float, bool, int]], out: Path) -> None:
    """Two rows: the crops with their scores; below, how much each cell of a hit adds to its score."""
    images = [
        read_image(path).convert("RGB").resize(CROP_WH, Image.Resampling.LANCZOS)
        for path in [query, *(h[0] for h in hits)]
    ]
    explained = [explain_match(embedder, images[0], image) for image in images[1:]]
    maps = [explained[0].query_for_hit, *(each.hit_for_query for each in explained)]
    greatest = max(float(each.max()) for each in maps)
    width, (cell_w, cell_h) = len(images), CELL_IN
    size = (width * (cell_w + GAP_IN) + GAP_IN, 2 * (cell_h + TEXT_IN) + 0.05)
    with new_figure(size, layout=None) as figure:
        sheet = Sheet(figure)
        for place, image in enumerate(images):
            x = GAP_IN + place * (cell_w + GAP_IN)
            colour = INK if place == 0 else SAME if hits[place - 1][2] else OTHER
            title = "query" if place == 0 else f"{hits[place - 1][1]:.3f}  {'same' if hits[place - 1][2] else 'other'}"
            sheet.write(x + cell_w / 2, TEXT_IN - 0.12, title, ha="center", va="baseline", fontsize=9, color=colour)
            framed = np.pad(np.asarray(image), ((4, 4), (4, 4), (0, 0)))
            framed[[*range(4), *range(-4, 0)], :] = np.array(matplotlib.colors.to_rgb(colour)) * 255
            framed[:, [*range(4), *range(-4, 0)]] = np.array(matplotlib.colors.to_rgb(colour)) * 255
            sheet.add_image(framed, x, TEXT_IN, cell_w, cell_h)
            y = 2 * TEXT_IN + cell_h
            below = "why: the query" if place == 0 else "the hit"
            sheet.write(x + cell_w / 2, y - 0.12, below, ha="center", va="baseline", fontsize=8)
            sheet.add_image(overlay_parts(image, maps[place], greatest, False), x, y, cell_w, cell_h)
        figure.savefig(out, dpi=110)
    small = Image.open(out).convert("RGB").quantize(128, dither=Image.Dither.NONE)  # under 300 kB
    small.save(out, optimize=True)


def main() -> None:
    """Read the options, make the data if need be, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--query", default=QUERY)
    parser.add_argument("--out", type=Path, default=HERE / "result.png")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        data = options.data or Path(scratch) / "people"
        if options.data is None:
            generate_dataset(data, GeneratedSettings(identities=32, cameras=4, images=2, seed=0))
        embedder = Embedder(options.weights)
        draw(embedder, *rank(embedder, data, options.query), options.out)


if __name__ == "__main__":
    main()
