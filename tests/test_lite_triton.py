"""The Triton kernel for Lite 3x3 layers, in Triton's interpreter on the CPU, against PyTorch's layers."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from conftest import ROOT

CODE = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from lite_triton import FusedLite, fuse_lites
from osnet import OSNet, OSNetConfig
from osnet.runtime.folding import fold
from osnet.models.layers import LiteConv3x3
torch.manual_seed(0)
for channels, height, width in ((16, 18, 5), (24, 3, 18)):  # 24 is not a power of 2
    layer = LiteConv3x3(channels).eval()
    layer.norm.running_mean.normal_()
    layer.norm.running_var.uniform_(0.5, 2)
    torch.nn.init.normal_(layer.norm.bias)
    x = torch.randn(2, channels, height, width)
    with torch.no_grad():
        expected = layer(x)
        found = FusedLite(fold(layer).body)(x)
    assert (expected > 0).float().mean() > 0.2
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
network = OSNet(OSNetConfig(width=0.25, depth=(1, 1, 1))).eval()
images = torch.randn(1, 3, 16, 16)
with torch.no_grad():
    fused = fuse_lites(fold(network))
    assert not any(isinstance(module, LiteConv3x3) for module in fused.modules())
    torch.testing.assert_close(fused(images), network(images), rtol=1e-4, atol=1e-5)
print("equal")
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed (it comes with PyTorch for CUDA)")
def test_triton_kernel_matches_the_layers() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}  # must be set before triton is imported, so in a new process
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(ROOT / "benchmarks")], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip()) == (0, "equal"), done.stderr
