"""Checks of where a server is to listen; nothing heavy is imported, so that they come first."""

import ipaddress
import socket

from omnitune.errors import InputError


def check_address(host: str, api_key: str | None) -> None:
    """Check that a server that other machines reach has a key.

    Raises:
        InputError: It has none.
    """
    try:
        here = ipaddress.ip_address(host).is_loopback
    except ValueError:
        here = host == "localhost"
    if not here and not api_key:
        raise InputError(
            f"--host: expected an address of this machine alone (127.0.0.1) without a key, got {host}; give --api-key "
            "or OMNITUNE_API_KEY to be reached by others"
        )


def check_port(host: str, port: int) -> None:
    """Check that an address and a port can be listened on, before a model is loaded.

    Raises:
        InputError: It is taken, or the address is none of this machine.
    """
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((host, port))
    except OSError as error:
        raise InputError(
            f"--port: expected one that is free on {host}, got {port} ({error.strerror}); choose another"
        ) from error
