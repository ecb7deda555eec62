"""A small camera that speaks RTSP: MPEG-TS in RTP over the same TCP connection (RFC 2326, 2250, section 10.12)."""

import re
import socketserver
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DESCRIPTION = b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track\r\n"
PACKET = 7 * 188
"""Bytes of transport stream in one RTP packet."""


@contextmanager
def rtsp_camera(
    footage: Path, seconds: float = 2.0, tls: ssl.SSLContext | None = None
) -> Iterator[tuple[str, list[str]]]:
    """Serve an MPEG-TS file to each player once, over some seconds: the address, and the requests that came.

    With ``tls`` the address is that of ``localhost`` and begins with rtsps.
    """
    content, requests = footage.read_bytes(), list[str]()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while head := self._read_head():
                method = head.split(" ", 1)[0]
                requests.append(head.splitlines()[0])
                number = re.search(r"(?im)^cseq: *(\d+)", head)
                assert number is not None
                lines, body = [f"CSeq: {number[1]}", "Session: 1"], b""
                if method == "OPTIONS":
                    lines.append("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN")
                elif method == "DESCRIBE":
                    body = DESCRIPTION
                    lines += ["Content-Type: application/sdp", f"Content-Length: {len(body)}"]
                elif method == "SETUP":
                    lines.append("Transport: RTP/AVP/TCP;unicast;interleaved=0-1")
                self.wfile.write("\r\n".join(["RTSP/1.0 200 OK", *lines, "", ""]).encode() + body)
                if method == "PLAY":
                    self._play()
                    return  # the footage is over

        def _read_head(self) -> str:
            lines = []
            while (line := self.rfile.readline()) not in (b"\r\n", b""):
                lines.append(line.decode("latin-1"))
            return "".join(lines)

        def _play(self) -> None:
            starts = range(0, len(content), PACKET)
            for number, start in enumerate(starts):
                header = struct.pack(
                    ">BBHII", 0x80, 33, number & 0xFFFF, int(number * 90000 * seconds / len(starts)), 7
                )
                packet = header + content[start : start + PACKET]
                self.wfile.write(b"$\0" + struct.pack(">H", len(packet)) + packet)
                time.sleep(seconds / len(starts))

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = allow_reuse_address = True

        def handle_error(self, *_: object) -> None:  # a player that leaves is no error
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            begin = "rtsp://127.0.0.1" if tls is None else "rtsps://localhost"
            yield f"{begin}:{server.server_address[1]}/gate", requests
        finally:
            server.shutdown()
