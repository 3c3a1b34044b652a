from __future__ import annotations

import pytest

from tests.auto.helpers import PACKAGES, Lightning, write_entry_points


@pytest.fixture(scope="session")
def entry_points(tmp_path_factory):
    return write_entry_points(tmp_path_factory.mktemp("entry-points"))


@pytest.fixture(params=PACKAGES)
def flow(request, tmp_path, monkeypatch, entry_points):
    monkeypatch.syspath_prepend(str(entry_points))
    return Lightning(request.param, tmp_path, monkeypatch)


@pytest.fixture
def unnamed_flow(tmp_path, monkeypatch, entry_points):
    """The first package alone, for what no package has a part in."""
    monkeypatch.syspath_prepend(str(entry_points))
    return Lightning(PACKAGES[0], tmp_path, monkeypatch)
