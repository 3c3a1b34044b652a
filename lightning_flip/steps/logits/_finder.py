"""Finds the logits of one source in one kind of step: a search in the first step, a capture in later ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_flip.steps.logits._loss_targets import Relation, relate, unsupported
from lightning_flip.steps.logits._search import Output, Search
from lightning_flip.steps.logits.capture import LogitCapture
from lightning_flip.steps.logits.choice import Answer, Choice, Question, choose, choose_at, entered
from lightning_flip.steps.logits.loss_calls import LossCall
from lightning_flip.steps.outputs import Place, as_logits, kind_of_values, two_dimensional
from lightning_flip.steps.source import StepSource

__all__ = ["Finder", "Found", "Inputs", "Sight"]

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass
class Found:
    """The logits of a step.

    Attributes:
        logits: ``[B, K]`` with their graph.
        inputs: of the forward that gave them; empty if unknown.
        kept: the logits as they were given, where they were copied.
        labels: the loss's own targets, if they are followed instead of the batch's.
        followed: whether the loss had the targets that are followed.
        looked: whether that was checked.
        moved: whether the loss was given something else than what was caught.
        choice: how they were found.
    """

    logits: Tensor
    inputs: Inputs
    kept: Tensor | None = None
    labels: Tensor | None = None
    followed: bool = True
    looked: bool = False
    moved: bool = False
    choice: Choice | None = None


@dataclass
class Sight:
    """What was seen of the running step.

    Attributes:
        looks: whether its losses were recorded.
        calls: of losses.
        search: of its modules, in a first step.
    """

    looks: bool
    calls: list[LossCall]
    search: Search | None


class Finder:
    """Finds the logits of a source in steps of one name."""

    def __init__(
        self,
        source: StepSource,
        name: str,
        capture: LogitCapture | None,
        settle: Callable[[Finder, Choice | None], None],
    ) -> None:
        self.source = source
        self.takes_output = source.takes_output
        self.name = name
        self.step = name.partition(" ")[0]  # without the number of a loader
        self.capture = self._given = capture
        self.choice: Choice | None = None
        self.needs_gradient = False  # whether forwards without gradient are ignored
        self.epoch = -1  # in which the loss was checked last
        self.found: Found | None = None  # in the running step
        self.candidates: list[str] = []  # outputs that were seen where nothing was found, as options to paste
        self.steps = 0
        self.unasked = 0  # steps in which it was searched for without being requested
        self._renaming: dict[int, int] = {}
        self._changes = False  # whether the loss was given something else at times
        self._settle = settle

    def find(self, rows: int, output: Any, ask: Callable[[], Question], sight: Sight) -> Found | None:
        """The logits of the running step; None if there are none."""
        choice, capture = self.choice, self.capture
        if self.takes_output:
            return self._from_output(rows, output)
        if choice is None:
            return self._choose(rows, ask(), sight)
        if choice.place is None:
            return self._from_loss(rows, ask, sight)
        assert capture is not None
        if capture.logits is None and capture.output is not None:  # its kind was settled in this step
            capture.logits = as_logits(capture.output, choice.kind)
            capture.kept = None if capture.values is None else as_logits(capture.values, choice.kind)
        if capture.logits is None:
            refuse_rows(capture.other_rows, rows)
            return None
        found = Found(capture.logits, capture.inputs, capture.kept, choice=choice)
        if sight.looks and choice.call is not None and choice.losses:
            self._look(found, capture, [call for call in sight.calls if call.is_loss], ask)
        return found

    def _look(self, found: Found, capture: LogitCapture, losses: list[LossCall], ask: Callable[[], Question]) -> None:
        """Check that the loss was given what was caught, and with which targets."""
        choice = self.choice
        assert choice is not None
        losses = [call for call in losses if call.by_hand == (choice.name == "by_hand")]
        if not losses:
            return  # a step without a loss
        mine = entered(_output_of(capture, None), losses)
        if mine:
            self._judge(found, mine, ask())
            return
        # The loss is given something else now: the next step is searched.
        found.followed, found.looked, found.moved = self._given is not None, True, True
        self._changes = True
        if self._given is None:
            self.choice, self.capture = None, None
            self._settle(self, None)

    def _from_output(self, rows: int, output: Any) -> Found | None:
        assert callable(self.source.logits_from)
        given = self.source.logits_from(output) if output is not None else None
        columns = two_dimensional(given) if isinstance(given, Tensor) else None
        if columns is None:
            return None
        refuse_rows([len(columns)], rows)
        if self.choice is None:
            kind = self.source.outputs or kind_of_values(columns)
            if kind is None:
                raise ValueError(_lone_column("logits_from"))
            self._settle(self, Choice(Place(), kind, max(2, columns.shape[1]), ignored=self.source.ignore_index))
        assert self.choice is not None
        logits = as_logits(columns, self.choice.kind)
        return None if logits is None else Found(logits, ((), {}), choice=self.choice)

    # -- the first step -----------------------------------------------------------------------------------

    def _choose(self, rows: int, question: Question, sight: Sight) -> Found | None:
        search, capture = sight.search, self.capture
        if search is None:
            return None
        search.close()
        answer = None
        if capture is None:
            answer = choose(search, question)
        elif capture.output is not None:
            answer = choose_at(search, _output_of(capture, search), question)
            if answer is None:
                raise ValueError(_lone_column(f'logits_from="{capture.place}"'))
        else:
            refuse_rows(capture.other_rows, rows)
        if answer is None:
            self.candidates = _candidates(search, rows)
            if capture is None:
                _refuse_all(search, sight.calls, rows)
            return None
        graded = answer.choice.graded if capture is None else capture.graded
        self.needs_gradient = question.training and graded and answer.logits.requires_grad
        choice = answer.choice
        if self._changes and choice.call is not None:
            choice = answer.choice = replace(choice, watch=True)
        self._settle(self, choice)
        before = question.target
        after = answer.labels if answer.choice.loss_targets else before if answer.choice.doubtful else None
        if after is not None and before is not None and before.ndim == 1:
            self._renaming = dict(zip(before.tolist(), after.tolist(), strict=True))
        self._say(answer)
        logits = answer.logits if answer.logits.requires_grad else answer.values
        choice = answer.choice
        looked = choice.call is not None
        found = Found(logits, answer.inputs, answer.values, answer.labels, not choice.mixed, looked)
        found.choice = choice
        return found

    def _say(self, answer: Answer) -> None:
        choice = answer.choice
        where = "the input of the loss" if choice.place is None else _described(choice.place)
        if choice.kind != "logits":
            kind = {"probs": "probabilities", "log_probs": "log-probabilities"}[choice.kind]
            rank_zero_info(f"lightning_flip: {self.step}: {where} gives {kind}, which are turned into logits.")
        if choice.place is None:
            rank_zero_info(
                f"lightning_flip: {self.step}: the logits are {where}, which is the output of no module; the losses of "
                "every step are recorded."
            )
        if choice.several > 1:
            rank_zero_warn(
                f"{self.step} has no loss, and {where} gives {choice.several} outputs in it; the first one is "
                'recorded. Name another one with logits_from=, such as "net#2", or a function of what the step returns.'
            )
        if self._renaming and choice.loss_targets and self.name == "training_step":
            rank_zero_warn(
                f"{self.step} renames the labels of the batch before the loss; the loss's labels are followed."
            )

    # -- later steps --------------------------------------------------------------------------------------

    def _from_loss(self, rows: int, ask: Callable[[], Question], sight: Sight) -> Found | None:
        choice = self.choice
        assert choice is not None
        assert choice.call is not None
        calls = [call for call in sight.calls if call.is_loss == choice.losses]
        if len(calls) <= choice.call:
            return None
        call = calls[choice.call]
        columns = two_dimensional(call.input)
        if columns is None or len(columns) != rows:
            refuse_rows([len(call.input)], rows)
            return None
        logits, kept = as_logits(call.input, choice.kind), as_logits(call.values, choice.kind)
        assert logits is not None
        assert kept is not None
        found = Found(logits if logits.requires_grad else kept, ((), {}), kept, choice=choice)
        if choice.losses:
            self._judge(found, [other for other in calls if other.input is call.input], ask())
        return found

    def _judge(self, found: Found, calls: list[LossCall], question: Question) -> None:
        """Compare the targets of the losses that the logits entered with the ones that are followed."""
        found.looked = True
        for call in calls:
            choice = self.choice
            assert choice is not None
            relation = relate(call, question.batch, question.target_from, question.rows)
            if unsupported(call, question.batch, question.target_from, question.rows) is not None:
                relation = Relation("other")
            if choice.doubtful and relation.kind != "other":
                self._decide(found, relation, question)
            elif relation.kind == "batch" and (relation.keys == choice.target or choice.mixed):
                pass
            elif (choice.loss_targets and relation.one_hot) or self._renames(question.target, relation.labels):
                found.labels = relation.labels
                self.choice = found.choice = replace(choice, loss_targets=True, watch=True)
            elif question.target_from is None or relation.kind != "renamed":  # else the user says which labels count
                found.followed = False
                if choice.loss_targets and question.target is not None and question.target.ndim == 2:
                    found.labels = question.target.argmax(dim=1)  # of the form that the others have

    def _decide(self, found: Found, relation: Relation, question: Question) -> None:
        """Follow the targets that turn out to be the loss's, after batches in which others were equal to them."""
        choice = self.choice
        assert choice is not None
        renamed = relation.kind == "renamed"
        if relation.keys != choice.target or renamed:
            found.labels = relation.labels
            changed = replace(choice, target=() if renamed else relation.keys, loss_targets=renamed)
            self.choice = found.choice = replace(changed, doubtful=relation.doubtful, watch=True)
        else:
            watch = choice.place is None or choice.loss_targets or (choice.by_value and not choice.equal)
            watch = watch or relation.doubtful or self._changes
            self.choice = replace(choice, doubtful=relation.doubtful, watch=watch)
            if question.target is not None and question.target.ndim == 1:
                self._renaming.update(zip(question.target.tolist(), question.target.tolist(), strict=True))

    def _renames(self, before: Tensor | None, after: Tensor | None) -> bool:
        """Whether labels are renamed as they were in the steps before."""
        if not self._renaming or before is None or after is None or before.shape != after.shape or before.ndim != 1:
            return False
        renaming = dict(self._renaming)
        pairs = zip(before.tolist(), after.tolist(), strict=True)
        if not all(renaming.setdefault(old, new) == new for old, new in pairs):
            return False
        self._renaming = renaming
        return True


