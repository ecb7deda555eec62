"""The card: what weights say about themselves, and how that is read from ``card.json``."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from osnet.errors import WeightsError
from osnet.files import check_fields, is_plain_name
from osnet.models.config import LATE_DIALS, BackboneConfig, NetworkConfig, OSNetConfig
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
    """What weights say about themselves. Stored as ``card.json``."""

    architecture: NetworkConfig
    name: str | None = None
    """The architecture's name in the table, if it has one."""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    num_classes: int = 0
    """Outputs of the classifier they were trained with; 0 if none is stored."""
    training_data: str = "unknown"
    """Such as ``msmt17`` (its training split) or ``msmt17_combineall`` (all of it, test people too)."""
    licence: str = LICENCE_UNKNOWN
    source: str = ""
    """The file they were converted from, with its SHA-256, or the run that made them."""
    sha256: str = ""
    """SHA-256 of the tensors' file; empty for weights that are not on disk yet."""
    attributes: tuple[str, ...] = ()
    """What the attribute head says, in the order of its rows; empty if there is no such head."""
    attribute_thresholds: tuple[float, ...] = ()
    """From which probability on each of them is said to hold; empty: 0.5 for all."""
    attributes_off: tuple[str, ...] = ()
    """Those that must not be used here: they are neither computed nor stored."""
    distance: Distance | None = None
    """By which their published figures are; of weights trained here, the recipe's. None: unknown."""
    classes: tuple[str, ...] = ()
    """What the classifier tells apart, in the order of its rows; empty where that is nobody's business to name, as
    with the identities of re-identification."""

    def __post_init__(self) -> None:
        if len(set(self.attributes)) != len(self.attributes) or not all(self.attributes):
            raise ValueError(f"attributes without a name, or one twice: {', '.join(self.attributes)}")
        if unknown := sorted(set(self.attributes_off) - set(self.attributes)):
            raise ValueError(f"attributes_off names {', '.join(unknown)}, which the head does not have")
        if self.attribute_thresholds and len(self.attribute_thresholds) != len(self.attributes):
            raise ValueError(f"{len(self.attribute_thresholds)} thresholds for {len(self.attributes)} attributes")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes names one class twice")
        if self.classes and self.num_classes and len(self.classes) != self.num_classes:
            raise ValueError(f"{len(self.classes)} names for {self.num_classes} classes")

    def to_json(self, weights_file: str) -> dict[str, Any]:
        """As ``card.json`` stores it; without a head it is what versions before heads wrote."""
        content = {"format": FORMAT, "weights": weights_file, **asdict(self)}
        defaults = {entry.name: entry.default for entry in fields(self.architecture)}
        for dial in LATE_DIALS:
            if dial in defaults and content["architecture"][dial] == defaults[dial]:
                del content["architecture"][dial]
        late = ("attribute", "classes", "distance")
        return {key: value for key, value in content.items() if value or not key.startswith(late)}


def read_card(folder: str | Path) -> tuple[Card, str]:
    """The card of a checkpoint folder, and the name of the tensors' file.

    Raises:
        WeightsError: there is none, or it is not one of ours.
    """
    path = Path(folder) / CARD_FILE
    if not path.is_file():
        raise WeightsError(f"{folder} holds no {CARD_FILE}, so it is no checkpoint folder")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
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
        raise WeightsError(f"{path} names the file {weights_file!r}, which is not a plain name in its own folder")
    return card, weights_file


def _tuples(content: dict[str, Any]) -> dict[str, Any]:
    """JSON's lists as tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}


def _read_architecture(settings: dict[str, Any]) -> NetworkConfig:
    """Only the other backbones name a family; cards from before there were any hold an OSNet."""
    return BackboneConfig(**settings) if "family" in settings else OSNetConfig(**settings)
