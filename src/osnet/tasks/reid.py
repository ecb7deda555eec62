"""Re-identification as classification of the training identities, with or without triplets."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from osnet.losses import LABEL_SMOOTHING, MARGIN, batch_hard_triplet, smoothed_cross_entropy
from osnet.models.osnet import OSNet


@dataclass(frozen=True)
class ReidLoss:
    """Which losses, how much of each."""

    cross_entropy: float = 1.0
    """Weight of the label-smoothed cross-entropy over training identities."""
    smoothing: float = LABEL_SMOOTHING
    triplet: float = 0.0
    """Weight of the batch-hard triplet loss; above 0 it needs batches by identity."""
    margin: float = MARGIN
    soft_margin: bool = False
    """The soft margin instead of ``margin``."""
    bnneck: bool = False
    """A BatchNorm without shift between embedding and classifier, and a classifier without bias
    (Luo et al., CVPRW 2019). The embedding that is searched with stays the one before it."""


class ReidTask(nn.Module):
    """A network with a classifier of identities on top.

    Args:
        network: image -> embedding.
        num_classes: training identities.
        loss: which losses.
    """

    def __init__(self, network: OSNet, num_classes: int, loss: ReidLoss) -> None:
        super().__init__()
        self.network = network
        self.loss = loss
        size = network.config.embedding_size
        self.neck: nn.Module = nn.BatchNorm1d(size) if loss.bnneck else nn.Identity()
        if loss.bnneck:
            self.neck.bias.requires_grad_(False)
        self.classifier = nn.Linear(size, num_classes, bias=not loss.bnneck)
        nn.init.normal_(self.classifier.weight, 0, 0.01)
        if self.classifier.bias is not None:
            nn.init.zeros_(self.classifier.bias)

    def forward(self, images: Tensor, labels: Tensor, frozen: bool = False) -> dict[str, Tensor]:
        """(B, 3, H, W) and (B,) -> ``loss`` and the scalars to watch.

        ``frozen`` trains the classifier alone: the network runs in eval mode and without gradients.
        """
        if frozen:
            self.network.eval()
            with torch.no_grad():
                embeddings = self.network(images)
        else:
            embeddings = self.network(images)
        logits = self.classifier(self.neck(embeddings))
        scalars = {"accuracy": (logits.detach().argmax(1) == labels).float().mean()}
        total = logits.new_zeros(())
        if self.loss.cross_entropy:
            scalars["cross_entropy"] = smoothed_cross_entropy(logits, labels, self.loss.smoothing)
            total = total + self.loss.cross_entropy * scalars["cross_entropy"]
        if self.loss.triplet and not frozen:
            margin = None if self.loss.soft_margin else self.loss.margin
            scalars["triplet"] = batch_hard_triplet(embeddings, labels, margin)
            total = total + self.loss.triplet * scalars["triplet"]
        return {"loss": total, **{name: value.detach() for name, value in scalars.items()}}
