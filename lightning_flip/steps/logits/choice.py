"""Which tensor of a step holds its logits, and what its loss does with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from lightning_flip.steps.logits._loss_targets import Relation, relate, unsupported
from lightning_flip.steps.logits._search import Output, Search
from lightning_flip.steps.logits.loss_calls import IGNORED, LossCall
from lightning_flip.steps.outputs import Place, address, as_logits, kind_of_values, two_dimensional

__all__ = ["Answer", "Choice", "NotSupportedError", "Question", "choose", "choose_at", "entered"]


@dataclass(frozen=True)
class Choice:
    """Where the logits of a kind of step are, and what the loss makes of them.

    Attributes:
        place: the output that holds them; None if the loss's own input is taken.
        kind: what the output is, one of :data:`~lightning_flip.steps.outputs.KINDS`.
        classes: number of classes.
        columns: of the output; one for two classes.
        call: position of the loss among the step's calls of losses, or of what losses are built from; None if there is
            none.
        losses: whether it is a loss, which knows its target.
        target: where the batch keeps the loss's targets, if that is not the usual place.
        loss_targets: take the loss's targets, which rename the batch's.
        watch: check the losses of every step.
        equal: whether the step returned the loss that :meth:`loss` computes, so that it tells of other targets.
        mixed: whether the loss had other targets than the batch's.
        by_value: whether the output entered the loss as a copy, or through a function.
        name: of the loss function.
        weight: its class weights.
        smoothing: its label smoothing.
        reduction: its reduction.
        ignored: the label that it leaves out; None if it leaves out none, or if unknown.
        looks: what the values of the output look like, regardless of the loss.
        made_by: the submodule that made the inputs of the one that gives the logits.
        edited: whether the output was edited in place before the loss.
        prefix: whether the output has more rows than the batch has samples, and the loss was given the first ones.
        doubtful: whether a later batch may show other targets to be the loss's, which are equal so far.
        several: how often the place gave an output, where training's place is taken without a loss.
        graded: whether the forward ran with gradient, as nearly always in training; others do not count then.
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
    by_value: bool = False
    name: str = ""
    weight: Tensor | None = field(default=None, compare=False)
    smoothing: float = 0.0
    reduction: str = "mean"
    ignored: int | None = None
    looks: str | None = None
    made_by: str | None = None
    edited: bool = False
    prefix: bool = False
    doubtful: bool = False
    several: int = 1
    graded: bool = True

    @property
    def binary(self) -> bool:
        """Whether the loss is a binary cross entropy for each of several classes."""
        return self.name.startswith("binary") and self.columns > 1

    @property
    def plain(self) -> bool:
        """Whether the loss is the mean cross entropy, according to its call."""
        return self.reduction != "sum" and self.weight is None and not self.smoothing and not self.binary

    def loss(self, logits: Tensor, target: Tensor) -> Tensor | None:
        """The loss of some logits as it was called; None where it cannot be computed from them."""
        if len(target) != len(logits) or (target.ndim == 2 and target.shape != logits.shape):
            return None
        wide = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
        target = target.to(logits.device)
        ignored = IGNORED if self.ignored is None else self.ignored
        if target.ndim == 1:
            outside = (target < 0) | (target >= logits.shape[1])
            if bool((outside if self.ignored is None else outside & (target != ignored)).any()):
                return None
        if self.binary:
            return self._binary_loss(wide, target)
        weight = None if self.weight is None or len(self.weight) != logits.shape[1] else self.weight.to(wide)
        reduction = "sum" if self.reduction == "sum" else "mean"
        target = target.to(wide) if target.ndim == 2 else target
        options: dict[str, Any] = {} if target.ndim == 2 else {"ignore_index": ignored}
        return F.cross_entropy(wide, target, weight, reduction=reduction, label_smoothing=self.smoothing, **options)

    def _binary_loss(self, logits: Tensor, target: Tensor) -> Tensor | None:
        """The mean binary cross entropy against labels as zeros and ones."""
        if target.ndim != 1 or self.weight is not None or self.reduction == "sum":
            return None
        ones = F.one_hot(target, logits.shape[1]).to(logits)
        ones = ones * (1 - self.smoothing) + self.smoothing / logits.shape[1]
        if self.name == "binary_cross_entropy":
            return F.binary_cross_entropy(logits.exp().clamp_max(1.0), ones)
        return F.binary_cross_entropy_with_logits(logits, ones)

    def gives(self, loss: Tensor, logits: Tensor, target: Tensor) -> bool:
        """Whether a step's loss is :meth:`loss` of its logits; waits for a device."""
        expected = self.loss(logits, target)
        if expected is None:
            return False
        bound = self.tolerance(logits.dtype, loss.dtype, labels=target.ndim == 1)
        given = loss.detach().reshape(()).to(expected)
        return bool(torch.isclose(given, expected, rtol=bound, atol=bound, equal_nan=True))

    def tolerance(self, logits: torch.dtype, loss: torch.dtype, *, labels: bool) -> float:
        """How exactly a loss can be compared: autocast runs two of them in float32, whatever the logits are."""
        exact = self.name in ("cross_entropy", "binary_cross_entropy_with_logits") and loss == torch.float32 and labels
        return 2e-2 if logits in (torch.float16, torch.bfloat16) and not exact else 1e-4


