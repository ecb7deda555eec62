"""A relay between FFmpeg and an RTSP camera, so that FFmpeg reaches no other host.

FFmpeg follows an RTSP redirect wherever it points, and does not compare the certificate of ``rtsps``. So it is given an
address on this machine. The relay connects to the checked IP address, with TLS if asked for, and passes what the
camera sends on message by message (RFC 2326). It ends the connection at a redirect, and at anything that FFmpeg's more
lenient reader could take for another message than this one does.
"""

import io
import re
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, BinaryIO

MAX_LINE, MAX_LINES, MAX_BODY = 2000, 100, 1 << 20
"""Bytes of a line, lines of a message's head, bytes of a body. FFmpeg cuts lines at 4096 bytes."""
_REPLY = re.compile(rb"RTSP/1\.[0-9] ([1-9][0-9]{2})( [^\r\n]*)?\r?\n")
_REQUEST = re.compile(rb"[A-Z_]+ [^\s]+ RTSP/1\.[0-9]\r?\n")
_HEADER = re.compile(rb"([A-Za-z0-9_.-]+):([^\r\n]*)\r?\n|[ \t]+[^\r\n]*\r?\n")


class RelayError(OSError):
    """A redirect, or no RTSP."""


class _Stream(io.RawIOBase):
    """A connection that one thread reads while another writes.

    A TLS connection serves one thread at a time. So it does not block inside of a call: threads wait between calls.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection, self._turn = connection, threading.Lock()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            try:
                with self._turn:
                    return self._connection.recv_into(buffer)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
                self._wait(isinstance(error, ssl.SSLWantWriteError))

    def send_all(self, content: bytes) -> None:
        rest = memoryview(content)
        while rest:
            try:
                with self._turn:
                    sent = self._connection.send(rest)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
                self._wait(not isinstance(error, ssl.SSLWantReadError))
            else:
                rest = rest[sent:]

    def _wait(self, to_write: bool) -> None:
        only = [self._connection]
        select.select([] if to_write else only, only if to_write else [], [])


def connect(ip: str, port: int, timeout_s: float | None, tls_name: str | None = None) -> socket.socket:
    """A connection to an IP address; with ``tls_name`` by TLS, and the certificate must be of that name.

    Raises:
        OSError: nothing answers there, or the certificate is not valid.
    """
    raw = socket.create_connection((ip, port), timeout_s)
    if tls_name is None:
        return raw
    try:
        return ssl.create_default_context().wrap_socket(raw, server_hostname=tls_name)
    except BaseException:
        raw.close()
        raise


def start_relay(camera: socket.socket, timeout_s: float, failed: Callable[[str], None] = lambda _: None) -> int:
    """Wait for one connection on 127.0.0.1, and pass on what it and the camera say until either ends.

    Args:
        camera: connected; it is closed at the end.
        timeout_s: for that connection to be made.
        failed: is told why the relay ended the connection.

    Returns:
        The port.
    """
    listening = socket.create_server(("127.0.0.1", 0), backlog=1)
    listening.settimeout(timeout_s)
    threading.Thread(target=_serve, args=(listening, camera, failed), name="osnet-relay", daemon=True).start()
    return int(listening.getsockname()[1])


def _serve(listening: socket.socket, camera: socket.socket, failed: Callable[[str], None]) -> None:
    with camera:
        with listening:
            try:
                player, _ = listening.accept()
            except OSError:  # the player did not come
                return
        with player:
            player.settimeout(None)
            stream = _Stream(camera)  # without time-outs: the player has its own, and leaves
            upwards = threading.Thread(target=_pass_requests, args=(player, camera, stream), daemon=True)
            upwards.start()
            try:
                for message in read_messages(io.BufferedReader(stream)):
                    player.sendall(message)
            except RelayError as error:
                failed(str(error))
            except OSError:
                pass
            for side in (player, camera):
                with suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)
            upwards.join()


def _pass_requests(player: socket.socket, camera: socket.socket, stream: _Stream) -> None:
    with suppress(OSError):
        while content := player.recv(1 << 16):
            stream.send_all(content)
    with suppress(OSError):
        camera.shutdown(socket.SHUT_RDWR)


def read_messages(file: BinaryIO) -> Iterator[bytes]:
    """What a camera sends, one message or packet of media at a time, until it ends.

    Raises:
        RelayError: a redirect, or something that is no RTSP.
    """
    while first := file.read(1):
        if first == b"$":  # media: channel, length, content
            head = file.read(3)
            yield first + head + file.read(int.from_bytes(head[1:], "big"))
            continue
        yield _read_message(first, file)


def _read_message(first: bytes, file: BinaryIO) -> bytes:
    start = first if first == b"\n" else first + file.readline(MAX_LINE)
    if start in (b"\n", b"\r\n"):  # some cameras send empty lines between messages
        return start
    if (reply := _REPLY.fullmatch(start)) is not None:
        if reply[1].startswith(b"3"):
            raise RelayError(f"the camera redirects ({reply[1].decode()}); give the address that it redirects to")
    elif _REQUEST.fullmatch(start) is None:
        raise RelayError("the camera does not speak RTSP")
    lines, length = [start], 0
    while (line := file.readline(MAX_LINE)) not in (b"\n", b"\r\n"):
        header = _HEADER.fullmatch(line)
        if header is None or len(lines) > MAX_LINES:
            raise RelayError("the camera sends a header that is no RTSP")
        if header[1] is not None and header[1].lower() == b"content-length":
            value = header[2].strip()
            if length or not value.isdigit() or int(value) > MAX_BODY:
                raise RelayError("the camera states a length that cannot be used")
            length = int(value)
        lines.append(line)
    return b"".join([*lines, line, file.read(length)])
