"""Which of the tensors that a step computed are its logits, and what its loss makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from lightning_flip.steps._loss_calls import LossCall
from lightning_flip.steps._loss_targets import Relation, relate, unsupported
from lightning_flip.steps._outputs import Place, as_logits, kind_of_values, two_dimensional
from lightning_flip.steps._search import Output, Search

__all__ = ["Answer", "Choice", "NotSupportedError", "Question", "choose", "choose_at", "is_mean_cross_entropy"]

_MEAN_LOSSES = ("", "by_hand", "cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits")


@dataclass(frozen=True)
class Choice:
    """Where the logits of a kind of step are, and what the loss makes of them.

    Attributes:
        place: the output that holds them; None where the loss's own input is taken.
        kind: what the output is, one of :data:`~lightning_flip.steps._outputs.KINDS`.
        classes: number of classes.
        columns: of the output; one for two classes.
        call: position of the loss's call among those of its kind in the step; None if no loss was seen.
        losses: whether that is a loss function; else it is what losses are built from.
        target: where the batch keeps the loss's targets, if that is not the usual place.
        loss_targets: take the loss's targets, which rename the batch's.
        watch: look at the loss in every step.
        equal: whether the returned loss is the mean cross entropy, so that it tells of other targets.
        mixed: whether the loss had other targets than the batch's.
        name: of the loss function.
        weighted: whether it had class weights.
        smoothing: its label smoothing.
        reduction: its reduction.
        made_by: the submodule that made the inputs of the one that gives the logits.
        edited: whether the output was edited in place before the loss.
        prefix: whether the output has more rows than the batch has samples, and the loss was given the first ones.
    """

    place: Place | None
    kind: str
    classes: int
    columns: int = 0
    call: int | None = None
    losses: bool = True
    target: tuple[str | int, ...] = ()
    loss_targets: bool = False
    watch: bool = False
    equal: bool = False
    mixed: bool = False
    name: str = ""
    weighted: bool = False
    smoothing: float = 0.0
    reduction: str = "mean"
    made_by: str | None = None
    edited: bool = False
    prefix: bool = False

    @property
    def binary(self) -> bool:
        """Whether the loss is a binary cross entropy for each of several classes."""
        return self.name.startswith("binary") and self.columns > 1


class NotSupportedError(TypeError):
    """The module is no classifier that gives one prediction a sample."""


@dataclass(eq=False)
class Question:
    """What a choice depends on beside the search.

    Attributes:
        batch: the part of the batch that a source follows.
        target_from: the source's.
        rows: number B of its samples.
        training: whether it is a training step.
        step: its name.
        returned: what the step returned as its loss, where it did.
        target: the usual targets of the batch, if it has any.
        remembered: what training chose.
        classes: number of classes, where the data or the module say it.
        outputs: the kind that the source gives.
    """

    batch: Any
    target_from: Any
    rows: int
    training: bool
    step: str
    returned: Tensor | None
    target: Tensor | None
    remembered: Choice | None
    classes: int | None
    outputs: str | None


@dataclass(eq=False)
class Answer:
    """A choice and the running step's tensors: logits with their graph, as they were given, and their inputs."""

    choice: Choice
    logits: Tensor
    values: Tensor
    inputs: tuple[tuple[Any, ...], dict[str, Any]]
    labels: Tensor | None  # the loss's, where they count


def choose(search: Search, question: Question) -> Answer | None:
    """The logits of a step; None if nothing of their form came up.

    Raises:
        NotSupportedError: the loss is none of a classifier with one label a sample.
        ValueError: several outputs could be the logits.
    """
    outputs = [output for output in search.outputs if len(output.tensor) >= question.rows]
    every = [call for call in search.calls.calls if call.is_loss]
    losses = [call for call in every if not call.by_hand]
    found = _by_loss(losses, outputs, question, every) if losses else None
    if found is None and len(losses) < len(every):
        found = _by_loss([call for call in every if call.by_hand], outputs, question, every)
    if found is None:
        found = _by_normalizer([call for call in search.calls.calls if not call.is_loss], outputs, question)
    if found is None:
        found = _by_memory(outputs, question)
    if found is None:
        found = _by_returned_loss(outputs, question)
    if found is None:
        found = _by_form(outputs, question)
    return found


