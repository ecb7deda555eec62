"""Start-up time: processor seconds of new processes beyond those of ``import torch``, measured in turn.

    python benchmarks/first_answer.py --weights osnet_x0_25_msmt17.pth --old ../before/src

``new weights`` are not in the cache of inference graphs; ``known weights`` were cached by an earlier process. Byte code
is cached, as for an installed package. ``--old`` adds the ``src`` of another version to the comparison. Processor time
counts all threads. On a busy machine it can grow by half, so compare within a round.
"""

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

THIS = Path(__file__).resolve()
sys.path.insert(0, str(THIS.parent))
import extraction  # noqa: E402
import in_turn  # noqa: E402

MAKE = "import sys, torch; from osnet import Embedder; Embedder(sys.argv[1])"
EMBED = "import sys, torch; from osnet import Embedder; Embedder(sys.argv[1]).embed(sys.argv[2])"


@dataclass(frozen=True)
class Settings:
    """Weights and rounds of the measurement, and another version to compare with."""

    weights: Path
    rounds: int = 5
    old: Path | None = None
    out: Path | None = None


def spent(command: list[str], source: Path, folder: Path, cache: Path) -> float:
    """Processor seconds of a command and its threads."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"PYTHONPATH": str(source), "OSNET_CACHE": str(cache)}
    environment["PYTHONPYCACHEPREFIX"] = str(folder / f"bytecode-{len(str(source))}")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(settings: Settings) -> None:
    python, here = sys.executable, THIS.parents[1] / "src"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        crop = extraction.make_crops(folder / "crops", (128, 64), 3)[0]
        weights = str(settings.weights.resolve())
        cli = [python, "-m", "osnet.cli"]
        contenders = {
            "import torch": [python, "-c", "import torch"],
            "osnet --help": [*cli, "--help"],
            "embedder, new weights": [python, "-c", MAKE, weights],
            "embedder, known weights": [python, "-c", MAKE, weights],
            "embedder and one image, known weights": [python, "-c", EMBED, weights, crop],
            "osnet search GALLERY IMAGE": [*cli, "search", "GALLERY", crop],
        }
        versions = {"": here} | ({"old: ": settings.old.resolve()} if settings.old else {})
        for mark, source in versions.items():  # each has its own format
            gallery = str(folder / f"{mark}gallery")
            index = [*cli, "index", str(folder / "crops"), "--out", gallery, "--weights", weights]
            spent(index, source, folder, folder / "cache")
        times: dict[str, list[float]] = {}
        for number in range(settings.rounds + 1):
            for mark, source in versions.items():
                for what, command in contenders.items():
                    cache = folder / ("emptied" if "new weights" in what else "cache")
                    shutil.rmtree(folder / "emptied", ignore_errors=True)
                    command = [str(folder / f"{mark}gallery") if word == "GALLERY" else word for word in command]
                    seconds = spent(command, source, folder, cache)
                    if number:  # the first round fills the caches
                        times.setdefault(mark + what, []).append(seconds)
            if number:
                write(settings, number, times)


def write(settings: Settings, rounds: int, times: dict[str, list[float]]) -> None:
    """Print and write the results so far."""
    torch_s = times["import torch"]
    rows = {}
    for what, found in times.items():
        beyond = [a - b for a, b in zip(found, torch_s, strict=True)]
        rows[what] = {"median_s": statistics.median(found), "best_s": min(found)}
        best = min(found) - min(torch_s)
        rows[what] |= {"beyond_torch_s": statistics.median(beyond), "best_beyond_torch_s": best}
        print(f"{what:<44}{rows[what]['median_s']:6.2f} s (best {min(found):.2f}), beyond import torch "
              f"{rows[what]['beyond_torch_s']:6.2f} (best to best {best:.2f})", flush=True)  # fmt: skip
    in_turn.write(settings.out, {"machine": in_turn.machine(0), "rounds": rounds, "rows": rows})


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Settings, description=__doc__))
