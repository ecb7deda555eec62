"""Training steps in processor time, in turn: the trainer, another version of it, and Torchreid's engine.

    python benchmarks/training_peers.py --peer-python peer/bin/python --old ../before/src

Each contender runs in a process of its own and reads, augments and trains on batches of the same generated crops with
the same settings: softmax with label smoothing, Adam with amsgrad, flips, all files decoded in the loop. With one
thread, processor time is what other programs disturb least. ``--weights`` starts from released weights, which have
denormal numbers, and not from random ones.
"""

import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

THIS = Path(__file__).resolve()
sys.path.insert(0, str(THIS.parent))
import in_turn  # noqa: E402


@dataclass(frozen=True)
class Settings:
    """What to measure."""

    model: str = "osnet_x0_25"
    rounds: int = 6
    steps: int = 5
    """Per block."""
    batch_size: int = 32
    threads: int = 1
    crop: float = 0.0
    """Probability of a random crop: a resize to 9/8 and a window of it."""
    weights: Path | None = None
    """Start from these; None: random weights."""
    peer_python: Path | None = None
    """Python of an environment with torchreid 0.2.5."""
    old: Path | None = None
    """``src`` of another version of this package."""
    out: Path | None = None


def worker(kind: str, values: list[str]) -> None:
    folder, model, weights, steps, batch_size, crop, threads = values
    in_turn.pin(int(threads))
    import torch

    torch.set_num_threads(int(threads))
    train = by_torchreid if kind == "torchreid" else by_osnet
    train(Path(folder), model, weights or None, int(steps), int(batch_size), float(crop))


def by_osnet(folder: Path, model: str, weights: str | None, steps: int, batch_size: int, crop: float) -> None:
    from osnet.data.augmentation import Augmentation
    from osnet.data.folder import read_dataset
    from osnet.tasks.reid import ReidRecipe
    from osnet.training.trainer import RunOptions, Trainer

    try:
        from osnet.data import faster_resize

        faster_resize.load()  # as after 2,000 images
    except ImportError:
        pass  # an older version

    def serve(loader: Iterable[Any], _total: int, _label: str) -> Iterator[Any]:
        """Stands where the progress bar does: hands over the batches of a block, then reports its time."""
        batches = iter(loader)
        yield from islice(batches, 2)
        print("ready", file=sys.__stdout__, flush=True)
        for _ in sys.stdin:
            start, cpu_start = time.perf_counter(), time.process_time()
            yield from islice(batches, steps)
            print((time.perf_counter() - start) / steps, (time.process_time() - cpu_start) / steps,
                  file=sys.__stdout__, flush=True)  # fmt: skip
        raise SystemExit

    recipe = ReidRecipe("benchmark", model=model, pretrained=weights, epochs=9, batch_size=batch_size,
                        augmentation=Augmentation(flip=0.5, crop=crop))  # fmt: skip
    with tempfile.TemporaryDirectory() as out:
        Trainer(recipe, read_dataset(folder), Path(out) / "run", RunOptions(workers=0, cpu=True)).run(serve)


def by_torchreid(folder: Path, model: str, weights: str | None, steps: int, batch_size: int, crop: float) -> None:
    import torchreid.reid as reid

    files = sorted((folder / "bounding_box_train").rglob("*.jpg"))
    pids = {pid: label for label, pid in enumerate(sorted({file.name.split("_")[0] for file in files}))}

    class Generated(reid.data.ImageDataset):
        def __init__(self, root: str = "", **more: Any) -> None:
            train = [(str(file), pids[file.name.split("_")[0]], 0) for file in files]
            other = [(path, pid, number % 2) for number, (path, pid, _) in enumerate(train[:4])]
            super().__init__(train, other, [(path, pid, 1 - camera) for path, pid, camera in other], **more)

    reid.data.register_image_dataset("generated", Generated)
    transforms = ["random_flip", *(["random_crop"] if crop else [])]
    manager = reid.data.ImageDataManager(
        sources="generated", height=256, width=128, batch_size_train=batch_size, transforms=transforms, workers=0,
        use_gpu=False,
    )  # fmt: skip
    network = reid.models.build_model(model, len(pids), loss="softmax", pretrained=False).train()
    if weights:
        reid.utils.load_pretrained_weights(network, weights)
    optimizer = reid.optim.build_optimizer(network, optim="amsgrad", lr=0.0015)
    engine = reid.engine.ImageSoftmaxEngine(manager, network, optimizer, use_gpu=False)

    def batches() -> Iterator[Any]:
        while True:
            yield from manager.train_loader

    source = batches()
    in_turn.serve(lambda: engine.forward_backward(next(source)))


def main(settings: Settings) -> None:
    from osnet.synthetic.generate import GeneratedSettings, generate_dataset

    contenders = {"ours": (sys.executable, None)}
    if settings.old:
        contenders["old"] = (sys.executable, settings.old)
    if settings.peer_python:
        contenders["torchreid"] = (str(settings.peer_python), None)
    with tempfile.TemporaryDirectory() as folder:
        root = generate_dataset(Path(folder) / "people", GeneratedSettings(64, 4, 4, seed=1))
        weights = str(settings.weights.resolve()) if settings.weights else ""
        values = (root, settings.model, weights, settings.steps, settings.batch_size, settings.crop, settings.threads)
        workers = []
        for kind, (python, source) in contenders.items():
            version = ["env", f"PYTHONPATH={source}"] if source else []
            command = [*version, python, str(THIS), "--worker", kind, *map(str, values)]
            workers.append(in_turn.Worker(kind, command, settings.threads))
        rows = in_turn.compare(workers, settings.rounds, 0)
    for name, row in rows.items():
        print(f"{name:<12}{row['cpu_ms']:8.0f} ms of processor time per step, {row['median_ms']:8.0f} ms, "
              f"{1 / row['cpu_ratio']:.2f} times ours", flush=True)  # fmt: skip
    about = {"machine": in_turn.machine(settings.threads), "model": settings.model, "rounds": settings.rounds,
             "weights": settings.weights.name if settings.weights else "random"}  # fmt: skip
    in_turn.write(settings.out, {**about, "batch_size": settings.batch_size, "crop": settings.crop, "rows": rows})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2], sys.argv[3:])
    else:
        import tyro

        main(tyro.cli(Settings, description=__doc__))
