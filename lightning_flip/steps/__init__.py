"""What happened in one step, and how this package attaches to a Trainer."""

from lightning_flip.steps.attachment import Attachment, attach
from lightning_flip.steps.identity import ChangedDataError
from lightning_flip.steps.reference import Reference, load_reference
from lightning_flip.steps.sample_step import SampleStep
from lightning_flip.steps.source import StepSource
from lightning_flip.steps.targets import find_target

__all__ = [
    "Attachment",
    "ChangedDataError",
    "Reference",
    "SampleStep",
    "StepSource",
    "attach",
    "find_target",
    "load_reference",
]
