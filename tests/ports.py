"""Ports for process groups of tests that run side by side."""

from __future__ import annotations

import itertools
import os
import socket

# Below the range from which systems take ports by themselves, and a hundred ports for every process that runs tests.
_PORTS = itertools.cycle(range(20_000 + os.getpid() % 100 * 100, 20_100 + os.getpid() % 100 * 100))


def free_port() -> int:
    """Return a port of this process that nobody listens at."""
    for port in itertools.islice(_PORTS, 100):
        with socket.socket() as candidate:
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("a hundred ports in a row are taken")
