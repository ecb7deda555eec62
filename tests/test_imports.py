"""What ``import osnet`` loads. (``make check`` runs import-linter, which checks who may import whom.)"""

import subprocess
import sys


def test_import_osnet_loads_torch_and_nothing_heavier() -> None:
    heavy = ("torchvision", "PIL", "huggingface_hub", "tyro", "safetensors", "tqdm", "osnet.embedding", "osnet.gallery")
    code = (
        "import sys, torch; before = set(sys.modules); import osnet; "
        f"print([m for m in {heavy!r} if m in set(sys.modules) - before])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
