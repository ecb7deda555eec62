"""HOTA, IDF1 and MOTA of several trackers on several kinds of boxes, with and without appearance.

    python benchmarks/tracking.py --data ../shared/data --work /tmp/tracking --out benchmarks/results/tracking.json \\
        --trackeval /tmp/peer/bin/python --boxmot /tmp/boxmot/bin/python

Sequences: PETS09-S2L1 (OpenCV's vtest.avi), TUD-Campus and TUD-Stadtmitte. Boxes: YOLOX-Nano's at 0.2; the
ground truth ("truth"); and the ground truth without random passages of 1 to 5 s, one for every 100 frames of a person
("holes").

The settings of `osnet.video.appearance`, of the choice of crops and of the trackers' buffer were chosen on the two TUD
sequences, on painted footage, and on pasted walks (pasted_walks.py), so the rows of TUD are not a test. PETS is the
test. It was evaluated nine times during development: with a first version; with trackers alone, for
several buffers and thresholds, to find out why a prototype scored higher; with a second version; with both versions on
the same tracks; with the second version, the prototype, and tracks that were joined and split by the truth, to find out
what is missing; with two stages of a third version; with the true boxes; and, after the joins of the true boxes had
been looked at, with this version. No setting was chosen by its scores.

Detections and BoxMOT's tracks are cached in --work, so a second run is quick. `--trackeval` and `--boxmot` name the
Python of an environment with that package; see tracking_peers.py.
"""

import argparse
import json
import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from osnet import Embedder
from osnet.errors import require_extra
from osnet.files import write_json
from osnet.video.appearance import Appearance, refine
from osnet.video.crops import Collector
from osnet.video.detectors import YoloxDetector
from osnet.video.motfile import MotFile, write_mot
from osnet.video.source import Footage, open_footage, read_frames
from osnet.video.tracking import make_tracker

SEQUENCES = {
    "TUD-Campus": ("mot15/TUD-Campus/TUD-Campus.mp4", "mot15/TUD-Campus/gt/gt.txt"),
    "TUD-Stadtmitte": ("mot15/TUD-Stadtmitte/TUD-Stadtmitte.mp4", "mot15/TUD-Stadtmitte/gt/gt.txt"),
    "PETS09-S2L1": ("videos/vtest.avi", "mot15/PETS09-S2L1/gt/gt.txt"),
}
YOLOX = "detectors/yolox_nano_416x416.onnx"
WEIGHTS = "weights/osnet_x0_25_msmt17.pth"
THRESHOLD = 0.2
VARIANTS = {
    "tracker alone": None,
    "motion only": Appearance(use_vectors=False),
    "motion and embeddings": Appearance(),
    "motion and embeddings, gaps not filled": replace(Appearance(), fill_s=0),
    "motion and embeddings, no cuts at overlaps": replace(Appearance(), crossing_iou=2.0),
    "motion and embeddings, ends inside as at the border": replace(Appearance(), end_evidence=0.0),
}
BOTH = "motion and embeddings"


def detect(footage: Footage, model: Path, out: Path) -> Path:
    """Write YOLOX's boxes as MOTChallenge text."""
    if not out.exists():
        detector = YoloxDetector(model, THRESHOLD)
        lines = []
        for frame in read_frames(footage):
            found = detector.detect(frame)
            for (left, top, right, bottom), score in zip(found.xyxy.tolist(), found.scores.tolist(), strict=True):
                size = f"{right - left:.3f},{bottom - top:.3f}"
                lines.append(f"{frame.number},-1,{left:.3f},{top:.3f},{size},{score:.5f}\n")
        out.write_text("".join(lines))
    return out


