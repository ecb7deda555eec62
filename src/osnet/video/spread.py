"""``index_footage`` on several processes or machines: each segment of the footage is an item of a list of work.

The archive itself says what is done: a segment that it holds is not made again. The result of an item only says that
the archive holds its segment; what was found, and what could not be read, is in the segment.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Any

from osnet import Embedder
from osnet.errors import WeightsError
from osnet.files import write_json
from osnet.runtime.distributed import any_of_all, join_processes, local_device
from osnet.video.archive import Archive
from osnet.video.archive_segments import SEGMENT_FILE, write_segment, writing
from osnet.video.detectors import make_detector
from osnet.video.indexing import IndexReport, _about, _process
from osnet.video.planning import IndexSettings, Work, check_box_file, compare, describe, plan_segments
from osnet.video.source import Footage, open_footage
from osnet.video.tracking import DEFAULT_TRACKER, make_tracker
from osnet.work import Runner, WorkList, run_work


class IndexSegment:
    """The task: find the people in one segment, and write it into the archive."""

    def __init__(self, settings: dict[str, Any]) -> None:
        import torch

        torch.set_num_threads(1)
        self._camera, self._archive = str(settings["camera"]), Path(settings["archive"])
        self._settings = IndexSettings(**settings["settings"])
        self._detector = make_detector(settings["detector"], settings["threshold"], self._settings.fps)
        self._tracker = make_tracker(settings["tracker"])
        self._embedder = Embedder(
            settings["weights"],
            local_device(settings["device"]),
            settings["batch_size"],
            num_workers=1,
            backend=settings["backend"],
        )
        if self._embedder.sha256() != settings["weights_sha256"]:
            raise WeightsError(f"{settings['weights']} are not the weights that the list was made for")
        self._footage: Footage | None = None

    def __call__(self, item: dict[str, Any], result: Path) -> None:
        """Index one segment."""
        path, starts_s = Path(item["footage"]), float(item["footage_starts_s"])
        if self._footage is None or (self._footage.path, self._footage.starts_s) != (path, starts_s):
            self._footage = open_footage(path, starts_s)
        one = Work(self._footage, float(item["start_s"]), float(item["core_s"]), str(item["label"]))
        if (self._archive / one.name / SEGMENT_FILE).exists():
            write_json(result, {"segment": one.name})
            return
        finished, frames, troubles = _process(
            one, self._detector, self._tracker, self._embedder, self._settings, lambda _: None
        )
        decides = describe(self._detector, self._tracker, self._settings)
        about = _about(one, self._camera, decides, frames, len(finished), troubles)
        write_segment(self._archive, one.name, finished, about, self._embedder.embedding_size)
        write_json(result, {"segment": one.name})


def index_on_many(
    files: Sequence[Path],
    archive: str | Path,
    *,
    camera: str,
    embedder: Embedder,
    weights: str | Path,
    detector: str,
    threshold: float | None = None,
    tracker: str = DEFAULT_TRACKER,
    starts: str | float | None = None,
    name_pattern: str | None = None,
    zone: tzinfo = UTC,
    settings: IndexSettings | None = None,
    device: str = "auto",
    runner: Runner = "local",
    workers: int = 1,
    gpus: float = 0.0,
    on_done: Callable[[], None] = lambda: None,
) -> IndexReport:
    """``index_footage`` with workers that make segments at the same time. An interrupted call resumes.

    Args:
        files: footage of one camera, which every worker finds at the same path.
        archive: its folder, which every worker sees. The list of work is beside it, in ``ARCHIVE.work/CAMERA``.
        camera, starts, name_pattern, zone, settings: as for ``index_footage``.
        embedder: of the weights.
        weights: path or name, which every worker opens itself.
        detector, threshold, tracker: as for ``make_detector`` and ``make_tracker``.
        device: of each worker.
        runner, workers, gpus: as for ``run_work``.
        on_done: called for each segment that is done.

    Returns:
        What was added and what could not be read. With ``torchrun``, only the first process knows; the others return
        an empty report.

    Raises:
        FootageError, GalleryError, OutputError: as ``index_footage``.
        QuarantineError: segments that failed three times; the others are in the archive.
    """
    settings = settings or IndexSettings()
    archive = Path(archive).absolute()
    folder = archive.with_name(archive.name + ".work") / camera
    rank = join_processes()[0] if runner == "torchrun" else 0
    if rank:
        any_of_all(False)  # the first process has written the list
        run_work(WorkList(folder), runner, on_done=on_done)
        return IndexReport()
    finder = make_detector(detector, threshold, settings.fps)
    check_box_file(finder, files)
    decides = describe(finder, make_tracker(tracker), settings)
    planned = plan_segments(list(files), camera, starts, name_pattern, zone, settings)
    store = Archive.open(archive, embedder)
    there = {segment["name"]: segment for segment in store.segments}
    planned, changed = compare(planned, there, decides, camera, follow=starts is not None)
    items = [
        {
            "label": one.name,
            "footage": str(one.footage.path.absolute()),
            "footage_starts_s": one.footage.starts_s,
            "start_s": one.start_s,
            "core_s": one.core_s,
        }
        for one in planned
    ]
    shared = {
        "camera": camera,
        "archive": str(archive),
        "settings": decides["settings"],
        "detector": detector,
        "threshold": threshold,
        "tracker": tracker,
        "weights": str(weights),
        "weights_sha256": embedder.sha256(),
        "device": device,
        "batch_size": embedder.batch_size,
        "backend": embedder.backend,  # workers that measure for themselves may choose others, with other embeddings
    }
    report = IndexReport()
    for footage in {id(one.footage): one.footage for one in planned}.values():
        report.troubles += [f"{footage.path} {trouble}" for trouble in footage.troubles]
    report.troubles += changed
    with WorkList.planned(folder, "video", shared, items) as work, writing(archive, camera):
        store.refresh()
        before = {segment["name"] for segment in store.segments}
        for item, entry in work.items.items():
            if entry["label"] not in before:  # never made, or removed since
                work.result(item).unlink(missing_ok=True)
        if runner == "torchrun":
            any_of_all(False)  # the others may begin
        run_work(work, runner, workers=workers, gpus=gpus, on_done=on_done)
        store.refresh()
        made = {segment["name"]: segment for segment in store.segments}
    for one in planned:
        segment = made[one.name]
        if one.name in before:
            report.segments_there += 1
        else:
            report.segments_added += 1
            report.tracklets_added += segment["num_tracklets"]
            report.frames += segment["num_frames"]
        report.troubles += [f"{one.footage.path} {trouble}" for trouble in segment["troubles"]]
    return report
