"""Detectors: adapters to YOLOX (ONNX), Intel's pedestrian detector (OpenVINO), torchvision, rfdetr, MOTChallenge text,
and one by motion that needs no weights. None of their weights ships with this package.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from osnet.errors import require_extra
from osnet.files import make_folder, sha256_file, written_aside
from osnet.video.motfile import MotFile
from osnet.video.protocols import Boxes, Detector, Floats, FootageError, VideoFrame

YOLOX_STRIDES = (8, 16, 32)
PAD = 114.0
"""The grey that YOLOX was trained with beside pictures that are not square."""
PERSON = 0
"""COCO's first class, counted from 0."""
DOWNLOADS = {
    "yolox_nano": (
        "https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0/yolox_nano.onnx",
        "695e750a5d5754bb5a8d5325643b59282191a7e7a564e435a415fd3c578eab14",
        8 << 20,
    ),
}
"""Name: address, SHA-256, most bytes. Apache-2.0 (Megvii). Other sizes: give a path."""
TIMEOUT_S = 30.0


class YoloxDetector:
    """YOLOX exported to ONNX, any size. Ge et al. 2021, arXiv:2107.08430.

    Args:
        path: the file; input (1, 3, H, W), output (1, A, 85) before the anchors' grid is added, as Megvii's are.
        threshold: least objectness times probability of a person.
        nms_iou: of two boxes that overlap more, the less sure one is dropped.
        threads: of ONNX Runtime; by default as many as there are cores.

    Raises:
        FootageError: it is another kind of file.
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
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads would take the cores
        try:
            self._session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            (entry,), (output,) = self._session.get_inputs(), self._session.get_outputs()
            self._input, (_, channels, self._height, self._width) = entry.name, entry.shape
            cells = sum((self._height // s) * (self._width // s) for s in YOLOX_STRIDES)
            if channels != 3 or list(output.shape[1:]) != [cells, 85]:
                raise FootageError(
                    f"{path}: input {entry.shape}, output {output.shape}; YOLOX on COCO has other shapes"
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
        """Kind, digest, thresholds."""
        return {"detector": "yolox", "sha256": self._sha256, "threshold": self.threshold, "nms_iou": self.nms_iou}

    def reset(self) -> None:
        """Nothing is remembered."""

    def detect(self, frame: VideoFrame) -> Boxes:
        """People in ``frame``."""
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
    """Column, row (A, 2) and stride (A, 1) of each cell."""
    grids, strides = [], []
    for stride in YOLOX_STRIDES:
        rows, columns = np.mgrid[: height // stride, : width // stride]
        grids.append(np.stack([columns, rows], axis=2).reshape(-1, 2))
        strides.append(np.full((rows.size, 1), stride))
    return np.concatenate(grids).astype(np.float32), np.concatenate(strides).astype(np.float32)


class IntelDetector:
    """``pedestrian-detection-adas-0002`` of Intel's Open Model Zoo (Apache-2.0), or another SSD of its form.

    Args:
        path: the ``.xml`` file; its ``.bin`` lies beside it.
        threshold: least probability of a person.

    Raises:
        FootageError: it is another kind of file.
    """

    warmup_s = 0.0

    def __init__(self, path: str | Path, threshold: float = 0.5) -> None:
        _check_fractions(threshold=threshold)
        openvino = require_extra("openvino", "openvino")
        try:
            model = openvino.Core().read_model(str(path))
            if len(model.inputs) != 1 or list(model.output(0).shape)[-1] != 7:
                raise FootageError(f"{path}: its output is no SSD's, (1, 1, N, 7)")
            self._height, self._width = list(model.input(0).shape)[2:]
            self._model = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        except RuntimeError as error:
            raise FootageError(f"{path} cannot be used as a detector: {error}") from error
        self.threshold = threshold
        self._sha256 = sha256_file(Path(path).with_suffix(".bin"))

    @property
    def description(self) -> dict[str, Any]:
        """Kind, digest, threshold."""
        return {"detector": "openvino ssd", "sha256": self._sha256, "threshold": self.threshold}

    def reset(self) -> None:
        """Nothing is remembered."""

    def detect(self, frame: VideoFrame) -> Boxes:
        """People in ``frame``."""
        height, width = frame.image.shape[:2]
        picture = _resized(frame.image, (self._height, self._width))[None, ::-1]  # BGR, 0 to 255
        found = self._model(np.ascontiguousarray(picture))[0].reshape(-1, 7)
        found = found[(found[:, 0] >= 0) & (found[:, 2] >= self.threshold)]
        corners = found[:, 3:7] * np.array([width, height, width, height], np.float32)
        return _clipped(corners, found[:, 2], width, height)


class MotDetector:
    """Boxes from MOTChallenge text (``det.txt``), by the frames' numbers; ids are passed over.

    Raises:
        FootageError: the text cannot be read.
    """

    warmup_s = 0.0

    def __init__(self, path: str | Path, threshold: float = 0.0) -> None:
        self._file, self.threshold = MotFile(path), threshold

    @property
    def description(self) -> dict[str, Any]:
        """The file's digest."""
        return {"detector": "MOTChallenge text", "sha256": self._file.sha256(), "threshold": self.threshold}

    def reset(self) -> None:
        """Nothing is remembered."""

    def detect(self, frame: VideoFrame) -> Boxes:
        """The file's boxes of this frame."""
        boxes, _ = self._file.at(frame.number)
        keep = boxes.scores >= self.threshold
        return Boxes(boxes.xyxy[keep], boxes.scores[keep])


