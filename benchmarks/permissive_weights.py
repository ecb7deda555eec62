"""Scores and speed of Intel's OSNets and the published x0.25 weights, as listed by `osnet weights`.

    python benchmarks/permissive_weights.py --market Market-1501-v15.09.15 --mars mini_mars --out OUT.json
    python benchmarks/permissive_weights.py --speed --out OUT.json     # adds the speed to the same file

Scores are those of `osnet evaluate` with cosine distance and Market-1501's rule: on the complete Market-1501, and on
single images of MARS, where every image of a query tracklet is a query and every image of a gallery tracklet belongs to
the gallery. Each pair of weights and data set is scored once; with --features an interrupted pair resumes. Speed is
processor time with one thread and the backend that `auto` chooses, measured in turn, each network in its own process
with random weights.
"""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

THIS = Path(__file__).resolve()
sys.path.insert(0, str(THIS.parent))
import in_turn  # noqa: E402

WEIGHTS = (
    "person-reidentification-retail-0287",
    "person-reidentification-retail-0288",
    "osnet_x0_25_msmt17",
    "osnet_x0_25_market1501",
    "person-reidentification-retail-0286",
    "person-reidentification-retail-0277",
)
NETWORKS = ("osnet_x0_25", "osnet_x1_0", "osnet_lct_x0_25", "osnet_lct_x0_5", "osnet_lct_x0_75", "osnet_lct_x1_0")
BATCH, SIZE_HW = 32, (256, 128)


@dataclass(frozen=True)
class Settings:
    """Data, weights and rounds of the measurement."""

    out: Path
    market: Path | None = None
    """The folder of Market-1501."""
    mars: Path | None = None
    """A folder with MARS's images, ``query.json`` and ``gallery.json``, somewhere below it."""
    weights: tuple[Path, ...] = ()
    """Folders with the weights, searched in this order; by default $OSNET_WEIGHTS, else a download."""
    names: tuple[str, ...] = WEIGHTS
    features: Path | None = None
    """A folder in which the vectors are saved."""
    speed: bool = False
    """Measure the speed instead of the scores."""
    rounds: int = 12
    block_s: float = 0.5


def read_mars(root: Path) -> Any:
    """MARS's single images as a data set."""
    from osnet.types import Crop, ReidDataset, Split, as_tuple

    lists = {split: next(root.rglob(f"{split}.json")) for split in ("query", "gallery")}
    splits = {}
    for split, path in lists.items():
        tracklets = json.loads(path.read_text(encoding="utf-8"))
        crops = [Crop(root / p, t["pid"], t["camid"] + 1) for t in tracklets for p in t["img_paths"]]
        splits[split] = Split(split, as_tuple(crops))
    return ReidDataset("mars-mini", root, query=splits["query"], gallery=splits["gallery"])


def find(name: str, folders: tuple[Path, ...]) -> str:
    """The weights' file in one of the folders, or the name itself."""
    for folder in folders:
        for pattern in (f"{name}.xml", f"*/{name}.xml", f"{name}.pth"):
            if found := sorted(folder.glob(pattern)):
                return str(found[0])
    return name


def score(settings: Settings, result: dict[str, Any]) -> None:
    from osnet import Embedder, evaluate, read_market1501
    from osnet.models.counting import count_cost

    data = {}
    if settings.mars is not None:
        data["mars-mini"] = read_mars(settings.mars)
    if settings.market is not None:
        data["market1501"] = read_market1501(settings.market)
    for key, dataset in data.items():
        for name in settings.names:
            if key in result["scores"].get(name, {}):
                continue
            embedder = Embedder(find(name, settings.weights))
            features = settings.features and settings.features / key / name
            found = evaluate(embedder, dataset, features=features)
            cost, card = count_cost(embedder.network, SIZE_HW), embedder.network.card
            row = result["scores"].setdefault(name, {})
            row |= {"model": card.name, "sha256": card.sha256, "params": cost.params, "madds": cost.madds}
            row[key] = {
                "rank1": 100 * found.scores["rank-1"],
                "mAP": 100 * found.scores["mAP"],
                "num_queries": found.num_queries,
                "num_gallery": len(dataset.gallery),
                "backend": embedder.backend,
            }
            print(f"{name} on {key}: rank-1 {row[key]['rank1']:.2f}, mAP {row[key]['mAP']:.2f}", flush=True)
            in_turn.write(settings.out, result)


def worker(name: str) -> None:
    in_turn.pin(1)
    import torch

    torch.set_num_threads(1)
    from osnet import create_model
    from osnet.runtime.backends import generate_pixels, make_backend
    from osnet.types import Preprocessing

    torch.manual_seed(0)
    made = make_backend("auto", create_model(name).eval(), Preprocessing(), torch.device("cpu"))
    pixels = generate_pixels(BATCH, SIZE_HW)
    in_turn.serve(lambda: made.run(pixels))


def measure_speed(settings: Settings, result: dict[str, Any]) -> None:
    workers = [in_turn.Worker(n, [sys.executable, str(THIS), "--worker", n], 1) for n in NETWORKS]
    rows = in_turn.compare(workers, settings.rounds, settings.block_s)
    cpu_ms = {name: rows[name]["cpu_ms"] for name in NETWORKS}
    found = {
        name: {"cpu_ms": ms, "beside_x0_25": cpu_ms["osnet_x0_25"] / ms, "beside_x1_0": cpu_ms["osnet_x1_0"] / ms}
        for name, ms in cpu_ms.items()
    }
    result["speed"] = {"machine": in_turn.machine(1), "batch": BATCH, "rounds": settings.rounds, "rows": found}
    for name, row in result["speed"]["rows"].items():
        print(f"{name:<18}{row['cpu_ms']:8.1f} ms, {row['beside_x0_25']:.2f} x0.25, {row['beside_x1_0']:.2f} x1.0")
    in_turn.write(settings.out, result)


def main(settings: Settings) -> None:
    result: dict[str, Any] = {"scores": {}}
    if settings.out.exists():
        result = json.loads(settings.out.read_text(encoding="utf-8"))
    if settings.speed:
        measure_speed(settings, result)
    else:
        result["machine"] = in_turn.machine(os.cpu_count() or 1)
        score(settings, result)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2])
    else:
        import tyro

        main(tyro.cli(Settings, description=__doc__))
