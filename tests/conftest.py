from __future__ import annotations

import functools
import importlib.metadata
import os
import sys

# Before torch. pytest-xdist runs one worker per core, and their thread pools would fight over the cores; a forked rank
# hangs in a thread pool that its parent made; Lightning sets the number of threads of every process group anew unless
# this variable is there. Processes that tests start inherit it.
os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Generator, Iterator
from typing import Any

import hypothesis
import jaxtyping
import pytest
import torch
from _pytest.doctest import DoctestModule

from tests.ports import free_port

# A busy machine is no failure.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")

_read_entry_points = importlib.metadata.entry_points


@functools.cache
def _entry_points_on(path: tuple[str, ...], **of: str) -> Any:
    return _read_entry_points(**of)


# Before lightning: it reads the entry points of every installed distribution for every Trainer, which takes a third of
# the time of a small fit.
importlib.metadata.entry_points = lambda **of: _entry_points_on(tuple(sys.path), **of)


@pytest.hookimpl(wrapper=True)
def pytest_collect_file() -> Generator[None, list[Any], list[Any]]:
    """Look for doctests in the package alone: a fifth of the collection, in every worker."""
    return [collector for collector in (yield) if not isinstance(collector, DoctestModule)]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Small models are faster without a thread pool, and forked ranks cannot share one."""
    torch.set_num_threads(1)


os.environ["MASTER_PORT"] = str(free_port())  # for fixtures of a module or session, which are there before a test's


@pytest.fixture(autouse=True)
def _own_port(monkeypatch) -> None:
    """Lightning's process groups meet at this port; the one it would choose may be another worker's by then."""
    monkeypatch.setenv("MASTER_PORT", str(free_port()))


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch) -> None:
    """Four milliseconds a call, thousands of calls, and no test cuts the power; tests/stores keeps the real one."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch) -> None:
    """Whatever a Trainer writes by default lands in the test's own folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def own_checks() -> Iterator[None]:
    """Let the arguments reach the function's own checks, as they do outside of the tests."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