def choose_at(search: Search, output: Output, question: Question) -> Answer | None:
    """The same where somebody says which output it is; None for one column of which nobody knows what it is."""
    losses = [call for call in search.calls.calls if call.is_loss]
    entered = [call for call in losses if two_dimensional(call.input) is not None and _giver(call, [output])[0]]
    for chosen in ([call for call in entered if not call.by_hand], [call for call in entered if call.by_hand]):
        found = _by_loss(chosen, [output], question, losses) if chosen else None
        if found is not None:
            return found
    before = question.remembered
    kind = question.outputs
    if kind is None and before is not None and before.place == output.place:
        kind = before.kind
    return _from_output(output, question, kind)


# -- by the loss --------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Group:
    """The calls of losses with one input."""

    calls: list[LossCall]
    relations: list[Relation]
    output: Output | None
    kind: str

    @property
    def name(self) -> str:
        return str(self.output.place) if self.output is not None else "(made in the step)"

    @property
    def worst(self) -> Relation:
        for relation in self.relations:
            if relation.kind == "other":
                return relation
        return self.relations[0]


def _by_loss(losses: list[LossCall], outputs: list[Output], question: Question, every: list[LossCall]) -> Answer | None:
    """The input of the losses that were given the batch's labels."""
    groups, problem = _grouped(losses, outputs, question)
    good = [group for group in groups if group.worst.kind != "other"]
    good = [group for group in good if group.worst.kind == "batch"] or good
    if not good and losses[0].by_hand and not any(group.output for group in groups):
        return None  # some distribution times some logarithms
    if not good and problem is not None:
        raise NotSupportedError(
            f"{question.step} is not supported: {problem} Classifiers with one prediction and one label a sample are "
            "followed."
        )
    chosen = _one_of(good or groups, question)
    return None if chosen is None else _answer_of(chosen, question, every.index(chosen.calls[0]))


def _grouped(losses: list[LossCall], outputs: list[Output], question: Question) -> tuple[list[_Group], str | None]:
    """The calls by their input, and why one is none of a classifier."""
    groups: list[_Group] = []
    problem = None
    for call in losses:
        reason = unsupported(call, question.batch, question.target_from, question.rows)
        problem = problem or reason
        columns = two_dimensional(call.input)
        if reason is not None or columns is None or len(columns) != question.rows:
            continue
        relation = relate(call, question.batch, question.target_from, question.rows)
        if question.target_from is not None and relation.kind == "renamed":
            relation = Relation("batch", labels=question.target)  # the user says which labels count
        for group in groups:
            if group.calls[0].input is call.input or _begins_alike(group.calls[0].input, call.input):
                group.calls.append(call)
                group.relations.append(relation)
                break
        else:
            groups.append(_Group([call], [relation], *_giver(call, outputs)))
    return groups, problem


def _answer_of(group: _Group, question: Question, position: int) -> Answer:
    """The choice of a group, whose first call has a position among all losses of the step."""
    call, relation, output = group.calls[0], group.relations[0], group.output
    mixed, renamed = group.worst.kind == "other", group.worst.kind == "renamed"
    choice = Choice(
        None if output is None else output.place,
        group.kind,
        0,  # said by the answer
        call=position,
        target=() if mixed else relation.keys,
        loss_targets=renamed,
        watch=output is None or mixed or renamed or len(group.calls) > 1,
        mixed=mixed,
        name=call.name,
        weighted=call.weight is not None,
        smoothing=call.smoothing or relation.smoothing,
        reduction=call.reduction,
        made_by=None if output is None else output.made_by,
        edited=output is not None and _edited(output, call),
    )
    labels = relation.labels if renamed or relation.keys else None
    if output is None:
        return _answer(choice, call.input, call.values, ((), {}), question, labels)
    return _answer(choice, output.tensor, output.values, output.inputs, question, labels)


def _one_of(groups: list[_Group], question: Question) -> _Group | None:
    paths = {group.output.place.path if group.output else None: group for group in reversed(groups)}
    whole = [group for group in groups if group.output and group.output.place == Place("")]
    if whole:
        return whole[0]
    same_part = len({(group.output.place.path, group.output.place.keys) for group in groups if group.output}) == 1
    if len(groups) < 2 or (len(paths) == 1 and None not in paths and same_part):
        return groups[0] if groups else None
    if all(group.output is None for group in groups):
        return groups[0]
    listed = ", ".join(dict.fromkeys(f'"{group.name}"' for group in groups if group.output))
    raise ValueError(
        f"{question.step} has {len(groups)} losses against the same labels, and which of their inputs are the logits "
        f"cannot be told: {listed}. Name one of them: logits_from={listed.split(', ')[0]}."
    )


