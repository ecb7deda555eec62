"""Detectors: adapters to YOLOX (ONNX), Intel's pedestrian detector (OpenVINO), torchvision, rfdetr and MOTChallenge
text, and a detector by motion. This package contains no weights of detectors.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from osnet.downloads import cache_folder, download
from osnet.errors import require_extra
from osnet.files import make_folder, sha256_file, written_aside
from osnet.runtime.backends import openvino_core
from osnet.video.motfile import MotFile
from osnet.video.protocols import Boxes, Detector, Floats, FootageError, VideoFrame

YOLOX_STRIDES = (8, 16, 32)
PAD = 114.0
"""The grey of the padding in the training of YOLOX."""
PERSON = 0
"""The class of people in COCO, counted from 0."""
DOWNLOADS = {
    "yolox_nano": (
        "https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0/yolox_nano.onnx",
        "695e750a5d5754bb5a8d5325643b59282191a7e7a564e435a415fd3c578eab14",
        8 << 20,
    ),
}
"""By name: address, SHA-256, largest size in bytes. Apache-2.0 (Megvii). Of Megvii's other files (tiny, s, m, l, x) we
have no verified digest, so they are used by path only."""
TIMEOUT_S = 30.0


class YoloxDetector:
    """YOLOX of any size, exported to ONNX. Ge et al. 2021, arXiv:2107.08430.

    Args:
        path: file with input (1, 3, H, W) and output (1, A, 85) without the anchor grid, as in Megvii's releases.
        threshold: lowest score, which is objectness times the probability of a person.
        nms_iou: of two boxes with a higher IoU, the one with the lower score is dropped.
        threads: of ONNX Runtime; default: one per core.

    Raises:
        FootageError: the file is missing or of another kind.
        MissingExtraError: ``onnxruntime`` is not installed.
    """

    warmup_s = 0.0

    def __init__(
        self, path: str | Path, threshold: float = 0.2, nms_iou: float = 0.5, threads: int | None = None
    ) -> None:
        _check_fractions(threshold=threshold, nms_iou=nms_iou)
        runtime = require_extra("onnxruntime", "video")
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or 0
        options.add_session_config_entry(
            "session.intra_op.allow_spinning", "0"
        )  # else idle threads keep the cores busy
        try:
            self._session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            (entry,), (output,) = self._session.get_inputs(), self._session.get_outputs()
            self._input, (_, channels, self._height, self._width) = entry.name, entry.shape
            cells = sum((self._height // s) * (self._width // s) for s in YOLOX_STRIDES)
            if channels != 3 or list(output.shape[1:]) != [cells, 85]:
                raise FootageError(
                    f"{path}: input {entry.shape}, output {output.shape}; YOLOX has (1, 3, H, W) and (1, A, 85)"
                )
        except FootageError:
            raise
        except Exception as error:  # ONNX Runtime's own errors have no common base
            raise FootageError(f"{path} cannot be used as a YOLOX detector: {error}") from error
        self.threshold, self.nms_iou = threshold, nms_iou
        self._sha256 = sha256_file(path)
        self._grid, self._strides = _yolox_grid(self._height, self._width)

    @property
    def description(self) -> dict[str, Any]:
        """Kind, digest of the file, thresholds."""
        return {"detector": "yolox", "sha256": self._sha256, "threshold": self.threshold, "nms_iou": self.nms_iou}

    def reset(self) -> None:
        """Do nothing: there is no state."""

    def detect(self, frame: VideoFrame) -> Boxes:
        """Find the people in ``frame``."""
        height, width = frame.image.shape[:2]
        scale = min(self._height / height, self._width / width)
        size_hw = (max(1, int(height * scale)), max(1, int(width * scale)))
        picture = np.full((1, 3, self._height, self._width), PAD, np.float32)
        picture[0, ::-1, : size_hw[0], : size_hw[1]] = _resized(frame.image, size_hw)  # BGR, 0 to 255
        raw = self._session.run(None, {self._input: picture})[0][0]
        scores = raw[:, 4] * raw[:, 5 + PERSON]
        keep = np.flatnonzero(scores >= self.threshold)
        centres = (raw[keep, :2] + self._grid[keep]) * self._strides[keep] / scale
        sizes = np.exp(raw[keep, 2:4]) * self._strides[keep] / scale
        corners = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1)
        return suppress(_clipped(corners, scores[keep], width, height), self.nms_iou)


def _yolox_grid(height: int, width: int) -> tuple[Floats, Floats]:
    """Column and row (A, 2), and stride (A, 1), of each cell."""
    grids, strides = [], []
    for stride in YOLOX_STRIDES:
        rows, columns = np.mgrid[: height // stride, : width // stride]
        grids.append(np.stack([columns, rows], axis=2).reshape(-1, 2))
        strides.append(np.full((rows.size, 1), stride))
    return np.concatenate(grids).astype(np.float32), np.concatenate(strides).astype(np.float32)


class IntelDetector:
    """``pedestrian-detection-adas-0002`` of Intel's Open Model Zoo (Apache-2.0), or another SSD with its output.

    Args:
        path: the ``.xml`` file, with its ``.bin`` beside it.
        threshold: lowest probability of a person.

    Raises:
        FootageError: the file is missing or of another kind.
        MissingExtraError: ``openvino`` is not installed.
        ModelError: the process was forked from one that uses OpenVINO.
    """

    warmup_s = 0.0

    def __init__(self, path: str | Path, threshold: float = 0.5) -> None:
        _check_fractions(threshold=threshold)
        core = openvino_core()
        try:
            model = core.read_model(str(path))
            if len(model.inputs) != 1 or list(model.output(0).shape)[-1] != 7:
                raise FootageError(f"{path}: its output is not that of an SSD, (1, 1, N, 7)")
            self._height, self._width = list(model.input(0).shape)[2:]
            self._model = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        except RuntimeError as error:
            raise FootageError(f"{path} cannot be used as a detector: {error}") from error
        self.threshold = threshold
        self._sha256 = sha256_file(Path(path).with_suffix(".bin"))

    @property
    def description(self) -> dict[str, Any]:
        """Kind, digest of the weights, threshold."""
        return {"detector": "openvino ssd", "sha256": self._sha256, "threshold": self.threshold}

    def reset(self) -> None:
        """Do nothing: there is no state."""

    def detect(self, frame: VideoFrame) -> Boxes:
        """Find the people in ``frame``."""
        height, width = frame.image.shape[:2]
        picture = _resized(frame.image, (self._height, self._width))[None, ::-1]  # BGR, 0 to 255
        found = self._model(np.ascontiguousarray(picture))[0].reshape(-1, 7)
        found = found[(found[:, 0] >= 0) & (found[:, 2] >= self.threshold)]
        corners = found[:, 3:7] * np.array([width, height, width, height], np.float32)
        return _clipped(corners, found[:, 2], width, height)


class MotDetector:
    """Boxes from a MOTChallenge text (``det.txt``), by frame number. Ids are ignored.

    Args:
        path: the text.
        threshold: lowest confidence.

    Raises:
        FootageError: the text cannot be read, or the threshold is not from 0 to 1.
    """

    warmup_s = 0.0

    def __init__(self, path: str | Path, threshold: float = 0.0) -> None:
        _check_fractions(threshold=threshold)
        self._file, self.threshold = MotFile(path), threshold

    @property
    def description(self) -> dict[str, Any]:
        """Digest of the file, threshold."""
        return {"detector": "MOTChallenge text", "sha256": self._file.sha256(), "threshold": self.threshold}

    def reset(self) -> None:
        """Do nothing: there is no state."""

    def detect(self, frame: VideoFrame) -> Boxes:
        """The boxes of this frame."""
        boxes, _ = self._file.at(frame.number)
        keep = boxes.scores >= self.threshold
        return Boxes(boxes.xyxy[keep], boxes.scores[keep])


class MotionDetector:
    """Moving things in front of a fixed camera, by background subtraction (OpenCV's MOG2; Zivkovic, ICPR 2004).

    It needs no weights. It finds what moves, not people: a car, a dog or a swinging door too. Two people side by side
    are one box, and a person who stands still for about ``memory_s`` disappears. The score is 0.4 plus the share of the
    box that moves, at most 1.

    Args:
        min_height: lowest height of a box, as a fraction of the frame's height.
        memory_s: seconds after which the background includes what stands still.
        learns_at_fps: frames per second that the detector will see; MOG2 counts ``memory_s`` in frames.

    Raises:
        FootageError: a setting is out of range.
        MissingExtraError: OpenCV is not installed.
    """

    def __init__(self, min_height: float = 0.08, memory_s: float = 40.0, learns_at_fps: float = 10.0) -> None:
        _check_fractions(min_height=min_height)
        if not memory_s > 0 or not learns_at_fps > 0:
            raise FootageError(f"memory_s {memory_s:g} and learns_at_fps {learns_at_fps:g} must be above 0")
        self._cv2 = require_extra("cv2", "video")
        self.min_height, self.memory_s, self.fps = min_height, memory_s, learns_at_fps
        self.warmup_s = min(10.0, memory_s / 4)
        self.reset()

    @property
    def description(self) -> dict[str, Any]:
        """Kind and settings."""
        return {
            "detector": "motion", "min_height": self.min_height, "memory_s": self.memory_s, "learns_at_fps": self.fps,
        }  # fmt: skip

    def reset(self) -> None:
        """Forget the background."""
        frames = max(2, round(self.memory_s * self.fps))
        self._model = self._cv2.createBackgroundSubtractorMOG2(frames, 24, True)
        self._size: tuple[int, ...] = ()

    def detect(self, frame: VideoFrame) -> Boxes:
        """Find moving things in ``frame``. There are none in the first frame."""
        cv2, image = self._cv2, frame.image
        first = image.shape != self._size
        if first:
            self.reset()
            self._size = image.shape
        height = image.shape[0]
        moving = (self._model.apply(image) == 255).astype(np.uint8)  # MOG2 marks shadows with 127
        if first:
            return Boxes()
        unit = max(1, round(height / 240))
        moving = cv2.morphologyEx(moving, cv2.MORPH_OPEN, np.ones((unit + 1, unit + 1), np.uint8))
        tall = np.ones((8 * unit + 1, 3 * unit + 1), np.uint8)  # joins legs, trunk and head
        joined = cv2.morphologyEx(moving, cv2.MORPH_CLOSE, tall)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(joined)
        boxes, scores = [], []
        for label, (left, top, w, h, _) in enumerate(stats[1:], 1):
            if h < self.min_height * height or not 0.8 <= h / w <= 6:
                continue
            part = labels[top : top + h, left : left + w] == label
            boxes.append((left, top, left + w, top + h))
            scores.append(min(1.0, 0.4 + float((moving[top : top + h, left : left + w] * part).mean())))
        if not boxes:
            return Boxes()
        return Boxes(np.array(boxes, np.float32), np.array(scores, np.float32))


class ModelDetector:
    """A detector from a function that finds the people in an RGB image.

    Args:
        name: stored with the results.
        run: takes (height, width, 3) uint8; returns corners (N, 4) in pixels and scores (N,).
        threshold: lowest score.
        settings: what else the boxes depend on; stored with the results.
    """

    warmup_s = 0.0

    def __init__(
        self,
        name: str,
        run: Callable[[NDArray[np.uint8]], tuple[Any, Any]],
        threshold: float = 0.5,
        settings: dict[str, Any] | None = None,
    ) -> None:
        _check_fractions(threshold=threshold)
        self.name, self._run, self.threshold, self._settings = name, run, threshold, settings or {}

    @property
    def description(self) -> dict[str, Any]:
        """Name, threshold and settings."""
        return {"detector": self.name, "threshold": self.threshold, **self._settings}

    def reset(self) -> None:
        """Do nothing: there is no state."""

    def detect(self, frame: VideoFrame) -> Boxes:
        """Find the people in ``frame``."""
        corners, scores = self._run(frame.image)
        scores = np.asarray(scores, np.float32).reshape(-1)
        keep = scores >= self.threshold
        height, width = frame.image.shape[:2]
        return _clipped(np.asarray(corners, np.float32).reshape(-1, 4)[keep], scores[keep], width, height)


def torchvision_detector(
    model: str | torch.nn.Module, threshold: float = 0.5, device: str = "cpu", settings: dict[str, Any] | None = None
) -> ModelDetector:
    """A detector of torchvision.

    Args:
        model: a name such as ``fasterrcnn_mobilenet_v3_large_fpn``, whose COCO weights are downloaded; or a module of
            yours with the interface of torchvision's detectors and COCO's classes.
        threshold: lowest score.
        device: of PyTorch.
        settings: stored with the results, such as the digest of your weights.

    Raises:
        FootageError: unknown name, or the weights cannot be downloaded.
    """
    name = model if isinstance(model, str) else type(model).__name__
    built: Any = model
    if isinstance(model, str):
        detection = require_extra("torchvision.models.detection", "video")
        models = require_extra("torchvision.models", "video")
        known = models.list_models(detection)
        if model not in known:
            raise FootageError(f"torchvision has no detector {model!r}; it has {', '.join(known)}")
        try:
            built = models.get_model(model, weights="DEFAULT")
        except (OSError, RuntimeError) as error:
            raise FootageError(f"the weights of torchvision's {name} cannot be downloaded: {error}") from error
    network = built.eval().to(device)

    def run(image: NDArray[np.uint8]) -> tuple[Any, Any]:
        picture = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).to(device).float() / 255
        with torch.inference_mode():
            found = network([picture])[0]
        people = found["labels"] == 1 + PERSON  # in torchvision, class 0 is the background
        return found["boxes"][people].cpu().numpy(), found["scores"][people].cpu().numpy()

    return ModelDetector(f"torchvision {name}", run, threshold, settings)


def rfdetr_detector(
    model: Any = "nano", threshold: float = 0.5, settings: dict[str, Any] | None = None
) -> ModelDetector:
    """Roboflow's RF-DETR (Apache-2.0 in these sizes).

    Args:
        model: nano, small, medium, base or large, whose COCO weights ``rfdetr`` downloads; or a model of yours, such as
            ``rfdetr.RFDETRNano(pretrain_weights="mine.pth")``, with a class ``person``.
        threshold: lowest score.
        settings: stored with the results, such as the digest of your weights.

    Raises:
        FootageError: unknown size, ``rfdetr`` is not installed, or the weights cannot be downloaded.
    """
    sizes = ("nano", "small", "medium", "base", "large")
    built, name = model, type(model).__name__
    if isinstance(model, str):
        if model not in sizes:
            raise FootageError(f"unknown size {model!r} of rfdetr; choose from {', '.join(sizes)}")
        try:
            rfdetr = require_extra("rfdetr", "video")
        except ImportError as error:
            raise FootageError("rfdetr is not installed: pip install rfdetr") from error
        name = f"RFDETR{model.capitalize()}"
        try:
            built = getattr(rfdetr, name)()
        except (OSError, RuntimeError, ValueError) as error:
            raise FootageError(f"the weights of {name} cannot be downloaded or read: {error}") from error

    def run(image: NDArray[np.uint8]) -> tuple[Any, Any]:
        found = built.predict(np.ascontiguousarray(image), threshold=threshold, include_source_image=False)
        people = np.asarray(found.data["class_name"]) == "person"
        return found.xyxy[people], found.confidence[people]

    return ModelDetector(name, run, threshold, settings)


def make_detector(name: str | Path, threshold: float | None = None, fps: float | None = None) -> Detector:
    """Create a detector by name.

    Args:
        name: a YOLOX ``.onnx``, an OpenVINO ``.xml`` or a MOTChallenge ``.txt`` file; ``motion``; ``yolox_nano``
            (downloaded once; its SHA-256 is checked); ``torchvision:NAME``; ``rfdetr:SIZE``.
        threshold: lowest score; default: depends on the kind. ``motion`` has none.
        fps: frames per second that it will see; ``motion`` needs it.

    Raises:
        FootageError: unknown detector, or a threshold for ``motion``.
    """
    text = str(name)
    given: dict[str, Any] = {} if threshold is None else {"threshold": threshold}
    kind, _, rest = text.partition(":")
    if text == "motion":
        if threshold is not None:
            raise FootageError(f"threshold {threshold:g}: the detector motion has none; leave it out (--threshold)")
        return MotionDetector(learns_at_fps=fps or 10.0)
    if text in DOWNLOADS:
        return YoloxDetector(_downloaded(text), **given)
    if kind == "torchvision" and rest:
        return torchvision_detector(rest, **given)
    if kind == "rfdetr" and rest:
        return rfdetr_detector(rest, **given)
    suffixes: dict[str, Callable[..., Detector]] = {".onnx": YoloxDetector, ".xml": IntelDetector, ".txt": MotDetector}
    path = Path(text)
    if (suffix := path.suffix.lower()) in suffixes:
        if not path.is_file():
            raise FootageError(f"unknown detector {text!r}: there is no such file")
        return suffixes[suffix](path, **given)
    raise FootageError(
        f"unknown detector {text!r}; give a YOLOX .onnx, an OpenVINO .xml, a MOTChallenge .txt, 'motion', "
        f"{', '.join(DOWNLOADS)}, torchvision:NAME or rfdetr:SIZE"
    )


def _downloaded(name: str) -> Path:
    """Path of a downloaded detector, whose SHA-256 was checked."""
    address, sha256, most_bytes = DOWNLOADS[name]
    folder = cache_folder() / "detectors"
    path = folder / f"{name}.onnx"
    if path.is_file() and sha256_file(path) == sha256:
        return path
    make_folder(folder)
    try:
        content = download(address, most_bytes, TIMEOUT_S)
    except OSError as error:
        raise FootageError(
            f"{name} cannot be downloaded from {address}: {error}; download it in another way and give its path"
        ) from error
    with written_aside(path) as aside:
        aside.write_bytes(content)
        if sha256_file(aside) != sha256:
            raise FootageError(f"{address} returned another file than {name}: its SHA-256 is not {sha256}")
    return path


def suppress(boxes: Boxes, max_iou: float) -> Boxes:
    """Greedy non-maximum suppression: of boxes with an IoU above ``max_iou``, keep the one with the highest score."""
    order = np.argsort(-boxes.scores, kind="stable")
    overlaps = iou(boxes.xyxy, boxes.xyxy)
    kept: list[int] = []
    for place in order:
        if not (overlaps[place, kept] > max_iou).any():
            kept.append(int(place))
    return Boxes(boxes.xyxy[kept], boxes.scores[kept])


def intersections(a_N4: Floats, b_M4: Floats) -> Floats:
    """Returns (N, M): the area that two boxes share, in square pixels."""
    width = np.minimum(a_N4[:, None, 2], b_M4[:, 2]) - np.maximum(a_N4[:, None, 0], b_M4[:, 0])
    height = np.minimum(a_N4[:, None, 3], b_M4[:, 3]) - np.maximum(a_N4[:, None, 1], b_M4[:, 1])
    shared: Floats = np.maximum(width, 0) * np.maximum(height, 0)
    return shared


def iou(a_N4: Floats, b_M4: Floats) -> Floats:
    """Returns (N, M): intersection over union; 0 for boxes without area."""
    inside = intersections(a_N4, b_M4)
    areas = [np.clip(x[:, 2:] - x[:, :2], 0, None).prod(1) for x in (a_N4, b_M4)]
    union = areas[0][:, None] + areas[1][None, :] - inside
    result: Floats = np.divide(inside, union, out=np.zeros_like(inside), where=union > 0)
    return result


def _clipped(corners: Floats, scores: Floats, width: int, height: int) -> Boxes:
    """Clip boxes to the frame, and drop those of less than a pixel inside."""
    limits = np.array([width, height, width, height], np.float32)
    corners = np.clip(corners.astype(np.float32), 0, limits)
    keep = ((corners[:, 2:] - corners[:, :2]) >= 1).all(1) & np.isfinite(corners).all(1)
    return Boxes(corners[keep], scores[keep].astype(np.float32))


def _resized(image: NDArray[np.uint8], size_hw: tuple[int, int]) -> Floats:
    """Resize to (3, height, width) float32 in 0 to 255: bilinear without antialiasing, as OpenCV in the training."""
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    resized: Floats = interpolate(pixels, size_hw, mode="bilinear", align_corners=False)[0].numpy()
    return resized


def _check_fractions(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise FootageError(f"{name} {value:g} must be from 0 to 1")
