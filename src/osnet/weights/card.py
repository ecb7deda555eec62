"""The card: the metadata of weights, and how it is stored in ``card.json``."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from osnet.errors import WeightsError
from osnet.files import check_fields, is_plain_name
from osnet.models.config import LATE_SETTINGS, BackboneConfig, NetworkConfig, OSNetConfig
from osnet.types import Distance, Preprocessing

FORMAT = "osnet-weights-1"
CARD_FILE = "card.json"
LICENCE_UNKNOWN = "not stated"
LICENCE_ZOO = (
    "Unclear. The authors' Hugging Face repository kaiyangzhou/osnet is read by others as MIT; in Torchreid "
    "issue #520 the author says of the weights 'research purpose only'. The data sets have terms of their own."
)


@dataclass(frozen=True)
class Card:
    """The metadata of weights, stored as ``card.json``."""

    architecture: NetworkConfig
    name: str | None = None
    """The registered name of the architecture (see ``list_models()``); None if it has none."""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    num_classes: int = 0
    """Outputs of the stored classifier; 0 if there is none."""
    training_data: str = "unknown"
    """For instance ``msmt17`` (its training split) or ``msmt17_combineall`` (all images, also of test identities)."""
    licence: str = LICENCE_UNKNOWN
    source: str = ""
    """The file that the weights were converted from, with its SHA-256, or the training run that produced them."""
    sha256: str = ""
    """SHA-256 of the file with the tensors; empty for weights that have not been saved."""
    attributes: tuple[str, ...] = ()
    """Names of the attributes, in the order of the attribute head's outputs; empty without such a head."""
    attribute_thresholds: tuple[float, ...] = ()
    """For each attribute, the lowest probability that counts as positive, in [0, 1]; empty means 0.5 for all."""
    attributes_off: tuple[str, ...] = ()
    """Attributes that are switched off: they are neither computed nor stored."""
    distance: Distance | None = None
    """The distance used for the published results, or by the training recipe; None if unknown."""
    classes: tuple[str, ...] = ()
    """Class names, in the order of the classifier's outputs. Empty where classes have no names, such as the identities
    in re-identification."""

    def __post_init__(self) -> None:
        if len(set(self.attributes)) != len(self.attributes) or not all(self.attributes):
            raise ValueError(f"attribute names must be non-empty and distinct: {', '.join(self.attributes)}")
        if unknown := sorted(set(self.attributes_off) - set(self.attributes)):
            raise ValueError(f"attributes_off has {', '.join(unknown)}, which the attribute head does not have")
        if self.attribute_thresholds and len(self.attribute_thresholds) != len(self.attributes):
            raise ValueError(f"{len(self.attribute_thresholds)} thresholds for {len(self.attributes)} attributes")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes contains the same name twice")
        if self.classes and self.num_classes and len(self.classes) != self.num_classes:
            raise ValueError(f"{len(self.classes)} class names for {self.num_classes} classes")

    def to_json(self, weights_file: str) -> dict[str, Any]:
        """Convert to the content of ``card.json``.

        Fields that did not exist in the first version of the format are left out if they have their default values.
        """
        content = {"format": FORMAT, "weights": weights_file, **asdict(self)}
        defaults = {entry.name: entry.default for entry in fields(self.architecture)}
        for name in LATE_SETTINGS:
            if name in defaults and content["architecture"][name] == defaults[name]:
                del content["architecture"][name]
        late = ("attribute", "classes", "distance")
        return {key: value for key, value in content.items() if value or not key.startswith(late)}


def read_card(folder: str | Path) -> tuple[Card, str]:
    """Read the card of a checkpoint folder. Returns the card and the name of the file with the tensors.

    Raises:
        WeightsError: the folder has no card, or the card is damaged or has another format.
    """
    path = Path(folder) / CARD_FILE
    if not path.is_file():
        raise WeightsError(f"{folder} is not a checkpoint folder: it has no {CARD_FILE}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} cannot be read: {error!r}") from error
    return parse_card(content, str(path))


def parse_card(content: dict[str, Any], path: str) -> tuple[Card, str]:
    """As ``read_card``, from the content of a ``card.json``; ``path`` is what errors call it."""
    content = dict(content) if isinstance(content, dict) else content
    try:
        if content.get("format") != FORMAT:
            raise WeightsError(f"{path} has the format {content.get('format')!r}; this version reads {FORMAT!r}")
        weights_file = str(content.pop("weights"))
        del content["format"]
        preprocessing = _tuples(content.pop("preprocessing"))
        card = Card(
            architecture=_read_architecture(content.pop("architecture")),
            preprocessing=Preprocessing(**preprocessing),
            **_tuples(content),
        )
        check_fields(card)
    except WeightsError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path} cannot be read: {error!r}") from error
    if not is_plain_name(weights_file):
        raise WeightsError(f"{path}: weights is {weights_file!r}, which must be a file name without a folder")
    return card, weights_file


def _tuples(content: dict[str, Any]) -> dict[str, Any]:
    """Replace the lists of JSON by tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}


def _read_architecture(settings: dict[str, Any]) -> NetworkConfig:
    """Settings with a ``family`` describe another backbone; settings without one (all early cards) an OSNet."""
    return BackboneConfig(**settings) if "family" in settings else OSNetConfig(**settings)
