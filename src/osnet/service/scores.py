"""What a score means here: how often strangers reach it, from the results of ``osnet calibrate``."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osnet.errors import DataError


@dataclass(frozen=True)
class Meaning:
    """What a score says, and what it does not say."""

    strangers: float | None
    """At most this share of people who are not the one asked for reach it; None: not measured here."""
    text: str


@dataclass(frozen=True)
class CalibratedPoint:
    """A threshold on the cosine of two crops, and the share of pairs of different people at or above it."""

    threshold: float
    rate: float
    dataset: str


NOT_CALIBRATED = Meaning(
    None,
    "not calibrated: how many strangers reach this score here was not measured (osnet calibrate --fpr, then "
    "osnet serve --calibration)",
)
DESCRIBED = Meaning(None, "how well the predicted attributes fit the description, from 0 to 1; not a share of anything")


class ScoreScale:
    """Calibrated points of one network, from the strictest on.

    Args:
        points: none: every score is ``NOT_CALIBRATED``.
    """

    def __init__(self, points: tuple[CalibratedPoint, ...] = ()) -> None:
        self.points = tuple(sorted(points, key=lambda point: point.rate))

    @classmethod
    def read(cls, paths: tuple[Path, ...], weights_sha256: str) -> "ScoreScale":
        """From files of ``osnet calibrate --fpr RATE --out FILE``.

        Raises:
            DataError: a file that is not one, or was made with other weights.
        """
        points = []
        for path in paths:
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                kind, weights = content["kind"], content["weights"]["network_sha256"]
                rate = max(float(content["asked"]), float(content["false_positives"]["mean"]))
                point = CalibratedPoint(float(content["threshold"]), rate, str(content["dataset"]))
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise DataError(f"{path} is no result of osnet calibrate --out: {error}") from error
            if kind != "verification":
                raise DataError(f"{path} is of kind {kind!r}; calibrate with --fpr, which compares pairs of crops")
            if weights != weights_sha256:
                raise DataError(
                    f"{path} was made with the weights {str(weights)[:12]}; the archives have {weights_sha256[:12]}. "
                    "Calibrate the archive's own weights"
                )
            points.append(point)
        return cls(tuple(points))

    def explain(self, crop_score: float | None, num_crops: int) -> Meaning:
        """What the best crop's cosine says.

        The calibration counts pairs of single crops. A tracklet of C crops has C chances, so the share of strangers is
        at most C times that of pairs (Boole's inequality).
        """
        if not self.points or crop_score is None:
            return NOT_CALIBRATED
        passed = [point for point in self.points if crop_score >= point.threshold]
        if not passed:
            least = self.points[-1]
            return Meaning(
                1.0, f"weak: more than {one_in(least.rate)} pairs of strangers reach this score (on {least.dataset})"
            )
        point = passed[0]
        share = min(1.0, point.rate * num_crops)
        text = f"{one_in(point.rate)} pairs of strangers reach this score (on {point.dataset})"
        if num_crops > 1:
            text += f"; with {num_crops} crops at most {one_in(share)} strangers"
        return Meaning(share, text)

    def to_json(self) -> list[dict[str, Any]]:
        """The points as JSON values."""
        return [{"threshold": p.threshold, "rate": p.rate, "dataset": p.dataset} for p in self.points]


def one_in(rate: float) -> str:
    """``1 in 1,000``."""
    return f"1 in {max(1, round(1 / max(rate, 1e-12))):,}"
