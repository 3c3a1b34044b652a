"""The suspects of a run for other tools, written without the tools' packages.

Functions take what `History.suspects` gives, and find the images by the paths or ids of the samples. The arrays for
cleanlab come from the whole history.
"""

from lightning_flip.reports.exports._samples import ExportError, class_choices
from lightning_flip.reports.exports.argilla import argilla_records
from lightning_flip.reports.exports.cleanlab import CleanlabArrays, cleanlab_arrays
from lightning_flip.reports.exports.huggingface import huggingface_metadata
from lightning_flip.reports.exports.label_studio import label_studio_config, label_studio_tasks

__all__ = [
    "CleanlabArrays",
    "ExportError",
    "argilla_records",
    "class_choices",
    "cleanlab_arrays",
    "huggingface_metadata",
    "label_studio_config",
    "label_studio_tasks",
]
