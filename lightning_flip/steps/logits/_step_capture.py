"""The captures of one module: hooks that are armed in its steps, and what finds the logits of every source."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from lightning_flip.steps.logits._finder import Finder, Found, Inputs, Sight
from lightning_flip.steps.logits._search import Search
from lightning_flip.steps.logits.capture import FeatureCapture, LogitCapture, classifier_layer, layer_candidates
from lightning_flip.steps.logits.choice import Choice, Question
from lightning_flip.steps.logits.forward import OwnForward, eager, has_compiled_parts, is_compiled_whole
from lightning_flip.steps.logits.loss_calls import LossCalls
from lightning_flip.steps.logits.remembered import recall, remember
from lightning_flip.steps.outputs import Place
from lightning_flip.steps.source import StepSource

__all__ = ["Found", "Inputs", "StepCapture"]

# Steps between two looks at the losses, where the returned loss tells of other targets and where it does not; odd, so
# that what alternates does not hide.
_LOOK_AGAIN, _LOOK_OFTEN = 63, 7


class StepCapture:
    """Finds the logits of a step for every source that was added."""

    def __init__(self, module: nn.Module, tolerate: Callable[[Exception], bool]) -> None:
        self._module = module
        self._tolerate = tolerate
        self._sources: list[StepSource] = []
        self._finders: dict[tuple[StepSource, str], Finder] = {}
        self._of_step: dict[str, list[Finder]] = {}
        self._name = ""  # of the running step, and for evaluations the number of its loader
        self._captures: list[tuple[LogitCapture, str | None]] = []
        self._features: dict[StepSource, FeatureCapture] = {}
        self._sinks: Sequence[tuple[StepSource, Callable[[Tensor], None]]] = ()
        self._calls = LossCalls()
        self._calls.tolerate = tolerate
        self._search: Search | None = None
        self._own = OwnForward(module, self._own_left, self._own_entered)
        self._whole = is_compiled_whole(module)
        self._parts: bool | None = None
        self._running: list[LogitCapture | FeatureCapture] = []
        self._always = False  # look in every step: switching would make torch.compile compile again
        self._looking = False  # whether the calls of losses are recorded in the running step

    def add(self, source: StepSource) -> None:
        """Catch the logits of a source, and its features if it needs them."""
        if source in self._sources:
            return
        layer = source.features_from
        classifier = None if layer is None else classifier_layer(self._module, layer, "features_from")
        if isinstance(source.logits_from, str):
            self._capture_at(Place.parse(source.logits_from), source)
        self._sources.append(source)
        if classifier is not None:
            self._features[source] = FeatureCapture(classifier)
        self._of_step = {}

    def forget(self, source: StepSource) -> None:
        """Stop looking for the logits of a source."""
        self._sources = [other for other in self._sources if other != source]
        self._finders = {key: finder for key, finder in self._finders.items() if key[0] != source}
        self._sinks = [(other, sink) for other, sink in self._sinks if other != source]
        self._of_step = {}
        self._connect()

    def copy_to(self, sinks: Sequence[tuple[StepSource, Callable[[Tensor], None]]]) -> None:
        """Hand logits over in the forward that gives them, as a module may edit them afterwards."""
        self._sinks = sinks
        self._connect()

    def _connect(self) -> None:
        for capture, _ in self._captures:
            capture.sinks = []
        for source, sink in self._sinks:
            finder = self._finders.get((source, "training_step"))
            if finder is not None:
                finder.unasked = 0
            if finder is not None and finder.capture is not None and finder.choice is not None:
                finder.capture.sinks.append(sink)

    # -- a step -----------------------------------------------------------------------------------------

    def arm(
        self,
        name: str,
        rows: Callable[[StepSource], int | None],
        number: int | None,
        *,
        wrapped: bool,
        copies: bool,
        searches: bool = True,
        loader: int | None = None,
        epoch: int = 0,
    ) -> bool:
        """Begin a step. Returns whether the step has to run in :meth:`looking`.

        Args:
            name: the step's name.
            rows: gives the number of samples that a source follows, or None if it is unknown.
            number: of samples of a batch of one loader, for sources that take the index from the loader.
            wrapped: the strategy runs the step through the module's forward (DistributedDataParallel).
            copies: keep a copy of the logits, as evaluation does, whose steps are recorded after they end.
            searches: whether to search for logits whose place is not known yet; not in a sanity check.
            loader: number of the loader of an evaluation, which may have a head of its own.
            epoch: number of the epoch, whose first step is checked.
        """
        trains = name == "training_step"
        key = name if trains or loader is None else f"{name} {loader}"
        finders = self._of_step.get(key)
        if finders is None:
            finders = self._of_step[key] = [self._finder(source, key) for source in self._sources]
        self._name, self._search = key, None
        running = self._running = []
        looks = False
        for finder in finders:
            finder.found = None
            count = number if number is not None and finder.source.index_from is None else rows(finder.source)
            if count is None:
                continue
            capture, choice = finder.capture, finder.choice
            if capture is not None:
                capture.settling = choice is None
                capture.kind = None if choice is None else choice.kind
                capture.prefix = choice is not None and choice.prefix
                capture.needs_gradient = finder.needs_gradient
                capture.copies = copies
                capture.arm(count, outermost_is_step=wrapped and capture.module is self._module)
                running.append(capture)
            finder.steps += 1
            if choice is not None:
                looks = (choice.watch or self._always or self._is_due(finder, epoch)) or looks
            elif searches and not finder.takes_output and (finder.unasked <= 2 or not trains):
                looks = True
                self._search = self._search or Search(self._module, self._calls)
            finder.unasked += choice is None
            if finder.source.features_from is not None:
                features = self._features[finder.source]
                features.arm(count)
                running.append(features)
        self._looking = looks
        return looks

    def forget_loaders(self, alive: Collection[int]) -> None:
        """Forget what was found for loaders that are gone."""
        for source, key in list(self._finders):
            number = key.partition(" ")[2]
            if number and int(number) not in alive:
                del self._finders[source, key]
                self._of_step.pop(key, None)

    def _is_due(self, finder: Finder, epoch: int) -> bool:
        """Whether to check the loss again: in an epoch's first step, and every few dozen steps."""
        choice = finder.choice
        assert choice is not None
        if finder.epoch == epoch and finder.steps % (_LOOK_AGAIN if choice.equal else _LOOK_OFTEN):
            return False
        finder.epoch = epoch
        read = finder.name != "training_step" or (finder.capture is not None and bool(finder.capture.sinks))
        return read and choice.losses and choice.call is not None and not self._compiled

    @contextlib.contextmanager
    def looking(self, batch: Any) -> Iterator[None]:
        """A context for a step whose losses are recorded, and all modules if the place of the logits is unknown."""
        losses_only = self._search is None and all(
            finder.choice is None or (finder.choice.losses and finder.choice.name != "by_hand")
            for finder in self._of_step[self._name]
        )
        self._calls.start(needs_gradient=self._name == "training_step", losses_only=losses_only)
        with contextlib.ExitStack() as stack:
            if self._search is not None:
                if self._compiled:
                    stack.enter_context(eager())
                stack.enter_context(self._search.watching(batch))
                self._own.put()
                stack.callback(self._own.take_off)
            stack.enter_context(self._calls)
            yield

    def disarm(self) -> None:
        """End a step: what runs later (checkpointed activations in the backward pass) is ignored."""
        for capture in reversed(self._running):
            capture.armed = False
            if capture.forward is not None:
                capture.forward.take_off()
        self._calls.armed = False

    def clear(self) -> None:
        """Forget what was caught."""
        for capture, _ in self._captures:
            capture.clear()
        for features in self._features.values():
            features.clear()
        for finder in self._finders.values():
            finder.found = None
        self._search, self._calls.calls = None, []

    def remove(self) -> None:
        """Take all hooks off."""
        for capture, _ in self._captures:
            capture.remove()
        for features in self._features.values():
            features.remove()
        self._captures, self._features, self._finders, self._of_step, self._sources = [], {}, {}, {}, []
        self._running = []

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A context for forwards that do not belong to the step."""
        armed = [capture for capture in self._running if capture.armed]
        calls = self._calls.armed
        for capture in armed:
            capture.armed = False
        self._calls.armed = False
        try:
            yield
        finally:
            for capture in armed:
                capture.armed = True
            self._calls.armed = calls

    # -- what was caught ----------------------------------------------------------------------------------

    def find(self, source: StepSource, rows: int, output: Any, ask: Callable[[], Question]) -> Found | None:
        """The logits of the step."""
        for finder in self._of_step.get(self._name, ()):
            if finder.source is source:  # nearly always, and faster than a look into a dictionary
                break
        else:
            finder = self._late(source)
        finder.unasked = 0
        capture, choice = finder.capture, finder.choice
        if not self._looking and capture is not None and choice is not None and capture.logits is not None:
            if finder.found is None:
                finder.found = Found(capture.logits, capture.inputs, capture.kept, choice=choice)
            return finder.found
        if finder.found is None:
            armed, self._calls.armed = self._calls.armed, False  # what is computed from here on is ours
            try:
                finder.found = finder.find(rows, output, ask, Sight(self._looking, self._calls.calls, self._search))
            finally:
                self._calls.armed = armed and finder.found is None
            if self._search is not None and all(other.choice for other in self._of_step.get(self._name, ())):
                self._search = None  # it holds what the modules gave
        return finder.found

    def kept(self, source: StepSource) -> Tensor | None:
        """The logits of a step as the network gave them; None if they were not copied."""
        found = self.found(source)
        return None if found is None else found.kept

    def found(self, source: StepSource) -> Found | None:
        """What was found in the running step, if anything was searched for."""
        finder = self._finders.get((source, self._name))
        return None if finder is None else finder.found

    def choice(self, source: StepSource, name: str) -> Choice | None:
        """How the logits of a source are found in a kind of step."""
        finder = self._finders.get((source, name))
        return None if finder is None else finder.choice

    def watch_losses(self, source: StepSource) -> None:
        """Check the losses of all training steps from now on, because some had other targets."""
        finder = self._finders.get((source, "training_step"))
        if finder is not None and finder.choice is not None and not self._compiled:
            finder.choice = replace(finder.choice, watch=finder.choice.call is not None, equal=False)

    def candidates(self, source: StepSource) -> list[str]:
        """The outputs seen when nothing was found, each as an option to paste."""
        return self._finders[source, self._name].candidates

    @property
    def hint(self) -> str:
        """More advice for the error raised if nothing was found."""
        if not self._compiled:
            return ""
        return " Parts of the module are compiled: what they call as self.forward(x) cannot be seen; write self(x)."

    def features(self, source: StepSource) -> Tensor | None:
        """The features of the step. Returns ``[B, D]``; None if the source needs none."""
        capture = self._features.get(source)
        if capture is None or capture.features is not None:
            return None if capture is None else capture.features
        layers = ", ".join(map(repr, layer_candidates(self._module))) or "none that has a weight [K, D]"
        where = next((name for name, part in self._module.named_modules() if part is capture.module), "?")
        raise RuntimeError(
            f"no features [B, D] entered the layer {where!r} (features_from={source.features_from!r}) in this step. "
            "Usual causes: its weight is used without calling it, its input has more than two dimensions, or the "
            f"network was compiled before. Name the layer that the features enter; candidates: {layers}."
        )

    # -- finders ------------------------------------------------------------------------------------------

    @property
    def _compiled(self) -> bool:
        if self._parts is None:
            self._parts = has_compiled_parts(self._module)
        return self._parts

    def _finder(self, source: StepSource, name: str) -> Finder:
        finder = self._finders.get((source, name))
        if finder is None:
            capture = None
            if source.takes_forward:
                assert callable(source.logits_from)
                capture = self._new_capture(Place(), source, source.logits_from)
            elif isinstance(source.logits_from, str):
                capture = self._capture_at(Place.parse(source.logits_from), source)
            finder = self._finders[source, name] = Finder(source, name, capture, self._settle)
        return finder

    def _settle(self, finder: Finder, choice: Choice | None) -> None:
        """Take the logits of later steps where they were found in this one."""
        if choice is None:
            self._connect()
            return
        self._always = self._always or (choice.watch and self._compiled)
        if choice.place is None and self._compiled:
            raise RuntimeError(
                f"the logits of {finder.step} are made in the step and are the output of no module, and parts of the "
                "module are compiled, so that they cannot be seen in later steps. Compute them in forward(), or "
                'compile less: self.net = torch.compile(self.net) with the loss on self.net(x), or logits_from="net".'
            )
        finder.choice = choice
        if finder.name == "training_step" or recall(self._module, finder.source) is None:
            remember(self._module, finder.source, choice)
        if finder.capture is None and choice.place is not None and not finder.takes_output:
            finder.capture = self._capture_at(choice.place, finder.source)
        self._connect()

    def _late(self, source: StepSource) -> Finder:
        """The finder of a source that was added during the step; another finder may know the same place."""
        finder = self._finder(source, self._name)
        for other in list(self._finders.values()):
            if other.name != self._name or other.choice is None or other.capture is not finder.capture:
                continue
            if not other.source.serves_others:
                continue
            finder.choice = finder.choice or other.choice
        return finder

    def _capture_at(self, place: Place, source: StepSource) -> LogitCapture:
        """The capture of a place; sources that expect the same kind of numbers share it."""
        for capture, outputs in self._captures:
            if capture.pick is None and capture.place == place and outputs == source.outputs:
                return capture
        return self._new_capture(place, source)

    def _new_capture(self, place: Place, source: StepSource, pick: Callable[[Any], Any] | None = None) -> LogitCapture:
        part = self._part(place.path)
        own = part is self._module and not self._whole
        capture = LogitCapture(part, place, None, own=own, pick=pick)
        capture.tolerate = self._tolerate
        self._captures.append((capture, source.outputs))
        return capture

    def _part(self, text: str) -> nn.Module:
        path = Place.parse(text).path
        try:
            return self._module.get_submodule(path)
        except AttributeError:
            names = [name for name, _ in self._module.named_children()]
            raise AttributeError(
                f"logits_from={text!r} is not a submodule of {type(self._module).__name__}; its children are {names}."
            ) from None

    def _own_entered(self, args: Any, kwargs: Any) -> None:
        if self._search is not None:
            self._search.own_entered(args, kwargs)

    def _own_left(self, args: Any, kwargs: Any, output: Any) -> None:
        if self._search is not None:
            self._search.own_left(args, kwargs, output)
