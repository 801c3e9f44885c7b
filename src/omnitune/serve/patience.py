"""A connection whose request does not get on is given up: uvicorn itself waits for the end of a head for ever."""

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 20.0
"""Seconds that the head of a request may take."""
_BODY = json.dumps(
    {
        "error": {
            "message": "expected the whole head of a request in time",
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        }
    }
)
_HEAD = "HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: "


class PatientProtocol(H11Protocol):
    """HTTP/1.1 with a limit on the seconds in which the head of a request arrives."""

    seconds = HEAD_SECONDS
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Wait on while a head is not whole."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._wait()
        else:
            self._stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(self.seconds, self._give_up)

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _give_up(self) -> None:
        self._late = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.write(f"{_HEAD}{len(_BODY)}\r\n\r\n{_BODY}".encode())
            self.transport.close()
