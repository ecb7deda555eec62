"""Compare the speed of OSNets with grouped convolutions to their multiply-adds, and measure the cost of their shuffles.

A shuffle has no multiply-adds but takes time. Therefore each grouped network is also timed without its shuffles. This
computes something else and only shows their cost. The networks have random weights and run in one process. Each round
times every network once. Images per second depend on the machine; quote the ratios to the ungrouped network.

    python benchmarks/variants.py [--widths x1_0] [--size 224 224] [--batch-size 8] [--rounds 10]
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import nn

from osnet import create_model
from osnet.models.counting import count_cost
from osnet.models.layers import ChannelShuffle

GROUPS = {"x1_0": (2, 4, 8), "x0_75": (2, 3, 4, 8), "x0_5": (2, 4, 8)}
EXTENTS = ("all", "block", "lite")


@dataclass(frozen=True)
class Settings:
    """Settings of the measurement."""

    widths: tuple[Literal["x1_0", "x0_75", "x0_5"], ...] = ("x1_0",)
    """Widths to measure, each without groups and with the groups in ``GROUPS``."""
    size: tuple[int, int] = (224, 224)
    """Height and width in pixels."""
    batch_size: int = 8
    rounds: int = 10
    """Each round times every network once."""
    device: str = "cpu"
    threads: int = 0
    """Number of torch's threads; 0: torch's default."""
    processor_time: bool = False
    """Measure the processor time of one thread instead of wall-clock time, for a machine with other work."""
    out: Path | None = None
    """Write the result here as JSON."""


def without_shuffles(network: nn.Module) -> nn.Module:
    """Remove the network's shuffles, in place."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, ChannelShuffle):
                setattr(module, name, nn.Identity())
    return network


def time_s(network: nn.Module, images: torch.Tensor, clock: Callable[[], float]) -> float:
    if images.is_cuda:
        torch.cuda.synchronize()
    start = clock()
    network(images)
    if images.is_cuda:
        torch.cuda.synchronize()
    return clock() - start


def markdown(results: dict[str, dict[str, Any]]) -> str:
    """The table in docs/classification.md, with a row for each network."""
    lines = [
        "| network | multiply-adds | images/s | times fewer multiply-adds | times as fast (range) | in shuffles |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in results.items():
        low, high = row["speed_ratio_range"]
        ratios = f"{row['madds_ratio']:.2f} | {row['speed_ratio']:.2f} ({low:.2f} to {high:.2f})"
        shuffles = f"{100 * row['share_of_time_in_shuffles']:.0f} %"
        rest = f"{ratios} | {shuffles}" if "_g" in name else "1 | 1 | "
        lines.append(f"| `{name}` | {row['madds'] / 1e6:.0f}M | {row['images_per_s']:.1f} | {rest} |")
    return "\n".join(lines)


def main(settings: Settings) -> None:
    clock = time.thread_time if settings.processor_time else time.perf_counter
    if settings.threads or settings.processor_time:
        torch.set_num_threads(1 if settings.processor_time else settings.threads)
    torch.manual_seed(0)
    device = torch.device(settings.device)
    images = torch.rand(settings.batch_size, 3, *settings.size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    plain = [f"osnet_{width}" for width in sorted(settings.widths)]
    grouped: dict[str, dict[str, Any]] = {
        f"osnet_{width}_g{groups}_{extent}": {"name": f"osnet_{width}", "groups": groups, "group_extent": extent}
        for width in sorted(settings.widths)
        for groups in GROUPS[width]
        for extent in EXTENTS
    }
    names = list(grouped)
    networks: dict[str, nn.Module] = {name: create_model(name) for name in plain}
    for name, arguments in grouped.items():
        networks[name] = create_model(**arguments)
        networks[f"{name} no shuffle"] = without_shuffles(create_model(**arguments))
    madds = {name: count_cost(network, settings.size).madds for name, network in networks.items()}
    for name, network in networks.items():
        networks[name] = network.to(device, memory_format=torch.channels_last).eval()
    times: dict[str, list[float]] = {name: [] for name in networks}
    with torch.inference_mode():
        for number in range(settings.rounds + 1):
            for name, network in networks.items():
                elapsed = time_s(network, images, clock)
                if number:  # the first round warms up
                    times[name].append(elapsed)
    results = {}
    print(
        f"{len(images)} images of {settings.size[0]} x {settings.size[1]}, {device}, {torch.get_num_threads()} threads"
    )
    print(
        f"{'network':<24}{'mult-adds':>11}{'ratio':>7}{'img/s':>9}{'speed ratio':>13}{'(rounds)':>15}{'shuffles':>10}"
    )
    for name in [*plain, *names]:
        base = name.split("_g")[0]
        ratios = [b / t for b, t in zip(times[base], times[name], strict=True)]
        bare = times.get(f"{name} no shuffle", times[name])
        shuffles = statistics.median(1 - b / t for b, t in zip(bare, times[name], strict=True))
        results[name] = {
            "madds": madds[name],
            "madds_ratio": madds[base] / madds[name],
            "images_per_s": settings.batch_size / statistics.median(times[name]),
            "speed_ratio": statistics.median(ratios),
            "speed_ratio_range": (min(ratios), max(ratios)),
            "share_of_time_in_shuffles": shuffles,
        }
        r = results[name]
        print(
            f"{name:<24}{madds[name] / 1e6:>10.1f}M{r['madds_ratio']:>7.2f}{r['images_per_s']:>9.1f}"
            f"{r['speed_ratio']:>13.2f}{f'{min(ratios):.2f} to {max(ratios):.2f}':>15}{100 * shuffles:>8.0f} %"
        )
    if settings.out is not None:
        shown = {key: value for key, value in asdict(settings).items() if key != "out"}
        report: dict[str, object] = {"settings": shown, "torch": torch.__version__}
        report |= {"threads": torch.get_num_threads(), "results": results}
        settings.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
