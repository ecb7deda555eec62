"""Connections to cameras, by the very IP address that was checked.

The host's name is looked up and checked at each connection, and the connection goes to that address, so a name cannot
mean another host a moment later (DNS rebinding). HTTP is read here and not by FFmpeg, which would follow redirects to
addresses that were not checked. RTSP is read by FFmpeg through a relay, which ends the connection at a redirect.
"""

import http.client
import logging
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from osnet.service.addresses import check_public
from osnet.service.rtsp_relay import connect, start_relay
from osnet.video.streams import SCHEMES, public_address

log = logging.getLogger("osnet.service")


def open_camera(address: str, timeout_s: float, allow_private: bool = False, allow_loopback: bool = False) -> Any:
    """What PyAV opens: the address of a relay to an RTSP camera, or the body of an HTTP response.

    Args:
        address: of the camera, with its user and password.
        timeout_s: for connecting, and for each read.
        allow_private: also private networks.
        allow_loopback: also this machine; for tests only.

    Raises:
        AddressError: the host is not there (any more), or not one that may be connected to.
        OSError: it does not answer, answers with an error, or redirects.
    """
    host, port, ips = check_public(address, SCHEMES, allow_private, allow_loopback)
    parts = urlsplit(address)
    if parts.scheme.startswith("rtsp"):
        user, at, _ = parts.netloc.rpartition("@")
        camera = connect(ips[0], port, timeout_s, host if parts.scheme == "rtsps" else None)
        local = start_relay(camera, timeout_s, lambda why: log.warning("%s: %s", public_address(address), why))
        return urlunsplit(parts._replace(scheme="rtsp", netloc=f"{user}{at}127.0.0.1:{local}"))
    plain = urlunsplit(parts._replace(netloc=f"[{host}]:{port}" if ":" in host else f"{host}:{port}", fragment=""))
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    if parts.username is not None:
        passwords.add_password(None, plain, unquote(parts.username), unquote(parts.password or ""))
    opener = urllib.request.OpenerDirector()  # without handlers of files, proxies and redirects
    for handler in (
        _Http(ips[0]),
        _Https(ips[0]),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPBasicAuthHandler(passwords),
        urllib.request.HTTPDigestAuthHandler(passwords),
    ):
        opener.add_handler(handler)
    try:
        return _Body(opener.open(urllib.request.Request(plain), timeout=timeout_s))  # noqa: S310  the scheme is checked
    except urllib.error.HTTPError as error:
        raise OSError(f"{public_address(address)} answers with {error.code} {error.reason}") from error
    except http.client.HTTPException as error:
        raise OSError(f"{public_address(address)} does not speak HTTP: {type(error).__name__}") from error


class _Body:
    """The body of a response as a file without ``seek``."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def read(self, count: int) -> bytes:
        """What has come, at most so many bytes. Raises OSError if the camera ends in the middle of a chunk."""
        try:
            content: bytes = self._response.read1(count)
        except http.client.HTTPException as error:
            raise OSError(f"the camera ended the connection: {type(error).__name__}") from error
        return content

    def close(self) -> None:
        self._response.close()


def _connection_class(kind: type[http.client.HTTPConnection], ip: str) -> type[http.client.HTTPConnection]:
    """An HTTP or HTTPS connection that goes to an IP address, whatever the host's name means now."""

    class Connection(kind):  # type: ignore[valid-type, misc]
        def connect(self) -> None:
            tls = issubclass(kind, http.client.HTTPSConnection)
            self.sock = connect(ip, self.port, self.timeout, self.host if tls else None)

    return Connection


class _Http(urllib.request.HTTPHandler):
    def __init__(self, ip: str) -> None:
        super().__init__()
        self._connection = _connection_class(http.client.HTTPConnection, ip)

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, request)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, ip: str) -> None:
        super().__init__()
        self._connection = _connection_class(http.client.HTTPSConnection, ip)

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, request)
