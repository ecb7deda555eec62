"""Costs of indexing footage: processor time of each stage per frame, and memory over a long run.

    python benchmarks/footage_costs.py --data ../shared/data --out benchmarks/results/footage-costs.json \\
        [--frames 200] [--long 20000]

Stages are measured on OpenCV's vtest.avi with YOLOX-Nano, C-BIoU and OSNet x0.25, in one process. Processor time of all
threads depends little on the machine's load. ``--long`` repeats the footage with its detected boxes and indexes it in
segments of five minutes; the resident memory is recorded every 500 frames.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from osnet import Embedder
from osnet.files import write_json
from osnet.video.appearance import Appearance, refine
from osnet.video.archive import segment_name, write_segment
from osnet.video.crops import Collector
from osnet.video.detectors import YoloxDetector
from osnet.video.indexing import IndexSettings, finish_tracks, process_frames
from osnet.video.protocols import Boxes, VideoFrame
from osnet.video.source import Footage, open_footage, read_frames
from osnet.video.tracking import make_tracker

VIDEO, YOLOX, WEIGHTS = (
    "videos/vtest.avi",
    "detectors/yolox_nano_416x416.onnx",
    "weights/osnet_x0_25_msmt17.pth",
)
OTHERS = ("decode", "track", "choose and embed crops", "appearance", "write")


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


def measure(data: Path, frames: int) -> tuple[dict[str, float], dict[int, Boxes]]:
    """Milliseconds per frame of each stage, and the boxes of each frame."""
    footage, embedder = open_footage(data / VIDEO, 0.0), Embedder(data / WEIGHTS, device="cpu", backend="fastest")
    detector, tracker, collector = YoloxDetector(data / YOLOX), make_tracker(), Collector(embedder)
    tracker.reset(footage.fps)
    stages, found = Stages(), {}
    reader = read_frames(footage)
    warm = next(reader)  # warm up: compiles and starts threads
    embedder.embed([warm.image[:200, :100]] * embedder.batch_size)
    detector.detect(warm)
    for _ in range(frames):
        frame = stages.run("decode", next, reader, None)
        if frame is None:
            break
        found[frame.number] = stages.run("detect", detector.detect, frame)
        ids = stages.run("track", tracker.update, found[frame.number], frame)
        stages.run("choose and embed crops", collector.add, frame, found[frame.number], ids)
    tracks, samples = stages.run("choose and embed crops", collector.finish)
    tracks, samples = stages.run("appearance", refine, tracks, samples, Appearance(), footage.size_wh)
    finished = finish_tracks(tracks, samples, float("inf"), IndexSettings())
    with tempfile.TemporaryDirectory() as folder:
        stages.run("write", write_segment, Path(folder), "a/b/c", finished, {}, embedder.embedding_size)
    return {name: round(1000 * seconds / len(found), 2) for name, seconds in stages.seconds.items()}, found


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
                part, 0.0, float("inf"), footage.fps, detector, tracker, embedder, settings
            )  # fmt: skip
            name = segment_name("gate", start / footage.fps)
            write_segment(Path(folder), name, finished, {}, embedder.embedding_size)
            del finished
            print(start, memory[max(memory)] if memory else None, flush=True)
    return memory


def markdown(report: dict[str, Any]) -> str:
    """Milliseconds per frame of each stage, and the memory of a long run."""
    stages = report["ms per frame"]
    share = sum(stages[name] for name in OTHERS) / stages["detect"]
    rows = [["stage", "ms of processor time per frame"], ["---", "---"]]
    rows += [[name, f"{stages[name]:.2f}"] for name in ("detect", *OTHERS)]
    rows.append(["all but the detector, as a share of the detector's time", f"{100 * share:.0f} %"])
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
    parser.add_argument("--long", type=int, default=0)
    given = parser.parse_args()
    stages, found = measure(given.data, given.frames)
    report: dict[str, Any] = {
        "facts": {"python": platform.python_version(), "machine": platform.machine(), "frames": len(found)},
        "ms per frame": stages,
        "others / detector": round(sum(stages[name] for name in OTHERS) / stages["detect"], 3),
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
