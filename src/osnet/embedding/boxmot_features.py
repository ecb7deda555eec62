"""An ``Embedder`` with the interface of BoxMOT's re-identification model."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from osnet.embedding.embedder import Embedder
from osnet.embedding.inputs import Frame


class BoxmotFeatures:
    """Gives a BoxMOT tracker the embeddings of an ``Embedder``. Pass it where the tracker takes its ReID model.

    >>> reid = BoxmotFeatures(Embedder("osnet_x0_25_msmt17"))
    >>> features = reid.get_features(xyxys, image)           # float32 (N, 512), rows of length 1

    Boxes are clipped to the image and crops resized as the weights were trained, with smoothing. BoxMOT resizes with
    OpenCV, which does not smooth, so features of crops larger than the network's input differ from BoxMOT's.

    Args:
        embedder: makes the embeddings. Features have length 1 even if it does not normalise.
    """

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder

    def get_features(self, xyxys: ArrayLike, image: Any) -> NDArray[np.float32]:
        """Features of the boxes in a frame.

        Args:
            xyxys: (N, 4) left, top, right, bottom in pixels; or ``supervision.Detections``.
            image: uint8 (height, width, 3), BGR as OpenCV gives it.

        Returns:
            float32 (N, D), rows of length 1 (or 0, if the network gives zeros), in the order of the boxes; (0, D) for
            no boxes.

        Raises:
            EmbeddingError: an image that is not such an array, or a box that covers no pixel of it (the box is named).
        """
        features = self.embedder.embed(Frame(image, xyxys), channels="bgr")
        if self.embedder.normalize or not len(features):
            return features
        lengths = np.linalg.norm(features, axis=1, keepdims=True)
        return features / np.maximum(lengths, np.finfo(np.float32).tiny)  # zeros stay zeros
