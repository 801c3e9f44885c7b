"""Downloads that cannot be turned against the machine that makes them.

Only http and https to public addresses; the address that was checked is the one connected to, so a name that resolves
differently a moment later gains nothing; redirects are followed by hand and checked again; bytes and time are limited.

A proxy that the environment names is used, and asked for the address that was checked. Behind some proxies names do not
resolve here; then only the proxy could tell where a name leads, so it must be in `allowed_hosts`, or any address must
be allowed.
"""

import base64
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from omnitune import runtime
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


def _addresses(parts: SplitResult, url: str, policy: MediaPolicy, *, proxied: bool) -> list[str]:
    """Addresses of the host that may be connected to; behind a proxy its name, where it does not resolve here."""
    assert parts.hostname is not None
    try:
        found = socket.getaddrinfo(parts.hostname, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if not proxied:
            raise
        if policy.allow_private_addresses or policy.allowed_hosts is not None:
            return [parts.hostname]
        raise MediaRefusedError(
            f"{url}: {parts.hostname} does not resolve on this machine, and the proxy may reach private addresses by "
            "it; name the host in the media policy's allowed_hosts, or set allow_private_addresses=True"
        ) from error
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
    proxy = _proxy_of(parts)
    addresses = _addresses(parts, url, policy, proxied=proxy is not None)
    target = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe=ESCAPED)
    headers = {
        "Host": parts.netloc.rpartition("@")[2].encode("idna").decode(),
        "User-Agent": "omnitune",
        "Accept": "*/*",
    }
    if proxy is not None and parts.scheme == "http":
        target = f"http://{_at(addresses[0], _port(parts))}{target}"
        headers |= _authorization(proxy)
    with _connected(parts, addresses, proxy, deadline) as stream:
        # The port is given because it would be looked for in the host, and found in an IPv6 address.
        connection = http.client.HTTPConnection(parts.hostname, _port(parts))
        connection.sock = stream
        connection.request("GET", target, headers=headers)
        with connection.getresponse() as response:
            location = response.getheader("Location")
            if response.status in (301, 302, 303, 307, 308) and location:
                return b"", location
            if response.status != 200:
                raise MediaError(f"{url}: the server answered {response.status} {response.reason}")
            announced = response.length
            if announced is not None and announced > policy.max_bytes:
                raise MediaRefusedError(
                    f"{url}: {announced} bytes, more than the media policy's max_bytes={policy.max_bytes}"
                )
            content = bytearray()
            while chunk := response.read1(CHUNK):
                content += chunk
                if len(content) > policy.max_bytes:
                    raise MediaRefusedError(f"{url}: more than the media policy's max_bytes={policy.max_bytes}")
            if announced is not None and len(content) < announced:
                raise http.client.IncompleteRead(bytes(content), announced - len(content))
            return bytes(content), None


@contextmanager
def _connected(
    parts: SplitResult, addresses: list[str], proxy: SplitResult | None, deadline: float
) -> Iterator[socket.socket]:
    """A stream to the first address that answers, cut off at the deadline whatever it is doing then.

    A time-out of the socket would not do: it starts anew with every byte that a slow server sends.

    Raises:
        TimeoutError: The deadline came.
    """
    stream = _first(addresses, _port(parts), deadline) if proxy is None else _to_proxy(proxy, deadline)
    held = [stream]
    watch = threading.Timer(max(0.0, deadline - time.monotonic()), lambda: _cut(held[0]))
    watch.daemon = True
    watch.start()
    try:
        if parts.scheme == "https":
            if proxy is not None:
                _open_tunnel(stream, _at(addresses[0], _port(parts)), proxy)
            context = ssl.create_default_context()
            held[0] = secure = context.wrap_socket(
                stream, server_hostname=parts.hostname, do_handshake_on_connect=False
            )
            if time.monotonic() >= deadline:  # it may have cut the bare stream, which is no more
                raise TimeoutError
            secure.do_handshake()
        yield held[0]
        if time.monotonic() >= deadline:  # content that was cut can look complete
            raise TimeoutError
    except (OSError, http.client.HTTPException) as error:
        if time.monotonic() >= deadline:
            raise TimeoutError from error
        raise
    finally:
        watch.cancel()
        held[0].close()


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def _at(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


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


def _proxy_of(parts: SplitResult) -> SplitResult | None:
    """The proxy for an address, or None.

    Raises:
        MediaError: It is of a kind that is not spoken here.
    """
    assert parts.hostname is not None
    named = runtime.proxy_for(parts.scheme, parts.hostname)
    if named is None:
        return None
    proxy = urlsplit(named if "://" in named else f"http://{named}")
    if proxy.scheme != "http" or not proxy.hostname:
        raise MediaError(
            f"{named}: expected a proxy such as http://host:3128, got another kind; set NO_PROXY to use none"
        )
    return proxy


def _to_proxy(proxy: SplitResult, deadline: float) -> socket.socket:
    assert proxy.hostname is not None
    try:
        return _first([proxy.hostname], _port(proxy), deadline)
    except TimeoutError:
        raise
    except OSError as error:
        raise OSError(f"the proxy {_at(proxy.hostname, _port(proxy))} does not answer: {error}") from error


def _open_tunnel(stream: socket.socket, place: str, proxy: SplitResult) -> None:
    """Have the proxy connect the stream to an address.

    Raises:
        OSError: It refuses.
    """
    headers = {"Host": place, **_authorization(proxy)}
    lines = [f"CONNECT {place} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    stream.sendall("\r\n".join(lines).encode())
    with http.client.HTTPResponse(stream, method="CONNECT") as answer:
        answer.begin()
        if answer.status != 200:
            raise OSError(f"the proxy {proxy.hostname} answered {answer.status} {answer.reason}")


def _authorization(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    secret = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(secret.encode()).decode()}"}
