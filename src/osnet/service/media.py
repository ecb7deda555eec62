"""Pictures and clips that are made when somebody asks: frames of footage, passages with a box, why a hit matched.

Nothing of it is kept: clips are written into a temporary folder of the state and deleted once they are sent.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from osnet.data.loading import decode_image
from osnet.figures.match import draw_match, explain_match
from osnet.figures.person_boxes import BoxedImage
from osnet.service.gallery_crops import GalleryCrop
from osnet.service.library import Library
from osnet.video.archive import Tracklet, format_time
from osnet.video.drawing import write_clip
from osnet.video.protocols import FootageError
from osnet.video.source import read_frames

MAX_CLIP_S = 120.0


@contextmanager
def made_clip(tracklet: Tracklet, folder: Path) -> Iterator[Path]:
    """A passage with the box drawn, as MP4; deleted at the end.

    Raises:
        FootageError: the footage is not there, or has changed, or the passage is longer than two minutes.
    """
    if isinstance(tracklet, GalleryCrop):
        raise FootageError("a crop of a gallery has no footage, so there is no clip")
    if tracklet.end_s - tracklet.begin_s > MAX_CLIP_S:
        raise FootageError(
            f"the passage lasts {tracklet.end_s - tracklet.begin_s:.0f} s; clips have at most {MAX_CLIP_S:.0f}"
        )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="clip-") as place:
        path = Path(place) / "clip.mp4"
        write_clip(tracklet, path, label=f"{tracklet.camera} {format_time(tracklet.begin_s)[11:19]}")
        yield path


def read_frame(library: Library, camera: str, time_s: float) -> tuple[Image.Image, float, float]:
    """The frame of a camera at a Unix time: the picture, its own time, and the time of a frame's length.

    Raises:
        FootageError: no footage of that camera and time, or it is not where it was, or has changed.
    """
    footage = library.footage_at(camera, time_s)
    step = 1 / footage.fps
    at = min(max(0.0, time_s - footage.starts_s), footage.duration_s - step)
    for frame in read_frames(footage, max(0.0, at - step / 2)):
        return Image.fromarray(frame.image), frame.time_s, step
    raise FootageError(f"{camera} has no frame at {format_time(time_s)}")


def draw_why(library: Library, query_jpeg: bytes, tracklet: Tracklet, folder: Path) -> bytes:
    """PNG: which parts of the query and of the hit's best crop make their score."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    query, hit = decode_image(query_jpeg, "the query"), decode_image(library.picture(tracklet), "the hit")
    with library.network_lock, tempfile.TemporaryDirectory(dir=folder, prefix="match-") as place:
        maps = explain_match(library.embedder, query, hit)
        path = Path(place) / "match.png"
        draw_match([BoxedImage("query", query), BoxedImage(tracklet.camera or "gallery", hit)], maps, path)
        return path.read_bytes()
