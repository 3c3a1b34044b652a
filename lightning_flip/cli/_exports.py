"""Options of ``suspects`` that write the suspects for other tools."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from lightning_flip.cli._outputs import PRINT, Content

if TYPE_CHECKING:
    from lightning_flip.reports.suspects import SuspectTable
    from lightning_flip.stores import History

__all__ = ["BINARY", "add_export_options", "export_contents", "export_places"]

BINARY = ("--parquet", "--cleanlab")
_METADATA = "metadata.csv"
_REMEDY = "Move it away, or name another place."


def add_export_options(parser: argparse.ArgumentParser) -> None:
    """Add an option for each tool, and the one that says where images are."""
    group = parser.add_argument_group(
        "other tools",
        "Write the samples for another tool. Apart from --parquet and --cleanlab, each sample needs a path or an id.",
    )
    group.add_argument("--parquet", metavar="FILE", help="every column as Parquet")
    group.add_argument(
        "--label-studio",
        metavar="FILE.json",
        help="tasks of Label Studio with the suggestion as a prediction, and beside them FILE.xml, the labeling"
        " configuration; - prints the tasks",
    )
    group.add_argument("--argilla", metavar="FILE.json", help="records of Argilla 2 with the suggestion; - prints them")
    group.add_argument(
        "--cleanlab",
        metavar="FILE.npz",
        help="labels and averaged probabilities of all samples, whatever --top and --by are",
    )
    group.add_argument(
        "--huggingface",
        metavar="FOLDER/metadata.csv",
        help="metadata of a Hugging Face image folder that has the images; - prints it",
    )
    group.add_argument(
        "--image-root",
        metavar="PLACE",
        help="folder or URL that the paths of the samples are below. Label Studio needs a URL, such as"
        " '/data/local-files/?d=FOLDER' for files that it serves itself",
    )


def export_places(arguments: argparse.Namespace) -> dict[str, str | None]:
    """The place that each option names; a ValueError if Hugging Face would not find its file."""
    tasks, metadata = arguments.label_studio, arguments.huggingface
    if metadata not in (None, PRINT) and os.path.basename(metadata) != _METADATA:
        raise ValueError(
            f"--huggingface must name a file {_METADATA}, which is all that Hugging Face looks for in the folder of the"
            f" images, got {metadata!r}."
        )
    return {
        "--parquet": arguments.parquet,
        "--label-studio": tasks,
        "--label-studio's configuration": str(Path(tasks).with_suffix(".xml")) if tasks and tasks != PRINT else None,
        "--argilla": arguments.argilla,
        "--cleanlab": arguments.cleanlab,
        "--huggingface": metadata,
    }


def export_contents(
    arguments: argparse.Namespace, history: History, found: SuspectTable
) -> Mapping[str, tuple[str | None, Callable[[], Content]]]:
    """The place and the content of each option, for `deliver`."""
    import pyarrow.parquet as pq

    from lightning_flip.reports import exports

    rows, root, places = found.rows, arguments.image_root, export_places(arguments)
    choices = exports.class_choices(rows, history.class_names, history.num_classes)

    def parquet(stream: BinaryIO) -> None:
        pq.write_table(rows, stream, compression="zstd")

    def label_studio() -> str:
        version = f"lightning-flip {history.run.run_id[:8]}"
        return exports.label_studio_tasks(rows, choices, image_root=root, model_version=version)

    def label_studio_config() -> str:
        config, place = exports.label_studio_config(choices), places["--label-studio's configuration"]
        if place is not None and _content(place) not in (None, config):
            raise exports.ExportError(f"{place} is another labeling configuration, and is not overwritten. {_REMEDY}")
        return config

    def huggingface() -> str:
        place = arguments.huggingface
        if place == PRINT:
            return exports.huggingface_metadata(rows, image_root=root)
        text = exports.huggingface_metadata(rows, os.path.dirname(place) or ".", root)
        before = _content(place)
        if before is not None and before.partition("\n")[0] != text.partition("\n")[0]:
            raise exports.ExportError(f"{place} has other columns, and is not overwritten. {_REMEDY}")
        return text

    contents: dict[str, Callable[[], Content]] = {
        "--parquet": lambda: parquet,
        "--label-studio": label_studio,
        "--label-studio's configuration": label_studio_config,
        "--argilla": lambda: exports.argilla_records(rows, choices, image_root=root),
        "--cleanlab": lambda: exports.cleanlab_arrays(history, arguments.split).write,
        "--huggingface": huggingface,
    }
    return {option: (places[option], content) for option, content in contents.items()}


def _content(place: str) -> str | None:
    """The text of a file, None if there is none; what cannot be decoded is replaced."""
    try:
        return Path(place).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
