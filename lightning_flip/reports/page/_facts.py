"""What a report says about the run itself: when, with what, on which data, and what of it is missing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_flip.reports.dynamics import FlipTimeline
from lightning_flip.reports.page._redaction import hide_home, hide_secrets
from lightning_flip.reports.text import shorten
from lightning_flip.stores import History
from lightning_flip.stores.history.parts import HISTORY_FOLDER, PartKey, list_parts
from lightning_flip.stores.history.runs import library_version

__all__ = ["Configuration", "RunFacts", "find_gaps", "read_configurations", "run_facts"]

# What the facts themselves show.
_KNOWN_INFO = frozenset(("module", "world_size", "max_epochs", "class_names"))
_FILES = ("hparams.yaml", "config.yaml")
_LARGEST_FILE = 2**20
_MOST_ENTRIES, _MOST_NODES, _DEEPEST, _LONGEST = 300, 5_000, 20, 200
_MOST_NAMED, _MOST_RANKS = 8, 10_000
# A pass that saw less than this share of what another one saw was interrupted, or lost a part.
_FEW = 0.8


@dataclasses.dataclass(frozen=True)
class Configuration:
    """Settings of a run from one place, without secrets and home folders.

    Attributes:
        source: name of the file.
        entries: names, with dots, and values as text.
        left_out: how many more there are at least; 0 if all are shown.
        problem: why the file could not be read; "" if it could.
    """

    source: str
    entries: tuple[tuple[str, str], ...] = ()
    left_out: int = 0
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """Everything about a run but its samples.

    Attributes:
        rows: names and values as text.
        configurations: the settings of the run.
        gaps: what is missing, a sentence each.
    """

    rows: tuple[tuple[str, str], ...]
    configurations: tuple[Configuration, ...]
    gaps: tuple[str, ...]


def run_facts(folder: Path, history: History, timelines: Mapping[str, FlipTimeline]) -> RunFacts:
    """Collect the facts of a run.

    Args:
        folder: of the run.
        history: read from it.
        timelines: of the splits that the report shows, by split.
    """
    run = history.run
    rows = [
        ("folder", hide_home(str(folder))),
        ("run", run.run_id),
        ("recorded", f"{run.created} with lightning-flip {run.library_version} (format {run.format_version})"),
        ("report by", f"lightning-flip {library_version()}"),
    ]
    for name, title in (("module", "module"), ("max_epochs", "epochs planned"), ("world_size", "ranks")):
        if name in run.info:
            rows.append((title, str(hide_secrets(run.info[name]))))
    for split, timeline in timelines.items():
        rows.append((f"{split}: passes", _passes(timeline)))
        rows.append((f"{split}: coverage", _coverage(timeline)))
    for name, facts in run.data.items():
        rows.append((f"{name}: data", _data(facts)))
    return RunFacts(
        rows=tuple((shorten(name, _LONGEST), shorten(value, _LONGEST)) for name, value in rows),
        configurations=read_configurations(folder, run.info),
        gaps=find_gaps(folder, run.info, timelines),
    )


def _passes(timeline: FlipTimeline) -> str:
    if not len(timeline.epoch):
        return "none"
    first, last = int(timeline.epoch.min()), int(timeline.epoch.max())
    total = len(timeline.epoch)
    return f"{total:,} {'pass' if total == 1 else 'passes'}, epochs {first} to {last}"


def _coverage(timeline: FlipTimeline) -> str:
    """How many samples were seen, at all and by a pass."""
    if not len(timeline.epoch) or not timeline.samples:
        return "not computed: no pass"
    known, seen = int(timeline.known[-1]), timeline.seen / timeline.samples
    ever = f"{known:,} of {timeline.samples:,} samples seen"
    low, high = (f"{100 * share:.4g}%" for share in (seen.min(), seen.max()))
    return f"{ever}, {low if low == high else f'{low} to {high}'} of them by each pass"


def _data(facts: Mapping[str, object]) -> str:
    """The fingerprint of a dataset; of its hashes the beginning, which tells two apart."""
    shown = []
    for name, value in facts.items():
        text = str(value)
        whole = name in ("dataset", "length", "ids_are") or value is None
        shown.append(f"{name.replace('_', ' ')} {text if whole else text[:12]}")
    return ", ".join(shown)


def read_configurations(folder: Path, info: Mapping[str, object]) -> tuple[Configuration, ...]:
    """The settings that `run.json` keeps, and those of the logger's files if the run's folder is the logger's."""
    own = {name: value for name, value in info.items() if name not in _KNOWN_INFO}
    found = [_configuration("run.json", own)] if own else []
    found += [_read_yaml(folder / name) for name in _FILES if (folder / name).is_file()]
    return tuple(found)


