"""Downloads that cannot be turned against the machine that makes them.

Only http and https to public addresses; the address that was checked is the one connected to, so a name that resolves
differently a moment later gains nothing; redirects are followed by hand and checked again; bytes and time are limited.
"""

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from omnitune.errors import MediaError, MediaRefusedError
from omnitune.inputs.policy import MediaPolicy

CHUNK = 64 * 1024
CLOSED = tuple(
    ipaddress.ip_network(block)
    for block in ("100.64.0.0/10", "192.0.0.0/24", "192.88.99.0/24", "fec0::/10", "3fff::/20", "64:ff9b:1::/48")
)
"""Networks that are not the open internet, though `ipaddress` of some Python versions counts them as public."""

TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
"""Addresses that hold an IPv4 address in their last four bytes, to which the network translates them."""

ESCAPED = "%/:=&?~#+!$,;'@()*[]"
"""Characters of a URL that stay as they are; others, such as letters with accents, are escaped."""


def download(url: str, policy: MediaPolicy) -> bytes:
    """Download the bytes at `url`.

    Raises:
        MediaRefusedError: The policy forbids the address, or there are too many bytes.
        MediaError: It cannot be fetched, or takes too long.
    """
    deadline = time.monotonic() + policy.timeout
    for _ in range(policy.max_redirects + 1):
        parts = _checked(url, policy)
        try:
            content, location = _fetch(parts, url, policy, deadline)
        except TimeoutError as error:
            raise MediaError(f"{url}: took longer than the media policy's timeout={policy.timeout} s") from error
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise MediaError(f"{url}: cannot be fetched: {error or type(error).__name__}") from error
        if location is None:
            return content
        url = urljoin(url, location)
    raise MediaRefusedError(f"{url}: more than {policy.max_redirects} redirects")


def _checked(url: str, policy: MediaPolicy) -> SplitResult:
    if not policy.allow_urls:
        raise MediaRefusedError(f"{url}: the media policy forbids URLs (allow_urls=False)")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise MediaError(f"{url}: not a valid address: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise MediaRefusedError(f"{url}: expected an http or https address, got {parts.scheme or 'none'!r}")
    if policy.allowed_hosts is not None and parts.hostname not in policy.allowed_hosts:
        raise MediaRefusedError(f"{url}: {parts.hostname} is not among the media policy's allowed_hosts")
    return parts


def _addresses(parts: SplitResult, url: str, policy: MediaPolicy) -> list[str]:
    """Addresses of the host that may be connected to."""
    assert parts.hostname is not None
    found = socket.getaddrinfo(parts.hostname, None, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    refused = [address for address in addresses if not is_public(address)]
    if refused and not policy.allow_private_addresses:
        raise MediaRefusedError(
            f"{url}: {parts.hostname} leads to {refused[0]}, which is not a public address; the media policy forbids "
            "it (allow_private_addresses=False)"
        )
    return addresses


def is_public(address: str) -> bool:
    """Tell whether an IP address is one of the open internet: not private, local, shared, reserved or multicast."""
    ip = ipaddress.ip_address(address.split("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        held = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in TRANSLATED else None
        ip = ip.ipv4_mapped or ip.sixtofour or held or ip
    closed = any(ip in network for network in CLOSED)
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and not closed


def _fetch(parts: SplitResult, url: str, policy: MediaPolicy, deadline: float) -> tuple[bytes, str | None]:
    """Content, or where it redirects to."""
    assert parts.hostname is not None
    with _connected(parts, _addresses(parts, url, policy), deadline) as stream:
        # The port is given because it would be looked for in the host, and found in an IPv6 address.
        connection = http.client.HTTPConnection(parts.hostname, _port(parts))
        connection.sock = stream
        target = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe=ESCAPED)
        host = parts.netloc.rpartition("@")[2].encode("idna").decode()
        connection.request("GET", target, headers={"Host": host, "User-Agent": "omnitune", "Accept": "*/*"})
        with connection.getresponse() as response:
            location = response.getheader("Location")
            if response.status in (301, 302, 303, 307, 308) and location:
                return b"", location
            if response.status != 200:
                raise MediaError(f"{url}: the server answered {response.status} {response.reason}")
            return _body(response, url, policy), None


@contextmanager
def _connected(parts: SplitResult, addresses: list[str], deadline: float) -> Iterator[socket.socket]:
    """A stream to the first address that answers, cut off at the deadline whatever it is doing then.

    A time-out of the socket would not do: it starts anew with every byte that a slow server sends.

    Raises:
        TimeoutError: The deadline came.
    """
    stream = _first(addresses, _port(parts), deadline)
    if parts.scheme == "https":
        context = ssl.create_default_context()
        stream = context.wrap_socket(stream, server_hostname=parts.hostname, do_handshake_on_connect=False)
    watch = threading.Timer(max(0.0, deadline - time.monotonic()), _cut, [stream])
    watch.daemon = True
    watch.start()
    try:
        if isinstance(stream, ssl.SSLSocket):
            stream.do_handshake()
        yield stream
        if time.monotonic() >= deadline:  # content that was cut can look complete
            raise TimeoutError
    except (OSError, http.client.HTTPException) as error:
        if time.monotonic() >= deadline:
            raise TimeoutError from error
        raise
    finally:
        watch.cancel()
        stream.close()


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def _cut(stream: socket.socket) -> None:
    with suppress(OSError):  # it is closed already; not SSLSocket's own shutdown, which drops the encryption
        socket.socket.shutdown(stream, socket.SHUT_RDWR)


def _first(addresses: list[str], port: int, deadline: float) -> socket.socket:
    failed: OSError = TimeoutError()
    for address in addresses:
        left = deadline - time.monotonic()
        if left <= 0:
            break
        try:
            return socket.create_connection((address, port), timeout=left)
        except OSError as error:
            failed = error
    raise failed


def _body(response: http.client.HTTPResponse, url: str, policy: MediaPolicy) -> bytes:
    announced = response.length
    if announced is not None and announced > policy.max_bytes:
        raise MediaRefusedError(f"{url}: {announced} bytes, more than the media policy's max_bytes={policy.max_bytes}")
    content = bytearray()
    while chunk := response.read1(CHUNK):
        content += chunk
        if len(content) > policy.max_bytes:
            raise MediaRefusedError(f"{url}: more than the media policy's max_bytes={policy.max_bytes}")
    if announced is not None and len(content) < announced:
        raise http.client.IncompleteRead(bytes(content), announced - len(content))
    return bytes(content)
