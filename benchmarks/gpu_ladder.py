"""Speed-ups on a GPU step by step, in under nine minutes: half precision, folding, CUDA graphs, compile, fusing.

    python benchmarks/gpu_ladder.py --out ladder.json
    python benchmarks/gpu_ladder.py --device cpu --models osnet_x0_25 --batches 1 3 --size 64x32 --files 6 --rounds 2

Three stages, each for ``osnet_x0_25`` and ``osnet_x1_0``. ``network``: the variants of in_pytorch.py, and the backends
of ``osnet.runtime.gpu``, which start with pixels on the host; vectors are compared before measuring. ``files``: from
JPEG files to vectors, decoded by the library or by the GPU (nvJPEG; its pixels differ slightly). ``training``: steps
of the re-identification task. The variants of a cell are measured in turn. The result is written after each cell, and
cells beyond ``minutes`` are left out. It has not run on a GPU yet; ``tests/test_gpu_backends.py`` runs it on a CPU.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

THIS = Path(__file__).resolve()
sys.path.insert(0, str(THIS.parent))
import extraction  # noqa: E402
import in_pytorch  # noqa: E402
import in_turn  # noqa: E402

GPU_BACKENDS = ("cuda-bf16", "cuda-fp16", "onnxruntime-cuda", "onnxruntime-tensorrt")


@dataclass(frozen=True)
class Settings:
    """Device, networks, batches and time of the measurement."""

    device: str = "cuda"
    models: tuple[str, ...] = ("osnet_x0_25", "osnet_x1_0")
    batches: tuple[int, ...] = (1, 8, 64, 512)
    compiled: tuple[int, ...] = (64,)
    """Batch sizes for ``torch.compile``, which takes a minute each; empty: none."""
    size: str = "256x128"
    rounds: int = 5
    block_s: float = 0.2
    files: int = 2048
    train_batch: int = 64
    minutes: float = 8.5
    out: Path | None = None


class Ladder:
    """Measures cells (stage, network, batch size) and records them."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.device = settings, torch.device(settings.device)
        self.size_hw = tuple(map(int, settings.size.split("x")))
        self.end = time.monotonic() + 60 * settings.minutes
        self.rows: list[dict[str, Any]] = []
        self.result: dict[str, Any] = {"machine": in_turn.machine(torch.get_num_threads()), "rows": self.rows}
        self.result["torch"] = torch.__version__
        if self.device.type == "cuda":
            self.result["gpu"] = torch.cuda.get_device_name(self.device)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def cell(self, stage: str, model: str, batch: int, makers: dict[str, Callable[[], Callable[[], Any]]]) -> None:
        """Make each variant, then measure them in turn with ``batch`` images per call. Errors are recorded too."""
        made: dict[str, Callable[[], Any]] = {}
        for way, make in makers.items():
            if time.monotonic() > self.end:
                break
            try:
                made[way] = make()
                made[way]()
            except (Exception, SystemExit) as error:  # a variant that does not run here must not stop the others
                made.pop(way, None)
                message = f"{type(error).__name__}: {error}"[:300]
                self.rows.append({"stage": stage, "model": model, "batch": batch, "way": way, "error": message})
                print(f"{stage:<9}{model} {batch:>4} {way:<32}{message}", flush=True)
        seconds: dict[str, list[float]] = {way: [] for way in made}
        for number in range(self.settings.rounds):
            for way, run in made.items():
                if number and time.monotonic() > self.end:
                    break
                self.wait()
                calls, start = 0, time.perf_counter()
                while not calls or time.perf_counter() - start < self.settings.block_s:
                    run()
                    calls += 1
                self.wait()
                seconds[way].append((time.perf_counter() - start) / calls)
        first = next(iter(seconds), None)
        for way, times in seconds.items():
            median = statistics.median(times)
            row = {"stage": stage, "model": model, "batch": batch, "way": way, "median_ms": 1e3 * median}
            row |= {"best_ms": 1e3 * min(times), "rounds": len(times), "images_per_s": batch / median}
            row["ratio"] = statistics.median(a / b for a, b in zip(seconds[str(first)], times, strict=False))
            self.rows.append(row)
            print(f"{stage:<9}{model} {batch:>4} {way:<32}{row['median_ms']:10.3f} ms {row['images_per_s']:10.0f} "
                  f"images/s, {row['ratio']:.2f} times {first}", flush=True)  # fmt: skip
        in_turn.write(self.settings.out, self.result)

    def network(self, model: str, batch: int) -> None:
        """The network alone in PyTorch, and the backends, which also copy the pixels from the host."""
        ways = in_pytorch.ways_on(self.settings.device)
        if batch not in self.settings.compiled or self.device.type != "cuda":
            ways = [way for way in ways if "compiled" not in way]
        makers: dict[str, Callable[[], Callable[[], Any]]] = {
            way: lambda way=way: in_pytorch.make_way(way, model, batch, self.size_hw, self.settings.device)  # type: ignore[misc]
            for way in ways
        }
        makers |= {name: lambda name=name: self.backend(name, model, batch) for name in GPU_BACKENDS}  # type: ignore[misc]
        if self.device.type != "cuda":
            makers = {way: make for way, make in makers.items() if not way.startswith("onnxruntime")}
        self.cell("network", model, batch, makers)

    def backend(self, name: str, model: str, batch: int) -> Callable[[], Any]:
        from osnet import create_model
        from osnet.runtime.backends import GPU_TOLERANCE, generate_pixels, measure_difference
        from osnet.runtime.gpu import make_gpu_backend
        from osnet.types import Preprocessing

        torch.manual_seed(0)
        settings = Preprocessing(size_hw=self.size_hw)
        network = create_model(model).eval().to(self.device)
        made = make_gpu_backend(name, network, settings, self.device)
        if not (off := measure_difference(made, network, settings)) <= GPU_TOLERANCE:
            raise SystemExit(f"{name} gives other vectors: off by {off}")
        pixels = generate_pixels(batch, self.size_hw)
        return lambda: made.run(pixels).cpu()

    def files(self, model: str, folder: Path) -> None:
        """JPEG files to vectors."""
        from osnet import Embedder, create_model, save_weights
        from osnet.types import Preprocessing
        from osnet.weights.card import Card

        paths = extraction.make_crops(folder / "crops", (128, 64), self.settings.files)
        network = create_model(model).eval()
        settings = Preprocessing(size_hw=self.size_hw)
        save_weights(network, folder / model, Card(network.config, preprocessing=settings))
        backends = ("auto", *GPU_BACKENDS) if self.device.type == "cuda" else ("auto", "torch")
        makers: dict[str, Callable[[], Callable[[], Any]]] = {}
        for name in backends:

            def make(name: str = name) -> Callable[[], Any]:
                embedder = Embedder(folder / model, self.device, min(512, len(paths)), backend=name)  # type: ignore[arg-type]
                return lambda: embedder.embed(paths)

            makers[f"embed {name}"] = make
        if self.device.type == "cuda":
            makers["nvJPEG, cuda-bf16"] = lambda: self.nvjpeg(model, paths)
        self.cell("files", model, len(paths), makers)

    def nvjpeg(self, model: str, paths: list[str]) -> Callable[[], Any]:
        """Decode and resize on the GPU, then run the folded network in bfloat16."""
        from torchvision.io import ImageReadMode, decode_jpeg, read_file
        from torchvision.transforms.v2.functional import resize

        from osnet import create_model
        from osnet.runtime.folding import optimize
        from osnet.runtime.gpu import HalfSteps
        from osnet.types import Preprocessing

        graph = optimize(create_model(model).eval(), Preprocessing(size_hw=self.size_hw))
        steps = HalfSteps(graph, torch.bfloat16).to(self.device)

        def run() -> Any:
            vectors = []
            with torch.inference_mode():
                for start in range(0, len(paths), 512):
                    contents = [read_file(path) for path in paths[start : start + 512]]
                    images = decode_jpeg(contents, mode=ImageReadMode.RGB, device=self.device)
                    pixels = torch.stack([resize(image, list(self.size_hw), antialias=True) for image in images])
                    vectors.append(steps(pixels.contiguous(memory_format=torch.channels_last)).cpu())
            return torch.cat(vectors)

        return run

    def training(self, model: str) -> None:
        """Steps of the task, with batches on the device."""
        ways = ["float32", "float32 channels_last", "bf16 channels_last"]
        if self.device.type == "cuda" and self.settings.compiled:
            ways.append("bf16 channels_last compiled")
        makers: dict[str, Callable[[], Callable[[], Any]]] = {
            way: lambda way=way: self.train_step(way, model)  # type: ignore[misc]
            for way in ways
        }
        self.cell("training", model, self.settings.train_batch, makers)

    def train_step(self, way: str, model: str) -> Callable[[], Any]:
        from osnet import create_model
        from osnet.tasks.reid import ReidLoss, ReidTask

        torch.manual_seed(0)
        batch = self.settings.train_batch
        task: Any = ReidTask(create_model(model), 751, ReidLoss(triplet=1.0)).to(self.device).train()
        images = torch.randn(batch, 3, *self.size_hw, device=self.device)
        if "channels_last" in way:
            task = task.to(memory_format=torch.channels_last)
            images = images.contiguous(memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(task.parameters(), lr=1e-4, amsgrad=True, fused=self.device.type == "cuda")
        labels = torch.arange(batch, device=self.device) // 2
        run = torch.compile(task) if "compiled" in way else task

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(self.device.type, torch.bfloat16, enabled="bf16" in way):
                loss = run({"image": images, "label": labels})["loss"]
            loss.backward()
            optimizer.step()

        return step


def main(settings: Settings) -> None:
    ladder = Ladder(settings)
    with tempfile.TemporaryDirectory() as folder:
        for model in settings.models:
            for batch in settings.batches:
                ladder.network(model, batch)
        for model in settings.models:
            ladder.training(model)
        for model in settings.models:
            ladder.files(model, Path(folder))
    left = ladder.end - time.monotonic()
    print("done" if left > 0 else "time is up; the other cells were left out")


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Settings, description=__doc__))
