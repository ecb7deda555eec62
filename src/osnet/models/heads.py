"""The heads of a network: the attribute head and the classifier. They are stored with the tensors of the network.

A checkpoint folder stores the attribute head as ``attributes.weight`` (A, D) and ``attributes.bias`` (A,). The card has
the names of the attributes in the same order, their thresholds, and the names of those that are switched off.
Shapes: B batch, D embedding, A attributes, C classes.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from osnet.errors import WeightsError
from osnet.files import one_writer, write_json
from osnet.weights.card import CARD_FILE, Card, read_card

PREFIX = "attributes."
THRESHOLD = 0.5


class AttributeHead(nn.Module):
    """A linear layer that maps embeddings (B, D), not normalised, to one logit per attribute (B, A).

    Attributes:
        names: names of the A attributes.
        thresholds: for each attribute, the lowest probability that counts as positive, in [0, 1].
    """

    def __init__(self, embedding_size: int, names: Sequence[str], thresholds: Sequence[float] = ()) -> None:
        super().__init__()
        self.names = tuple(names)
        self.thresholds = tuple(thresholds) or (THRESHOLD,) * len(self.names)
        self.linear = nn.Linear(embedding_size, len(self.names))
        nn.init.normal_(self.linear.weight, 0, 0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Map embeddings (B, D) to logits (B, A)."""
        return self.linear(embeddings)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by their names in a checkpoint."""
        return {f"{PREFIX}weight": self.linear.weight.detach(), f"{PREFIX}bias": self.linear.bias.detach()}

    def without(self, names: Iterable[str]) -> "AttributeHead":
        """Return a head without these attributes. Their rows are removed, so they cannot be computed any more."""
        off = set(names)
        rows = [i for i, name in enumerate(self.names) if name not in off]
        kept = AttributeHead(self.linear.in_features, [self.names[i] for i in rows], [self.thresholds[i] for i in rows])
        with torch.no_grad():
            kept.linear.weight.copy_(self.linear.weight[rows])
            kept.linear.bias.copy_(self.linear.bias[rows])
        return kept.to(self.linear.weight.device)

    def digests(self) -> list[str]:
        """For each attribute, the SHA-256 of its name and row. Only probabilities with equal digests are comparable."""
        rows = zip(self.names, self.linear.weight.detach(), self.linear.bias.detach(), strict=True)
        return [
            hashlib.sha256(
                name.encode() + b"\0" + torch.cat([row, bias[None]]).float().cpu().numpy().tobytes()
            ).hexdigest()
            for name, row, bias in rows
        ]


def build_head(card: Card, state: Mapping[str, Tensor]) -> AttributeHead | None:
    """Build the attribute head of a checkpoint, in eval mode, without the attributes that its card switches off.

    Returns None if no attribute is left.
    """
    if not set(card.attributes) - set(card.attributes_off):
        return None
    weight, bias = state[f"{PREFIX}weight"], state[f"{PREFIX}bias"]
    head = AttributeHead(weight.shape[1], card.attributes, card.attribute_thresholds)
    with torch.no_grad():
        head.linear.weight.copy_(weight)
        head.linear.bias.copy_(bias)
    return head.without(card.attributes_off).eval()


def build_classifier(card: Card, state: Mapping[str, Tensor]) -> nn.Linear | None:
    """Build the classifier of a checkpoint, in eval mode; None if there is none.

    Its tensors are ``classifier.weight`` (C, D) and optionally ``classifier.bias`` (C,).

    Raises:
        WeightsError: as ``check_classifier`` raises.
    """
    check_classifier(card, state)
    weight, bias = state.get("classifier.weight"), state.get("classifier.bias")
    if weight is None:
        return None
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        linear.weight.copy_(weight)
        if bias is not None:
            linear.bias.copy_(bias)
    return linear.eval()


def check_classifier(card: Card, state: Mapping[str, Tensor]) -> None:
    """Check that the tensors of the classifier fit the embedding. Having none is right.

    Raises:
        WeightsError: the weight is missing; or a tensor is unexpected, not finite, or has another shape or type.
    """
    tensors = {key: value for key, value in state.items() if key.startswith("classifier.")}
    weight = tensors.get("classifier.weight")
    classes = weight.shape[0] if weight is not None and weight.ndim else "C"
    expected = {"classifier.weight": [classes, card.architecture.embedding_size], "classifier.bias": [classes]}
    problems = ["missing: classifier.weight"] if tensors and weight is None else []
    for key, value in tensors.items():
        if key not in expected:
            problems.append(f"unexpected: {key} {list(value.shape)}")
        elif list(value.shape) != expected[key]:
            problems.append(f"shape of {key}: {list(value.shape)} instead of {expected[key]}")
        elif not value.is_floating_point():
            problems.append(f"type of {key}: {value.dtype}")
        elif not torch.isfinite(value).all():
            problems.append(f"not finite: {key}")
    if problems:
        raise WeightsError(
            f"{card.source or card.name or 'the weights'}: the classifier does not fit: {'; '.join(problems[:10])}. "
            "Embeddings do not depend on it; for anything else, save the tensors without those of the classifier"
        )


def check_head(card: Card, state: Mapping[str, Tensor], source: str) -> None:
    """Check that the tensors of the attribute head fit the card.

    Raises:
        WeightsError: the tensors are missing, unexpected, not finite, or have other shapes. ``source`` starts the
            message.
    """
    tensors = {key: value for key, value in state.items() if key.startswith(PREFIX)}
    number, size = len(card.attributes), card.architecture.embedding_size
    expected = {f"{PREFIX}weight": (number, size), f"{PREFIX}bias": (number,)} if number else {}
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    if shapes != expected:
        raise WeightsError(
            f"{source}: the card has {number} attributes, so the tensors must be {expected}; they are {shapes}"
        )
    if not all(bool(torch.isfinite(value).all()) for value in tensors.values()):
        raise WeightsError(f"{source}: the attribute head has values that are not finite")


def find_cards(place: str | Path) -> list[Path]:
    """Find the checkpoint folders at ``place``, sorted: the folder itself, or those in a training run or a gallery.

    Raises:
        WeightsError: there is no checkpoint folder.
    """
    place = Path(place)
    if (place / CARD_FILE).is_file():
        return [place]
    found = sorted(path.parent for path in place.glob(f"*/{CARD_FILE}"))
    if not found:
        raise WeightsError(
            f"{place} is not a checkpoint folder, a training run or a gallery with weights: neither it nor a folder in "
            f"it has a {CARD_FILE}"
        )
    return found


def find_switched_off(run: str | Path) -> set[str]:
    """The attributes that any card in a training run switches off. Weights saved later must keep them switched off."""
    off: set[str] = set()
    for path in sorted(Path(run).glob(f"*/{CARD_FILE}")):
        off.update(read_card(path.parent)[0].attributes_off)
    return off


def switch_attributes(
    places: Iterable[str | Path], off: Iterable[str] = (), on: Iterable[str] = ()
) -> dict[Path, tuple[Card, bool]]:
    """Switch attributes off, or on again, in the cards of checkpoint folders.

    A card without one of the attributes is not changed for this attribute.

    Args:
        places: checkpoint folders, training runs or galleries. In a run or a gallery, all checkpoint folders are used.
        off: names of attributes to switch off.
        on: names of attributes to switch on.

    Returns:
        Maps each checkpoint folder to its current card and whether the card was changed.

    Raises:
        WeightsError: a place has no checkpoint folder, no card has one of the attributes, or an attribute is in both
            ``off`` and ``on``. Then no card is changed.
    """
    off, on = set(off), set(on)
    cards = {folder: read_card(folder) for place in places for folder in find_cards(place)}
    known = {name: None for card, _ in cards.values() for name in card.attributes}  # in the order of the cards
    if unknown := sorted((off | on) - set(known)):
        where = ", ".join(str(folder / CARD_FILE) for folder in cards)
        raise WeightsError(
            f"unknown attribute {', '.join(unknown)}; choose from {', '.join(known) or 'none'}, the attributes in "
            f"{where}"
        )
    if both := sorted(off & on):
        raise WeightsError(f"the attributes {', '.join(both)} are in both off and on; name each only once")
    switched: dict[Path, tuple[Card, bool]] = {}
    for folder in cards:
        with one_writer(folder / CARD_FILE):
            card, weights_file = read_card(folder)  # again, under the lock: a training run may have saved other weights
            now_off = (set(card.attributes_off) | off) - on
            changed = replace(card, attributes_off=tuple(name for name in card.attributes if name in now_off))
            if changed != card:
                write_json(folder / CARD_FILE, changed.to_json(weights_file))
        switched[folder] = changed, changed != card
    return switched