def refuse_rows(found: list[int], rows: int) -> None:
    """Refuse logits of another number of samples."""
    if found and found[0] != rows:
        raise ValueError(
            f"logits have {found[0]} rows, the batch has {rows} indices. A collate function that drops or "
            "adds samples, or a step that does, breaks the tie between the two: filter the dataset instead "
            "(Subset), or let the batch carry the index and pass index_from=."
        )


def _refuse_all(search: Search, calls: list[LossCall], rows: int) -> None:
    """Refuse a step of which everything has another number of samples."""
    counts = [len(call.input) for call in calls if call.is_loss and call.input.ndim == 2]
    if not search.outputs_of(rows):
        counts += [len(output.tensor) for output in search.outputs[-1:]]
    if rows not in counts:
        refuse_rows(counts, rows)


def _output_of(capture: LogitCapture, search: Search | None) -> Output:
    """What was caught, as a search would have seen it."""
    assert capture.output is not None
    place, seen = capture.place, [] if search is None else search.outputs
    values = capture.output.detach() if capture.values is None else capture.values
    made_by = next((given.made_by for given in seen if given.place.path == place.path), None)
    return Output(place, 0, capture.output, values, capture.inputs, made_by)


def _candidates(search: Search, rows: int) -> list[str]:
    ranked = sorted(search.outputs_of(rows), key=lambda output: output.depth)
    return list(dict.fromkeys(map(str, ranked)))


def _described(place: Place) -> str:
    return "the module's own forward" if place == Place() else f'"{place}"'


def _lone_column(where: str) -> str:
    return (
        f"{where} gives one column, and no loss says whether it is a logit or a probability. Pass "
        'outputs="logits" or outputs="probs".'
    )