class NotSupportedError(TypeError):
    """The module is not a classifier with one prediction per sample."""


@dataclass(eq=False)
class Question:
    """What a choice depends on besides the search.

    Attributes:
        batch: the part of the batch that a source follows.
        target_from: the source's.
        rows: number B of its samples.
        training: whether it is a training step.
        step: its name.
        returned: what the step returned as its loss, where it did.
        target: the usual targets of the batch, if it has any.
        remembered: what training chose.
        classes: number of classes, if the data or the module know it.
        outputs: the kind that the source gives.
        ignored: the label that the source leaves out.
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
    ignored: int | None = None

    @property
    def counted(self) -> bool:
        """Whether some usual target is one that torch's losses do not leave out by themselves."""
        target = self.target
        return target is None or target.ndim > 1 or bool((target != IGNORED).any())


@dataclass(eq=False)
class Answer:
    """A choice and the running step's tensors: logits with their graph, as they were given, and their inputs."""

    choice: Choice
    logits: Tensor
    values: Tensor
    inputs: tuple[tuple[Any, ...], dict[str, Any]]
    labels: Tensor | None  # the loss's, where they count


def choose(search: Search, question: Question) -> Answer | None:
    """The logits of a step; None if nothing of their form came up."""
    outputs = [output for output in search.outputs if len(output.tensor) >= question.rows]
    losses = [call for call in search.calls.calls if call.is_loss]
    groups, problem = _grouped(losses, outputs, question)
    called = [group for group in groups if not group.calls[0].by_hand]
    written = [group for group in groups if group.calls[0].by_hand]
    found = _by_loss(called, losses, question)
    if found is not None:
        return found
    outputs = [output for output in outputs if output.graded]
    normalizers = [call for call in search.calls.calls if not call.is_loss]
    ways: dict[str, Callable[[], Answer | None]] = {
        "written out": lambda: _by_loss(written, losses, question),
        "normalized": lambda: _by_normalizer(normalizers, outputs, question),
        "remembered": lambda: _by_memory(outputs, question),
        "returned": lambda: _by_returned_loss(outputs, question),
        "form": lambda: _by_form(outputs, question),
    }
    order = list(ways)
    if question.step == "predict_step":
        order = ["remembered", "form"]
    elif not question.training:  # what is logged there may be written out of anything
        order = ["remembered", "written out", "normalized", "returned", "form"]
    for way in order:
        found = found or ways[way]()
    if problem is not None and (found is None or _was_given(found, problem[0], search.outputs)):
        raise NotSupportedError(
            f"{question.step} is not supported: {problem[1]} Only classifiers with one prediction and one label "
            "per sample are supported."
        )
    return _with_other_targets(found, [*called, *written], losses, question) if question.training else found


def _was_given(answer: Answer, call: LossCall, outputs: list[Output]) -> bool:
    """Whether a loss was given what was found, by memory, in whatever form."""
    at = [output for output in outputs if output.place == answer.choice.place]
    return any(address(output.tensor) == address(call.input) for output in at)


