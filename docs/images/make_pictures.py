"""Make the pictures of the pages from generated people: the commands that the pages name, and their output.

python docs/images/make_pictures.py --weights osnet_x0_25_msmt17 --compare osnet_x0_25_market1501 [--work FOLDER]

What is in the work folder already is not made again.
"""

import argparse
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path

import av
from PIL import Image

HERE = Path(__file__).parent
WIDTH_PX, COLOURS = 1100, 256
QUERIES = ("0023_c2s1_000001_00.jpg", "0030_c1s1_000001_00.jpg")
"""Of the picture ``hits``."""
FRAMES = 150
"""Of the drawn footage; the last of them is shown."""


def run(*arguments: str | Path) -> None:
    """Run a command of ``osnet``."""
    subprocess.run([sys.executable, "-m", "osnet.cli", *map(str, arguments)], check=True)  # noqa: S603


def shrink(made: Path, name: str) -> None:
    """At most 1100 pixels wide and a palette: 100 to 200 kB each."""
    with Image.open(made) as image:
        small = image.convert("RGB")
    if small.width > WIDTH_PX:
        small = small.resize((WIDTH_PX, round(small.height * WIDTH_PX / small.width)), Image.Resampling.LANCZOS)
    small.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        HERE / f"{name}.png", optimize=True
    )


def draw_figures(weights: str, compare: str, work: Path) -> None:
    """Figures of two networks that were trained on real people, on generated people."""
    people, kept = work / "people", work / "features"
    if not people.exists():
        run("data", "generate", "--out", people, "--identities", "32", "--cameras", "4", "--images", "2")
    queries = sorted((people / "query").iterdir())
    gallery = sorted((people / "bounding_box_test").iterdir())
    query, other = gallery[0], gallery[9]
    hit = next(path for path in gallery if path.name[:7] != query.name[:7] and path.name[:4] == query.name[:4])
    data = ("--data", people, "--features", kept)
    commands = {
        "hits": ("ranks", people, "--weights", weights, "--top", "8", "--features", kept, "--query", *QUERIES),
        "activation": ("activation", queries[0], queries[8], queries[24], "--weights", weights, "--compare", compare),
        "match": ("match", query, hit, other, "--weights", weights),
        "scores": ("curves", "scores", *data, "--weights", weights, "--threshold", "0.75"),
        "cmc": ("curves", "cmc", *data, "--weights", weights, compare),
        "embeddings": ("embeddings", people, "--weights", weights),
        "gates": ("gates", people / "bounding_box_test", "--weights", weights, "--nearest", "8"),
    }
    for name, command in commands.items():
        if not (work / f"{name}.png").exists():
            run("figure", *command, "--out", work / f"{name}.png")
        shrink(work / (f"{name}-shares.png" if name == "gates" else f"{name}.png"), name)


def draw_footage(work: Path) -> None:
    """A line per camera of the people in painted footage, and a frame with tracks."""
    demo = work / "demo"
    if not (demo / "archive").exists():
        run("demo", "--quick", "--out", demo)
    run("video", "link", demo / "archive", "--figure", work / "timeline.png")
    shrink(work / "timeline.png", "timeline")
    footage = sorted((demo / "footage").glob("*.mp4"))[0]
    run("video", "track", footage, "--out", work / "tracks.txt", "--detector", "motion")
    run("video", "draw", footage, "--tracks", work / "tracks.txt", "--out", work / "tracks.mp4")
    with av.open(str(work / "tracks.mp4")) as container:
        *_, frame = islice(container.decode(video=0), FRAMES)
        frame.to_image().save(work / "tracks.png")
    shrink(work / "tracks.png", "tracks")


def main() -> None:
    """Draw all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--compare", required=True, help="other weights, for maps and CMC")
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        draw_figures(options.weights, options.compare, work)
        draw_footage(work)


if __name__ == "__main__":
    main()
