"""The configuration of a stage: that of its own ``fit``, with the stage's folders and checkpoints."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import json
from pathlib import Path
from typing import Any

from lightning_flip.cli._outputs import CommandError
from lightning_flip.cli.experiment._plan import DistillationPlan
from lightning_flip.cli.training import training_cli

__all__ = ["check_handover", "resolve_config", "stage_config"]

_OF_THE_CALL = ("ckpt_path", "weights_only")  # of fit, which not every subcommand has


def resolve_config(path: Path) -> dict[str, Any]:
    """Read a configuration as ``lightning-flip fit`` does, with every default, in the types of JSON."""
    import yaml  # type: ignore[import-untyped]

    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            training_cli(["fit", f"--config={path}", "--print_config"])
    except SystemExit as exit_:
        if exit_.code:
            raise
    resolved = yaml.safe_load(printed.getvalue())
    config = {key: value for key, value in resolved.items() if key not in _OF_THE_CALL or value is not None}
    plain: dict[str, Any] = json.loads(json.dumps(config, default=str))
    return plain


def check_handover(plan: DistillationPlan, teacher: dict[str, Any], student: dict[str, Any]) -> None:
    """Check before hours of training that the teacher will write what the student reads."""
    model = student.get("model") or {}
    options = model.get("init_args", {}) if isinstance(model, dict) else {}
    if plan.option not in options:
        example = "SoftTargetsClassifier" if plan.option == "targets" else "DistillationClassifier"
        raise CommandError(
            f"{plan.student}: the model {model.get('class_path')} has no option {plan.option}, which takes what the "
            f"teacher leaves. Use one that has, such as lightning_flip.modules.{example}."
        )
    if plan.soft_targets is None:
        return
    filters = [_options(entry) for entry in _entries(teacher, "callbacks") if _is_filter(entry)]
    left = [
        f"{options['name']}/{file}" if options.get("name") else file
        for options in filters
        for file in ("filtered_best", "filtered_last", *(options.get("also") or ()))
    ]
    if not filters:
        raise CommandError(
            f"{plan.source} gives the student {plan.soft_targets}, and the teacher's configuration {plan.teacher} has "
            "no callback that writes soft targets. Add lightning_flip.callbacks.PredictionFilter to trainer.callbacks."
        )
    if plan.soft_targets not in left:
        raise CommandError(
            f"{plan.source} gives the student {plan.soft_targets}, and the teacher leaves {', '.join(left)}. Name one "
            f"of these, or let PredictionFilter(also=...) in {plan.teacher} write it."
        )


def stage_config(config: dict[str, Any], folder: Path, option: tuple[str, Path] | None = None) -> dict[str, Any]:
    """Put a stage's folder into its configuration: it trains as ``config``, bit for bit, and writes ``last.ckpt``.

    Example:
        >>> config = {"trainer": {"callbacks": None, "logger": None}, "model": {}, "data": {}}
        >>> [entry["class_path"] for entry in stage_config(config, Path("runs/teacher"))["trainer"]["callbacks"]]
        ['lightning_flip.callbacks.ExactResume', 'lightning_flip.cli.last_checkpoint.LastCheckpoint']
    """
    stage = copy.deepcopy(config)
    trainer = stage.setdefault("trainer", {})
    place = str(folder.absolute())
    trainer["default_root_dir"] = place
    for entry in _entries(stage, "logger"):
        if "save_dir" in _options(entry):
            entry["init_args"]["save_dir"] = place
    callbacks = _entries(stage, "callbacks")
    for entry in callbacks:
        options = _options(entry)
        # By default a filter writes beside the logger's files, in a folder that the experiment cannot know.
        if options.get("dirpath") is not None or _is_filter(entry):
            entry.setdefault("init_args", {})["dirpath"] = place
        if isinstance(options.get("path"), str):
            options["path"] = str(Path(place) / Path(options["path"]).name)
    if not any(str(entry["class_path"]).rpartition(".")[2] == "ExactResume" for entry in callbacks):
        callbacks.append({"class_path": "lightning_flip.callbacks.ExactResume"})
    last = "lightning_flip.cli.last_checkpoint.LastCheckpoint"
    trainer["callbacks"] = [*callbacks, {"class_path": last, "init_args": {"dirpath": place}}]
    trainer["enable_checkpointing"] = True
    if option is not None:
        stage["model"]["init_args"][option[0]] = str(option[1].absolute())
    return stage


def _entries(config: dict[str, Any], what: str) -> list[dict[str, Any]]:
    given = (config.get("trainer") or {}).get(what)
    listed = given if isinstance(given, list) else [given]
    return [entry for entry in listed if isinstance(entry, dict) and "class_path" in entry]


def _options(entry: dict[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = entry.get("init_args") or {}
    return options


def _is_filter(entry: dict[str, Any]) -> bool:
    from lightning_flip.callbacks import PredictionFilter

    module, _, name = str(entry["class_path"]).rpartition(".")
    found = getattr(importlib.import_module(module), name, None) if module else None
    return isinstance(found, type) and issubclass(found, PredictionFilter)
