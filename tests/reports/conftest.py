from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from lightning_flip.stores import PartKey, open_run, write_part, write_samples


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
