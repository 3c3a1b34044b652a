"""Limits for an update, and the verdict."""

from lightning_flip.reports.gating.gate import gate
from lightning_flip.reports.gating.output import gate_json, gate_junit, gate_markdown, gate_text
from lightning_flip.reports.gating.result import GateResult, LimitOutcome

__all__ = [
    "GateResult",
    "LimitOutcome",
    "gate",
    "gate_json",
    "gate_junit",
    "gate_markdown",
    "gate_text",
]
