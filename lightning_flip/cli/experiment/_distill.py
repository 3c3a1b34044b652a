"""Train a teacher and its student, continuing where an earlier attempt stopped."""

from __future__ import annotations

import contextlib
import gc
import shlex
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only

from lightning_flip.cli._outputs import CommandError, Status, say, told
from lightning_flip.cli.experiment._plan import DistillationPlan
from lightning_flip.cli.experiment._stage import check_handover, resolve_config, stage_config
from lightning_flip.cli.experiment._state import STATE_FILE, differences, listed, read_state, write_state
from lightning_flip.cli.training import training_cli
from lightning_flip.stores import SoftTargetError
from lightning_flip.stores.files import atomic_write, make_directory

__all__ = ["STAGES", "distill"]

STAGES = ("teacher", "student")


def distill(plan: DistillationPlan, *, restart: str | None = None) -> Status:
    """Train the stages that are not finished.

    If Lightning starts this command once per rank, only the first rank writes.
    """
    # Known from the environment, before there is a Trainer.
    writes = getattr(rank_zero_only, "rank", 0) == 0
    configs = {"teacher": resolve_config(plan.teacher), "student": resolve_config(plan.student)}
    check_handover(plan, configs["teacher"], configs["student"])
    handed = {"soft_targets": plan.soft_targets} if plan.reference is None else {"reference": plan.reference}
    settings: dict[str, dict[str, Any]] = {
        "teacher": {"config": configs["teacher"]},
        "student": {"config": configs["student"], **handed},
    }
    with told():
        stages = _begin(plan.output, settings, restart, writes=writes)
    for name in STAGES:
        folder = plan.output / name
        if stages[name]["finished"]:
            if writes:
                say(f"{name}: finished before, in {folder}")
            continue
        option = None
        if name == "student":
            if not plan.handed_over.exists():
                raise CommandError(
                    f"the teacher is finished, and did not leave {plan.handed_over}, or it was removed. Start again "
                    "with --restart."
                )
            option = plan.option, plan.handed_over
        checkpoint = folder / "last.ckpt"
        resumed = checkpoint.exists() and not (restart is not None and not writes and _anew(name, restart))
        if writes:
            with told():
                if not resumed and folder.exists():
                    shutil.rmtree(folder)
                make_directory(folder)
            say(f"{name}: {'resuming' if resumed else 'training'}, in {folder}")
        text = _as_yaml(stage_config(configs[name], folder, option))
        with _config_file(plan.output / f"{name}.yaml", text, writes=writes) as path:
            _fit(path, checkpoint if resumed else None)
        stages[name]["finished"] = True
        if writes:
            with told():
                write_state(plan.output, stages)
    if writes:
        config, checkpoint = plan.output / "student.yaml", plan.output / "student" / "last.ckpt"
        words = ["lightning-flip", "test", "--config", str(config), "--ckpt_path", str(checkpoint)]
        say(f"student: finished; evaluate it with\n\n  {shlex.join(words)}\n")
    return Status.PASS


def _begin(
    output: Path, settings: dict[str, dict[str, Any]], restart: str | None, *, writes: bool
) -> dict[str, dict[str, Any]]:
    """The stages, of which those to restart are not finished; refuses those of another experiment."""
    fresh: dict[str, dict[str, Any]] = {name: {"settings": settings[name], "finished": False} for name in STAGES}
    before = read_state(output)
    if before is None or not set(STAGES) <= before.keys():
        taken = [name for name in STAGES if (output / name).exists() and any((output / name).iterdir())]
        if writes and taken:
            raise CommandError(
                f"{output / taken[0]} holds files, and {output} no {STATE_FILE} that says whose they are. Choose "
                "another --output, or remove them."
            )
        stages = fresh
    else:
        stages = {name: fresh[name] if restart and _anew(name, restart) else before[name] for name in STAGES}
        _refuse_changes(output, stages, settings)
        stages = {name: {**stages[name], "settings": settings[name]} for name in STAGES}
    if writes:
        for name in STAGES:
            if restart and _anew(name, restart):
                # First, so that a killed command does not resume from it; a stage without it is cleared.
                with contextlib.suppress(FileNotFoundError):
                    (output / name / "last.ckpt").unlink()
        write_state(output, stages)
    return stages


def _refuse_changes(output: Path, stages: dict[str, dict[str, Any]], settings: dict[str, dict[str, Any]]) -> None:
    changed = {name: differences(stages[name]["settings"], settings[name]) for name in STAGES}
    changed = {name: found for name, found in changed.items() if found}
    if not changed:
        return
    phrases = ". ".join(
        f"{name}: {listed([phrase.removeprefix('config.') for phrase in found])}" for name, found in changed.items()
    )
    keep = "" if "teacher" in changed else ", or with --restart student, which keeps the teacher"
    raise CommandError(
        f"{output} was started with other settings. {phrases}. Set them back, choose another --output, or start again "
        f"with --restart{keep}."
    )


def _anew(name: str, restart: str) -> bool:
    return STAGES.index(name) >= STAGES.index(restart)


def _as_yaml(config: dict[str, Any]) -> str:
    import yaml  # type: ignore[import-untyped]

    text: str = yaml.safe_dump(config, sort_keys=False)
    return text


@contextlib.contextmanager
def _config_file(path: Path, text: str, *, writes: bool) -> Iterator[Path]:
    """Write the stage's configuration; the other ranks, which may be faster, write a temporary one of their own."""
    if writes:
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder, path.name)
        own.write_text(text, encoding="utf-8")
        yield own


def _fit(config: Path, checkpoint: Path | None) -> None:
    words = ["fit", f"--config={config}"]
    if checkpoint is not None:
        words.append(f"--ckpt_path={checkpoint}")
    with _like_a_process_of_its_own(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")  # a resumed stage's does
        try:
            finished = training_cli(words).trainer.state.finished
        except SoftTargetError as error:
            raise CommandError(str(error)) from error
    if not finished:
        raise CommandError("training was interrupted; the same command resumes it.")


@contextlib.contextmanager
def _like_a_process_of_its_own() -> Iterator[None]:
    """Restore the process-wide switches that a Trainer sets, as a resumed student would not have its teacher's."""
    benchmark = torch.backends.cudnn.benchmark
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = benchmark
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        if torch.cuda.is_available():
            gc.collect()  # a Trainer and its module refer to each other
            torch.cuda.empty_cache()
