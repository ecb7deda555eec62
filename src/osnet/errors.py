"""Everything that can go wrong on purpose, as one tree.

    OsnetError                  any error this package raises knowingly
      ModelError    ValueError  an unknown network, or settings that cannot be built
      WeightsError  ValueError  weights that are missing, damaged, unsafe, or of another network
      ImageError    ValueError  one image (or one box of it) that cannot be used
        EmbeddingError          the same, in the middle of a run: holds what went well before it
      DataError     ValueError  a data set that cannot be read or scored
      GalleryError  ValueError  a gallery that is damaged, or vectors that do not belong in it
      TrainingError RuntimeError  a run that cannot go on: the loss is not finite
      ExportError   RuntimeError  an exported file that does not compute what the network does
      DemoError     RuntimeError  the demo ran, and does not show what it should
      OutputError   OSError     a result that cannot be written where it was asked for
      MissingExtraError  ImportError   an optional part that is not installed
      ImageWarning  UserWarning   only warned of: a damaged image that is used, files that are left out

Every message names the thing, the value and what would work.
"""

from importlib import import_module
from types import ModuleType
from typing import Any


class OsnetError(Exception):
    """Base of all errors raised on purpose."""


class ModelError(OsnetError, ValueError):
    """An unknown network, or settings that cannot be built."""


class WeightsError(OsnetError, ValueError):
    """Weights that are missing, damaged, unsafe, or of another network."""


class ImageError(OsnetError, ValueError):
    """One image, or one box of it, that cannot be used. ``name`` says which."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason


class EmbeddingError(ImageError):
    """An image that stopped ``Embedder.embed``. ``done`` holds the embeddings made before it."""

    def __init__(self, cause: ImageError, done: Any) -> None:
        super().__init__(cause.name, cause.reason)
        self.done = done


class ImageWarning(OsnetError, UserWarning):  # noqa: N818 it is one
    """A warning: an image that is damaged but used, or files left out because they cannot be read as images."""


class DataError(OsnetError, ValueError):
    """A data set that cannot be read or scored."""


class GalleryError(OsnetError, ValueError):
    """A gallery that is damaged, or vectors that do not belong in it."""


class TrainingError(OsnetError, RuntimeError):
    """A run that cannot go on."""


class ExportError(OsnetError, RuntimeError):
    """An exported file that does not compute what the network does."""


class DemoError(OsnetError, RuntimeError):
    """The demo ran, and what it shows is not as it should be."""


class OutputError(OsnetError, OSError):
    """A result that cannot be written where it was asked for."""


class MissingExtraError(OsnetError, ImportError):
    """An optional part that is not installed."""


def require_extra(module: str, extra: str) -> ModuleType:
    """Import ``module``, which comes with ``pip install osnet[extra]``.

    Raises:
        MissingExtraError: it is not installed; the message holds the command that installs it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise  # the module is there; something that it needs in turn is not
        raise MissingExtraError(
            f"{module} is not installed; it comes with the extra '{extra}': pip install 'osnet[{extra}]'"
        ) from error
