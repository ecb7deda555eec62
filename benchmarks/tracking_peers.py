"""TrackEval and BoxMOT for ``tracking.py`` and ``footage_costs.py``, each in an environment that does not need osnet.

    PEER/bin/python benchmarks/tracking_peers.py trackeval truth.txt result.txt ...
    PEER/bin/python benchmarks/tracking_peers.py boxmot ByteTrack boxes.txt video.avi weights.pth out.txt
    PEER/bin/python benchmarks/tracking_peers.py stages BotSort boxes.txt video.avi weights.pt frames

``trackeval`` prints a JSON list with the scores of each result. ``boxmot`` tracks the given boxes with BoxMOT's
defaults and writes MOTChallenge text; only BotSort uses the weights. ``stages`` prints the milliseconds per
frame that decoding (by OpenCV, as BoxMOT does), embedding and tracking take. BoxMOT is AGPL-3.0.
"""

import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

METRICS = {"HOTA": "HOTA", "IDF1": "IDF1", "MOTA": "MOTA", "IDSW": "IDSW"}


def read(path: str) -> dict[int, list[list[float]]]:
    """Frame -> rows of id, left, top, width, height, confidence. Skips boxes with confidence 0."""
    found: dict[int, list[list[float]]] = defaultdict(list)
    for line in Path(path).read_text().splitlines():
        if line.strip():
            row = [float(value) for value in line.replace(",", " ").split()[:7]]
            if row[6] != 0:
                found[int(row[0])].append(row[1:])
    return found


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, M) intersection over union of boxes given as left, top, width, height."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, :2] + a[:, None, 2:4], b[None, :, :2] + b[None, :, 2:4])
    inside = np.clip(high - low, 0, None).prod(2)
    return inside / (a[:, 2:4].prod(1)[:, None] + b[:, 2:4].prod(1)[None] - inside)


def trackeval_scores(truth_file: str, result_file: str) -> dict[str, float]:
    """HOTA, IDF1 and MOTA in percent and the number of identity switches, by TrackEval."""
    import trackeval

    truth, result = read(truth_file), read(result_file)
    frames = range(1, max([*truth, *result]) + 1)
    names = [
        {key: index for index, key in enumerate(sorted({int(row[0]) for rows in side.values() for row in rows}))}
        for side in (truth, result)
    ]
    data: dict[str, Any] = {"gt_ids": [], "tracker_ids": [], "similarity_scores": [], "num_timesteps": len(frames)}
    for frame in frames:
        boxes = [np.array(side.get(frame, []), float).reshape(-1, 6) for side in (truth, result)]
        data["gt_ids"].append(np.array([names[0][int(key)] for key in boxes[0][:, 0]], int))
        data["tracker_ids"].append(np.array([names[1][int(key)] for key in boxes[1][:, 0]], int))
        data["similarity_scores"].append(iou(boxes[0][:, 1:], boxes[1][:, 1:]))
    data |= {"num_gt_ids": len(names[0]), "num_tracker_ids": len(names[1])}
    data |= {"num_gt_dets": sum(map(len, data["gt_ids"])), "num_tracker_dets": sum(map(len, data["tracker_ids"]))}
    found: dict[str, Any] = {}
    for metric in (trackeval.metrics.HOTA, trackeval.metrics.CLEAR, trackeval.metrics.Identity):
        config = {"PRINT_CONFIG": False}
        found |= (metric() if metric is trackeval.metrics.HOTA else metric(config)).eval_sequence(data)
    percents = {name: round(100 * float(np.mean(found[name])), 1) for name in ("HOTA", "IDF1", "MOTA")}
    return {**percents, "IDSW": int(found["IDSW"])}


def track_by_boxmot(name: str, boxes_file: str, video: str, weights: str, out: str) -> None:
    """Track given boxes with a tracker of BoxMOT."""
    import av
    import boxmot

    # The cameras do not move. Compensating camera motion would take BotSort longer than everything else.
    options = {"BotSort": {"reid_weights": weights, "device": "cpu", "use_cmc": False}}.get(name, {})
    tracker = getattr(boxmot, name)(**options)
    boxes, lines = read(boxes_file), []
    with av.open(video) as container:
        for number, frame in enumerate(container.decode(video=0), 1):
            rows = np.array(boxes.get(number, []), np.float32).reshape(-1, 6)
            found = np.zeros((len(rows), 6), np.float32)
            found[:, :2], found[:, 2:4], found[:, 4] = rows[:, 1:3], rows[:, 1:3] + rows[:, 3:5], rows[:, 5]
            for left, top, right, bottom, key, score, *_ in tracker.update(found, frame.to_ndarray(format="bgr24")):
                size = f"{right - left:.2f},{bottom - top:.2f}"
                lines.append(f"{number},{int(key)},{left:.2f},{top:.2f},{size},{max(score, 0.01):.4f},1,1\n")
    Path(out).write_text("".join(lines))


class Timed:
    """BoxMOT's network for embeddings; adds up its processor time."""

    def __init__(self, weights: str) -> None:
        import torch
        from boxmot.reid.backends.pytorch_backend import PyTorchBackend

        self.network, self.seconds = PyTorchBackend(Path(weights), torch.device("cpu"), False), 0.0

    def get_features(self, boxes: np.ndarray, image: np.ndarray) -> Any:
        start = time.process_time()
        features = self.network.get_features(boxes, image)
        self.seconds += time.process_time() - start
        return features


def stages_of_boxmot(name: str, boxes_file: str, video: str, weights: str, frames: str) -> dict[str, float]:
    """Milliseconds of processor time per frame of each stage."""
    import boxmot
    import cv2

    timed = Timed(weights) if name == "BotSort" else None
    tracker = getattr(boxmot, name)(**({"reid_model": timed, "use_cmc": False} if timed else {}))
    boxes, capture = read(boxes_file), cv2.VideoCapture(video)
    capture.read()  # warm up
    if timed:
        timed.get_features(np.array([[0, 0, 100, 200]] * 8, np.float32), np.zeros((576, 768, 3), np.uint8))
        timed.seconds = 0.0
    decoded = tracked = 0.0
    for number in range(2, int(frames) + 2):
        start = time.process_time()
        _, image = capture.read()
        between = time.process_time()
        rows = np.array(boxes.get(number, []), np.float32).reshape(-1, 6)
        found = np.zeros((len(rows), 6), np.float32)
        found[:, :2], found[:, 2:4], found[:, 4] = rows[:, 1:3], rows[:, 1:3] + rows[:, 3:5], rows[:, 5]
        tracker.update(found, image)
        decoded, tracked = decoded + between - start, tracked + time.process_time() - between
    embedded = timed.seconds if timed else 0.0
    seconds = {"decode": decoded, "track": tracked - embedded, "embed": embedded}
    return {stage: round(1000 * value / int(frames), 2) for stage, value in seconds.items()}


def main() -> None:
    what, *rest = sys.argv[1:]
    if what == "trackeval":
        print(json.dumps([trackeval_scores(rest[0], result) for result in rest[1:]]))
    elif what == "stages":
        print(json.dumps(stages_of_boxmot(*rest)))
    else:
        track_by_boxmot(*rest)


if __name__ == "__main__":
    main()
