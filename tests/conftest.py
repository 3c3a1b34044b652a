from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Small models are faster without a thread pool, and forked ranks cannot share one."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch) -> None:
    """Whatever a Trainer writes by default lands in the test's own folder."""
    monkeypatch.chdir(tmp_path)
