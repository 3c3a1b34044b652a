"""How every method is swept, one entry each (two, where a method has two ways of getting what it needs)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import pytest

from lightning_flip import mixins
from lightning_flip.callbacks import TransitionEstimator
from lightning_flip.mixins import LossTerm
from tests.mixins.helpers import N
from tests.mixins.pairing import ClassWiseGradient, MixupGradient, PlsGradient
from tests.mixins.updates import compatible_term, focal_term, naive_term
from tests.oracles import regularization
from tests.sweep import oracles
from tests.sweep.oracles import Oracle, added, each, ruled

MODULES = "lightning_flip.mixins"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How one method is swept.

    Args:
        method: the mixin.
        config: its configuration for digits, below ``examples/``.
        name: tells two settings of a method apart.
        options: what makes the method act within two epochs; the rest are its defaults, or the configuration's.
        overrides: further words for the command line of its configuration.
        needs: an old model or teacher (``reference=``), or a file of soft targets (``targets=``).
        callbacks: makes the callbacks without which the method does nothing.
        oracle: its run on fixed batches in numpy. Such a method looks at each sample alone: how a batch is divided
            between ranks does not matter.
        together: why a sample's loss depends on the batch that it is in. Each rank's recorded batches are then
            replayed, for two ranks are not one.
        replay: makes what computes the gradients of a recorded step, from the number of steps in an epoch; see
            ``tests/mixins/pairing.py``.
        held: dotted path of the function whose answer the loss takes as a constant though it follows the weights
            (a stop-gradient). Finite differences move it, so that they are taken with the answer kept.
        warns: a warning that so small a run deserves.
        tolerance: between a run and the numpy loop.
        epochs: of the run from the configuration; it is resumed before the last one.
    """

    method: type[LossTerm]
    config: str
    name: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    overrides: Sequence[str] = ()
    needs: Literal["", "reference", "targets"] = ""
    callbacks: Callable[[], list[pl.Callback]] = list
    oracle: Oracle | None = None
    together: str = ""
    replay: Callable[[int], Any] | None = None
    held: str = ""
    warns: str = ""
    tolerance: float = 1e-10
    epochs: int = 2

    def __str__(self) -> str:
        return "-".join(filter(None, [self.method.__name__, self.name]))


SETTINGS = [
    Setting(
        method=mixins.BackwardCompatible,
        config="update/backward_compatible.yaml",
        needs="reference",
        oracle=added(lambda classes: compatible_term(classes=classes)),
    ),
    Setting(method=mixins.BackwardCorrection, config="noise/backward.yaml", oracle=each(oracles.backward)),
    Setting(
        method=mixins.ClassWiseSelfDistillation,
        config="baselines/cs_kd.yaml",
        together="each rank draws its own partners",
        replay=lambda steps: ClassWiseGradient(),
        # What the network says of the partner moves with the weights; no gradient flows through it.
        held=f"{MODULES}.class_wise_self_distillation.ClassWiseSelfDistillation._partner_logits",
    ),
    Setting(
        method=mixins.ConfidencePenalty,
        config="baselines/confidence_penalty.yaml",
        oracle=each(lambda run, z, label: regularization.confidence_penalty(z, label)),
    ),
    Setting(
        method=mixins.Distillation,
        config="distill/online_student.yaml",
        needs="reference",
        oracle=ruled(oracles.distilled),
    ),
    Setting(
        method=mixins.EarlyLearningRegularization,
        config="baselines/early_learning.yaml",
        oracle=ruled(lambda run: regularization.early_learning_rule(run.y, np.zeros((N, run.classes)))),
    ),
    Setting(method=mixins.FlippingErrorReduction, config="digits/fer.yaml", oracle=oracles.reduced),
    Setting(
        method=mixins.FocalDistillation,
        config="update/focal_kl.yaml",
        needs="reference",
        oracle=added(focal_term),
    ),
    Setting(
        method=mixins.FocalDistillation,
        name="logits",
        config="update/focal_lm.yaml",
        options={"focal_distance": "logits"},
        needs="reference",
        oracle=added(lambda classes: focal_term(classes, distance="logits")),
    ),
    Setting(method=mixins.ForwardCorrection, config="noise/forward.yaml", oracle=each(oracles.forward)),
    Setting(
        method=mixins.ForwardCorrection,
        name="estimated",
        config="noise/estimated.yaml",
        options={"transition": "estimate"},
        overrides=['--trainer.callbacks=[{"class_path": "TransitionEstimator", "init_args": {"warmup_epochs": 1}}]'],
        callbacks=lambda: [TransitionEstimator(overwrite=True)],
        oracle=ruled(oracles.estimated),
        warns="the transition has a condition number",
        tolerance=1e-6,  # the estimator keeps predictions in float32
    ),
    Setting(method=mixins.LabelSmoothing, config="digits/label_smoothing.yaml", oracle=oracles.smoothed),
    Setting(
        method=mixins.LearningWithRetrospection,
        config="digits/lwr.yaml",
        options={"lwr_interval": 1},
        oracle=oracles.retrospective,
    ),
    Setting(
        method=mixins.Mixup,
        config="pairwise/mixup.yaml",
        together="each rank mixes its own batches, with a weight of its own",
        replay=lambda steps: MixupGradient(),
    ),
    Setting(
        method=mixins.NaivePositiveCongruent,
        config="update/naive.yaml",
        needs="reference",
        oracle=added(lambda classes: naive_term(classes=classes)),
    ),
    Setting(
        method=mixins.PairwiseLabelSmoothing,
        config="pairwise/pls.yaml",
        together="each rank averages pairs of its own batches",
        replay=lambda steps: PlsGradient(),
    ),
    Setting(
        method=mixins.SelfAdaptiveTraining,
        config="baselines/self_adaptive.yaml",
        options={"sat_warmup": 0},
        together="each rank scales the weights of its own samples to mean 1",
        replay=oracles.AdaptiveGradient,
    ),
    Setting(
        method=mixins.SnapshotDistillation,
        config="baselines/snapshot_distillation.yaml",
        options={"sd_cycles": 2},
        overrides=[
            "--model.init_args.lr_scheduler.init_args.total_epochs=4",
            "--model.init_args.lr_scheduler.init_args.cycles=2",
        ],
        oracle=oracles.snapshots,
        epochs=4,  # a snapshot is taken in a cycle's first step: it is in the checkpoint after the third epoch
    ),
    Setting(method=mixins.SoftTargets, config="distill/student.yaml", needs="targets", oracle=ruled(oracles.taught)),
    Setting(
        method=mixins.TeacherFreeRegularization,
        config="baselines/teacher_free.yaml",
        oracle=each(lambda run, z, label: regularization.teacher_free(z, label)),
    ),
]


def swept(setting: Setting) -> Any:
    marks = [pytest.mark.filterwarnings(f"ignore:{setting.warns}")] if setting.warns else []
    return pytest.param(setting, id=str(setting), marks=marks)


every_setting = pytest.mark.parametrize("setting", [swept(setting) for setting in SETTINGS])
