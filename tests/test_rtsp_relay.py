"""What a camera sends reaches FFmpeg only as far as both read it alike, and never a redirect."""

import io
import random
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from osnet.service import camera_stream, rtsp_relay
from osnet.service.rtsp_relay import RelayError, read_messages
from rtsp_camera import rtsp_camera
from small_footage import paint_walkers, walk, write_video

OK = b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n"
MEDIA = b"$\x00\x00\x05RTSP/"
MOVED = b"RTSP/1.0 302 Moved\r\nLocation: rtsp://10.0.0.1/x\r\n\r\n"
GOOD = [
    OK + b"\r\n",
    OK.replace(b"\r\n", b"\n") + b"\n",
    OK + b"Content-Length: 4\r\n\r\nv=0\n",
    OK + b"content-length: %d\r\n\r\n" % len(MOVED) + MOVED,  # in a body it is only text
    b"$\x01" + len(MOVED).to_bytes(2, "big") + MOVED,
    OK + b"X:\r\n folded: 1\r\n\r\n",
    b"OPTIONS rtsp://x/ RTSP/1.0\r\nCSeq: 9\r\n\r\n",
    b"RTSP/1.0 404 Not Found\r\n\r\n",
    b"\r\n",
    MEDIA,
    b"$\x00\x00\x00",
]
BAD = [
    MOVED,
    b"RTSP/1.0 301\r\n\r\n",
    b"\rRTSP/1.0 302 x\r\n\r\n",
    b"RTSP/1.0\r 302 x\r\n\r\n",
    b"RTSP/1.0  302 x\r\n\r\n",
    b" RTSP/1.0 302 x\r\n\r\n",
    b"RTSP/1.0 0302 x\r\n\r\n",
    b"RTSP/\t302 x\r\n\r\n",
    b"HTTP/1.1 302 Found\r\n\r\n",
    b"\x16\x03\x01\x00",
    OK + b"$\x00\x00\x01a\r\n\r\n",  # FFmpeg takes a packet out of the middle of a head
    OK + b"Content-Length: 4\r\nContent-Length: 9\r\n\r\n",
    OK + b"Content-Length: -1\r\n\r\n",
    OK + b"Content-Length: 1 2\r\n\r\n",
    OK + b"Content-Length: 99999999999\r\n\r\n",
    OK + b"Content-Length\r\n: 4\r\n\r\n",
    OK + b"Content-Length : %d\r\n\r\n" % len(MOVED) + MOVED,  # FFmpeg sees no length there
    OK + b"X: " + b"a" * 5000 + b"\r\n\r\n",
    OK + b"X: a\r\n" * 200 + b"\r\n",
    OK + b"a\rContent-Length: 4\r\n\r\n",
    OK,
]


def as_ffmpeg_reads(content: bytes) -> list[int]:
    """Status codes, by the rules of ``ff_rtsp_read_reply`` (libavformat/rtsp.c), in plain words."""
    file, found = io.BytesIO(content), []
    while True:
        lines: list[bytes] = []
        line = b""
        while True:
            ch = file.read(1)
            if not ch:
                return found
            if ch == b"\n":
                if not line:
                    break
                lines.append(line)
                line = b""
            elif ch == b"$" and not line:
                file.read(1)
                file.read(int.from_bytes(file.read(2), "big"))
            elif ch != b"\r":
                line += ch
        length = 0
        for number, text in enumerate(lines):
            if number == 0:
                words = text.split()
                found.append(int(words[1]) if words[0].startswith(b"RTSP/") and words[1:] and words[1].isdigit() else 0)
            elif text.lower().startswith(b"content-length:"):
                digits = text[15:].strip()
                length = int(digits) if digits.isdigit() else 0
        file.read(length)


@pytest.mark.parametrize("message", GOOD)
def test_messages_pass_as_they_are(message: bytes) -> None:
    assert list(read_messages(io.BytesIO(message + MEDIA + OK + b"\r\n"))) == [message, MEDIA, OK + b"\r\n"]


@pytest.mark.parametrize("message", BAD)
def test_redirects_and_what_is_no_rtsp_do_not_pass(message: bytes) -> None:
    passed = read_messages(io.BytesIO(MEDIA + message))
    assert next(passed) == MEDIA
    with pytest.raises(RelayError):
        next(passed)


