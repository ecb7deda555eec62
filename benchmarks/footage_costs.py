"""Costs of indexing footage: processor time of each stage per frame, and memory over a long run.

    python benchmarks/footage_costs.py --data ../shared/data --out benchmarks/results/footage-costs.json \\
        [--frames 200] [--rounds 3] [--boxmot BOXMOT/bin/python] [--long 20000]

Stages are measured on OpenCV's vtest.avi with YOLOX-Nano and OSNet x0.25, for each tracker in its own process with one
thread. As in indexing, a few frames pass each stage together. The processes take turns; for each stage, the round with
the least processor time counts. BoxMOT, in an environment of its own, tracks the same boxes and embeds with the same
weights. ``--long`` repeats the footage with its detected boxes and indexes it in segments of five minutes; the
resident memory is recorded every 500 frames. Without ``--long``, the memory in the file ``--out`` stays.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from osnet import Embedder
from osnet.files import write_json
from osnet.video.appearance import Appearance, refine
from osnet.video.archive import segment_name, write_segment
from osnet.video.crops import Collector
from osnet.video.detectors import YoloxDetector
from osnet.video.indexing import TOGETHER, finish_tracks, in_blocks, process_frames
from osnet.video.motfile import MotFile
from osnet.video.planning import IndexSettings
from osnet.video.protocols import Boxes, VideoFrame
from osnet.video.source import Footage, open_footage, read_frames
from osnet.video.tracking import make_tracker

VIDEO, YOLOX, WEIGHTS = (
    "videos/vtest.avi",
    "detectors/yolox_nano_416x416.onnx",
    "weights/osnet_x0_25_msmt17.pth",
)
OTHERS = ("decode", "track", "embed", "appearance", "write")
TRACKERS, PEERS = ("cbiou", "bytetrack"), ("ByteTrack", "BotSort")


class Stages:
    """Processor time by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def run(self, name: str, function: Any, *args: Any) -> Any:
        """Call a function and add its time."""
        start = time.process_time()
        result = function(*args)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - start
        return result


def timed(frames: Iterator[VideoFrame], stages: Stages) -> Iterator[VideoFrame]:
    """Frames, whose decoding is counted."""
    while (frame := stages.run("decode", next, frames, None)) is not None:
        yield frame


def measure(data: Path, frames: int, tracker_name: str, boxes: Path, together: int) -> dict[str, float]:
    """Milliseconds per frame of each stage. Writes the detected boxes to ``boxes`` as MOTChallenge text."""
    footage, embedder = open_footage(data / VIDEO, 0.0), Embedder(data / WEIGHTS, device="cpu", backend="fastest")
    detector, tracker, collector = YoloxDetector(data / YOLOX), make_tracker(tracker_name), Collector(embedder)
    tracker.reset(footage.fps)
    stages, lines = Stages(), []
    reader = read_frames(footage)
    warm = next(reader)  # warm up: compiles and starts threads
    embedder.embed([warm.image[:200, :100]] * embedder.batch_size)
    detector.detect(warm)
    for block in in_blocks(timed(islice(reader, frames), stages), together):  # in the order of process_frames
        detected = [(frame, stages.run("detect", detector.detect, frame)) for frame in block]
        tracked = [(frame, found, stages.run("track", tracker.update, found, frame)) for frame, found in detected]
        for frame, found, ids in tracked:
            stages.run("embed", collector.add, frame, found, ids)
            for (left, top, right, bottom), score in zip(found.xyxy.tolist(), found.scores.tolist(), strict=True):
                size = f"{right - left:.3f},{bottom - top:.3f}"
                lines.append(f"{frame.number},-1,{left:.3f},{top:.3f},{size},{score:.5f}\n")
    tracks, samples = stages.run("embed", collector.finish)
    tracks, samples = stages.run("appearance", refine, tracks, samples, Appearance(), footage.size_wh)
    finished = finish_tracks(tracks, samples, float("inf"), IndexSettings())
    with tempfile.TemporaryDirectory() as folder:
        stages.run("write", write_segment, Path(folder), "a/b/c", finished, {}, embedder.embedding_size)
    boxes.write_text("".join(lines))
    return {name: round(1000 * seconds / frames, 2) for name, seconds in stages.seconds.items()}


def measure_in_turn(
    data: Path, frames: int, rounds: int, boxmot: Path | None, work: Path, together: int
) -> dict[str, dict[str, float]]:
    """Contender -> milliseconds per frame of each stage: the least of all rounds."""
    boxes, weights = work / "boxes.txt", work / Path(WEIGHTS).with_suffix(".pt").name
    shutil.copyfile(data / WEIGHTS, weights)  # BoxMOT infers the format from the extension
    ours = [sys.executable, str(Path(__file__).resolve()), "--data", str(data), "--frames", str(frames)]
    ours += ["--together", str(together)]
    commands = {name: [*ours, "--worker", name, "--out", str(boxes)] for name in TRACKERS}
    if boxmot is not None:
        peers = Path(__file__).resolve().with_name("tracking_peers.py")
        given = [str(boxes), str(data / VIDEO), str(weights), str(frames)]
        commands |= {f"BoxMOT {name}": [str(boxmot), str(peers), "stages", name, *given] for name in PEERS}
    best: dict[str, dict[str, float]] = {}
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(rounds):
        for name, command in commands.items():
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env).stdout
            stages = json.loads(printed.splitlines()[-1])
            print(name, stages, flush=True)
            before = best.get(name, stages)
            best[name] = {stage: min(value, before[stage]) for stage, value in stages.items()}
    return best


