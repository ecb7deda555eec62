"""Generated footage as files: a video and the true tracks of each camera, and an image of each person.

    OUT/
      camera-1.mp4 ...      the videos; their metadata say when they were taken
      camera-1.txt ...      true boxes and ids, MOTChallenge text
      photos/0001.jpg ...   each person, by a further camera; queries for a search
      footage.json          the settings, and who crosses which view when

The people are painted, so results on them show that indexing and searching work, not how good they are.
"""

import shutil
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from PIL import Image

from osnet.errors import OutputError
from osnet.files import check_writable, write_json
from osnet.synthetic.footage import FootageSettings, PaintedCamera, plan_visits
from osnet.synthetic.generate import render_image
from osnet.video.drawing import video_writer

FORMAT = "osnet-painted-footage-1"
STARTS = datetime(2026, 1, 5, 8, tzinfo=UTC)
"""Start of all videos, in their metadata."""


def write_painted_footage(
    out: str | Path, settings: FootageSettings | None = None, on_frame: Callable[[int, int], None] | None = None
) -> list[Path]:
    """Paint footage and write it into ``out``.

    Args:
        out: a folder that does not exist yet. It is renamed to this name when all files are complete.
        settings: people, cameras, length.
        on_frame: called with the number of finished frames and of all frames.

    Returns:
        The videos in the order of the cameras.

    Raises:
        OutputError: ``out`` exists or cannot be written.
    """
    out, settings = Path(out), settings or FootageSettings()
    if out.exists():
        raise OutputError(f"{out} exists already; choose another name, or delete it")
    check_writable(out)
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "photos").mkdir(parents=True)
    names = []
    for number in range(1, settings.cameras + 1):
        camera = PaintedCamera(settings, number)
        names.append(f"camera-{number}.mp4")
        lines = []
        metadata = {"creation_time": STARTS.isoformat()}
        with video_writer(partial / names[-1], settings.fps, metadata) as write:
            for place, (picture, boxes) in enumerate(camera.frames()):
                write(picture)
                for one in boxes:
                    left, top, right, bottom = one.box
                    lines.append(
                        f"{place + 1},{one.pid},{left},{top},{right - left},{bottom - top},1,1,{one.visible:.3f}\n"
                    )
                if on_frame is not None:
                    on_frame((number - 1) * camera.num_frames + place + 1, settings.cameras * camera.num_frames)
        (partial / f"camera-{number}.txt").write_text("".join(lines), encoding="utf-8")
    for pid in range(1, settings.people + 1):
        shot = render_image(settings.seed, pid, settings.cameras + 1, 0)
        Image.fromarray(shot.pixels).save(partial / "photos" / f"{pid:04d}.jpg", quality=92)
    visits = [asdict(visit) for visit in plan_visits(settings)]
    write_json(partial / "footage.json", {"format": FORMAT, **asdict(settings), "visits": visits})
    partial.rename(out)
    return [out / name for name in names]