def _configuration(source: str, content: object) -> Configuration:
    entries = _entries(hide_secrets(content), "", 0)
    shown = tuple(islice(entries, _MOST_ENTRIES))
    return Configuration(source, shown, sum(1 for _ in islice(entries, _MOST_ENTRIES)))


def _entries(content: object, name: str, depth: int) -> Iterator[tuple[str, str]]:
    """The leaves of nested mappings and lists of mappings; lists of scalars are leaves."""
    children: list[tuple[object, object]] = []
    if isinstance(content, Mapping):
        children = list(content.items())
    elif isinstance(content, Sequence) and any(isinstance(one, Mapping | list) for one in content):
        children = list(enumerate(content))
    if not children or depth == _DEEPEST:
        yield shorten(name or "value", _LONGEST), "null" if content is None else shorten(_text(content), _LONGEST)
        return
    for key, value in children:
        yield from _entries(value, f"{name}.{key}" if name else str(key), depth + 1)


def _text(content: object) -> str:
    """A leaf as text; the beginning of a long one, whose end would be cut anyway."""
    if isinstance(content, list):
        more = ", ..." if len(content) > _LONGEST else ""
        return f"[{', '.join(map(_text, content[:_LONGEST]))}{more}]"
    return str(content)


def _read_yaml(path: Path) -> Configuration:
    """A configuration file. No objects are made of it: a tag that is not YAML's own stands for its text."""
    try:
        import yaml  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        return Configuration(path.name, problem="PyYAML is not installed, so it was not read")
    try:
        with path.open("rb") as stream:
            content = stream.read(_LARGEST_FILE + 1)
        if len(content) > _LARGEST_FILE:
            return Configuration(path.name, problem="it is larger than 1 MB, so it was not read")
        return _configuration(path.name, _plain(yaml.compose(content, Loader=yaml.SafeLoader), count(1), 0))
    except (OSError, yaml.YAMLError, UnicodeError, RecursionError) as error:
        return Configuration(path.name, problem=f"it cannot be read ({type(error).__name__})")


def _plain(node: Any, counter: Iterator[int], depth: int) -> object:
    """The text of a YAML node, in dicts and lists; aliases may multiply, so that nodes are counted."""
    if node is None or node.tag == "tag:yaml.org,2002:null":
        return None
    if isinstance(node.value, str):
        return node.value
    if depth == _DEEPEST or next(counter) > _MOST_NODES:
        return "..."
    if node.id == "mapping":
        return {str(_plain(key, counter, depth + 1)): _plain(value, counter, depth + 1) for key, value in node.value}
    return [_plain(one, counter, depth + 1) for one in node.value]


