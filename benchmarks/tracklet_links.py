"""Search and links between cameras on the 64 test tracklets (6 cameras) of a small part of MARS.

    python benchmarks/tracklet_links.py --data ../shared/data --work /tmp/mars --out tracklet_links.json

Search: each tracklet is a query for the tracklets of the same identity in other cameras; rank-1 and mAP by
Market-1501's rule. Tracklets are compared by their mean embedding, their best crop, both, or their middle crop alone
("single crop"). Links: proposals are mutual nearest neighbours of two cameras, without any times; a true pair is two
tracklets of one identity in two cameras.
"""

import argparse
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from osnet import Embedder
from osnet.files import write_json
from osnet.video.archive import mean_vector
from osnet.video.links import mutual_best

NAME = re.compile(r"(\d{4})C(\d)T(\d{4})F(\d{3})\.jpg")
CROPS = 6
"""Crops per tracklet, evenly spaced."""


def read_tracklets(root: Path) -> dict[tuple[int, int, int], list[Path]]:
    """(identity, camera, tracklet) -> images, of the test part."""
    found: dict[tuple[int, int, int], list[Path]] = {}
    for path in sorted(root.rglob("*.jpg")):
        match = NAME.fullmatch(path.name)
        if match and "test" in path.parent.parent.name + path.parent.name:
            found.setdefault((int(match[1]), int(match[2]), int(match[3])), []).append(path)
    return found


def scores_of(similarity: np.ndarray, pids: np.ndarray, cams: np.ndarray) -> dict[str, float]:
    """Rank-1 and mAP with each row as a query; its matches in the same camera do not count."""
    firsts, precisions = [], []
    for row in range(len(pids)):
        others = np.flatnonzero(~((pids == pids[row]) & (cams == cams[row])))
        right = pids[others[np.argsort(-similarity[row, others], kind="stable")]] == pids[row]
        if right.any():
            ranks = np.flatnonzero(right)
            firsts.append(ranks[0] == 0)
            precisions.append(np.mean((np.arange(len(ranks)) + 1) / (ranks + 1)))
    return {"rank-1": round(100 * float(np.mean(firsts)), 1), "mAP": round(100 * float(np.mean(precisions)), 1)}


def _table(rows: list[list[str]]) -> str:
    rows.insert(1, ["---"] * len(rows[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def links_table(report: dict[str, Any]) -> str:
    """Precision and recall of proposals at each threshold."""
    rows = [["least cosine", "proposals", "right", "precision", "recall", "the same with a margin of 0.02"]]
    strict = {link["threshold"]: link for link in report["links"] if link["margin"] == 0.02}
    for link in report["links"]:
        if link["margin"] == 0:
            other = strict[link["threshold"]]
            rows.append([
                f"{link['threshold']:g}", str(link["proposals"]), str(link["right"]), f"{link['precision']:.1f} %",
                f"{link['recall']:.1f} %", f"{other['precision']:.1f} %, {other['recall']:.1f} %",
            ])  # fmt: skip
    return _table(rows)


def search_table(report: dict[str, Any]) -> str:
    """Scores of search by tracklets and by single crops."""
    rows = [["", "rank-1", "mAP"]]
    rows += [[name, f"{row['rank-1']:.1f} %", f"{row['mAP']:.1f} %"] for name, row in report["search"].items()]
    return _table(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", default="weights/osnet_x0_25_msmt17.pth")
    given = parser.parse_args()
    if not given.work.exists():
        with tarfile.open(given.data / "mars-mini.tar") as archive:
            archive.extractall(given.work, filter="data")
    tracklets = read_tracklets(given.work)
    embedder = Embedder(given.data / given.weights, device="cpu")
    keys = list(tracklets)
    pids, cams = np.array([k[0] for k in keys]), np.array([k[1] for k in keys])
    chosen = [
        [images[i] for i in np.unique(np.linspace(0, len(images) - 1, CROPS).round().astype(int))]
        for images in tracklets.values()
    ]
    flat = embedder.embed([path for images in chosen for path in images])
    ends = np.cumsum([len(images) for images in chosen])
    crops = np.split(flat, ends[:-1])
    means = np.stack([mean_vector(list(c)) for c in crops])
    middles = np.stack([c[len(c) // 2] for c in crops])
    by_mean = means @ means.T
    by_best = np.array([[float((crops[b] @ means[a]).max()) for b in range(len(keys))] for a in range(len(keys))])
    search = {
        "single crop": scores_of(middles @ middles.T, pids, cams), "mean": scores_of(by_mean, pids, cams),
        "best crop": scores_of(by_best, pids, cams), "both": scores_of((by_mean + by_best) / 2, pids, cams),
        "photo (a middle crop) to mean": scores_of(middles @ means.T, pids, cams),
    }  # fmt: skip
    possible = np.where(cams[:, None] == cams[None], -1, by_mean).astype(np.float32)
    true = {(i, j) for i in range(len(keys)) for j in range(i) if pids[i] == pids[j] and cams[i] != cams[j]}
    links = []
    for margin in (0.0, 0.02):
        pairs = {(max(i, j), min(i, j)) for i, j in mutual_best([str(c) for c in cams], possible, margin)}
        for threshold in (0.0, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85):
            proposed = {(i, j) for i, j in pairs if by_mean[i, j] >= threshold}
            right = len(proposed & true)
            links.append({
                "margin": margin, "threshold": threshold, "proposals": len(proposed), "right": right,
                "precision": round(100 * right / max(1, len(proposed)), 1), "recall": round(100 * right / len(true), 1),
            })  # fmt: skip
            print(links[-1], flush=True)
    print(search)
    facts = {"weights": given.weights, "tracklets": len(keys), "true pairs": len(true), "crops of each": CROPS}
    write_json(given.out, {"facts": facts, "search": search, "links": links})


if __name__ == "__main__":
    main()