class MotionDetector:
    """What moves before a fixed camera, by background subtraction (OpenCV's MOG2; Zivkovic, ICPR 2004). No weights.

    It finds moving things, not people: a car, a dog or a swinging door is found too, two people who walk side by side
    are one box, and who stands still for about ``memory_s`` disappears. A score is the share of the box that moves.

    Args:
        min_height: least height of a box, as a fraction of the frame's.
        memory_s: how long the background takes to absorb what stands still.
        learns_at_fps: frames a second of the footage as it will be seen; ``memory_s`` is counted in them.
    """

    def __init__(self, min_height: float = 0.08, memory_s: float = 40.0, learns_at_fps: float = 10.0) -> None:
        _check_fractions(min_height=min_height)
        if not memory_s > 0 or not learns_at_fps > 0:
            raise FootageError(f"memory_s {memory_s:g} and learns_at_fps {learns_at_fps:g} must be positive")
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
        """Moving things in ``frame``; none in the first frame."""
        cv2, image = self._cv2, frame.image
        first = image.shape != self._size
        if first:
            self.reset()
            self._size = image.shape
        height = image.shape[0]
        moving = (self._model.apply(image) == 255).astype(np.uint8)  # 127 is a shadow
        if first:
            return Boxes()
        unit = max(1, round(height / 240))
        moving = cv2.morphologyEx(moving, cv2.MORPH_OPEN, np.ones((unit + 1, unit + 1), np.uint8))
        tall = np.ones((8 * unit + 1, 3 * unit + 1), np.uint8)  # legs, trunk and head are one person
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
    """Any function from an RGB picture to boxes and scores; torchvision's and rfdetr's models are made so.

    Args:
        name: what it is called in the results.
        run: (height, width, 3) uint8 -> (N, 4) corners in pixels, (N,) scores of people only.
        threshold: least score.
        settings: what else decides the boxes; stored with them.
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
        """Nothing is remembered."""

    def detect(self, frame: VideoFrame) -> Boxes:
        """People in ``frame``."""
        corners, scores = self._run(frame.image)
        scores = np.asarray(scores, np.float32).reshape(-1)
        keep = scores >= self.threshold
        height, width = frame.image.shape[:2]
        return _clipped(np.asarray(corners, np.float32).reshape(-1, 4)[keep], scores[keep], width, height)


def torchvision_detector(
    model: str | torch.nn.Module, threshold: float = 0.5, device: str = "cpu", settings: dict[str, Any] | None = None
) -> ModelDetector:
    """A detector of torchvision's, such as ``fasterrcnn_mobilenet_v3_large_fpn``; its COCO weights are downloaded.

    Raises:
        FootageError: an unknown name, or weights that cannot be had.
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
            raise FootageError(f"the weights of torchvision's {name} cannot be had: {error}") from error
    network = built.eval().to(device)

    def run(image: NDArray[np.uint8]) -> tuple[Any, Any]:
        picture = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).to(device).float() / 255
        with torch.inference_mode():
            found = network([picture])[0]
        people = found["labels"] == 1 + PERSON  # torchvision counts COCO's classes from 1
        return found["boxes"][people].cpu().numpy(), found["scores"][people].cpu().numpy()

    return ModelDetector(f"torchvision {name}", run, threshold, settings)


def rfdetr_detector(size: str = "nano", threshold: float = 0.5) -> ModelDetector:
    """Roboflow's RF-DETR (Apache-2.0: nano, small, medium, base, large); it downloads its own weights.

    Raises:
        FootageError: an unknown size.
        MissingExtraError: ``rfdetr`` is not installed.
    """
    sizes = ("nano", "small", "medium", "base", "large")
    if size not in sizes:
        raise FootageError(f"unknown size {size!r} of rfdetr; choose from {', '.join(sizes)}")
    try:
        rfdetr = require_extra("rfdetr", "video")
    except ImportError as error:
        raise FootageError("rfdetr is not installed: pip install rfdetr") from error
    model = getattr(rfdetr, f"RFDETR{size.capitalize()}")()

    def run(image: NDArray[np.uint8]) -> tuple[Any, Any]:
        found = model.predict(image, threshold=threshold)
        people = np.asarray(found.class_id) == 1  # its COCO classes keep the official numbers
        return found.xyxy[people], found.confidence[people]

    return ModelDetector(f"rfdetr {size}", run, threshold)


