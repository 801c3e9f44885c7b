"""Downloads that cannot be turned against the machine that makes them.

Only http and https to public addresses; the address that was checked is the one connected to, so a name that resolves
differently a moment later gains nothing; redirects are followed by hand and checked again; bytes and time are limited.
"""

import http.client
import ipaddress
import socket
import ssl
import time
from urllib.parse import SplitResult, urljoin, urlsplit

from omnitune.errors import MediaError, MediaRefusedError
from omnitune.inputs.policy import MediaPolicy

CHUNK = 64 * 1024
SHARED_SPACE = ipaddress.ip_network("100.64.0.0/10")
"""Addresses of carrier-grade networks, which `ipaddress` does not count as private."""


def download(url: str, policy: MediaPolicy) -> bytes:
    """The bytes at `url`.

    Raises:
        MediaRefusedError: The policy forbids the address, or there are too many bytes.
        MediaError: It cannot be fetched, or takes too long.
    """
    deadline = time.monotonic() + policy.timeout
    for _ in range(policy.max_redirects + 1):
        parts = _checked(url, policy)
        try:
            content, location = _fetch(parts, url, policy, deadline)
        except (OSError, http.client.HTTPException) as error:
            raise MediaError(f"{url}: cannot be fetched: {error or type(error).__name__}") from error
        if location is None:
            return content
        url = urljoin(url, location)
    raise MediaRefusedError(f"{url}: more than {policy.max_redirects} redirects")


def _checked(url: str, policy: MediaPolicy) -> SplitResult:
    if not policy.allow_urls:
        raise MediaRefusedError(f"{url}: the media policy forbids URLs (allow_urls=False)")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise MediaRefusedError(f"{url}: expected an http or https address, got {parts.scheme or 'none'!r}")
    if policy.allowed_hosts is not None and parts.hostname not in policy.allowed_hosts:
        raise MediaRefusedError(f"{url}: {parts.hostname} is not among the media policy's allowed_hosts")
    return parts


def _address(parts: SplitResult, url: str, policy: MediaPolicy) -> tuple[str, int]:
    """An address of the host that may be connected to."""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    assert parts.hostname is not None
    found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    refused = [address for address in addresses if not is_public(address)]
    if refused and not policy.allow_private_addresses:
        raise MediaRefusedError(
            f"{url}: {parts.hostname} leads to {refused[0]}, which is not a public address; the media policy forbids "
            "it (allow_private_addresses=False)"
        )
    return addresses[0], port


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet: not private, local, shared, reserved or multicast."""
    ip = ipaddress.ip_address(address.split("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        ip = ip.ipv4_mapped or ip.sixtofour or ip
    shared = isinstance(ip, ipaddress.IPv4Address) and ip in SHARED_SPACE
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and not shared


def _fetch(parts: SplitResult, url: str, policy: MediaPolicy, deadline: float) -> tuple[bytes, str | None]:
    """Content, or where it redirects to."""
    address, port = _address(parts, url, policy)
    assert parts.hostname is not None
    plain = socket.create_connection((address, port), timeout=_left(url, deadline))
    secure = parts.scheme == "https"
    stream = ssl.create_default_context().wrap_socket(plain, server_hostname=parts.hostname) if secure else plain
    connection = http.client.HTTPConnection(parts.hostname, port)
    connection.sock = stream
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", target, headers={"User-Agent": "omnitune", "Accept": "*/*"})
        stream.settimeout(_left(url, deadline))
        response = connection.getresponse()
        location = response.getheader("Location")
        if response.status in (301, 302, 303, 307, 308) and location:
            return b"", location
        if response.status != 200:
            raise MediaError(f"{url}: the server answered {response.status} {response.reason}")
        return _body(response, stream, url, policy, deadline), None
    finally:
        connection.close()


def _body(
    response: http.client.HTTPResponse, stream: socket.socket, url: str, policy: MediaPolicy, deadline: float
) -> bytes:
    announced = response.getheader("Content-Length")
    if announced is not None and announced.isdigit() and int(announced) > policy.max_bytes:
        raise MediaRefusedError(f"{url}: {announced} bytes, more than the media policy's max_bytes={policy.max_bytes}")
    content = bytearray()
    while True:
        stream.settimeout(_left(url, deadline))
        chunk = response.read1(CHUNK)
        if not chunk:
            return bytes(content)
        content += chunk
        if len(content) > policy.max_bytes:
            raise MediaRefusedError(f"{url}: more than the media policy's max_bytes={policy.max_bytes}")


def _left(url: str, deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise MediaError(f"{url}: took longer than the media policy's timeout")
    return left
