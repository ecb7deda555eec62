"""Addresses that others give us: which hosts the service may connect to."""

import ipaddress
import socket
from urllib.parse import urlsplit

from osnet.errors import DataError

NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""IPv6 addresses that networks translate to the IPv4 address in their last 32 bits."""


class AddressError(DataError):
    """An address that the service does not connect to."""


def check_public(
    address: str, schemes: tuple[str, ...], allow_private: bool = False, allow_loopback: bool = False
) -> tuple[str, int, list[str]]:
    """Host, port and the IP addresses of an address, all of which are public.

    The caller connects to one of these IP addresses, so that a name cannot mean another one a moment later.

    Args:
        address: ``https://example.org/hook``.
        schemes: those that are allowed.
        allow_private: also private networks; never link-local (cloud metadata) and multicast.
        allow_loopback: also this machine; for tests only.

    Raises:
        AddressError: another scheme, control characters, no host, or an IP address that is not public.
    """
    if not address.isascii() or not address.isprintable() or " " in address or len(address) > 2000:
        raise AddressError("the address holds spaces, control or other characters that no address has")
    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise AddressError(f"the address cannot be read: {error}") from error
    if parts.scheme not in schemes or not host:
        raise AddressError(
            f"the address begins with {parts.scheme + ':' if parts.scheme else 'nothing'}; give "
            f"{' or '.join(f'{s}://host' for s in schemes)}"
        )
    default = {"https": 443, "http": 80, "rtsp": 554, "rtsps": 322}[parts.scheme]
    try:
        found = socket.getaddrinfo(host, port or default, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise AddressError(f"the host {host!r} is not found") from error
    ips = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for text in ips:
        if not (allow_loopback and ipaddress.ip_address(text.partition("%")[0]).is_loopback):
            check_ip(text, host, allow_private)
    return host, port or default, ips


def check_ip(text: str, host: str, allow_private: bool) -> None:
    """Raise AddressError for an IP address that the service must not connect to."""
    ip = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in NAT64:
            embedded = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if embedded is not None:
            ip = embedded
    private = ip.is_private and not (ip.is_loopback or ip.is_link_local or ip.is_unspecified or ip.is_reserved)
    if not (ip.is_global and not ip.is_multicast) and not (allow_private and private):
        raise AddressError(f"the host {host!r} has the address {ip}, which is not public")
