"""Recognise files that are not weights by their first bytes, such as web pages, archives or Git LFS pointers.

The error message can then say what the file is. ``foreign_checkpoints`` reads PyTorch and safetensors files.
"""

import re
import zipfile
from pathlib import Path

from osnet.errors import OutputError

SAVE_TENSORS = "torch.save(model.state_dict(), 'weights.pth')"
"""Line of Python that saves only the tensors of a model, for error messages."""
HEAD_BYTES = 4096
"""Number of bytes at the start of a file that are examined."""
FILE_ENDINGS = (
    *(".pth", ".pt", ".tar", ".bin", ".ckpt", ".safetensors", ".pkl", ".h5", ".json"),
    *(".onnx", ".xml", ".pt2", ".tflite", ".engine"),
)
"""Endings of files with weights or networks, in lower case."""


def check_folder_name(folder: Path, what: str) -> None:
    """Check that the name of a folder does not end like that of a file.

    Args:
        folder: path of the folder, which need not exist.
        what: what is written, for the message: a singular noun.

    Raises:
        OutputError: the name ends like that of a file, such as ``x.onnx`` or ``x.PTH``.
    """
    if folder.suffix.lower() in FILE_ENDINGS:
        raise OutputError(
            f"{folder} ends in {folder.suffix}, the ending of a file, but {what} is written; choose the name of a "
            f"folder, such as {folder.with_suffix('')}"
        )


def describe_other(head: bytes, size: int, path: Path) -> str | None:
    """Describe a file that is not a checkpoint, and what to do. Returns None if it may be a checkpoint.

    The text is the predicate of a sentence whose subject is the name of the file.

    Args:
        head: the first ``HEAD_BYTES`` bytes of the file.
        size: size of the file in bytes.
        path: path of the file, to list the content of a zip file.
    """
    again = "download or copy it again"
    if not size:
        return f"is empty (0 bytes); {again}"
    if not any(head):
        return f"begins with {len(head):,} zero bytes, probably because a download was interrupted; {again}"
    if head.startswith(b"PK\x03\x04"):
        return _describe_zip(path, size)
    if is_safetensors(head):
        length = int.from_bytes(head[:8], "little")
        short = f"is incomplete: it has {size:,} bytes, but its header alone needs {length:,}; {again}"
        return short if length + 8 > size else None
    for magic, name in _ARCHIVES.items():
        if head.startswith(magic):
            return f"is compressed with {name}; unpack it first"
    if head[257:262] == b"ustar":
        return "is a tar archive; unpack it first"
    for start, magic, name in _OTHERS:
        if head[start : start + len(magic)] == magic:
            return f"is {name}, not a PyTorch checkpoint; choose another file"
    if head[0] == 0x80:  # a pickle
        return None
    if head[0] == 0x08 and re.search(rb"pytorch|onnx|ai\.|torch", head[:200]):
        return "looks like an ONNX file, not a PyTorch checkpoint; choose another file"
    return _describe_text(head, size) or (
        f"is not a checkpoint: it begins with the bytes {head[:8].hex(' ')}, unlike PyTorch and safetensors files; "
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
    """Whether ``head`` looks like safetensors: eight bytes with the length of the header, then JSON.

    The safetensors library accepts headers of at most 100 MB.
    """
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000


def _describe_zip(path: Path, size: int) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return (
            f"is incomplete or damaged: it has {size:,} bytes and lacks the end of its zip archive; "
            "download or copy it again"
        )
    last = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in last:
        return f"is a TorchScript archive, which contains a program; load it where it was made and run {SAVE_TENSORS}"
    if last & {"serialized_exported_program.json", "archive_format"}:
        return "is a program of torch.export; use the weights that it was exported from"
    if "data.pkl" in last:
        return None
    if any(name.endswith(".npy") for name in names):
        return "is a NumPy file (.npz), not a PyTorch checkpoint; choose another file"
    return f"is a zip archive that contains {', '.join(names[:3]) or 'no files'}; unpack it first"


def _describe_text(head: bytes, size: int) -> str | None:
    """Describe a text file, such as a pointer, a web page or a server's error message. None if it is not text."""
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # otherwise the last character is incomplete, because only the head was read
            return None
        text = head[: error.start].decode("utf-8-sig")
    text = text.strip()
    if not text or not all(char.isprintable() or char in "\r\n\t" for char in text):
        return None
    start = text.lower()[:1000]
    if start.startswith("version https://git-lfs"):
        real = re.search(r"^size (\d+)", text, re.MULTILINE)
        size_text = f" of {int(real[1]):,} bytes" if real else ""
        return f"is a Git LFS pointer to a file{size_text}, not the file itself; run `git lfs pull` in the repository"
    if "/annex/objects/" in start and size < 1000:
        return "is a git-annex pointer, not the file itself; run `git annex get` in the repository"
    if re.search(r"<!doctype html|<html|<head|<body", start):
        title = re.search(r"<title[^>]*>\s*([^<]{1,80})", text, re.IGNORECASE)
        named = f" ({title[1].strip()!r})" if title else ""
        return (
            f"is a web page{named}; download the file itself "
            "(Hugging Face: /resolve/ instead of /blob/ in the URL; GitHub: the raw file)"
        )
    if start.startswith("<"):
        return "is XML (a server's error message or an OpenVINO network); download the weights themselves"
    kind = "JSON" if start[0] in "{[" else "text"
    shown = text[:60].replace("\r", " ").replace("\n", " ")
    return f"is {kind} that begins with {shown!r}; download the weights themselves"
