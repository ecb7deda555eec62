"""Damage inside a JPEG that decodes all the same.

JPEG has no checksum: bytes that were overwritten decode to other pixels. The signs are what the decoder (libjpeg)
complains of, runs of zero bytes that no picture gives, and tables that hold them. Damage that leaves a valid stream of
codes cannot be told from a picture.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

ZERO_RUN = 24
"""Zero bytes in a row: more than a whole block of the smallest coefficients."""
FEW_BYTES = 16
"""So many bytes left over before a marker are an encoder's, whatever they hold."""
LEFT_OVER = re.compile(r"(\d+) extraneous bytes before marker 0x([0-9a-f]{2})")
AFTER_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
ALONE = (0x01, *range(0xD0, 0xD9))
"""Markers without a length: TEM, RST0 to RST7, SOI."""


@dataclass
class _Stream:
    """The parts of a JPEG that are looked at."""

    quantisers: list[bytes] = field(default_factory=list)
    codes: dict[int, bytes] = field(default_factory=dict)
    """By class and number (as in the file), the symbols in the order of their codes."""
    scans: list[tuple[bytes, bytes, int]] = field(default_factory=list)
    """Of each scan: what a code of zeros means in its tables (nothing for a progressive file's DC coefficients), its
    bytes, and the marker after it (0: none)."""


def find_damage(content: bytes, complaint: str | None = None) -> str | None:
    """What is wrong inside a JPEG, in words; None if nothing is seen, or if it is no JPEG.

    Bytes that some encoders leave before a marker are no damage: any number of one value, or up to ``FEW_BYTES``.

    Args:
        content: the whole file.
        complaint: what the decoder said, if it said anything.
    """
    if not content.startswith(b"\xff\xd8\xff"):
        return None
    if complaint is None and bytes(ZERO_RUN) not in content:
        return None
    plain = complaint is None or not complaint.startswith(("Corrupt JPEG data", "Inconsistent progression"))
    stream = _parse(content)
    if plain or _is_left_by_encoder(stream, complaint or ""):
        complaint = None
    return complaint or _find_impossible(stream)


def _is_left_by_encoder(stream: _Stream, complaint: str) -> bool:
    match = LEFT_OVER.search(complaint)
    if match is None:
        return False
    number, marker = int(match[1]), int(match[2], 16)
    ends = [scan[-number:] for _, scan, after in stream.scans if after == marker]
    return number <= FEW_BYTES or not ends or all(len(set(end)) == 1 for end in ends)


def _find_impossible(stream: _Stream) -> str | None:
    """Tables and runs of zeros that no encoder writes."""
    if any(0 in table for table in stream.quantisers):
        return "a quantisation table holds 0"
    if any(len(set(symbols)) < len(symbols) for symbols in stream.codes.values()):
        return "a Huffman table holds a symbol twice"
    for symbols, scan, after in stream.scans:
        # Zeros are natural where they mean that a block has no more coefficients, and as padding at the end.
        kept = scan.rstrip(b"\0") if after else scan
        if any(symbol & 15 for symbol in symbols) and bytes(ZERO_RUN) in kept:
            return f"more than {ZERO_RUN - 1} zero bytes in a row inside the picture"
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
    """(marker, start, end of its body) up to the end of the picture; what lies between segments is passed over."""
    at = 2
    while (at := content.find(b"\xff", at)) >= 0 and at + 4 <= len(content):
        marker = content[at + 1]
        if marker == 0xD9:
            return
        if marker in (0x00, 0xFF) or marker in ALONE:
            at += 1 if marker == 0xFF else 2
            continue
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        yield marker, at + 4, end
        at = _scan_end(content, end) if marker == 0xDA else max(end, at + 4)


def _scan_end(content: bytes, at: int) -> int:
    """Where the first marker after ``at`` is that does not belong to the codes."""
    match = AFTER_SCAN.search(content, at)
    return match.end() - 2 if match else len(content)


def _quantisers(body: bytes) -> Iterator[bytes]:
    """8-bit tables; of 16-bit ones, which few encoders write, nothing is said."""
    while len(body) >= 65 and body[0] >> 4 == 0:
        yield body[1:65]
        body = body[65:]


def _codes(body: bytes) -> dict[int, bytes]:
    found = {}
    while len(body) >= 17:
        number = sum(body[1:17])
        found[body[0]] = body[17 : 17 + number]
        body = body[17 + number :]
    return found
