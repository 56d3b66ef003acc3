"""A server from its start to its orderly end."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable

import uvicorn

from everlong.errors import ConfigError
from everlong.server.app import create_app
from everlong.server.service import Service
from everlong.server.settings import ServerSettings

_CLOSING_S = 5
"""Seconds that open connections get to take in the end of their answers."""


def bound(settings: ServerSettings) -> socket.socket:
    """A socket at the address, at which nobody is heard yet; ConfigError where the address cannot be had."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((settings.host.strip("[]"), settings.port))
    except OSError as error:
        found.close()
        reason = error.strerror or error
        raise ConfigError(f"{settings.host}:{settings.port}: {reason}; give another --host or --port") from error
    return found


def address(sock: socket.socket) -> str:
    """The address of a bound socket as a URL."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(service: Service, sock: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT: then end all answers and keep all sessions. `ready` is called when it is heard."""
    wanted = threading.Event()
    before = {n: signal.signal(n, lambda *_: wanted.set()) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        listen(service, sock, ready, wanted.wait)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def listen(service: Service, sock: socket.socket, ready: Callable[[], None], wanted: Callable[[float], bool]) -> None:
    """Serve until `wanted`, which waits so many seconds, says that it is to end."""
    config = uvicorn.Config(
        create_app(service),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_CLOSING_S,
        lifespan="off",
    )
    server = uvicorn.Server(config)
    # In a thread of its own uvicorn leaves the signals to us.
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, name="everlong-http", daemon=True)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            wanted(0.01)
        ready()
        while not wanted(0.5) and thread.is_alive():
            pass
    finally:
        service.close()
        server.should_exit = True
        thread.join()