def true_boxes(truth: MotFile, fps: float, out: Path, holes: bool, seed: int = 0) -> Path:
    """Write the ground-truth boxes without ids; ``holes`` leaves out random passages."""
    rng = np.random.default_rng(seed)
    by_person: dict[int, dict[int, list[float]]] = {}
    for number in range(1, truth.num_frames + 1):
        boxes, ids = truth.at(number)
        for key, box in zip(ids.tolist(), boxes.xyxy.tolist(), strict=True):
            by_person.setdefault(key, {})[number] = box
    lines = []
    for frames in by_person.values():
        numbers = sorted(frames)
        for _ in range(max(1, round(len(numbers) / 100)) if holes else 0):
            first = int(rng.choice(numbers))
            for number in range(first, first + int(rng.uniform(1, 5) * fps)):
                frames.pop(number, None)
        for number, (left, top, right, bottom) in frames.items():
            lines.append(f"{number},-1,{left:.2f},{top:.2f},{right - left:.2f},{bottom - top:.2f},0.9\n")
    out.write_text("".join(lines))
    return out


BOXES = ("YOLOX-Nano", "truth", "holes")
BOXMOT = ("ByteTrack", "OcSort", "BotSort")
PEERS = Path(__file__).with_name("tracking_peers.py")


def plain_truth(truth: Path, out: Path) -> Path:
    """Write the ground truth with class 1 in column 8, where MOT15 has a world coordinate instead."""
    rows = [line.split(",")[:7] for line in truth.read_text().splitlines() if line.strip()]
    out.write_text("".join(",".join([*row, "1", "1"]) + "\n" for row in rows))
    return out


def score(truth: Path, result: Path) -> dict[str, float]:
    """HOTA, IDF1 and MOTA in percent and the number of identity switches, by ``trackers.eval``."""
    evaluate = require_extra("trackers.eval.evaluate", "video").evaluate_mot_sequence
    found = evaluate(truth, result, ["CLEAR", "HOTA", "Identity"])
    return {
        "HOTA": round(100 * float(found.HOTA.HOTA), 1), "IDF1": round(100 * float(found.Identity.IDF1), 1),
        "MOTA": round(100 * float(found.CLEAR.MOTA), 1), "IDSW": int(found.CLEAR.IDSW),
    }  # fmt: skip


