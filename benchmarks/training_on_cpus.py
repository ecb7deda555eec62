"""Training steps on a CPU: bfloat16 beside float32, and memory that the process keeps instead of giving it back.

PyTorch allocates and frees the tensors of every layer in every step. By default, the C library (glibc) asks the system
for each large one and gives it back, and the system fills its pages with zeros again. The two variables in ``KEEP`` let
the process keep this memory. bfloat16 is fast on processors that multiply it (AMX).

Each way is a process of its own, timed in turn, on random images, without reading data:

    python benchmarks/training_on_cpus.py --out benchmarks/results/training-on-cpus.json
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import in_turn

KEEP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(10**12)}
WAYS = ("float32", "float32, memory kept", "bfloat16", "bfloat16, memory kept")


@dataclass(frozen=True)
class Settings:
    """Network, batch and length of the measurement."""

    model: str = "osnet_x0_5"
    batch: int = 32
    size_hw: tuple[int, int] = (256, 128)
    rounds: int = 8
    threads: int = 1
    out: Path | None = None
    way: str | None = None
    """Internal: the way of this worker."""


def serve(settings: Settings) -> None:
    """A worker: each call is a step of the trainer's kind (SGD, channels last)."""
    in_turn.pin(settings.threads)
    import torch

    from osnet import create_model

    torch.manual_seed(0)
    torch.set_num_threads(settings.threads)
    network = create_model(settings.model, num_classes=751).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9)
    images = torch.randn(settings.batch, 3, *settings.size_hw).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 751, (settings.batch,))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled="bfloat16" in str(settings.way)):
            loss = torch.nn.functional.cross_entropy(network.classifier(network(images)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    step()
    in_turn.serve(step)


def peak_gb(worker: in_turn.Worker) -> float:
    """Largest memory of a worker so far."""
    lines = Path(f"/proc/{worker.process.pid}/status").read_text().splitlines()
    (kib,) = (int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return kib * 1024 / 1e9


def main(settings: Settings) -> None:
    if settings.way is not None:
        serve(settings)
        return
    options = ("--model", settings.model, "--batch", str(settings.batch), "--threads", str(settings.threads),
               "--size-hw", *map(str, settings.size_hw))  # fmt: skip
    workers = []
    for way in WAYS:
        kept = [f"{name}={value}" for name, value in KEEP.items()] if "kept" in way else []
        command = ["env", *kept, sys.executable, __file__, "--way", way, *options]
        workers.append(in_turn.Worker(way, command, settings.threads))
    found = in_turn.compare(workers, settings.rounds, 0, last=False)
    for worker, row in zip(workers, found.values(), strict=True):
        row["peak_gb"] = peak_gb(worker)
        worker.close()
        print(f"{worker.name}: {row['cpu_ms']:.0f} ms of processor time, {row['cpu_ratio']:.2f} times as fast as "
              f"{WAYS[0]}, {row['peak_gb']:.2f} GB")  # fmt: skip
    in_turn.write(settings.out, {
        "model": settings.model, "batch": settings.batch, "size_hw": settings.size_hw, "rounds": settings.rounds,
        "machine": in_turn.machine(settings.threads), "ways": found,
    })  # fmt: skip


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Settings, description=__doc__))
