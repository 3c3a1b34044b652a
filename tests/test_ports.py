from __future__ import annotations

import os
import socket

from tests.ports import free_port


def test_a_port_that_is_taken_is_passed_over():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port()))
        assert taken.getsockname()[1] not in {free_port() for _ in range(150)}  # once around


def test_every_test_has_a_port():
    assert 20_000 <= int(os.environ["MASTER_PORT"]) < 30_000