def find_gaps(folder: Path, info: Mapping[str, object], timelines: Mapping[str, FlipTimeline]) -> tuple[str, ...]:
    """What a run did not record, or what was lost of it, a sentence each; nothing is said of what is complete."""
    keys = list(list_parts(folder))
    gaps = []
    for split, timeline in timelines.items():
        if not len(timeline.epoch):
            gaps.append(f"{split}: no pass was recorded.")
            continue
        gaps += _missing_epochs(split, np.unique(timeline.epoch))
        gaps += _missing_ranks(split, [key for key in keys if key.split == split], info)
        gaps += _unseen(split, timeline)
    if "val" not in timelines:
        gaps.append("val: no validation was recorded, so that scores are made of all epochs.")
    planned, train = info.get("max_epochs"), timelines.get("train")
    if isinstance(planned, int) and train is not None and 0 <= len(np.unique(train.epoch)) < planned:
        recorded = len(np.unique(train.epoch))
        gaps.append(
            f"train: {recorded:,} of {planned:,} planned epochs were recorded. The run was stopped, is still running,"
            " or its files are incomplete."
        )
    orphans = sum(1 for _ in (folder / HISTORY_FOLDER).rglob("*.orphan"))
    if orphans:
        gaps.append(f"Files set aside (*.orphan) when the run was resumed: {orphans:,}. They are not in this report.")
    return tuple(gaps)


def _missing_epochs(split: str, epochs: npt.NDArray[np.int64]) -> list[str]:
    """Epochs without a pass between those with one; a validation every few epochs lacks none in between."""
    steps = np.diff(epochs)
    step = int(np.bincount(steps).argmax()) if len(steps) else 1
    expected = np.arange(0 if split == "train" else epochs[0], epochs[-1] + 1, 1 if split == "train" else step)
    missing = np.setdiff1d(expected, epochs)
    if not len(missing):
        return []
    noun = "epoch" if len(missing) == 1 else "epochs"
    return [f"{split}: no part of {noun} {_ranges(missing)}; flips are counted between the epochs around."]


def _missing_ranks(split: str, keys: Sequence[PartKey], info: Mapping[str, object]) -> list[str]:
    """Passes that fewer ranks wrote than others did."""
    world = info.get("world_size")
    ranks = {key.rank for key in keys} | set(range(min(world, _MOST_RANKS) if isinstance(world, int) else 0))
    passes: dict[tuple[int, int], set[int]] = {}
    for key in keys:
        passes.setdefault((key.epoch, key.pass_), set()).add(key.rank)
    lacking = {moment: sorted(ranks - there) for moment, there in passes.items() if ranks - there}
    shown = [
        f"epoch {epoch} lacks rank {', '.join(map(str, absent[:_MOST_NAMED]))}"
        for (epoch, _), absent in islice(lacking.items(), _MOST_NAMED)
    ]
    if not shown:
        return []
    more = f", and {len(lacking) - len(shown):,} more passes" if len(lacking) > len(shown) else ""
    return [f"{split}: parts of some of the {len(ranks):,} ranks are missing: {'; '.join(shown)}{more}."]


def _unseen(split: str, timeline: FlipTimeline) -> list[str]:
    """Samples that no pass saw, and passes that saw fewer than others or than there are."""
    gaps, seen, samples = [], timeline.seen, timeline.samples
    never = samples - int(timeline.known[-1])
    if never:
        gaps.append(f"{split}: {never:,} of {samples:,} samples were never seen.")
    most = int(seen.max())
    if 0 < most < samples - never:
        gaps.append(
            f"{split}: no pass saw more than {most:,} of {samples:,} samples, as with drop_last or a sampler that"
            " draws."
        )
    few = np.flatnonzero(seen < _FEW * most)
    if len(few):
        noun = "pass of epoch" if len(few) == 1 else "passes of epochs"
        epochs = _ranges(np.unique(timeline.epoch[few]))
        share = 100 * float(seen[few].min()) / most
        gaps.append(
            f"{split}: the {noun} {epochs} saw fewer samples than others did (down to {share:.3g}%): interrupted, or"
            " parts are missing."
        )
    return gaps


def _ranges(numbers: npt.NDArray[np.integer]) -> str:
    """Numbers in rising order as ranges, such as 1, 4 to 6."""
    groups = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    shown = [f"{part[0]} to {part[-1]}" if len(part) > 1 else str(part[0]) for part in groups[:_MOST_NAMED]]
    return ", ".join(shown) + (", ..." if len(groups) > _MOST_NAMED else "")