def test_no_stream_makes_ffmpeg_read_a_redirect() -> None:
    """Random pieces, put together, cut and changed: what passes holds no redirect as FFmpeg reads it."""
    draw = random.Random(0)
    passed_whole = 0
    for _ in range(3000):
        pieces = draw.choices([*GOOD, *BAD, b"\r", b"\n", b"$", b" "], k=draw.randint(1, 4))
        content = bytearray(b"".join(pieces))
        for _ in range(draw.choice([0, 0, 1, 2])):
            content[draw.randrange(len(content))] = draw.choice(b"\r\n$ :R3/")
        passed = b""
        try:
            for message in read_messages(io.BytesIO(bytes(content))):
                passed += message
            passed_whole += 1
        except RelayError:
            pass
        assert not any(300 <= status < 400 for status in as_ffmpeg_reads(passed)), bytes(content)
    assert passed_whole > 100


def test_the_slow_reader_sees_redirects() -> None:
    assert as_ffmpeg_reads(MEDIA + OK + b"\r\n" + MOVED) == [200, 302]


@contextmanager
def camera(answer: bytes) -> Iterator[tuple[int, list[str]]]:
    """A server that gives one answer to whatever it is asked: its port, and what it was asked."""
    asked: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while (line := self.rfile.readline()) not in (b"\r\n", b""):
                asked.append(line.decode("latin-1").strip())
            self.wfile.write(answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1], asked
        server.shutdown()


def test_a_redirect_of_an_rtsp_camera_is_not_followed(caplog: pytest.LogCaptureFixture) -> None:
    av = pytest.importorskip("av")
    with camera(OK + b"\r\n") as (elsewhere, reached):
        moved = f"RTSP/1.0 302 Moved\r\nCSeq: 1\r\nLocation: rtsp://127.0.0.1:{elsewhere}/secret\r\n\r\n".encode()
        with camera(moved) as (port, asked):
            straight = f"rtsp://127.0.0.1:{port}/live"
            options = {"rtsp_transport": "tcp"}
            with pytest.raises((av.error.FFmpegError, OSError)):
                av.open(straight, timeout=5, container_options=options)
            assert reached, "FFmpeg by itself follows it"
            reached.clear()
            address = camera_stream.open_camera(straight, 5.0, allow_loopback=True)
            with pytest.raises((av.error.FFmpegError, OSError)):
                av.open(address, timeout=5, container_options=options)
    assert any(line.startswith("OPTIONS") for line in asked)
    assert reached == []
    assert "redirects (302)" in caplog.text


def test_footage_comes_by_tls_and_certificates_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate that is not known, one of another name, and a right one."""
    av = pytest.importorskip("av")
    if shutil.which("openssl") is None:
        pytest.skip("openssl is needed to make a certificate")
    footage = write_video(tmp_path / "door.ts", paint_walkers([walk(2, 20, 2.0)], 40))
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
    made += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", *made], check=True, capture_output=True)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    with rtsp_camera(footage, 0.5, server) as (address, requests):
        with pytest.raises(ssl.SSLCertVerificationError):
            camera_stream.open_camera(address, 5.0, allow_loopback=True)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with pytest.raises(ssl.SSLCertVerificationError):
            camera_stream.open_camera(address.replace("localhost", "127.0.0.1"), 5.0, allow_loopback=True)
        relayed = camera_stream.open_camera(address, 5.0, allow_loopback=True)
        assert relayed.startswith("rtsp://127.0.0.1:")
        with av.open(relayed, timeout=20, container_options={"rtsp_transport": "tcp"}) as container:
            assert sum(1 for _ in container.decode(video=0)) > 5
    assert any(request.startswith("PLAY") for request in requests)


def test_a_relay_that_is_not_used_ends() -> None:
    with camera(OK + b"\r\n") as (port, _):
        local = rtsp_relay.start_relay(rtsp_relay.connect("127.0.0.1", port, 5.0), 0.05)
        for thread in threading.enumerate():
            if thread.name == "osnet-relay":
                thread.join(10)
                assert not thread.is_alive()
        with pytest.raises(OSError, match=r".*"):
            socket.create_connection(("127.0.0.1", local), 5.0)
