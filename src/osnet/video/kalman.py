"""The Kalman filters of the package ``trackers``, for less processor time.

In C-BIoU and ByteTrack, each of the four coordinates of a box has a position and a velocity, and no noise is shared
between coordinates. So the filter of eight states is four filters of two, which need no linear algebra.
"""

from functools import cache, lru_cache
from typing import Any

import numpy as np

from osnet.errors import MissingExtraError, require_extra


@cache
def quick_estimator(base: type) -> Any:
    """A subclass of an estimator of ``trackers`` that computes the same as four filters of two states.

    Its noise must be diagonal, and its ``kf`` has the state, but not the covariance.

    Args:
        base: ``XYXYStateEstimator`` or ``XCYCWHStateEstimator``. Another class is returned as it is. So are these
            if a later version of ``trackers`` does not have the parts that this module uses.
    """
    try:
        shapes = require_extra("trackers.utils.state_representations", "video")
        _scale_noise(1.0, None)
    except (MissingExtraError, AttributeError, TypeError, ValueError):
        return base
    if base not in (shapes.XYXYStateEstimator, shapes.XCYCWHStateEstimator):
        return base
    centred = base is shapes.XCYCWHStateEstimator

    class Quick(base):  # type: ignore[misc]
        def __init__(self, bbox: Any) -> None:
            super().__init__(bbox)
            kf = self.kf
            self.set_kf_covariances(kf.measurement_noise, kf.process_noise, kf.state_covariance)

        def set_kf_covariances(
            self, measurement_noise: Any = None, process_noise: Any = None, state_covariance: Any = None
        ) -> None:
            if measurement_noise is not None:
                self._noise = measurement_noise.diagonal().tolist()
            if process_noise is not None:
                self._drift = process_noise.diagonal().tolist()
            if state_covariance is not None:
                spread = state_covariance.diagonal().tolist()
                self._covariance = [(p, 0.0, v) for p, v in zip(spread[:4], spread[4:], strict=True)]

        def state_to_bbox(self) -> Any:
            a, b, c, d = self.kf.state[:4, 0].tolist()
            return np.array([a - c * 0.5, b - d * 0.5, a + c * 0.5, b + d * 0.5] if centred else [a, b, c, d])

        def predict(self, frame_step: float = 1.0, frame_rate: float | None = None) -> None:
            scale, shared, grown, faster = _scale_noise(frame_step, frame_rate)
            state, covariance = self.kf.state[:, 0].tolist(), self._covariance
            for i in range(4):
                (p, pv, v), q = covariance[i], self._drift[4 + i]
                state[i] += frame_step * state[4 + i]
                covariance[i] = (
                    p + frame_step * (2 * pv + frame_step * v) + scale * self._drift[i] + grown * q,
                    pv + frame_step * v + shared * q,
                    v + faster * q,
                )
            self.kf.state[:, 0] = state

        def update(self, bbox: Any) -> None:
            state, covariance = self.kf.state[:, 0].tolist(), self._covariance
            a, b, c, d = bbox.tolist()
            measured = (a + (c - a) * 0.5, b + (d - b) * 0.5, c - a, d - b) if centred else (a, b, c, d)
            for i, seen in enumerate(measured):
                p, pv, v = covariance[i]
                noise, residual = self._noise[i], seen - state[i]
                total = p + noise
                state[i] += p / total * residual
                state[4 + i] += pv / total * residual
                covariance[i] = (p * noise / total, pv * noise / total, v - pv * pv / total)
            self.kf.state[:, 0] = state

    return Quick


@lru_cache(4)
def _scale_noise(frame_step: float, frame_rate: float | None) -> tuple[float, float, float, float]:
    """How ``trackers`` scales the process noise of a frame to a step of ``frame_step`` frames.

    Returns:
        The factor of a position's noise in its own variance; and the factors of a velocity's noise in the covariance of
        both, in the variance of the position, and in that of the velocity.
    """
    models = require_extra("trackers.utils.motion_models", "video")
    factors = []
    for noise in (np.diag([1.0, 0.0]), np.diag([0.0, 1.0])):
        model = models.ScalableProcessNoise(2, np.array([0]), np.array([1]), noise, np.zeros(1), np.zeros(2))
        model.calibrate(noise)
        factors.append(model.build_Q(frame_step, frame_rate).tolist())
    ((scale, _), _), ((grown, shared), (_, faster)) = factors
    return scale, shared, grown, faster
