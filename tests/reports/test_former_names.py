"""Options that have new names take the old ones too, and warn."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_flip.reports import (
    compare_runs,
    logit_gaps,
    reliability,
    score_histogram,
    summarize_run,
    uncertainty_histogram,
)

HALVES = [0.5, 1.0], [True, False]


@pytest.mark.parametrize(
    ("function", "arguments", "old", "new"),
    [
        (reliability, HALVES, {"bins": 2}, {"n_bins": 2}),
        (score_histogram, HALVES[:1], {"lowest": 0.3, "bins": 3}, {"low": 0.3, "n_bins": 3}),
        (uncertainty_histogram, HALVES, {"bins": 3, "highest": 2.0}, {"n_bins": 3, "high": 2.0}),
        (logit_gaps, ([0.0, 1.0], [0.5, 1.0], [2.0, 1.0], [True, False]), {"bins": 3}, {"n_bins": 3}),
    ],
)
def test_former_names_of_options_work_and_warn(
    function: Callable[..., Any], arguments: tuple[Any, ...], old: dict[str, Any], new: dict[str, Any]
) -> None:
    with pytest.warns(FutureWarning, match=rf"of {function.__name__} is now") as told:
        found = function(*arguments, **old)
    assert [str(warning.message).split()[0] for warning in told] == list(old)
    assert told[0].filename == __file__
    assert found == function(*arguments, **new)


def test_former_names_of_options_for_runs(record: Callable[..., Path]) -> None:
    folder = record("run", [0, 1, 1], [[0, 1, 0]], confidence=[0.3, 0.6, 0.9])
    with pytest.warns(FutureWarning, match="bins of summarize_run is now n_bins"):
        assert summarize_run(folder, bins=2) == summarize_run(folder, n_bins=2)
    with pytest.warns(FutureWarning, match="bins of compare_runs is now n_bins"):
        assert compare_runs([("a", folder)], bins=2) == compare_runs([("a", folder)], n_bins=2)
