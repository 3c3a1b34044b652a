"""Options that callbacks inherit: the command line knows them all, and refuses what it does not know."""

import argparse

import pytest
from jsonargparse import ArgumentParser

from lightning_flip.callbacks import (
    FeatureProjection,
    FlipTracker,
    LearningPath,
    LogitGaps,
    NegativeFlipMonitor,
    NoiseAccuracy,
    PredictionFilter,
    PredictionHistory,
    TemperatureScaling,
    TrainingTargets,
    TransitionEstimator,
    WinningScores,
    ZigZag,
)

STEPS = {"logits_from", "target_from", "index_from", "loader", "labels", "ignore_index", "allow_changed_data"}
FOLDER, LOGS = {"dirpath", "overwrite"}, {"prefix", "prog_bar"}
INHERITED = {
    FlipTracker: STEPS | LOGS,
    NegativeFlipMonitor: STEPS | LOGS,
    **dict.fromkeys((PredictionHistory, LearningPath, ZigZag, PredictionFilter), STEPS | FOLDER),
    TransitionEstimator: STEPS | {"overwrite"},
    **dict.fromkeys((FeatureProjection, LogitGaps, NoiseAccuracy, TrainingTargets), STEPS | FOLDER | LOGS),
    **dict.fromkeys((TemperatureScaling, WinningScores), STEPS | FOLDER | LOGS),
}


@pytest.mark.parametrize("kind", list(INHERITED))
def test_the_command_line_knows_inherited_options_and_refuses_misspelled_ones(kind):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, "c")
    known = {action.dest.removeprefix("c.") for action in parser._actions}
    assert known >= INHERITED[kind]
    assert "options" not in known
    assert "kwargs" not in known
    with pytest.raises(argparse.ArgumentError, match="allow_changed_dta"):
        parser.parse_object({"c": {"allow_changed_dta": True}})
    with pytest.raises(TypeError, match="allow_changed_dta"):
        kind(*(["old.parquet"] if kind is NegativeFlipMonitor else []), allow_changed_dta=True)


@pytest.mark.parametrize("make", [lambda **options: LearningPath([0], **options), NoiseAccuracy, LogitGaps])
@pytest.mark.parametrize(("mode", "passes"), [("visits", "train"), ("eval", "eval")])
def test_the_option_passes_had_another_name(make, mode, passes):
    with pytest.warns(FutureWarning, match=rf"mode='{mode}' is now passes='{passes}'"):
        assert make(mode=mode).passes == passes


@pytest.mark.filterwarnings("ignore:mode='test' is now")
def test_another_mode_is_refused():
    with pytest.raises(ValueError, match='passes must be "train" or "eval"'):
        NoiseAccuracy(mode="test")


def test_an_option_by_its_old_and_its_new_name_is_refused_if_they_differ() -> None:
    with pytest.warns(FutureWarning, match="passes"):
        assert LearningPath([1], mode="eval").passes == "eval"
    with pytest.raises(TypeError, match="one option by its new and its old name"):
        LearningPath([1], passes="eval", mode="visits")
