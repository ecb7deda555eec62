"""What a file is that was given as weights and is none, by its first bytes: a pointer, a web page, an archive.

Files of PyTorch's and safetensors' pass; ``opening.py`` opens them.
"""

import re
import zipfile
from pathlib import Path

SAVE_TENSORS = "torch.save(model.state_dict(), 'weights.pth')"
"""The line that saves the tensors alone."""
HEAD_BYTES = 4096
"""So many first bytes are looked at."""


def describe_other(head: bytes, size: int, path: Path) -> str | None:
    """What a file is that is no checkpoint, and what to do, to follow its name; None if it may be a checkpoint.

    Args:
        head: its first bytes.
        size: of the whole file, in bytes.
        path: for looking into zip files.
    """
    again = "get it again"
    if not size:
        return f"is empty (0 bytes); {again}"
    if not any(head):
        return f"begins with {len(head):,} zero bytes: a download or a copy that was not finished; {again}"
    if head.startswith(b"PK\x03\x04"):
        return _describe_zip(path, size)
    if is_safetensors(head):
        length = int.from_bytes(head[:8], "little")
        short = f"is cut off: {size:,} bytes are there and its header alone has {length:,}; {again}"
        return short if length + 8 > size else None
    for magic, name in _ARCHIVES.items():
        if head.startswith(magic):
            return f"is packed with {name}; unpack it first"
    if head[257:262] == b"ustar":
        return "is a tar archive; unpack it first"
    for start, magic, name in _OTHERS:
        if head[start : start + len(magic)] == magic:
            return f"is {name}, no checkpoint of PyTorch's; choose another file"
    if head[0] == 0x80:  # a pickle
        return None
    if head[0] == 0x08 and re.search(rb"pytorch|onnx|ai\.|torch", head[:200]):
        return "looks like an ONNX file, no checkpoint of PyTorch's; choose another file"
    return _describe_text(head, size) or (
        f"is no checkpoint: it begins with the bytes {head[:8].hex(' ')}, as no file of PyTorch's or safetensors does; "
        f"choose another file, or {again}"
    )


_ARCHIVES = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!": "rar",
}
_OTHERS = [
    (0, b"\x89HDF", "an HDF5 file (of Keras or MATLAB)"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"\x89PNG", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"GIF8", "a GIF image"),
    (0, b"%PDF", "a PDF document"),
    (4, b"TFL3", "a TensorFlow Lite file"),
    (0, b"\x7fELF", "a program"),
]


def is_safetensors(head: bytes) -> bool:
    """Eight bytes of length, then JSON; the length is below 100 MB in any file that its own library reads."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000


def _describe_zip(path: Path, size: int) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return f"is cut off or damaged: {size:,} bytes are there and the end of its zip archive is not; get it again"
    last = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in last:
        return f"is a TorchScript archive, which holds a program; load it where it was made and {SAVE_TENSORS}"
    if last & {"serialized_exported_program.json", "archive_format"}:
        return "is a program of torch.export; give the weights that it was exported from"
    if "data.pkl" in last:
        return None
    if any(name.endswith(".npy") for name in names):
        return "is a NumPy file (.npz), no checkpoint of PyTorch's; choose another file"
    return f"is a zip archive with {', '.join(names[:3]) or 'nothing in it'}; unpack it first"


def _describe_text(head: bytes, size: int) -> str | None:
    """For text: pointers, web pages, answers of servers."""
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # else a letter is cut by the end of what was read
            return None
        text = head[: error.start].decode("utf-8-sig")
    text = text.strip()
    if not text or not all(char.isprintable() or char in "\r\n\t" for char in text):
        return None
    start = text.lower()[:1000]
    if start.startswith("version https://git-lfs"):
        real = re.search(r"^size (\d+)", text, re.MULTILINE)
        instead = f" of {int(real[1]):,} bytes" if real else ""
        return f"is a Git LFS pointer to a file{instead}, not that file; run `git lfs pull` where it was cloned"
    if "/annex/objects/" in start and size < 1000:
        return "is a git-annex pointer, not the file itself; run `git annex get` where it was cloned"
    if re.search(r"<!doctype html|<html|<head|<body", start):
        title = re.search(r"<title[^>]*>\s*([^<]{1,80})", text, re.IGNORECASE)
        named = f" ({title[1].strip()!r})" if title else ""
        return (
            f"is a web page{named}, saved under this name; download the file itself "
            "(Hugging Face: /resolve/ instead of /blob/ in the address; GitHub: the raw file)"
        )
    if start.startswith("<"):
        return "is XML (an answer of a file server, or a network of OpenVINO's); download the weights themselves"
    kind = "JSON" if start[0] in "{[" else "text"
    shown = text[:60].replace("\r", " ").replace("\n", " ")
    return f"is {kind} that begins {shown!r}; download the weights themselves"