def _with_other_targets(
    found: Answer | None, groups: list[_Group], losses: list[LossCall], question: Question
) -> Answer | None:
    """The same, or what a loss with other targets was given, if that is the same output or there is nothing else."""
    for group in groups:
        if group.relation.kind != "other":
            continue
        place = None if group.output is None else group.output.place
        if found is not None and (found.choice.place != place or place is None):
            continue
        columns = two_dimensional(group.calls[0].input)
        assert columns is not None
        if columns.shape[1] == 1 or question.classes in (None, columns.shape[1]):
            return _answer_of(group, question, losses.index(group.calls[0]))
    return found


def choose_at(search: Search, output: Output, question: Question) -> Answer | None:
    """The same if the output is given; None for one column of unknown kind."""
    losses = [call for call in search.calls.calls if call.is_loss]
    groups, _ = _grouped(entered(output, losses), [output], question)
    for by_hand in (False, True):
        chosen = [group for group in groups if group.calls[0].by_hand == by_hand]
        if chosen:
            return _answer_of(chosen[0], question, losses.index(chosen[0].calls[0]))
    before, columns = question.remembered, two_dimensional(output.values)
    kind = question.outputs or (None if columns is None else kind_of_values(columns))
    if kind is None and before is not None and before.place == output.place:
        kind = before.kind
    return _from_output(output, question, kind)


def entered(output: Output, losses: list[LossCall]) -> list[LossCall]:
    """The losses that were given an output."""
    return [call for call in losses if two_dimensional(call.input) is not None and _giver(call, [output])[0]]


# -- by the loss --------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Group:
    """The calls of losses with one input."""

    calls: list[LossCall]
    relations: list[Relation]
    output: Output | None
    kind: str
    by_value: bool

    @property
    def relation(self) -> Relation:
        """The one that counts: other targets in one call are other targets."""
        kinds = {relation.kind for relation in self.relations}
        if len(kinds) == 1:
            return self.relations[0]
        labels = next((relation.labels for relation in self.relations if relation.kind != "batch"), None)
        return Relation("other", labels=labels)


def _grouped(
    losses: list[LossCall], outputs: list[Output], question: Question
) -> tuple[list[_Group], tuple[LossCall, str] | None]:
    """The calls by their input, and a call that no classifier makes, with the reason."""
    groups: list[_Group] = []
    problem = None
    for call in losses:
        reason = unsupported(call, question.batch, question.target_from, question.rows)
        problem = problem or (None if reason is None else (call, reason))
        columns = two_dimensional(call.input)
        if reason is not None or columns is None or len(columns) != question.rows:
            continue
        relation = relate(call, question.batch, question.target_from, question.rows)
        for group in groups:
            first = group.calls[0]
            if first.by_hand == call.by_hand and (first.input is call.input or _begins_alike(first.input, call.input)):
                group.calls.append(call)
                group.relations.append(relation)
                break
        else:
            groups.append(_Group([call], [relation], *_giver(call, outputs)))
    return groups, problem


def _by_loss(groups: list[_Group], losses: list[LossCall], question: Question) -> Answer | None:
    """The input of the loss that was given the batch's labels, of the usual ones first."""
    ranks = [group.relation.rank for group in groups]
    best = min((rank for rank in ranks if rank is not None), default=None)
    if best is None:
        return None
    chosen = [group for group, rank in zip(groups, ranks, strict=True) if rank == best]
    first = min(group.calls[0].backwards for group in chosen)  # SAM evaluates its loss again after a backward pass
    chosen = [group for group in chosen if group.calls[0].backwards == first]
    group = _one_of(chosen, question)
    return _answer_of(group, question, losses.index(group.calls[0]))


