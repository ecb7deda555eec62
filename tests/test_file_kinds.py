"""Files that are not weights: the error names the kind of file and does not warn about code."""

import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

from osnet import OSNet
from test_foreign_checkpoints import refusal_message
from test_weights import torchreid_state


def zipped(**members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/"), content)
    return out.getvalue()


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pth"))
    return out.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9336983\n"
OTHERS: dict[str, tuple[bytes, str]] = {
    "lfs": (LFS, "Git LFS pointer to a file of 9,336,983 bytes"),
    "annex": (b"/annex/objects/SHA256E-s933--4d7a.pth\n", "git annex get"),
    "page": (b"\n<!DOCTYPE html>\n<html><head><title>osnet at main</title>", "web page ('osnet at main')"),
    "page after a comment": (b"<!-- saved -->\n<HTML lang=en><body>Sign in", "web page"),
    "page with a byte order mark": (b"\xef\xbb\xbf<html>\xc3\xa9</html>", "web page"),
    "server error": (b"Entry not found", "text that begins with 'Entry not found'"),
    "json": (b'{"error": "Repository not found"}', "JSON that begins"),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code>', "XML"),
    "empty": (b"", "empty"),
    "zeros": (bytes(70_000), "zero bytes"),
    "gzip": (b"\x1f\x8b\x08" + bytes(50), "gzip"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(50), "7z"),
    "tar": (tarred(), "tar archive"),
    "zip": (zipped(readme=b"x", weights__osnet=b"y"), "zip archive that contains readme, weights/osnet"),
    "npz": (zipped(**{"a.npy": b"x"}), "NumPy"),
    "truncated zip": (zipped(**{"archive__data.pkl": b"x" * 500})[:300], "incomplete"),
    "torchscript": (zipped(**{"m__data.pkl": b"x", "m__constants.pkl": b"x", "m__code__a.py": b"x"}), "TorchScript"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5"),
    "jpeg": (b"\xff\xd8\xff\xe0" + bytes(50), "JPEG"),
    "onnx": (b"\x08\x08\x12\x07pytorch\x1a\x05" + bytes(50), "ONNX"),
    "pickle": (pickle.dumps({"a": 1}, protocol=4), "not written by PyTorch"),
    "bytes": (bytes(range(1, 200)), "begins with the bytes 01 02 03"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_the_error_names_the_kind_of_file(tmp_path: Path, kind: str) -> None:
    content, words = OTHERS[kind]
    for name in ("osnet_x0_25_msmt17.pth", "weights.safetensors", "model.ckpt"):
        (tmp_path / name).write_bytes(content)
        message = refusal_message(tmp_path / name)
        assert words in message
        assert "could run code" not in message


def test_a_truncated_download_is_called_incomplete(tmp_path: Path, tiny_network: OSNet) -> None:
    for legacy in (False, True):
        torch.save(torchreid_state(tiny_network), tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
        content = (tmp_path / "x.pth").read_bytes()
        (tmp_path / "x.pth").write_bytes(content[: len(content) // 2])
        message = refusal_message(tmp_path / "x.pth")
        assert "incomplete" in message
        assert "could run code" not in message
