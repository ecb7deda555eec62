"""A stand-in for the real weights: random ones in Torchreid's format. (Generated people: ``people`` in conftest.)

With it, tests show that code runs and agrees with a plain computation. They show nothing about accuracy.
"""

from pathlib import Path

import torch

from osnet.models.osnet import OSNet
from osnet.models.registry import VARIANTS
from osnet.weights.torchreid import torchreid_names

MSMT17_CLASSES = 1041


def write_random_weights(file: Path, seed: int = 0, num_classes: int = MSMT17_CLASSES) -> Path:
    """OSNet x0.25 under Torchreid's names, like the files of its model zoo: 567 tensors, with a classifier."""
    config = VARIANTS["osnet_x0_25"].config
    torch.manual_seed(seed)
    network = OSNet(config).train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.rand(8, 3, 64, 32))  # updates the BatchNorm statistics
    names, state = torchreid_names(config), network.state_dict()
    tensors = {names[key]: state[key] for key in names}
    tensors |= {"classifier.weight": 0.01 * torch.randn(num_classes, 512)}
    tensors |= {"classifier.bias": torch.zeros(num_classes)}
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, file)
    return file