class Replay:
    """A detector that returns known boxes of repeated frames."""

    warmup_s = 0.0

    def __init__(self, found: dict[int, Boxes], period: int) -> None:
        self.description, self._found, self._period = {"detector": "replay"}, found, period

    def reset(self) -> None:
        pass

    def detect(self, frame: VideoFrame) -> Boxes:
        return self._found.get((frame.number - 1) % self._period + 1, Boxes())


def memory_mb() -> tuple[float, float]:
    """Resident memory of this process, and the anonymous part of it: without files, whose pages come and go."""
    pages, shared = (int(number) for number in Path("/proc/self/statm").read_text().split()[1:3])
    return round(pages * 4096 / 1e6, 1), round((pages - shared) * 4096 / 1e6, 1)


def repeat(footage: Footage, period: int, frames: int, memory: dict[int, tuple[float, float]]) -> Iterator[VideoFrame]:
    """Repeat the first ``period`` frames; records the memory every 500 frames."""
    number = 0
    while number < frames:
        for frame in read_frames(footage, stop_s=float(footage.times_s[period - 1]) + 1e-3):
            number += 1
            if number % 500 == 0:
                memory[number] = memory_mb()
            yield VideoFrame(frame.image, round(number / footage.fps, 6), number)


def long_run(data: Path, found: dict[int, Boxes], frames: int) -> dict[int, tuple[float, float]]:
    """Resident and anonymous memory in MB by the number of frames."""
    footage, embedder = open_footage(data / VIDEO, 0.0), Embedder(data / WEIGHTS, device="cpu", backend="fastest")
    settings, tracker, detector = IndexSettings(), make_tracker(), Replay(found, len(found))
    memory: dict[int, tuple[float, float]] = {}
    stream = repeat(footage, len(found), frames, memory)
    per_segment = round(settings.segment_s * footage.fps)
    with tempfile.TemporaryDirectory() as folder:
        for start in range(0, frames, per_segment):
            part = (frame for _, frame in zip(range(min(per_segment, frames - start)), stream, strict=False))
            finished, _ = process_frames(
                part, 0.0, float("inf"), footage.fps, detector, tracker, embedder, settings, together=TOGETHER
            )  # fmt: skip
            name = segment_name("gate", start / footage.fps)
            write_segment(Path(folder), name, finished, {}, embedder.embedding_size)
            del finished
            print(start, memory[max(memory)] if memory else None, flush=True)
    return memory


def markdown(report: dict[str, Any]) -> str:
    """Milliseconds per frame of each stage, and the memory of a long run."""
    costs = report["ms per frame"]
    rows = [["ms per frame", *costs], ["---"] * (1 + len(costs))]
    rows += [
        [stage, *(f"{stages[stage]:.2f}" if stage in stages else "" for stages in costs.values())]
        for stage in ("detect", *OTHERS)
    ]
    sums = [sum(stages.get(stage, 0.0) for stage in OTHERS) for stages in costs.values()]
    rows.append(["all but the detector", *(f"{total:.2f}" for total in sums)])
    detect = min(stages["detect"] for stages in costs.values() if "detect" in stages)
    rows.append(["the same, as a share of the detector's", *(f"{100 * total / detect:.0f} %" for total in sums)])
    shown = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    if memory := report.get("resident MB by frame"):
        shown += (
            f"\n\nIn a run over {max(map(int, memory)):,} frames, with the boxes of YOLOX-Nano known, the process had "
            f"at most {max(memory.values()):.0f} MB. After the first 2,000 frames it grew by "
        )
        shown += f"{report['growth of resident memory after 2,000 frames, MB']:.1f} MB"
        if (grown := report.get("growth of anonymous memory after 2,000 frames, MB")) is not None:
            shown += f"; without the pages of files, which the system drops and reads again, by {grown:.1f} MB"
        shown += "."
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--together", type=int, default=TOGETHER, help="frames that pass a stage together")
    parser.add_argument("--boxmot", type=Path)
    parser.add_argument("--long", type=int, default=0)
    parser.add_argument("--worker")
    given = parser.parse_args()
    if given.worker:
        print(json.dumps(measure(given.data, given.frames, given.worker, given.out, given.together)))
        return
    with tempfile.TemporaryDirectory() as folder:
        costs = measure_in_turn(given.data, given.frames, given.rounds, given.boxmot, Path(folder), given.together)
        boxes = MotFile(Path(folder) / "boxes.txt")
    found = {number: boxes.at(number)[0] for number in range(2, given.frames + 2)}
    before = json.loads(given.out.read_text(encoding="utf-8")) if given.out.exists() else {}
    report: dict[str, Any] = {key: value for key, value in before.items() if " memory " in key or " MB by " in key}
    report |= {
        "facts": {"python": platform.python_version(), "machine": platform.machine(), "frames": given.frames},
        "ms per frame": costs,
    }
    print(json.dumps(report), flush=True)
    if given.long:
        memory = long_run(given.data, found, given.long)
        for place, kind in enumerate(("resident", "anonymous")):
            values = {number: both[place] for number, both in memory.items()}
            report[f"{kind} MB by frame"] = values
            grown = max(value for number, value in values.items() if number > 2000) - values[2000]
            report[f"growth of {kind} memory after 2,000 frames, MB"] = round(grown, 1)
        print(json.dumps(report), flush=True)
    write_json(given.out, report)


if __name__ == "__main__":
    main()
