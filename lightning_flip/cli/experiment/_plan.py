"""The configuration of an experiment."""

from __future__ import annotations

import dataclasses
from pathlib import Path, PurePosixPath
from typing import Any

from lightning_flip.cli._outputs import CommandError, MissingExtraError

__all__ = ["DistillationPlan", "read_plan"]

_KEYS = ("teacher", "student", "soft_targets", "reference", "output")
_LIKE = "teacher: teacher.yaml, student: student.yaml, soft_targets: filtered_best"


@dataclasses.dataclass(frozen=True)
class DistillationPlan:
    """What to train, and what goes from the teacher to the student.

    Attributes:
        source: the experiment's own configuration.
        teacher: configuration of ``lightning-flip fit``.
        student: the same.
        output: folder of the experiment.
        soft_targets: name of a file of soft targets, without its extension; None with ``reference``.
        reference: name of a checkpoint in the teacher's folder; None with ``soft_targets``.

    Example:
        >>> plan = DistillationPlan(
        ...     Path("a.yaml"), Path("t.yaml"), Path("s.yaml"), Path("runs/a"), soft_targets="filtered_best"
        ... )
        >>> plan.option, plan.handed_over.as_posix()
        ('targets', 'runs/a/teacher/soft_targets/filtered_best.safetensors')
    """

    source: Path
    teacher: Path
    student: Path
    output: Path
    soft_targets: str | None = None
    reference: str | None = None

    @property
    def option(self) -> str:
        """The option of the student's model that takes this file."""
        return "reference" if self.soft_targets is None else "targets"

    @property
    def handed_over(self) -> Path:
        """The file that goes from the teacher to the student."""
        folder = self.output / "teacher"
        if self.soft_targets is None:
            return folder / str(self.reference)
        return folder / "soft_targets" / f"{self.soft_targets}.safetensors"


def read_plan(path: str, output: str | None = None) -> DistillationPlan:
    """Read and check the configuration."""
    source = Path(path)
    content = _read_yaml(source)
    if not isinstance(content, dict) or not {"teacher", "student"} <= content.keys():
        raise CommandError(f"{path} must name the configurations of a teacher and a student, such as {_LIKE}.")
    unknown = sorted(str(key) for key in content.keys() - set(_KEYS))
    if unknown:
        raise CommandError(f"{path}: unknown: {', '.join(unknown)}; it may say {', '.join(_KEYS)}.")
    texts = {key: value for key, value in content.items() if value is not None}
    for key, value in texts.items():
        if not isinstance(value, str) or not value:
            raise CommandError(f"{path}: {key} must be a text, got {value!r}.")
    if ("soft_targets" in texts) == ("reference" in texts):
        raise CommandError(
            f"{path} must say what goes to the student: either soft_targets, such as filtered_best, or reference, "
            f"such as last.ckpt; it says {'both' if 'reference' in texts else 'neither'}."
        )
    for key in {"soft_targets", "reference"} & texts.keys():
        name = PurePosixPath(texts[key])
        if name.is_absolute() or ".." in name.parts:
            raise CommandError(f"{path}: {key} must be a file that the experiment's teacher leaves, got {texts[key]}.")
    place = output or texts.get("output")
    if place is None:
        raise CommandError(f"{path} names no output; add it, such as output: runs/{source.stem}, or give --output.")
    if Path(place).exists() and not Path(place).is_dir():
        raise CommandError(f"the output must be a folder, and {place} is a file.")
    stages = {stage: source.parent / texts[stage] for stage in ("teacher", "student")}
    for stage, config in stages.items():
        if not config.is_file():
            raise CommandError(f"{path}: the {stage}'s configuration {config} is not a file.")
    soft_targets = texts.get("soft_targets")
    return DistillationPlan(
        source,
        stages["teacher"],
        stages["student"],
        Path(place),
        None if soft_targets is None else soft_targets.removesuffix(".safetensors"),
        texts.get("reference"),
    )


def _read_yaml(path: Path) -> Any:
    try:
        import yaml  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "an experiment is read with PyYAML, which is not installed; run pip install 'lightning-flip[cli]'."
        ) from error
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror or error}.") from error
    except (yaml.YAMLError, UnicodeError) as error:
        raise CommandError(f"{path} is not a YAML file: {' '.join(str(error).split())}.") from error
