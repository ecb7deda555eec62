"""Find damage in JPEG, AVIF and WebP files that still decode.

JPEG has no checksum, so overwritten bytes decode to wrong pixels. There are three signs of damage:

* warnings of the decoder (libjpeg)
* runs of zero bytes that image data cannot contain
* quantisation and Huffman tables with impossible values

Damage that leaves a valid sequence of Huffman codes cannot be detected.

AVIF has no checksum either. Its image data contain no long runs of zero bytes, so these count as damage. WebP's can
contain them (encoders write them for plain areas), so only a file that is shorter than its header says is found. BMP,
PPM and TIFF files that are too short do not decode, and changed pixels in them cannot be detected. In PNG files, the
decoder compares checksums.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

ZERO_RUN = 24
"""Length of a run of zero bytes that counts as damage. It is longer than a block with the smallest coefficients."""
FEW_BYTES = 16
"""Up to this many extra bytes before a marker are attributed to the encoder, whatever their values."""
EXTRA_BYTES = re.compile(r"(\d+) extraneous bytes before marker 0x([0-9a-f]{2})")
"""The libjpeg warning about extra bytes."""
AFTER_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""The first marker after the data of a scan: any marker except RST0 to RST7."""
NO_LENGTH = (0x01, *range(0xD0, 0xD9))
"""Markers without a length field: TEM, RST0 to RST7, SOI."""


@dataclass
class _Stream:
    """The parts of a JPEG file that are checked."""

    quantisers: list[bytes] = field(default_factory=list)
    """The quantisation tables, 64 bytes each."""
    codes: dict[int, bytes] = field(default_factory=dict)
    """The Huffman tables: maps the byte with class and number, as in the file, to the symbols in code order."""
    scans: list[tuple[bytes, bytes, int]] = field(default_factory=list)
    """For each scan: the first symbols of its AC Huffman tables, that is, the meaning of an all-zero code (empty for a
    scan of DC coefficients in a progressive file); its bytes; and the marker after it (0 if there is none)."""


def find_damage(content: bytes, complaint: str | None = None) -> str | None:
    """Describe the damage in a JPEG, AVIF or WebP file. Returns None if no damage is found, and for other formats.

    Some encoders write extra bytes before a marker. These do not count as damage if they all have one value, or if
    there are at most ``FEW_BYTES``.

    Args:
        content: the bytes of the file.
        complaint: warning or error message of the JPEG decoder, or None.
    """
    if content[4:8] == b"ftyp":
        return _find_zeros_in_avif(content)
    if content[:4] == b"RIFF" and (stated := 8 + int.from_bytes(content[4:8], "little")) > len(content):
        return f"{len(content):,} bytes, but its header says {stated:,}"
    if not content.startswith(b"\xff\xd8\xff"):
        return None
    if complaint is None and bytes(ZERO_RUN) not in content:
        return None
    harmless = complaint is None or not complaint.startswith(("Corrupt JPEG data", "Inconsistent progression"))
    stream = _parse(content)
    if harmless or _is_from_encoder(stream, complaint or ""):
        complaint = None
    return complaint or _find_impossible(stream)


def _find_zeros_in_avif(content: bytes) -> str | None:
    """Describe a run of zero bytes in the image data of an AVIF file, or return None.

    Files with Exif or XMP are left out: these lie among the image data and may contain zero bytes.
    """
    boxes: dict[bytes, bytes] = {}
    at = 0
    while at + 8 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        start = at + (16 if length == 1 else 8)  # 1: the length is a 64-bit number; 0: up to the end of the file
        length = int.from_bytes(content[at + 8 : start], "big") if length == 1 else length
        end = at + length if length else len(content)
        boxes.setdefault(content[at + 4 : at + 8], content[start:end])
        at = max(end, at + 8)
    if any(kind in boxes.get(b"meta", b"") for kind in (b"Exif", b"mime")):
        return None
    zeros = bytes(ZERO_RUN) in boxes.get(b"mdat", b"")
    return f"{ZERO_RUN} or more zero bytes in a row in the image data" if zeros else None


def _is_from_encoder(stream: _Stream, complaint: str) -> bool:
    """Whether the warning is about extra bytes that an encoder writes, and not about damage."""
    match = EXTRA_BYTES.search(complaint)
    if match is None:
        return False
    number, marker = int(match[1]), int(match[2], 16)
    ends = [scan[-number:] for _, scan, after in stream.scans if after == marker]
    return number <= FEW_BYTES or not ends or all(len(set(end)) == 1 for end in ends)


def _find_impossible(stream: _Stream) -> str | None:
    """Describe a table or a run of zero bytes that no encoder writes, or return None."""
    if any(0 in table for table in stream.quantisers):
        return "a quantisation table contains 0"
    if any(len(set(symbols)) < len(symbols) for symbols in stream.codes.values()):
        return "a Huffman table contains a symbol twice"
    for symbols, scan, after in stream.scans:
        # Zero bytes are normal as padding at the end of a scan, and if the all-zero code means "end of block".
        kept = scan.rstrip(b"\0") if after else scan
        if any(symbol & 15 for symbol in symbols) and bytes(ZERO_RUN) in kept:
            return f"{ZERO_RUN} or more zero bytes in a row in the image data"
    return None


def _parse(content: bytes) -> _Stream:
    stream = _Stream()
    sequential = False
    for marker, start, end in _segments(content):
        body = content[start:end]
        if marker in (0xC0, 0xC1):
            sequential = True
        elif marker == 0xDB:
            stream.quantisers += _quantisers(body)
        elif marker == 0xC4:
            stream.codes |= _codes(body)
        elif marker == 0xDA and body:
            selectors, last = body[2 : 2 + 2 * body[0] : 2], body[2 + 2 * body[0] : 3 + 2 * body[0]]
            tables = (
                [stream.codes.get(0x10 | (each & 15), b"") for each in selectors] if sequential or last > b"\0" else []
            )
            scan_end = _scan_end(content, end)
            after = content[scan_end + 1] if scan_end + 1 < len(content) else 0
            stream.scans.append((bytes(symbols[0] for symbols in tables if symbols), content[end:scan_end], after))
    return stream


def _segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start of its body, end of its body) up to the end of the image. Skips bytes between segments."""
    at = 2
    while (at := content.find(b"\xff", at)) >= 0 and at + 4 <= len(content):
        marker = content[at + 1]
        if marker == 0xD9:
            return
        if marker in (0x00, 0xFF) or marker in NO_LENGTH:
            at += 1 if marker == 0xFF else 2
            continue
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        yield marker, at + 4, end
        at = _scan_end(content, end) if marker == 0xDA else max(end, at + 4)


def _scan_end(content: bytes, at: int) -> int:
    """Index of the first marker after ``at`` that ends the scan."""
    match = AFTER_SCAN.search(content, at)
    return match.end() - 2 if match else len(content)


def _quantisers(body: bytes) -> Iterator[bytes]:
    """Yield the 8-bit quantisation tables of a segment. Stops at a 16-bit table, which few encoders write."""
    while len(body) >= 65 and body[0] >> 4 == 0:
        yield body[1:65]
        body = body[65:]


def _codes(body: bytes) -> dict[int, bytes]:
    """Read the Huffman tables of a segment; see ``_Stream.codes``."""
    found = {}
    while len(body) >= 17:
        number = sum(body[1:17])
        found[body[0]] = body[17 : 17 + number]
        body = body[17 + number :]
    return found
