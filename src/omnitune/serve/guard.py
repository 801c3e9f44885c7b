"""The gate before all routes: the key, the host's name, the origin, and the size and pace of a body."""

import asyncio
import base64
import binascii
import hmac
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omnitune.serve.answers import error_response

LOOPBACK = ("127.0.0.1", "localhost", "::1")
OPEN = ("/health",)
"""Routes without a key."""
MOST_BYTES = 32 * 2**20
"""Bytes of one body."""
MOST_HELD = 16 * MOST_BYTES
"""Bytes of all bodies that are being read or worked on."""
PATIENCE = 30.0
"""Seconds without a byte after which a body that is not whole is given up."""


class Guard:
    """Lets requests through that have the key, an expected host, the page's own origin and a body of bounded size.

    Args:
        app: What is guarded.
        api_key: Key of every route but health; None for none.
        hosts: Names by which the server may be addressed where it has no key. A page of another site could otherwise
            reach a server on this machine by a name of its own that leads here.
        most_bytes: Bytes of one body.
        patience: Seconds to wait for the next part of a body.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        api_key: str | None,
        hosts: Iterable[str] = LOOPBACK,
        most_bytes: int = MOST_BYTES,
        patience: float = PATIENCE,
    ) -> None:
        self.app, self.hosts, self.most_bytes, self.patience = app, frozenset(hosts), most_bytes, patience
        self.held = 0
        self.key = None if api_key is None else api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a refused request, or pass it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        length = headers.get("content-length", "0")
        refused: tuple[int, str, dict[str, str]] | None = None
        if self.key is not None and scope["path"] not in OPEN and not self._has_key(headers):
            # A browser asks for a password, which is the key, and sends it with all requests of the search page.
            scheme = (
                'Basic realm="omnitune, the password is the key"' if "html" in headers.get("accept", "") else "Bearer"
            )
            refused = (401, "expected the server's key as Authorization: Bearer KEY", {"WWW-Authenticate": scheme})
        elif self.key is None and _name(headers.get("host", "")) not in self.hosts:
            refused = (403, f"host: expected one of {sorted(self.hosts)}, got {headers.get('host', '')[:80]!r}", {})
        elif "origin" in headers and urlsplit(headers["origin"]).netloc != headers.get("host"):
            refused = (403, "origin: expected this server's own page, got another site's", {})
        elif length.isdigit() and int(length) > self.most_bytes:
            refused = (413, self._too_large(), {})
        if refused is not None:
            status, message, more = refused
            await error_response(status, message, headers=more)(scope, receive, send)
            return
        read, whole = 0, False

        async def counted() -> Message:
            nonlocal read, whole
            if whole:  # what may still come is that the client goes away, at any time
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), self.patience)
            except TimeoutError as error:
                raise HTTPException(408, f"body: expected its next part within {self.patience:g} s") from error
            size, whole = len(message.get("body", b"")), not message.get("more_body", False)
            read += size
            self.held += size
            if read > self.most_bytes:
                raise HTTPException(413, self._too_large())
            if self.held > MOST_HELD:
                raise HTTPException(429, "the server is busy: it holds as many bytes as it may", {"Retry-After": "5"})
            return message

        try:
            await self.app(scope, counted, send)
        finally:
            self.held -= read

    def _too_large(self) -> str:
        return f"body: expected at most {self.most_bytes:,} bytes; send fewer inputs at a time"

    def _has_key(self, headers: Headers) -> bool:
        assert self.key is not None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        value = given.strip().encode("latin-1")  # as the header was decoded
        if scheme.lower() == "basic":
            try:
                value = base64.b64decode(value).partition(b":")[2]
            except (binascii.Error, ValueError):
                return False
        return scheme.lower() in ("bearer", "basic") and hmac.compare_digest(value, self.key)


def _name(host: str) -> Any:
    """The name in a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
