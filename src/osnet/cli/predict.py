"""osnet predict: predict attributes of people, or classes of images."""

import json
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional
from tyro.extras import SubcommandApp

from osnet.cli.common import (
    JsonFlag,
    app,
    check_counts,
    check_probabilities_file,
    list_inputs,
    report_failures,
    write_probabilities,
)
from osnet.embedding.attribute_predictor import AttributePredictions, AttributePredictor
from osnet.embedding.class_predictor import ClassPredictions, ClassPredictor
from osnet.embedding.embedder import OnError
from osnet.files import write_json

predict_app = SubcommandApp()
app.command(predict_app, name="predict", help="Predict attributes or classes.")


@predict_app.command(name="attributes")
def predict_attributes(
    inputs: Annotated[tuple[Path, ...], Positional, tyro.conf.arg(metavar="IMAGE_OR_FOLDER...")],
    *,
    weights: str,
    out: Path | None = None,
    on_error: OnError = "raise",
    batch_size: int = 32,
    device: str = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Predict attributes of people, with probabilities; those above their thresholds come first.

    Args:
        inputs: crops of people, and folders of crops.
        weights: a path of weights with an attribute head.
        out: also write all probabilities here, as .csv (a row per image) or .json.
        on_error: raise: stop at an image that cannot be read; skip: leave it out and report it.
        batch_size: crops per forward pass.
        device: auto, cpu, cuda, cuda:1, mps.
        as_json: print JSON.
    """
    if out is not None:
        check_probabilities_file(out)
    paths = list_inputs(inputs)
    predictor = AttributePredictor(weights, device, batch_size)
    seen = predictor.predict(paths, on_error=on_error)
    rows = [
        {"source": name, "holds": seen.positive(i), "probabilities": _by_name(seen, i)}
        for i, name in enumerate(seen.names)
    ]
    if out is not None and out.suffix == ".json":
        write_json(out, {"thresholds": dict(zip(seen.attributes, seen.thresholds, strict=True)), "images": rows})
    elif out is not None:
        write_probabilities(out, seen.attributes, seen.names, seen.probabilities)
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        for i, name in enumerate(seen.names):
            print(name)
            for holds in (True, False):
                said = [(n, p) for n, p in _by_name(seen, i).items() if (n in seen.positive(i)) == holds]
                shown = [f"{n} {100 * p:.0f} %" for n, p in sorted(said, key=lambda pair: -pair[1])]
                print(f"  {'yes' if holds else 'no':<4}{', '.join(shown) or '-'}")
    report_failures([str(failure) for failure in seen.failures])


def _by_name(seen: AttributePredictions, row: int) -> dict[str, float]:
    return dict(zip(seen.attributes, (round(float(p), 6) for p in seen.probabilities[row]), strict=True))


@predict_app.command(name="classes")
def predict_classes(
    inputs: Annotated[tuple[Path, ...], Positional, tyro.conf.arg(metavar="IMAGE_OR_FOLDER...")],
    *,
    weights: str,
    top: int = 5,
    out: Path | None = None,
    on_error: OnError = "raise",
    batch_size: int = 32,
    device: str = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Predict the class of images, with probabilities, most probable first.

    Args:
        inputs: images, and folders of images.
        weights: a path of weights from a classification recipe.
        top: number of classes to print for each image.
        out: also write all probabilities here, as .csv (a row per image) or .json.
        on_error: raise: stop at an image that cannot be read; skip: leave it out and report it.
        batch_size: images per forward pass.
        device: auto, cpu, cuda, cuda:1, mps.
        as_json: print JSON.
    """
    if out is not None:
        check_probabilities_file(out)
    check_counts(top=top)
    paths = list_inputs(inputs)
    seen = ClassPredictor(weights, device, batch_size).predict(paths, on_error=on_error)
    if out is not None:
        _write(seen, out)
    if as_json:
        rows = [{"source": name, "probabilities": _rounded(seen, row, top)} for row, name in enumerate(seen.names)]
        print(json.dumps(rows, indent=2))
    else:
        for row, name in enumerate(seen.names):
            print(name)
            for label, probability in seen.topk(row, top):
                print(f"{100 * probability:>8.2f} %  {label}")
    report_failures([str(failure) for failure in seen.failures])


def _rounded(seen: ClassPredictions, row: int, top: int) -> dict[str, float]:
    return {name: round(probability, 6) for name, probability in seen.topk(row, top)}


def _write(seen: ClassPredictions, out: Path) -> None:
    if out.suffix == ".json":
        every = len(seen.classes)
        images = [{"source": n, "probabilities": _rounded(seen, row, every)} for row, n in enumerate(seen.names)]
        write_json(out, {"classes": list(seen.classes), "images": images})
        return
    write_probabilities(out, seen.classes, seen.names, seen.probabilities)
