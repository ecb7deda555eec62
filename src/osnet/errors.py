"""The errors of this package, as one tree. Each is also an error of Python, named in the second column.

    OsnetError                  base of all of them
      ModelError    ValueError  an unknown network, or settings that cannot be built
      WeightsError  ValueError  weights that are missing, damaged, unsafe, or of another network
      ImageError    ValueError  an image, or a box in it, that cannot be used
        EmbeddingError          the same during a run; holds the embeddings made before it
      DataError     ValueError  a data set that cannot be read or scored
      GalleryError  ValueError  a gallery that is damaged, or embeddings that do not belong in it
      TrainingError RuntimeError  a run that cannot continue: the loss is not finite
      ExportError   RuntimeError  an exported file whose outputs are not the network's
      DemoError     RuntimeError  the demo ran, but a trained network did not learn
      OutputError   OSError     an output that cannot be written
      MissingExtraError  ImportError   an optional dependency that is not installed
      ImageWarning  UserWarning   a warning: a damaged image that is used, files that are left out

Every message names the thing, its value, and what would work.
"""

from importlib import import_module
from types import ModuleType
from typing import Any


class OsnetError(Exception):
    """Base of all errors of this package."""


class ModelError(OsnetError, ValueError):
    """An unknown network, or settings that cannot be built."""


class WeightsError(OsnetError, ValueError):
    """Weights that are missing, damaged, unsafe, or of another network."""


class ImageError(OsnetError, ValueError):
    """An image, or a box in it, that cannot be used. ``name`` says which, ``reason`` why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason


class EmbeddingError(ImageError):
    """An image that stopped ``Embedder.embed``. ``done`` holds the ``Embeddings`` made before it."""

    def __init__(self, cause: ImageError, done: Any) -> None:
        super().__init__(cause.name, cause.reason)
        self.done = done


class ImageWarning(OsnetError, UserWarning):  # noqa: N818 a warning, not an error
    """A warning: an image that is damaged but used, or files left out because they cannot be read as images."""


class DataError(OsnetError, ValueError):
    """A data set that cannot be read or scored."""


class GalleryError(OsnetError, ValueError):
    """A gallery that is damaged, or embeddings that do not belong in it."""


class TrainingError(OsnetError, RuntimeError):
    """A training run that cannot start or continue."""


class ExportError(OsnetError, RuntimeError):
    """An exported file whose outputs are not the network's."""


class DemoError(OsnetError, RuntimeError):
    """The demo ran, but a trained network did not learn."""


class OutputError(OsnetError, OSError):
    """An output that cannot be written."""


class MissingExtraError(OsnetError, ImportError):
    """An optional dependency that is not installed."""


def require_extra(module: str, extra: str) -> ModuleType:
    """Import ``module``, which comes with ``pip install osnet[extra]``.

    Raises:
        MissingExtraError: it is not installed; the message has the command that installs it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise  # the module exists; one of its own dependencies is missing
        raise MissingExtraError(
            f"{module} is not installed; it comes with the extra '{extra}': pip install 'osnet[{extra}]'"
        ) from error
