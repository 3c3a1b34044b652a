"""Bars of mean training targets."""

import pytest

from lightning_flip.reports import TargetProfile, plot_training_targets

PLS = TargetProfile((0.351, 0.3), (0.12, 0.06, 0.04, 0.02, 0.009), 12_345)
ONE_HOT = TargetProfile((1.0,), (0.0, 0.0, 0.0), 9)


def test_the_table_is_plain_with_a_row_a_bar():
    table = TargetProfile((1, 0), (0.5,), 3).table()
    assert table == {"class": ["true", "true", "other"], "rank": [1, 2, 1], "target": [1.0, 0.0, 0.5]}
    assert all(type(value) is float for value in table["target"])


@pytest.mark.parametrize(
    ("true", "others", "samples", "message"),
    [
        ((0.3,), (0.1,), 0, "samples must be at least 1, got 0; if no pair had two different labels"),
        ((), (0.1,), 3, "true must hold the mean target of at least one class"),
        ((0.3, 0.35), (0.1,), 3, r"true must be sorted, the largest first; got \(0.3, 0.35\)"),
        ((0.3,), (0.1, 0.2), 3, "others must be sorted"),
        ((float("nan"),), (0.1,), 3, "true must be means of probabilities"),
        ((0.3,), (-0.1,), 3, "others must be means of probabilities"),
        ((1.5,), (), 3, "true must be means of probabilities"),
    ],
)
def test_profiles_of_nothing_are_refused(true, others, samples, message):
    with pytest.raises(ValueError, match=message):
        TargetProfile(true, others, samples)


def test_sums_in_float32_may_round():
    assert TargetProfile((0.3, 0.3 + 1e-8), (), 3).others == ()


def test_true_classes_are_plain_and_others_hatched():
    figure = plot_training_targets(PLS)
    (axes,) = figure.axes
    true, others = axes.containers
    assert [bar.get_height() for bar in true] == list(PLS.true)
    assert [bar.get_height() for bar in others] == list(PLS.others)
    assert not any(bar.get_hatch() for bar in true)
    assert all(bar.get_hatch() for bar in others)
    red, green, blue, _ = true[0].get_facecolor()
    assert green > max(red, blue)
    red, green, blue, _ = others[0].get_facecolor()
    assert red > max(green, blue)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "2", "1", "2", "3", "4", "5"]
    assert [text.get_text() for text in axes.texts][:3] == ["0.35", "0.30", "0.12"]
    assert axes.texts[-1].get_text() == "0.009"
    first, second = figure.legends[0].get_patches()
    assert not first.get_hatch()
    assert second.get_hatch()


def test_panels_share_their_axes_and_keep_their_own_ranks():
    figure = plot_training_targets({"PLS": PLS, "one-hot": ONE_HOT})
    left, right = figure.axes
    assert left.get_ylim() == right.get_ylim()
    assert left.get_xlim() == right.get_xlim()
    assert [tick.get_text() for tick in right.get_xticklabels()] == ["1", "1", "2", "3"]
    assert left.containers[1][0].get_x() == right.containers[1][0].get_x()
    assert right.get_title() == "one-hot\n9 samples"


@pytest.mark.parametrize(("number", "across"), [(1, 1), (2, 1), (5, 3), (6, 6)])
def test_names_are_readable(number, across, readable):
    names = ["PLS", "a long name for a panel " * 4, "$5 & $6", "_hidden", "UNIFORM " * 9, "ULS"][:number]
    runs = {name: (PLS, ONE_HOT)[place % 2] for place, name in enumerate(names)}
    readable(plot_training_targets(runs, columns=across))


def test_a_profile_without_others_is_drawn(readable):
    readable(plot_training_targets(TargetProfile((0.5, 0.5), (), 1)))


def test_other_things_are_refused():
    with pytest.raises(ValueError, match="at least one TargetProfile"):
        plot_training_targets({})
    with pytest.raises(TypeError, match="must be a TargetProfile"):
        plot_training_targets((0.5, 0.5))