def _giver(call: LossCall, outputs: list[Output]) -> tuple[Output | None, str]:
    """The outermost output that entered a loss: by memory, by value, or through a function of one argument."""
    ranked = sorted(outputs, key=lambda output: output.depth)
    for output in ranked:
        if _begins_alike(output.tensor, call.input):
            return output, call.kind
    columns = two_dimensional(call.values)
    assert columns is not None
    for output in ranked:
        given = _cut(output.values, columns)
        if given is not None and torch.equal(given.to(columns), columns):
            return output, call.kind
    functions: list[tuple[str, Callable[[Tensor], Tensor]]] = []
    if call.name == "nll_loss":
        functions = [("logits", lambda given: F.log_softmax(given, dim=1)), ("probs", torch.log)]
    elif call.name == "binary_cross_entropy":
        functions = [("logits", torch.sigmoid)]
    for output in ranked:
        for kind, function in functions:
            given = _cut(output.values, columns)
            if given is not None and torch.allclose(function(given.to(columns)), columns, rtol=1e-5, atol=1e-6):
                return output, kind
    return None, call.kind


def _edited(output: Output, call: LossCall) -> bool:
    columns = two_dimensional(call.values)
    given = None if columns is None or not _begins_alike(output.tensor, call.input) else _cut(output.values, columns)
    return given is not None and columns is not None and not torch.equal(given, columns)


def _cut(values: Tensor, like: Tensor) -> Tensor | None:
    columns = two_dimensional(values)
    if columns is None or columns.shape[1] != like.shape[1] or len(columns) < len(like):
        return None
    return columns[: len(like)]


def _begins_alike(whole: Tensor, part: Tensor) -> bool:
    """Whether a tensor is another one, a prefix of its rows, or the same column with another number of dimensions."""
    first, second = two_dimensional(whole), two_dimensional(part)
    if first is None or second is None or first.dtype != second.dtype:
        return False
    return (
        first.data_ptr() == second.data_ptr() != 0
        and first.shape[1] == second.shape[1]
        and len(first) >= len(second)
        and (first.stride() == second.stride() or first.shape[1] == 1)
    )


# -- without a loss that knows the target ---------------------------------------------------------------


def _by_normalizer(calls: list[LossCall], outputs: list[Output], question: Question) -> Answer | None:
    kinds = [("log_softmax", "logsumexp"), ("softmax",)]
    for names in kinds if question.training else kinds[:1] if question.step != "predict_step" else []:
        found: list[tuple[LossCall, Output | None]] = []
        for call in calls:
            columns = two_dimensional(call.input)
            if call.name not in names or columns is None or len(columns) != question.rows or columns.shape[1] < 2:
                continue
            output, _ = _giver(call, outputs)
            # A part of the data may have fewer classes than the network.
            least = question.classes or 2
            if columns.shape[1] == question.classes or (
                output is not None and columns.shape[1] >= least and names != ("softmax",)
            ):
                found.append((call, output))
        if not found:
            continue
        groups = [_Group([call], [Relation("batch")], output, "logits") for call, output in found]
        chosen = _one_of(groups, question)
        if chosen is None:
            continue
        call, given = chosen.calls[0], chosen.output
        choice = Choice(
            None if given is None else given.place,
            "logits",
            call.input.shape[1],
            call=calls.index(call),
            losses=False,
            watch=given is None,
            name=call.name,
            made_by=None if given is None else given.made_by,
        )
        tensor, values = (call.input, call.values) if given is None else (given.tensor, given.values)
        return _answer(choice, tensor, values, ((), {}) if given is None else given.inputs, question, None)
    return None


def _by_memory(outputs: list[Output], question: Question) -> Answer | None:
    before = question.remembered
    if before is None or before.place is None:
        return None
    for output in outputs:
        fits = len(output.tensor) == question.rows or before.prefix
        if fits and (output.place.path, output.place.keys) == (before.place.path, before.place.keys):
            return _from_output(output, question, before.kind)
    return None


