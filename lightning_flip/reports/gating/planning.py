"""How many test samples a limit needs: the exact power of the gate at plausible true rates."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lightning_flip.reports.gating._power import Verdict, first_samples, lasting_samples, verdict_power
from lightning_flip.reports.text import PlainTable, html_report

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["LOOKS_WARNING", "PlannedRate", "SamplePlan", "plan_samples"]

# Without rates of the user: shares of the limit, and one rate over it.
_SHARES = (0.0, 0.2, 0.4, 0.6, 2.0)
# Exact, for 1,000 samples a look (docs/simulations/planning.py).
LOOKS_WARNING = (
    "Fix the number of samples before the test. Adding samples and testing again until the gate passes, up to 20 times,"
    " lets a rate at the limit pass in 19% of the cases instead of 5%; planned looks (--looks) share the error."
)


@dataclasses.dataclass(frozen=True)
class PlannedRate:
    """What one true rate needs.

    Attributes:
        rate: the true rate, in [0, 1].
        verdict: `"pass"` for a rate under the limit, `"fail"` for one over it; None at the limit, where no number of
            samples decides.
        first: the smallest number of samples with the power; None if it is over a billion. Like `samples` and `alone`,
            it counts the samples of one group, in clusters if the plan has clusters.
        samples: the number from which on the power stays at the goal or above.
        power: the exact power with `samples`.
        alone: of a policy of several groups, the number from which on one of them alone has the power.
        together: the probability that all groups pass with `alone` samples each.
        available: the power with the number of samples that are there.
    """

    rate: float
    verdict: Verdict | None
    first: int | None = None
    samples: int | None = None
    power: float | None = None
    alone: int | None = None
    together: float | None = None
    available: float | None = None


@dataclasses.dataclass(frozen=True)
class SamplePlan:
    """How many samples a limit needs; `plan_samples` returns it.

    Attributes:
        limit: the limit on the rate.
        goal: the power that is wanted.
        error: the chance of each mistake over all looks.
        groups: how many groups (classes or slices) have to pass.
        looks: how many looks share the error.
        cluster_size: samples per cluster; 1 if samples are independent.
        available: the samples per group that are there, or None.
        rates: one for each true rate.

    Example:
        >>> print(plan_samples(0.01, [0.004], groups=10).to_markdown())
        #### A limit of 1%: samples for a power of 80%
        <BLANKLINE>
        | true rate | verdict | one group alone | all 10 pass then | first at | samples per group | power |
        |---:|:---|---:|---:|---:|---:|---:|
        | 0.4% | pass | 1,441 | 25.1% | 2,426 | 2,665 | 87.7% |
        ...
    """

    limit: float
    goal: float
    error: float
    groups: int
    looks: int
    cluster_size: float
    available: int | None
    rates: tuple[PlannedRate, ...]

    def power(self, samples: npt.ArrayLike, rate: float) -> npt.NDArray[np.float64]:
        """Exact power of the whole policy with a number of samples (or clusters) per group, at one true rate.

        Args:
            samples: the number, or an array of numbers.
            rate: the true rate of every group if it is under the limit; of one group if it is over the limit.

        Returns:
            The probability that all groups pass, or that the one group fails; of the shape of `samples`.
        """
        verdict: Verdict = "pass" if rate < self.limit else "fail"
        alone = verdict_power(samples, rate, self.limit, self._level(verdict), verdict)
        return alone**self.groups if verdict == "pass" else alone

    def table(self) -> PlainTable:
        """The plan as a table with notes."""
        unit = "clusters" if self.cluster_size > 1 else "samples"
        columns: dict[str, list[str]] = {
            "true rate": [_percent(one.rate) for one in self.rates],
            "verdict": [one.verdict or "none" for one in self.rates],
        }
        if self.groups > 1:
            columns["one group alone"] = [_number(one.alone) for one in self.rates]
            columns[f"all {self.groups:,} pass then"] = [_chance(one.together) for one in self.rates]
        columns["first at"] = [_number(one.first) for one in self.rates]
        columns[f"{unit} per group" if self.groups > 1 else unit] = [_number(one.samples) for one in self.rates]
        columns["power"] = [_chance(one.power) for one in self.rates]
        if self.cluster_size > 1:
            size = self.cluster_size
            columns["samples"] = [
                _number(None if one.samples is None else int(np.ceil(one.samples * size))) for one in self.rates
            ]
        if self.available is not None:
            columns[f"power with {self.available:,} samples"] = [_chance(one.available) for one in self.rates]
        goal = _percent(self.goal)
        return PlainTable(
            f"A limit of {_percent(self.limit, 10)}: {unit} for a power of {goal}",
            tuple(columns),
            tuple(zip(*columns.values(), strict=True)),
            words=(1,),
            notes=self.notes(),
        )

    def notes(self) -> tuple[str, ...]:
        """What the numbers rest on, in sentences."""
        goal = _percent(self.goal)
        unit = "clusters" if self.cluster_size > 1 else "samples"
        notes = [
            f"Power: the chance of the verdict. From this many {unit} on it stays at {goal} or above; between the"
            " number that reaches it first and this one it may fall below."
        ]
        if self.groups > 1:
            notes.append(
                f"pass: all {self.groups:,} groups have this rate and pass; of groups with a power of {goal} each, all"
                f" pass in {_chance(self.goal**self.groups)} of the cases. fail: one group has this rate, and fails at"
                f" a level of {_percent(self._level('fail'))}."
            )
        if self.cluster_size > 1:
            notes.append(
                f"Clusters of {self.cluster_size:g} samples count as one sample each, as in the gate. This is the power"
                " if all samples of a cluster flip together, and else it is higher."
            )
        if self.looks > 1:
            notes.append(
                f"{self.looks:,} planned looks share the error of {_percent(self.error)}: each decides at"
                f" {_percent(self.error / self.looks)}. The power is that of one look; the gate needs the same --looks."
            )
        else:
            notes.append(LOOKS_WARNING)
        if any(one.verdict is None for one in self.rates):
            notes.append("none: no number of samples tells a rate at the limit from the limit.")
        if any(one.verdict is not None and one.samples is None for one in self.rates):
            notes.append(f"-: more than a billion {unit}.")
        return tuple(notes)

    def to_dict(self) -> dict[str, Any]:
        """The plan in the types of JSON."""
        return dataclasses.asdict(self) | {"rates": [dataclasses.asdict(one) for one in self.rates]}

    def to_markdown(self, decimals: int = 0) -> str:
        """The table and its notes in Markdown."""
        return self.table().markdown()

    def render(self, console: Console, decimals: int = 0) -> None:
        """Print the table and its notes on a rich console."""
        self.table().print(console)

    def _repr_html_(self) -> str:
        return html_report([self.table()])

    def _level(self, verdict: Verdict) -> float:
        """The chance of error that a group is decided with; a fail among several groups has to be surer."""
        return self.error / self.looks / (self.groups if verdict == "fail" else 1)


def plan_samples(
    limit: float,
    rates: Sequence[float] | None = None,
    *,
    power: float = 0.8,
    error: float = 0.05,
    groups: int = 1,
    looks: int = 1,
    cluster_size: float = 1.0,
    samples: int | None = None,
) -> SamplePlan:
    r"""Find how many test samples a limit on a rate needs at plausible true rates.

    The gate passes if the exact upper bound of Clopper and Pearson (1934) at `error` is at most the limit: if at most
    c(N) of N samples flip, c(N) being the largest x with :math:`P(X \le x \mid limit) \le error`. Its power at a true
    rate is :math:`P(X \le c(N) \mid rate)`. Since c(N) is a whole number, the power is a sawtooth over N: it may reach
    the goal and fall below it again. The plan gives the N from which on it *stays* at the goal, found exactly; the
    same for rates over the limit, which the gate should fail.

    Args:
        limit: the largest rate that the gate accepts, between 0 and 1.
        rates: plausible true rates, in [0, 1]; None for 0, .2, .4, .6 and 2 times the limit.
        power: the probability of the right verdict that is wanted, between 0 and 1.
        error: the chance of each mistake that the gate allows, between 0 and 0.5.
        groups: how many groups (classes or slices), of independent samples, have to pass. Each of them passes at
            `error`; to fail, one of them has to be sure at `error / groups` (the first step of Holm's test).
        looks: how many times the gate is planned to look at growing data; each look gets `error / looks`.
        cluster_size: samples per cluster, at least 1, if samples are not independent; each cluster counts as one sample
            then, and all numbers of the plan are clusters. The power is that of clusters that flip as a whole, which
            is the worst case.
        samples: how many samples there are in each group; the plan gives the power with them.

    Returns:
        The plan.

    Raises:
        ValueError: if an argument is out of its range.
        ModuleNotFoundError: if scipy is not installed.

    Example:
        >>> for one in plan_samples(0.01, [0.004, 0.02], samples=1200).rates:
        ...     print(one.verdict, one.first, one.samples, round(one.available, 3))
        pass 1182 1441 0.791
        fail 905 1015 0.874
    """
    _check(limit=limit, power=power)
    if not 0 < error < 0.5:
        raise ValueError(f"error must be between 0 and 0.5, got {error}.")
    for name, number in {"groups": groups, "looks": looks, "samples": 1 if samples is None else samples}.items():
        if number < 1 or number != int(number):
            raise ValueError(f"{name} must be a whole number from 1, got {number}.")
    if not cluster_size >= 1:
        raise ValueError(f"cluster_size must be at least 1 sample per cluster, got {cluster_size}.")
    chosen = [share * limit for share in _SHARES if share * limit <= 1] if rates is None else list(rates)
    if not chosen:
        raise ValueError("rates must have at least one rate, got none; pass None for shares of the limit.")
    for rate in chosen:
        if not 0 <= rate <= 1:
            raise ValueError(f"rates must be in [0, 1], shares and no percentages, got {rate}.")
    plan = SamplePlan(limit, power, error, groups, looks, cluster_size, samples, ())
    return dataclasses.replace(plan, rates=tuple(_planned(plan, rate) for rate in dict.fromkeys(chosen)))


def _planned(plan: SamplePlan, rate: float) -> PlannedRate:
    if rate == plan.limit:
        return PlannedRate(rate, None)
    verdict: Verdict = "pass" if rate < plan.limit else "fail"
    test = (rate, plan.limit, plan._level(verdict))
    goal = plan.goal ** (1 / plan.groups) if verdict == "pass" else plan.goal
    needed = lasting_samples(*test, goal, verdict)
    planned = PlannedRate(
        rate,
        verdict,
        first_samples(*test, goal, verdict),
        needed,
        None if needed is None else float(plan.power(needed, rate)),
    )
    if plan.groups > 1 and verdict == "pass":
        alone = lasting_samples(*test, plan.goal, verdict)
        together = None if alone is None else float(plan.power(alone, rate))
        planned = dataclasses.replace(planned, alone=alone, together=together)
    if plan.available is not None:
        clusters = int(plan.available // plan.cluster_size)
        planned = dataclasses.replace(planned, available=float(plan.power(clusters, rate)) if clusters else 0.0)
    return planned


def _check(**shares: float) -> None:
    for name, share in shares.items():
        if not 0 < share < 1:
            raise ValueError(f"{name} must be between 0 and 1, a share and no percentage, got {share}.")


def _percent(rate: float, digits: int = 3) -> str:
    return f"{100 * rate:.{digits}g}%"


def _chance(chance: float | None) -> str:
    if chance is None:
        return "-"
    if 0 < chance < 0.0005:
        return "<0.05%"
    return ">99.9%" if 0.9995 <= chance < 1 else _percent(chance)


def _number(samples: int | None) -> str:
    return "-" if samples is None else f"{samples:,}"