def peer(python: Path, *args: object) -> str:
    """Run tracking_peers.py; its output."""
    command = [str(part) for part in (python, PEERS, *args)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def rows_of(given: argparse.Namespace, name: str, embedders: dict[Path, Embedder]) -> Iterator[dict[str, Any]]:
    """The scores of one sequence."""
    data, work = given.data, given.work
    video, truth_file = SEQUENCES[name]
    footage, truth = open_footage(data / video, 0.0), MotFile(data / truth_file)
    plain = plain_truth(data / truth_file, work / f"{name}.gt.txt")
    sources = {
        "YOLOX-Nano": detect(footage, data / YOLOX, work / f"{name}.yolox.txt"),
        "truth": true_boxes(truth, footage.fps, work / f"{name}.truth.txt", holes=False),
        "holes": true_boxes(truth, footage.fps, work / f"{name}.holes.txt", holes=True),
    }
    rows, files = [], []
    for boxes_from, source in [(kind, sources[kind]) for kind in given.boxes]:
        runs = {}
        for tracker in given.trackers:
            follower = make_tracker(tracker)
            follower.reset(footage.fps)
            runs[tracker] = (follower, {file: Collector(embedder) for file, embedder in embedders.items()})
        boxes_of = MotFile(source)
        for frame in read_frames(footage):
            boxes, _ = boxes_of.at(frame.number)
            for follower, collectors in runs.values():
                ids = follower.update(boxes, frame)
                for collector in collectors.values():
                    collector.add(frame, boxes, ids)
        for tracker, (_, collectors) in runs.items():
            for place, (weights_file, collector) in enumerate(collectors.items()):
                tracks, samples = collector.finish()
                for variant, settings in VARIANTS.items() if place == 0 else [(BOTH, VARIANTS[BOTH])]:
                    better = tracks if settings is None else refine(tracks, samples, settings, footage.size_wh)[0]
                    label = variant if place == 0 else f"{variant} of {weights_file.stem}"
                    files.append(work / f"{name}.{boxes_from}.{tracker}.{label.replace(' ', '-')}.result.txt")
                    write_mot(files[-1], better)
                    rows.append({"sequence": name, "boxes": boxes_from, "tracker": tracker, "variant": label})
        for kind in given.peers if given.boxmot else ():
            if kind == "BotSort" and boxes_from != "YOLOX-Nano":
                continue  # it embeds every box of every frame, which takes minutes
            files.append(work / f"{name}.{boxes_from}.boxmot-{kind}.result.txt")
            if not files[-1].exists():
                weights = work / Path(WEIGHTS).with_suffix(".pt").name  # BoxMOT infers the format from the extension
                shutil.copyfile(data / WEIGHTS, weights)
                peer(given.boxmot, "boxmot", kind, source, data / video, weights, files[-1])
            rows.append(
                {"sequence": name, "boxes": boxes_from, "tracker": f"BoxMOT {kind}", "variant": "tracker alone"}
            )
    again = json.loads(peer(given.trackeval, "trackeval", plain, *files)) if given.trackeval else [None] * len(files)
    for row, file, by_trackeval in zip(rows, files, again, strict=True):
        row |= score(plain, file)
        if by_trackeval is not None:
            row["TrackEval"] = by_trackeval
        yield row


def markdown(report: dict[str, Any], sequence: str = "PETS09-S2L1") -> str:
    """A table of one sequence: HOTA / IDF1 / MOTA."""
    rows = [row for row in report["rows"] if row["sequence"] == sequence]
    sources = list(dict.fromkeys(row["boxes"] for row in rows))
    lines = [["HOTA / IDF1 / MOTA", *sources], ["---"] * (1 + len(sources))]
    for tracker, variant in dict.fromkeys((row["tracker"], row["variant"]) for row in rows):
        cells = {row["boxes"]: row for row in rows if (row["tracker"], row["variant"]) == (tracker, variant)}
        shown = [
            " / ".join(f"{cells[source][m]:.1f}" for m in ("HOTA", "IDF1", "MOTA")) if source in cells else "-"
            for source in sources
        ]
        lines.append([f"{tracker}, {variant}", *shown])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trackers", nargs="+", default=["cbiou", "bytetrack"])
    parser.add_argument("--boxes", nargs="+", choices=BOXES, default=list(BOXES))
    parser.add_argument("--trackeval", type=Path)
    parser.add_argument("--boxmot", type=Path)
    parser.add_argument("--peers", nargs="+", choices=BOXMOT, default=list(BOXMOT))
    parser.add_argument("--sequences", nargs="+", choices=SEQUENCES, default=list(SEQUENCES))
    parser.add_argument("--more-weights", type=Path, nargs="*", default=[], help="other networks, for one more row")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    files = [given.data / WEIGHTS, *given.more_weights]
    embedders = {file: Embedder(file, device="cpu") for file in files}
    rows = []
    for name in given.sequences:
        for row in rows_of(given, name, embedders):
            rows.append(row)
            print(json.dumps(row), flush=True)
    facts = {
        "weights": WEIGHTS,
        "detector": f"{YOLOX} at {THRESHOLD}",
        "python": platform.python_version(),
        "trackers": version("trackers"),
    }
    if given.out.exists():  # rows of other sequences, boxes and trackers stay
        measured = {(row["sequence"], row["boxes"], row["tracker"]) for row in rows}
        before = json.loads(given.out.read_text(encoding="utf-8"))["rows"]
        rows += [row for row in before if (row["sequence"], row["boxes"], row["tracker"]) not in measured]
        rows.sort(key=lambda row: (list(SEQUENCES).index(row["sequence"]), BOXES.index(row["boxes"])))
    write_json(given.out, {"facts": facts, "rows": rows})


if __name__ == "__main__":
    main()
