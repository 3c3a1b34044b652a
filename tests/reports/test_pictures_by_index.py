"""Which picture belongs to a sample: by its index in the loader's dataset, or by its place in the whole dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lightning_flip.reports.pictures import pictures_by_index
from lightning_flip.stores import History, read_history
from lightning_flip.stores.claims import claim, note_data
from lightning_flip.stores.history.parts import PartKey, write_part
from lightning_flip.stores.history.samples import write_samples

SOURCE = [7, 2, 5]  # the loader was given a Subset of a dataset of 9 samples


def picture(value: int) -> np.ndarray:
    return np.full((2, 2), value, np.uint8)


def shown(give, index: int) -> int:
    return int(give(index)[0, 0])


def run(folder: Path, source: list[int] | None = None, length: int | None = 3) -> History:
    claimed = claim(folder, info={})
    if length is not None:
        note_data(claimed, {"train-0": {"length": length}})
    numbers = {"source": source} if source else {}
    write_samples(folder, {"split": "train", "index": range(3), "source_index": SOURCE, "target": 0, **numbers})
    columns = dict.fromkeys(("prob_label", "prob_pred", "logit_margin", "cross_entropy"), np.full(3, 0.5))
    columns |= {"index": np.arange(3), "global_step": np.zeros(3, int), "pred": np.zeros(3, int)}
    write_part(folder, PartKey("train", 0, 0, 0), columns)
    return read_history(folder)


def test_the_loaders_dataset_is_read_by_index(tmp_path: Path) -> None:
    give = pictures_by_index([picture(10 + place) for place in range(3)], run(tmp_path / "a"), "train")
    assert [shown(give, index) for index in range(3)] == [10, 11, 12]


def test_the_whole_dataset_is_read_where_the_samples_are_in_it(tmp_path: Path) -> None:
    give = pictures_by_index([picture(20 + place) for place in range(9)], run(tmp_path / "a"), "train")
    assert [shown(give, index) for index in range(3)] == [27, 22, 25]


def test_a_function_is_asked_by_index(tmp_path: Path) -> None:
    give = pictures_by_index(lambda index: (picture(30 + index), "label"), run(tmp_path / "a"), "train")
    assert shown(give, 2) == 32


@pytest.mark.parametrize("count", [2, 4, 7])
def test_another_number_of_pictures_is_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(ValueError, match=rf"images must give the 3 pictures of split 'train', .* got {count} pictures"):
        pictures_by_index([picture(0)] * count, run(tmp_path / "a"), "train")


def test_parts_of_several_datasets_have_no_whole(tmp_path: Path) -> None:
    history = run(tmp_path / "a", source=[0, 1, 0])
    with pytest.raises(ValueError, match="of the one dataset"):
        pictures_by_index([picture(0)] * 9, history, "train")


def test_a_run_without_a_fingerprint_is_as_long_as_its_last_index(tmp_path: Path) -> None:
    history = run(tmp_path / "a", length=None)
    assert shown(pictures_by_index([picture(place) for place in range(3)], history, "train"), 2) == 2
