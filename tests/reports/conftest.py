import io
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from lightning_flip.stores.claims import open_run
from lightning_flip.stores.history.parts import PartKey, write_part
from lightning_flip.stores.history.samples import write_samples


@pytest.fixture
def record(tmp_path: Path) -> Callable[..., Path]:
    """record(name, target, passes, ...): a run; each pass a list of predictions, None where a sample was not seen."""

    def make(
        name: str,
        target: Sequence[int],
        passes: Sequence[Sequence[int | None]],
        *,
        split: str = "val",
        confidence: Sequence[float] | None = None,
        margin: Sequence[float] | None = None,
        true_target: Sequence[int | None] | None = None,
        moments: Sequence[tuple[int, int]] | None = None,
    ) -> Path:
        folder = tmp_path / name
        if not (folder / "run.json").exists():
            open_run(folder, run_id=None, info={})
        count = len(target)
        rows = {"split": split, "index": range(count), "target": list(target)}
        write_samples(folder, rows | ({} if true_target is None else {"true_target": list(true_target)}))
        for number, preds in enumerate(passes):
            epoch, pass_ = (number, 0) if moments is None else moments[number]
            seen = np.array([index for index, pred in enumerate(preds) if pred is not None], np.int64)
            columns = {"index": seen, "global_step": np.full(len(seen), number)}
            columns["pred"] = np.array([preds[index] for index in seen], np.int64)
            for column, values in (("prob_pred", confidence), ("logit_margin", margin)):
                columns[column] = np.full(count, 0.5)[seen] if values is None else np.array(values, np.float64)[seen]
            columns |= dict.fromkeys(["prob_label", "cross_entropy"], np.full(len(seen), 0.5))
            write_part(folder, PartKey(split, epoch, pass_, 0), columns)
        return folder

    return make


@pytest.fixture
def readable() -> Callable[[Figure], None]:
    """readable(figure): no word is cut off or lies on another one, and every panel keeps a place worth the name."""

    def check(figure: Figure) -> None:
        figure.savefig(io.BytesIO(), format="png")
        words = [label for axes in figure.axes for label in (axes.title, axes.xaxis.label, axes.yaxis.label)]
        words += [text for legend in figure.legends for text in legend.get_texts()]
        boxes = [(word, word.get_window_extent()) for word in words if word.get_text()]
        for word, box in boxes:
            assert box.x0 >= -1, word
            assert box.y0 >= -1, word
            assert box.x1 <= figure.bbox.x1 + 1, word
            assert box.y1 <= figure.bbox.y1 + 1, word
        for (word, box), (other, second) in itertools.combinations(boxes, 2):
            assert not box.padded(-1).overlaps(second.padded(-1)), (word, other)
        for axes in figure.axes:
            assert min(axes.get_window_extent().size) > 0.5 * figure.dpi, axes

    return check
