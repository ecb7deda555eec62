"""Find the people in footage, and search them by image.

footage -> segments -> decode -> detect -> track -> choose crops -> embed -> archive

>>> embedder = Embedder("osnet_x0_25_msmt17")
>>> index_footage("gate.mp4", "archive", camera="gate", starts="2026-11-28T08:00:00+01:00",
...               embedder=embedder, detector=make_detector("yolox_nano"))
>>> archive = Archive.open("archive", embedder)
>>> for hit in archive.search("photo.jpg"):
...     print(hit.score, archive.tracklet(hit.item.source))
"""

from osnet.video.archive import Archive, Crop, Tracklet
from osnet.video.detectors import make_detector
from osnet.video.indexing import index_footage
from osnet.video.planning import IndexSettings
from osnet.video.protocols import Boxes, Detector, FootageError, FootageWarning, Tracker, VideoFrame
from osnet.video.recordings import list_footage
from osnet.video.source import Footage, open_footage
from osnet.video.tracking import make_tracker

__all__ = [
    "Archive",
    "Boxes",
    "Crop",
    "Detector",
    "Footage",
    "FootageError",
    "FootageWarning",
    "IndexSettings",
    "Tracker",
    "Tracklet",
    "VideoFrame",
    "index_footage",
    "list_footage",
    "make_detector",
    "make_tracker",
    "open_footage",
]
