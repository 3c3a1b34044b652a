from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch) -> None:
    """Nothing here is about crashes, and many small files are written."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