def _one_of(groups: list[_Group], question: Question) -> _Group:
    """The one that is the module's own forward, of the first of several calls, or the first part of one output."""
    before = question.remembered
    places = [None if group.output is None else group.output.place for group in groups]
    for group, place in zip(groups, places, strict=True):
        known = not question.training and before is not None and place is not None and place == before.place
        if known or place == Place():
            return group
    if len(groups) == 1:
        return groups[0]
    if None not in places:
        if len({(place.path, place.keys) for place in places if place}) == 1:
            return groups[0]
        if len({(place.path, place.call) for place in places if place}) == 1:  # logits and auxiliary logits, usually
            named = [group for group, place in zip(groups, places, strict=True) if place and "logits" in place.keys]
            return named[0] if named else min(groups, key=_position)
    listed = ", ".join(dict.fromkeys(f'"{place}"' if place else "one that no module gave" for place in places))
    option = next((f'logits_from="{place}"' for place in places if place), "logits_from=")
    raise ValueError(
        f"{question.step} has {len(groups)} losses against the same labels, and which of their inputs are the logits "
        f"cannot be told: {listed}. Name one of them: {option}."
    )


def _position(group: _Group) -> tuple[str, ...]:
    assert group.output is not None
    return tuple(f"{key:09d}" if isinstance(key, int) else "" for key in group.output.place.keys)


def _answer_of(group: _Group, question: Question, position: int) -> Answer:
    """The choice of a group, whose first call has a position among all losses of the step."""
    call, relation, output = group.calls[0], group.relation, group.output
    mixed, renamed = relation.kind == "other", relation.kind == "renamed"
    said = question.target_from is not None  # the user says which labels count
    choice = Choice(
        None if output is None else output.place,
        group.kind,
        0,  # said by the answer
        call=position,
        target=() if mixed or renamed else relation.keys,
        loss_targets=renamed and not said,
        watch=output is None or mixed or renamed or relation.doubtful or len(group.calls) > 1,
        mixed=mixed,
        by_value=group.by_value,
        name=call.name,
        weight=None if call.weight is None else call.weight.detach().clone(),
        ignored=call.ignored,
        smoothing=call.smoothing or relation.smoothing,
        reduction=call.reduction,
        made_by=None if output is None else output.made_by,
        edited=output is not None and _edited(output, call),
        doubtful=relation.doubtful and not mixed,
        graded=output is None or output.graded,
    )
    labels = relation.labels if (renamed and not said) or (relation.keys and not mixed) else None
    if output is None:
        return _answer(choice, call.input, call.values, ((), {}), question, labels)
    return _answer(choice, output.tensor, output.values, output.inputs, question, labels)


def _giver(call: LossCall, outputs: list[Output]) -> tuple[Output | None, str, bool]:
    """The outermost output that entered a loss, its kind, and whether it entered as a copy or through a function."""
    ranked = sorted(outputs, key=lambda output: (not output.graded, output.depth))
    for output in ranked:
        # What a checkpoint with use_reentrant=True ran has its gradient from the checkpoint.
        if (output.graded or output.tensor.requires_grad) and _begins_alike(output.tensor, call.input):
            return output, call.kind, False
    ranked = [output for output in ranked if output.graded]
    columns = two_dimensional(call.values)
    assert columns is not None
    if not len(columns) or bool((columns == columns[:1, :1]).all()):
        return None, call.kind, False  # equal numbers say nothing, as those of a head that begins at zero
    functions: list[tuple[str, Callable[[Tensor], Tensor]]] = [(call.kind, lambda given: given)]
    if call.name == "nll_loss":
        functions += [("logits", lambda given: F.log_softmax(given, dim=1)), ("probs", torch.log)]
    elif call.name == "binary_cross_entropy":
        functions += [("logits", torch.sigmoid)]
    for kind, function in functions[:1]:
        for output in ranked:
            given = _cut(output.values, columns)
            if given is not None and torch.equal(function(given.to(columns)), columns):
                return output, kind, True
    for output in ranked:
        for kind, function in functions[1:]:
            given = _cut(output.values, columns)
            if given is not None and torch.allclose(function(given.to(columns)), columns, rtol=1e-5, atol=1e-6):
                return output, kind, True
    return None, call.kind, False


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
        address(first) == address(second) != 0
        and first.shape[1] == second.shape[1]
        and len(first) >= len(second)
        and (first.stride() == second.stride() or first.shape[1] == 1)
    )


# -- without a loss that knows the target ---------------------------------------------------------------


