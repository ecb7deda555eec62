"""When the compiled resize of ``resize_kernel`` is used instead of Pillow's.

Loading numba takes a second of processor time, and compiling, once on a machine, two more. That pays only for thousands
of images. So a thread loads the kernel after ``ENOUGH`` images, or at once for long work, while Pillow resizes the
next ones. The kernel is used only if it computes what the installed Pillow computes.
"""

import os
from collections.abc import Callable
from itertools import count
from threading import Thread, current_thread

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from osnet.forks import import_compiled, make_lock

Resize = Callable[[NDArray[np.uint8], tuple[int, int], bool], NDArray[np.uint8]]
"""An image (h, w, 3), the size (H, W) and whether to reverse the channels -> (3, H, W)."""

ENOUGH = 2000
"""Images that a process resizes before it loads the kernel. It saves 0.1 to 0.3 ms for each."""

_resized = count(1)
_resize: Resize | None = None
_loading: Thread | None = None
_starting = make_lock()


def get() -> Resize | None:
    """The compiled resize; None until it is loaded, and if it cannot be used. Call it once for each image."""
    if _resize is None and next(_resized) == ENOUGH:
        start_loading()
    return _resize


def load() -> bool:
    """Load the compiled resize now. False if it cannot be used."""
    thread = start_loading()
    thread.join()
    return _resize is not None


def start_loading() -> Thread:
    """The thread that loads the kernel; there is one for each process."""
    global _loading
    with _starting:
        if _loading is None:
            _loading = Thread(target=_load, name="osnet-resize")
            _loading.start()
        return _loading


def _load() -> None:
    global _resize
    try:
        resize_rgb = import_compiled("osnet.data.resize_kernel").resize_rgb
    except Exception:  # a damaged installation may raise anything; Pillow is used then
        return
    for height_first in (_is_height_first, _never):

        def resize(
            image: NDArray[np.uint8],
            size_hw: tuple[int, int],
            bgr: bool,
            rule: Callable[..., bool] = height_first,
        ) -> NDArray[np.uint8]:
            return resize_rgb(image, size_hw, bgr, rule(image.shape, size_hw))

        if _agrees(resize):
            _resize = resize
            return


def _is_height_first(given_hw: tuple[int, ...], size_hw: tuple[int, int]) -> bool:
    """The rule of Pillow 13. The order of the passes matters, because values are rounded between them."""
    less_high, less_wide = given_hw[0] - size_hw[0], given_hw[1] - size_hw[1]
    return less_high > max(0, 2 * less_wide)


def _never(_given_hw: tuple[int, ...], _size_hw: tuple[int, int]) -> bool:
    """The rule of Pillow 11 and 12."""
    return False


def _agrees(resize: Resize) -> bool:
    """Whether it gives Pillow's values, for images that shrink and grow in either direction or both."""
    rng = np.random.default_rng(0)
    for given_hw in ((90, 40), (90, 20), (66, 33), (70, 50), (40, 90), (40, 20), (64, 32)):
        image = rng.integers(0, 256, (*given_hw, 3), dtype=np.uint8)
        expected = np.asarray(Image.fromarray(image).resize((32, 64), Image.Resampling.BILINEAR))
        if not np.array_equal(resize(image, (64, 32), False).transpose(1, 2, 0), expected):
            return False
    return True


def _finish() -> None:
    """Before a fork: a child would wait for ever for locks that the thread holds."""
    if _loading is not None and _loading is not current_thread():
        _loading.join()


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(before=_finish)
