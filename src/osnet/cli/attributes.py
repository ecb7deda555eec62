"""osnet attributes: show, switch off or evaluate the attributes of weights."""

import json
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional
from tyro.extras import SubcommandApp

from osnet.cli.common import JsonFlag, Texts, app
from osnet.cli.gallery import forget_switched_off
from osnet.data.attributes.reader import read_attributes
from osnet.embedding.attribute_predictor import AttributePredictor
from osnet.files import check_writable, write_json
from osnet.gallery import Gallery
from osnet.gallery.gallery_folder import WEIGHTS
from osnet.gallery.segments import MANIFEST
from osnet.metrics.attribute_metrics import ZERO_RULES
from osnet.models.heads import find_cards, switch_attributes
from osnet.tasks.attribute_task import labelled, score_split
from osnet.training.state import STATE_FILE
from osnet.weights.card import CARD_FILE, Card, read_card

attributes_app = SubcommandApp()
app.command(attributes_app, name="attributes", help="Show, switch off or evaluate the attributes of weights.")

WeightsArg = Annotated[Path, Positional, tyro.conf.arg(metavar="WEIGHTS_OR_GALLERY")]


@attributes_app.command
def show(weights: WeightsArg) -> None:
    """List the attributes of weights with their thresholds, and which are switched off.

    Args:
        weights: a checkpoint folder, a run's folder, or a gallery.
    """
    _print_card(read_card(_card_folder(weights))[0])


@attributes_app.command
def switch(
    places: Annotated[tuple[Path, ...], Positional, tyro.conf.arg(metavar="WEIGHTS_OR_GALLERY...")],
    *,
    off: Texts = (),
    on: Texts = (),
) -> None:
    """Switch attributes off, or on again, in the cards of weights. An attribute that is off is not computed or stored.

    For a run, the cards of all its weights change (best, weights); a resumed run keeps the setting. A gallery contains
    a copy of the weights with its own card, so name galleries too. The gallery's probabilities of an attribute that is
    switched off are deleted and cannot be restored.

    Args:
        places: runs, checkpoint folders, galleries; give them before --off and --on.
        off: attributes to switch off, named as on the card.
        on: attributes to switch on again.
    """
    switched = switch_attributes(places, off, on)
    for folder, (card, changed) in switched.items():
        print(f"{'changed' if changed else 'as it was':<11}{folder / CARD_FILE}: {_say_off(card)}")
    galleries = [place for place in places if (place / MANIFEST).exists()]
    for gallery in galleries:
        store = Gallery.open(gallery)
        stored = store.attributes
        forget_switched_off(store)
        if gone := [name for name in stored if name not in store.attributes]:
            print(f"deleted    {gallery}: the probabilities of {', '.join(gone)}")
    for other in sorted({o for folder in switched for o in _other_weights(folder)} - set(switched)):
        print(f"not asked  {other / CARD_FILE}: {_say_off(read_card(other)[0])}; of the same run")
    if not galleries:
        words = [*(["--off", *off] if off else []), *(["--on", *on] if on else [])]
        print(
            "A gallery contains a copy of the weights with its own card; exported files do not change. "
            f"For each gallery: osnet attributes switch GALLERY {' '.join(words)}"
        )


@attributes_app.command
def evaluate(
    *,
    weights: str,
    data: Path,
    split: Literal["train", "val", "test"] = "test",
    chosen_thresholds: bool = False,
    skip_mismatches: bool = False,
    out: Path | None = None,
    batch_size: int = 32,
    device: str = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Score the attributes of weights: mA, accuracy, precision, recall, F1, and a row per attribute.

    Args:
        weights: a path of weights with an attribute head.
        data: PA-100K, PETA, RAP, Market-1501 with market_attribute.mat, generated people, or a CSV.
        split: the split to score.
        chosen_thresholds: use the thresholds on the card, chosen on validation data, instead of 0.5, which published
            scores use.
        skip_mismatches: leave out images whose files and labels do not match, and report them.
        out: write the result here as JSON.
        batch_size: crops per forward pass.
        device: auto, cpu, cuda, cuda:1, mps.
        as_json: print JSON.
    """
    if out is not None:
        check_writable(out, reads=[data])
    dataset = read_attributes(data, "skip" if skip_mismatches else "raise")
    predictor = AttributePredictor(weights, device, batch_size)
    part = labelled(next(s for s in dataset.splits if s.name == split))
    scores, _ = score_split(predictor, part, dataset.attributes, chosen_thresholds)
    content = {
        "data": dataset.name,
        "split": split,
        "zero_rules": ZERO_RULES,
        "problems": list(dataset.problems),
        "notes": list(dataset.notes),
        **scores.to_json(),
    }
    if out is not None:
        write_json(out, content)
    if as_json:
        print(json.dumps(content, indent=2))
        return
    for problem in dataset.problems:
        print(f"left out: {problem}")
    for note in dataset.notes:
        print(f"note: {note}")
    print(scores)


def _card_folder(weights: Path) -> Path:
    """The folder with the card: the given one, or its sub-folder ``weights`` for a run or a gallery."""
    return weights if (weights / CARD_FILE).exists() else weights / WEIGHTS


def _other_weights(folder: Path) -> list[Path]:
    """All checkpoint folders of the run that this one belongs to; empty if it belongs to none."""
    return find_cards(folder.parent) if (folder.parent / STATE_FILE).exists() else []


def _say_off(card: Card) -> str:
    return f"off: {', '.join(card.attributes_off) or 'nothing'}"


def _print_card(card: Card) -> None:
    thresholds = card.attribute_thresholds or (0.5,) * len(card.attributes)
    for name, threshold in zip(card.attributes, thresholds, strict=True):
        print(f"{name:<26}" + ("off" if name in card.attributes_off else f"from {threshold:.2f}"))
    if not card.attributes:
        print("these weights have no attributes")