def _by_returned_loss(outputs: list[Output], question: Question) -> Answer | None:
    loss, target = question.returned, question.target
    if loss is None or target is None or loss.numel() != 1:
        return None
    fitting: list[tuple[Output, str]] = []
    for output in sorted(outputs, key=lambda output: output.depth):
        columns = two_dimensional(output.values[: question.rows])
        kinds = ["logits"] if columns is None or columns.shape[1] > 1 else ["logits", "probs"]
        for kind in kinds:
            logits = as_logits(output.values[: question.rows], kind)
            if logits is None or not is_mean_cross_entropy(loss, logits, target):
                continue
            if not any(torch.equal(other.values, output.values) for other, _ in fitting):
                fitting.append((output, kind))
    if len(fitting) != 1:
        return None
    return _from_output(fitting[0][0], question, fitting[0][1])


def _by_form(outputs: list[Output], question: Question) -> Answer | None:
    """The module's own forward, or what is called logits; in training with the known number of classes only."""
    outputs = [output for output in outputs if len(output.tensor) == question.rows]
    said = question.outputs is not None  # then one column will do
    wide = [output for output in outputs if said or (output.tensor.ndim == 2 and output.tensor.shape[1] > 1)]
    named = [output for output in wide if output.place == Place("") or output.place.keys == ("logits",)]
    if not question.training:
        before = question.remembered
        named = [output for output in named if before is None or output.tensor.shape[1] == before.classes]
        first = [output for output in wide if output.place == Place("", (0,))]
        named = named or [output for output in first if output.tensor.shape[1] == question.classes]
        return _from_output(named[0], question, question.outputs) if named else None
    if question.classes is None:
        return None
    known = [output for output in wide if output.tensor.shape[1] == question.classes]
    outermost = [output for output in known if output.depth == min(other.depth for other in known)]
    if len({(output.place.path, output.place.keys) for output in outermost}) != 1:
        return None
    return _from_output(outermost[0], question, None)


def _from_output(output: Output, question: Question, kind: str | None) -> Answer | None:
    columns = two_dimensional(output.values)
    if kind is None and columns is not None:
        kind = kind_of_values(columns)
    logits = None if kind is None else as_logits(output.tensor, kind)
    if kind is None or logits is None:
        return None
    choice = Choice(output.place, kind, logits.shape[1], made_by=output.made_by)
    return _answer(choice, output.tensor, output.values, output.inputs, question, None)


def _answer(
    choice: Choice, tensor: Tensor, values: Tensor, inputs: Any, question: Question, labels: Tensor | None
) -> Answer:
    kind = question.outputs or choice.kind
    prefix, columns = len(tensor) > question.rows, 1 if tensor.ndim == 1 else tensor.shape[1]
    if prefix:
        tensor, values = tensor[: question.rows], values[: question.rows]
    logits, kept = as_logits(tensor, kind), as_logits(values, kind)
    assert logits is not None
    assert kept is not None
    target = labels if labels is not None else question.target
    equal = (
        question.training
        and choice.name in _MEAN_LOSSES
        and not (choice.mixed or choice.weighted or choice.smoothing)
        and question.returned is not None
        and target is not None
        and question.returned.numel() == 1
        and is_mean_cross_entropy(question.returned, kept, target)
    )
    return Answer(
        replace(choice, kind=kind, equal=equal, classes=logits.shape[1], columns=columns, prefix=prefix),
        logits,
        kept,
        inputs,
        labels,
    )


def is_mean_cross_entropy(loss: Tensor, logits: Tensor, target: Tensor) -> bool:
    """Whether a loss is the mean cross entropy of some logits; waits for a device."""
    if len(target) != len(logits) or (target.ndim == 2 and target.shape != logits.shape):
        return False
    target = target.to(logits.device)
    if target.ndim == 1 and bool(((target < 0) | (target >= logits.shape[1])).any()):
        return False
    wide = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
    expected = -F.log_softmax(wide, dim=1)
    rows = expected.gather(1, target[:, None])[:, 0] if target.ndim == 1 else (expected * target).sum(dim=1)
    tolerance = 2e-2 if logits.dtype in (torch.float16, torch.bfloat16) else 1e-4
    return bool(torch.isclose(loss.detach().to(rows).reshape(()), rows.mean(), rtol=tolerance, atol=tolerance))
