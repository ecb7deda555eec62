"""The attribute head: embedding -> one logit per attribute. It is kept beside the network's tensors.

In a checkpoint folder it is ``attributes.weight`` (A, D) and ``attributes.bias`` (A,), and the card has the names in
this order, the thresholds, and which names are switched off. Shapes: B batch, D embedding, A attributes.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from osnet.errors import WeightsError
from osnet.files import write_json
from osnet.weights.card import CARD_FILE, Card, read_card

PREFIX = "attributes."
THRESHOLD = 0.5


class AttributeHead(nn.Module):
    """One linear layer on the embedding as the network gives it, not normalised. (B, D) -> (B, A), logits.

    Attributes:
        names: A names.
        thresholds: A probabilities in [0, 1]; an attribute is positive from its threshold on.
    """

    def __init__(self, embedding_size: int, names: Sequence[str], thresholds: Sequence[float] = ()) -> None:
        super().__init__()
        self.names = tuple(names)
        self.thresholds = tuple(thresholds) or (THRESHOLD,) * len(self.names)
        self.linear = nn.Linear(embedding_size, len(self.names))
        nn.init.normal_(self.linear.weight, 0, 0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, embeddings: Tensor) -> Tensor:
        """(B, D) -> (B, A)."""
        return self.linear(embeddings)

    def tensors(self) -> dict[str, Tensor]:
        """As a checkpoint keeps them."""
        return {f"{PREFIX}weight": self.linear.weight.detach(), f"{PREFIX}bias": self.linear.bias.detach()}

    def without(self, names: Iterable[str]) -> "AttributeHead":
        """The head of the other attributes: what is left out has no row any more and cannot be computed."""
        off = set(names)
        rows = [i for i, name in enumerate(self.names) if name not in off]
        kept = AttributeHead(self.linear.in_features, [self.names[i] for i in rows], [self.thresholds[i] for i in rows])
        with torch.no_grad():
            kept.linear.weight.copy_(self.linear.weight[rows])
            kept.linear.bias.copy_(self.linear.bias[rows])
        return kept.to(self.linear.weight.device)

    def digests(self) -> list[str]:
        """SHA-256 of each attribute's name and row: probabilities of equal ones can be compared."""
        rows = zip(self.names, self.linear.weight.detach(), self.linear.bias.detach(), strict=True)
        return [
            hashlib.sha256(
                name.encode() + b"\0" + torch.cat([row, bias[None]]).float().cpu().numpy().tobytes()
            ).hexdigest()
            for name, row, bias in rows
        ]


def build_head(card: Card, state: Mapping[str, Tensor]) -> AttributeHead | None:
    """The head in a checkpoint, without the attributes that its card switches off; None if nothing is left of it."""
    if not set(card.attributes) - set(card.attributes_off):
        return None
    weight, bias = state[f"{PREFIX}weight"], state[f"{PREFIX}bias"]
    head = AttributeHead(weight.shape[1], card.attributes, card.attribute_thresholds)
    with torch.no_grad():
        head.linear.weight.copy_(weight)
        head.linear.bias.copy_(bias)
    return head.without(card.attributes_off).eval()


def build_classifier(state: Mapping[str, Tensor]) -> nn.Linear | None:
    """The classifier in a checkpoint, ``classifier.weight`` (C, D) and, where it has one, ``classifier.bias`` (C,)."""
    weight, bias = state.get("classifier.weight"), state.get("classifier.bias")
    if weight is None or weight.ndim != 2:
        return None
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        linear.weight.copy_(weight)
        if bias is not None:
            linear.bias.copy_(bias)
    return linear.eval()


def check_head(card: Card, state: Mapping[str, Tensor], source: str) -> None:
    """Names on the card and tensors must agree.

    Raises:
        WeightsError: they do not.
    """
    tensors = {key: value for key, value in state.items() if key.startswith(PREFIX)}
    number, size = len(card.attributes), card.architecture.embedding_size
    expected = {f"{PREFIX}weight": (number, size), f"{PREFIX}bias": (number,)} if number else {}
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    if shapes != expected:
        raise WeightsError(
            f"{source}: the card names {number} attributes, so it needs the tensors {expected}; there are {shapes}"
        )
    if not all(bool(torch.isfinite(value).all()) for value in tensors.values()):
        raise WeightsError(f"{source}: the attribute head is not finite")


def find_cards(place: str | Path) -> list[Path]:
    """The checkpoint folders that ``place`` stands for, sorted: itself, or all those of a run or a gallery.

    Raises:
        WeightsError: there is none.
    """
    place = Path(place)
    if (place / CARD_FILE).is_file():
        return [place]
    found = sorted(path.parent for path in place.glob(f"*/{CARD_FILE}"))
    if not found:
        raise WeightsError(f"{place} holds no {CARD_FILE}, nor does a folder in it, so there are no weights to switch")
    return found


def find_switched_off(run: str | Path) -> set[str]:
    """What any card of a run switches off: weights that the run writes from now on must not bring it back."""
    off: set[str] = set()
    for path in sorted(Path(run).glob(f"*/{CARD_FILE}")):
        off.update(read_card(path.parent)[0].attributes_off)
    return off


def switch_attributes(
    places: Iterable[str | Path], off: Iterable[str] = (), on: Iterable[str] = ()
) -> dict[Path, tuple[Card, bool]]:
    """Switch attributes off, or on again, at the cards of checkpoint folders, or of all those of a run or a gallery.

    A card that does not name one of several attributes is left as it is in this: its head cannot say it.

    Returns:
        By checkpoint folder the card as it now is, and whether it was changed.

    Raises:
        WeightsError: no checkpoint folder, or an attribute that none of the cards names; then no card is changed.
    """
    off, on = set(off), set(on)
    cards = {folder: read_card(folder) for place in places for folder in find_cards(place)}
    known = {name: None for card, _ in cards.values() for name in card.attributes}  # in the order of the cards
    if unknown := sorted((off | on) - set(known)):
        where = ", ".join(str(folder / CARD_FILE) for folder in cards)
        raise WeightsError(f"{where} names no attribute {', '.join(unknown)}; it names {', '.join(known) or 'none'}")
    if both := sorted(off & on):
        raise WeightsError(f"{', '.join(both)}: to be switched both off and on")
    switched: dict[Path, tuple[Card, bool]] = {}
    for folder, (card, weights_file) in cards.items():
        now_off = (set(card.attributes_off) | off) - on
        changed = replace(card, attributes_off=tuple(name for name in card.attributes if name in now_off))
        if changed != card:
            write_json(folder / CARD_FILE, changed.to_json(weights_file))
        switched[folder] = changed, changed != card
    return switched
