"""Negative flips, a line each, for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_flip.reports.update.worst_flips import WorstFlip, WorstFlips

__all__ = ["flip_lines"]


def flip_lines(worst: WorstFlips) -> list[str]:
    r"""Write the worst flips as people read them.

    Returns a heading and a line a flip; nothing where there is none to show. Ids and labels are shortened, and escaped
    where they are not plain words.

    Example:
        >>> from lightning_flip.reports.update.worst_flips import WorstFlip, WorstFlips
        >>> flips = (WorstFlip("a/17.png", "cat", "dog", 0.9, 0.85), WorstFlip("two\\nlines", 3, 5, None, 0.5))
        >>> print("\n".join(flip_lines(WorstFlips(flips, 12, "old_confidence + new_confidence"))))
        worst 2 of 12 negative flips, by old_confidence + new_confidence:
          a/17.png      cat (0.900) -> dog (0.850)
          'two\\nlines'  3 -> 5 (0.500)
    """
    from lightning_flip.reports.gating.reasons import quote

    if not worst.flips:
        return []
    named = [(quote(flip.sample_id), flip) for flip in worst.flips]
    width = max(len(name) for name, _ in named)
    heading = f"worst {len(worst.flips):,} of {worst.total:,} negative flips, by {worst.order}:"
    return [heading, *(f"  {name:{width}}  {_change(flip)}" for name, flip in named)]


def _change(flip: WorstFlip) -> str:
    from lightning_flip.reports.gating.reasons import quote

    sides = ((flip.right, flip.old_confidence), (flip.wrong, flip.new_confidence))
    return " -> ".join(
        quote(str(label)) + ("" if confidence is None else f" ({confidence:.3f})") for label, confidence in sides
    )
