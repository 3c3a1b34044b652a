from __future__ import annotations

import inspect
import warnings
from typing import Any, Literal

import jsonargparse
import pytest

from lightning_flip._deprecate import former_order, rename_keywords, renamed_keywords


@renamed_keywords(bins="n_bins", lowest="low")
def histogram(values: list[int], *, n_bins: int = 10, low: float = 0.0) -> tuple[int, float]:
    """A histogram."""
    return n_bins, low


@former_order("old", "new", "target", new="preds")
def rate(preds: int, target: int, *, old: int, scale: int = 1) -> tuple[int, int, int, int]:
    return preds, target, old, scale


class Base:
    def __init__(self, *, loader: int = 0) -> None:
        self.loader = loader


class Scores(Base):
    """Scores.

    Args:
        n_bins: how many.
        passes: which.
        **kwargs: of the base.
    """

    @renamed_keywords(bins="n_bins", mode="passes")
    def __init__(self, *, n_bins: int = 3, passes: Literal["train", "eval"] = "train", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.n_bins, self.passes = n_bins, passes


@pytest.fixture
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        yield


class TestRenamedKeywords:
    def test_the_old_name_works_and_warns_where_it_is_used(self):
        with pytest.warns(FutureWarning, match=r"bins of histogram is now n_bins; .* removed in 0\.4") as told:
            assert histogram([], bins=4) == (4, 0.0)
        assert [warning.filename for warning in told] == [__file__]

    def test_several_warn_each(self):
        with pytest.warns(FutureWarning) as told:
            assert histogram([], bins=4, lowest=0.5) == (4, 0.5)
        assert len(told) == 2

    @pytest.mark.usefixtures("quiet")
    def test_the_new_name_is_quiet(self):
        assert histogram([], n_bins=4, low=0.1) == (4, 0.1)
        assert Scores(n_bins=4, loader=2).loader == 2

    def test_both_are_refused(self):
        with pytest.raises(TypeError, match=r"histogram got n_bins=5 and bins=4, the former name of n_bins"):
            histogram([], bins=4, n_bins=5)

    def test_a_class_is_named_without_its_constructor(self):
        with pytest.warns(FutureWarning, match="bins of Scores is now n_bins") as told:
            assert Scores(bins=4).n_bins == 4
        assert told[0].filename == __file__
        with pytest.raises(TypeError, match="Scores got n_bins=5 and bins=4"):
            Scores(bins=4, n_bins=5)

    def test_functions_keep_their_signature_and_doc(self):
        assert list(inspect.signature(histogram).parameters) == ["values", "n_bins", "low"]
        assert histogram.__doc__ == "A histogram."

    def test_a_constructor_renames_by_itself(self):
        given = {"bins": 4, "other": 1, "mode": None}
        with pytest.warns(FutureWarning, match="bins of Model is now n_bins") as told:
            rename_keywords(given, "Model", {"bins": "n_bins", "mode": "passes"}, stacklevel=2)
        assert given == {"n_bins": 4, "other": 1}
        assert told[0].filename == __file__


class TestCommandLine:
    def parser(self) -> jsonargparse.ArgumentParser:
        parser = jsonargparse.ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(Scores, "scores")
        return parser

    @pytest.mark.usefixtures("quiet")
    def test_new_names_are_quiet(self):
        parser = self.parser()
        found = parser.instantiate_classes(parser.parse_args(["--scores.n_bins=4", "--scores.loader=1"])).scores
        assert (found.n_bins, found.passes, found.loader) == (4, "train", 1)

    def test_a_config_with_old_names_loads_and_warns(self):
        parser = self.parser()
        config = parser.parse_object({"scores": {"bins": 4, "mode": "eval"}})
        with pytest.warns(FutureWarning, match=r"(bins|mode) of Scores is now"):
            found = parser.instantiate_classes(config).scores
        assert (found.n_bins, found.passes) == (4, "eval")

    def test_old_names_are_checked_as_the_new_ones(self):
        with pytest.raises(jsonargparse.ArgumentError, match="mode"):
            self.parser().parse_object({"scores": {"mode": "sideways"}})

    def test_both_are_refused(self):
        parser = self.parser()
        with pytest.raises(TypeError, match="Scores got n_bins=5 and bins=4"):
            parser.instantiate_classes(parser.parse_object({"scores": {"bins": 4, "n_bins": 5}}))


class TestFormerOrder:
    @pytest.mark.usefixtures("quiet")
    def test_the_new_order_is_quiet(self):
        assert rate(2, 3, old=1, scale=5) == (2, 3, 1, 5)
        assert rate(old=1, target=3, preds=2) == (2, 3, 1, 1)

    @pytest.mark.parametrize(
        "call",
        [
            lambda: rate(1, 2, 3),
            lambda: rate(1, 2, target=3),
            lambda: rate(1, new=2, target=3),
            lambda: rate(old=1, new=2, target=3),
        ],
    )
    def test_a_former_call_gives_the_same_and_warns(self, call):
        with pytest.warns(
            FutureWarning, match=r"rate\(old, new, target\) is now rate\(preds, target, old=...\)"
        ) as told:
            assert call() == (2, 3, 1, 1)
        assert told[0].filename == __file__

    def test_other_arguments_are_passed_on(self):
        with pytest.warns(FutureWarning, match="removed in 0.4"):
            assert rate(1, 2, 3, scale=7) == (2, 3, 1, 7)

    @pytest.mark.usefixtures("quiet")
    @pytest.mark.parametrize(
        ("args", "kwargs"),
        [
            ((1, 2), {}),
            ((1, 2, 3, 4), {}),
            ((1, 2, 3), {"other": 4}),
            ((1, 2), {"old": 1, "new": 2}),
            ((), {"preds": 1, "new": 1, "old": 2, "target": 3}),
        ],
    )
    def test_what_fits_neither_way_is_pythons_own_error_about_the_new_one(self, args, kwargs):
        with pytest.raises(TypeError, match="rate"):
            rate(*args, **kwargs)