def make_detector(name: str | Path, threshold: float | None = None, fps: float | None = None) -> Detector:
    """A detector by what the user calls it.

    Args:
        name: a YOLOX ``.onnx``, an OpenVINO ``.xml``, a MOTChallenge ``.txt``; ``motion``; ``yolox_nano`` (downloaded
            once, its SHA-256 checked); ``torchvision:NAME``; ``rfdetr:SIZE``.
        threshold: least score; by default what suits the kind.
        fps: frames a second that it will see; motion counts its memory in them.

    Raises:
        FootageError: no such detector.
    """
    text = str(name)
    given: dict[str, Any] = {} if threshold is None else {"threshold": threshold}
    kind, _, rest = text.partition(":")
    if text == "motion":
        return MotionDetector(learns_at_fps=fps or 10.0)
    if text in DOWNLOADS:
        return YoloxDetector(_downloaded(text), **given)
    if kind == "torchvision" and rest:
        return torchvision_detector(rest, **given)
    if kind == "rfdetr" and rest:
        return rfdetr_detector(rest, **given)
    suffixes: dict[str, Callable[..., Detector]] = {".onnx": YoloxDetector, ".xml": IntelDetector, ".txt": MotDetector}
    path = Path(text)
    if path.suffix in suffixes:
        if not path.is_file():
            raise FootageError(f"no such detector: there is no file {text}")
        return suffixes[path.suffix](path, **given)
    raise FootageError(
        f"no such detector {text!r}; give a YOLOX .onnx, an OpenVINO .xml, a MOTChallenge .txt, 'motion', "
        f"{', '.join(DOWNLOADS)}, torchvision:NAME or rfdetr:SIZE"
    )


def _downloaded(name: str) -> Path:
    """The file of a name, from the cache or the net; its SHA-256 is right."""
    address, sha256, most_bytes = DOWNLOADS[name]
    folder = Path(os.environ.get("OSNET_CACHE", Path.home() / ".cache" / "osnet")) / "detectors"
    path = folder / f"{name}.onnx"
    if path.is_file() and sha256_file(path) == sha256:
        return path
    make_folder(folder)
    try:
        with urlopen(address, timeout=TIMEOUT_S) as answer:  # noqa: S310  https, from our own table
            content = answer.read(most_bytes + 1)
    except OSError as error:
        raise FootageError(
            f"{name} cannot be downloaded from {address}: {error}; get it yourself and give its path"
        ) from error
    with written_aside(path) as aside:
        aside.write_bytes(content)
        if sha256_file(aside) != sha256:
            raise FootageError(f"{address} gave another file than {name}: its SHA-256 is not {sha256}")
    return path


def suppress(boxes: Boxes, max_iou: float) -> Boxes:
    """Greedy non-maximum suppression: of boxes that overlap more than ``max_iou``, the surest stays."""
    order = np.argsort(-boxes.scores, kind="stable")
    overlaps = iou(boxes.xyxy, boxes.xyxy)
    kept: list[int] = []
    for place in order:
        if not (overlaps[place, kept] > max_iou).any():
            kept.append(int(place))
    return Boxes(boxes.xyxy[kept], boxes.scores[kept])


def iou(a_N4: Floats, b_M4: Floats) -> Floats:
    """(N, M): intersection over union; 0 for boxes without area."""
    top_left = np.maximum(a_N4[:, None, :2], b_M4[None, :, :2])
    bottom_right = np.minimum(a_N4[:, None, 2:], b_M4[None, :, 2:])
    inside = np.clip(bottom_right - top_left, 0, None).prod(2)
    areas = [np.clip(x[:, 2:] - x[:, :2], 0, None).prod(1) for x in (a_N4, b_M4)]
    union = areas[0][:, None] + areas[1][None, :] - inside
    result: Floats = np.divide(inside, union, out=np.zeros_like(inside), where=union > 0)
    return result


def _clipped(corners: Floats, scores: Floats, width: int, height: int) -> Boxes:
    """Boxes inside the frame; those of which nothing is inside are dropped."""
    limits = np.array([width, height, width, height], np.float32)
    corners = np.clip(corners.astype(np.float32), 0, limits)
    keep = ((corners[:, 2:] - corners[:, :2]) >= 1).all(1) & np.isfinite(corners).all(1)
    return Boxes(corners[keep], scores[keep].astype(np.float32))


def _resized(image: NDArray[np.uint8], size_hw: tuple[int, int]) -> Floats:
    """(3, height, width) float32, 0 to 255: bilinear without smoothing, as OpenCV does it and both were trained."""
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    resized: Floats = interpolate(pixels, size_hw, mode="bilinear", align_corners=False)[0].numpy()
    return resized


def _check_fractions(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise FootageError(f"{name} {value:g} must be from 0 to 1")