def _by_normalizer(calls: list[LossCall], outputs: list[Output], question: Question) -> Answer | None:
    kinds = [("log_softmax", "logsumexp"), ("softmax",)]
    for names in kinds if question.training else kinds[:1] if question.step != "predict_step" else []:
        groups: list[_Group] = []
        for call in calls:
            columns = two_dimensional(call.input)
            if call.name not in names or columns is None or len(columns) != question.rows or columns.shape[1] < 2:
                continue
            output, _, by_value = _giver(call, outputs)
            # A part of the data may have fewer classes than the network.
            least = question.classes or 2
            if columns.shape[1] == question.classes or (
                output is not None and columns.shape[1] >= least and names != ("softmax",)
            ):
                groups.append(_Group([call], [Relation("batch")], output, "logits", by_value))
        if not groups:
            continue
        chosen = _one_of(groups, question)
        call, given = chosen.calls[0], chosen.output
        choice = Choice(
            None if given is None else given.place,
            "logits",
            call.input.shape[1],
            call=calls.index(call),
            losses=False,
            watch=given is None,
            by_value=chosen.by_value,
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
    fitting = [output for output in outputs if len(output.tensor) == question.rows or before.prefix]
    there = (before.place.path, before.place.keys)
    fitting = [output for output in fitting if (output.place.path, output.place.keys) == there]
    if not fitting:
        return None
    columns = two_dimensional(fitting[0].values)
    kind = None if columns is None else kind_of_values(columns)
    # Softmax in evaluation alone is usual; where training's values looked like it, its kind stays.
    kind = before.kind if kind is None or kind == before.looks else kind
    answer = _from_output(fitting[0], question, kind)
    if answer is not None:
        answer.choice = replace(answer.choice, several=len(fitting))
    return answer


def _by_returned_loss(outputs: list[Output], question: Question) -> Answer | None:
    loss, target = question.returned, question.target
    if loss is None or target is None or loss.numel() != 1 or not question.counted:
        return None
    fitting: list[tuple[Output, str]] = []
    for output in sorted(outputs, key=lambda output: output.depth):
        columns = two_dimensional(output.values[: question.rows])
        kinds = ["logits"] if columns is None or columns.shape[1] > 1 else ["logits", "probs"]
        for kind in kinds:
            logits = as_logits(output.values[: question.rows], kind)
            if logits is None or not _MEAN.gives(loss, logits, target):
                continue
            if not any(torch.equal(other.values, output.values) for other, _ in fitting):
                fitting.append((output, kind))
    if len(fitting) != 1:
        return None
    # Only a batch with that label shows whether the loss leaves it out.
    ignored = IGNORED if target.ndim == 1 and bool((target == IGNORED).any()) else None
    return _from_output(fitting[0][0], question, fitting[0][1], ignored)


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


def _from_output(output: Output, question: Question, kind: str | None, ignored: int | None = None) -> Answer | None:
    columns = two_dimensional(output.values)
    if kind is None and columns is not None:
        kind = kind_of_values(columns)
    logits = None if kind is None else as_logits(output.tensor, kind)
    if kind is None or logits is None:
        return None
    if ignored is None and not question.training and question.remembered is not None:
        ignored = question.remembered.ignored  # no loss shows it, but training's did
    choice = Choice(output.place, kind, logits.shape[1], made_by=output.made_by, ignored=ignored)
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
    given = two_dimensional(values)
    looks = None if given is None else kind_of_values(given)
    choice = replace(choice, kind=kind, classes=logits.shape[1], columns=columns, prefix=prefix, looks=looks)
    if question.ignored is not None:
        choice = replace(choice, ignored=question.ignored)
    target = labels if labels is not None else question.target
    equal = False
    known = target is not None and question.returned is not None and question.counted
    if question.training and not choice.mixed and known:
        assert target is not None
        assert question.returned is not None
        decided = choice.name not in ("", "by_hand") or _differ(kept)
        equal = decided and question.returned.numel() == 1 and choice.gives(question.returned, kept, target)
    watch = choice.watch or (choice.by_value and not equal and choice.call is not None)
    return Answer(replace(choice, equal=equal, watch=watch), logits, kept, inputs, labels)


def _differ(logits: Tensor) -> bool:
    """Whether cross entropies of rows can differ: otherwise weights and smoothing do not show."""
    return bool((logits != logits[:1, :1]).any())


_MEAN = Choice(None, "logits", 0, ignored=IGNORED)
