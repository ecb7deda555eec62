"""Variants of running a network in PyTorch, on a GPU or a CPU, for inference.py.

A variant must give the vectors of plain float32: cosines of at least 0.9999, or 0.99 with bfloat16 and float16.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

Run = Callable[[], Tensor]
WAYS = (
    "float32", "float32 channels_last", "float32 compiled", "float32 ours", "bf16", "bf16 channels_last",
    "bf16 compiled", "bf16 CUDA graph", "bf16 ours", "bf16 ours, CUDA graph", "bf16 Lite fused",
    "bf16 Lite fused, CUDA graph", "fp16 ours", "fp16 ours, CUDA graph",
)  # fmt: skip
"""Precision, then the optimisation. ``ours`` is ``osnet.runtime.folding.optimize``, from uint8 pixels; ``Lite fused``
is the folded network with the kernel of lite_triton.py."""


def ways_on(device: str) -> list[str]:
    """The variants that a device supports; CUDA graphs and Triton need a GPU."""
    return [way for way in WAYS if device.startswith("cuda") or not ("CUDA" in way or "Lite" in way)]


def make_way(way: str, model: str, batch: int, size_hw: tuple[int, int], device: str) -> Run:
    """A function that runs one batch and waits for the result.

    Args:
        way: one of ``WAYS``.
        model: a name of ``create_model``.
        batch: number of images.
        size_hw: height and width of the images.
        device: ``cuda`` or ``cpu``.
    """
    from osnet import create_model
    from osnet.data.transforms import normalize, to_fractions
    from osnet.runtime.folding import fold, optimize
    from osnet.runtime.gpu import HalfSteps
    from osnet.types import Preprocessing

    torch.manual_seed(0)
    preprocessing = Preprocessing(size_hw=size_hw)
    network = create_model(model).eval().requires_grad_(False).to(device)
    pixels = torch.randint(0, 256, (batch, 3, *size_hw), dtype=torch.uint8).to(device)
    images = normalize(to_fractions(pixels), preprocessing)
    with torch.inference_mode():
        expected = network(images).float()
    precision, _, rest = way.partition(" ")
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    ours = rest.startswith("ours")
    run: Any = optimize(network, preprocessing) if ours else network
    if "Lite fused" in rest:
        from lite_triton import fuse_lites

        run = fuse_lites(fold(network))
    run = HalfSteps(run, kind) if ours and kind != torch.float32 else run.to(kind)
    given = pixels if ours else images.to(kind)
    if rest:  # all but plain float32 and plain bf16
        given = given.contiguous(memory_format=torch.channels_last)
        run = run.to(memory_format=torch.channels_last)
    if "compiled" in rest:
        run = torch.compile(run)
    step = _captured(run, given) if "CUDA graph" in rest else lambda: run(given)

    def work() -> Tensor:
        with torch.inference_mode():
            result: Tensor = step()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
        return result

    closest = float(cosine_similarity(work().float(), expected).min())
    if closest < (0.9999 if kind == torch.float32 else 0.99):
        raise SystemExit(f"{way} gives other vectors: smallest cosine {closest}")
    return work


def _captured(run: nn.Module, given: Tensor) -> Run:
    """Capture ``run`` as one CUDA graph, which is replayed without Python between its kernels."""
    with torch.inference_mode():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                run(given)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = run(given)

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay
