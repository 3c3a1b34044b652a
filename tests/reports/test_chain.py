from __future__ import annotations

import io
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from rich.console import Console

from lightning_flip.reports import ChainComparison, compare_chain
from lightning_flip.reports.intervals import wilson_interval
from lightning_flip.stores import PredictionError, PredictionSet

Rows = dict[str, tuple[int, int]]  # id -> target, prediction


def version(rows: Rows, name: str, order: int = 0) -> PredictionSet:
    ids = list(np.random.default_rng(order).permutation(sorted(rows)))
    columns = {"sample_id": ids, "target": [rows[key][0] for key in ids], "pred": [rows[key][1] for key in ids]}
    return PredictionSet.from_table(pa.table(columns), name)


def drawn(seed: int, names: range = range(60), classes: int = 3) -> Rows:
    rng = np.random.default_rng(seed)
    rows = {}
    for number in range(60):
        target, other = number % 3, int(rng.integers(0, classes))
        rows[f"s{number:02}"] = (target, target if rng.random() < 0.6 else other)
    return {f"s{number:02}": rows[f"s{number:02}"] for number in names}


def chain_of(seeds: range) -> ChainComparison:
    return compare_chain([version(drawn(seed), f"v{seed}", order=seed) for seed in seeds])


@pytest.mark.parametrize("count", [3, 4, 6])
@pytest.mark.parametrize("seed", [0, 10, 20, 30])
@pytest.mark.parametrize("partial", [False, True])
def test_every_number_matches_the_loop(count: int, seed: int, partial: bool) -> None:
    rng = np.random.default_rng(seed)
    versions = []
    for place in range(count):
        there = [number for number in range(60) if not partial or rng.random() < 0.9]
        versions.append({f"s{number:02}": drawn(seed + place)[f"s{number:02}"] for number in there})
    common = sorted(set.intersection(*(set(rows) for rows in versions)))
    courses = {key: [rows[key][0] == rows[key][1] for rows in versions] for key in common}
    chain = compare_chain(
        [version(rows, f"v{place}", place) for place, rows in enumerate(versions)],
        allow_partial=partial,
        worst=1000,
    )
    assert chain.num_samples == len(common)
    assert chain.left_out == tuple(len(rows) - len(common) for rows in versions)
    flips = {key: sum(one != other for one, other in pairwise(course)) for key, course in courses.items()}
    assert dict(zip(chain.ids.to_pylist(), chain.flips.tolist(), strict=True)) == flips
    ranked = sorted((key for key in common if flips[key] > 1), key=lambda key: (-flips[key], key))
    assert [(one.sample_id, list(one.right), one.flips) for one in chain.worst] == [
        (key, courses[key], flips[key]) for key in ranked
    ]
    assert chain.back_and_forth == len(ranked)
    assert chain.broken_and_wrong == sum(
        not course[-1] and any(before and not now for before, now in pairwise(course)) for course in courses.values()
    )
    pairs = [*pairwise(range(count)), (0, count - 1)]
    for (old, new), step in zip(pairs, [*chain.steps, chain.first_to_last], strict=True):
        broken = sum(course[old] and not course[new] for course in courses.values())
        fixed = sum(course[new] and not course[old] for course in courses.values())
        assert (step.old_name, step.new_name) == (f"v{old}", f"v{new}")
        assert (int(step.cells.negative), int(step.cells.positive)) == (broken, fixed)
        low, high = wilson_interval(broken, len(common))
        rate = step.rates["negative_flip_rate"]
        assert (rate.value, rate.low, rate.high) == pytest.approx((broken / len(common), float(low), float(high)))
        assert step.rates["positive_flip_rate"].value == pytest.approx(fixed / len(common))
        for name, place in (("old_accuracy", old), ("new_accuracy", new)):
            right = sum(course[place] for course in courses.values())
            assert step.rates[name].value == pytest.approx(right / len(common))


def test_the_dict_and_the_frame() -> None:
    chain = chain_of(range(4))
    found = json.loads(json.dumps(chain.to_dict(), allow_nan=False))
    assert [model["name"] for model in found["models"]] == ["v0", "v1", "v2", "v3"]
    assert [step["cells"]["negative"] for step in found["updates"]] == [int(one.cells.negative) for one in chain.steps]
    assert found["negative_flip_rates_added"] == pytest.approx(
        sum(step["rates"]["negative_flip_rate"]["value"] for step in found["updates"])
    )
    assert found["first_to_last"]["old"] == "v0"
    assert sum(found["samples_by_flips"]) == found["samples"] == 60
    assert len(found["samples_by_flips"]) == 4
    assert found["worst"][0]["flips"] == max(chain.flips)
    assert found["broken_and_wrong_now"] == chain.broken_and_wrong
    frame = chain.to_frame()
    assert isinstance(frame, pd.DataFrame)
    assert list(frame["new"]) == ["v1", "v2", "v3"]
    assert list(frame["broken"]) == [int(one.cells.negative) for one in chain.steps]
    assert list(frame["low"]) == [one.rates["negative_flip_rate"].low for one in chain.steps]


@pytest.mark.parametrize("width", [60, 80, 140])
def test_the_terminal_shows_every_version_and_every_course_whole(width: int) -> None:
    chain = chain_of(range(30))
    text = io.StringIO()
    chain.render(Console(file=text, width=width, color_system=None), most_rows=5)
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert sum(line.lstrip().startswith(f"v{place} ") for line in lines for place in range(30)) == 30
    drawn_signs = "".join(sign for line in lines for sign in line if sign in "✓✗")
    assert drawn_signs.count("✓") + drawn_signs.count("✗") == 5 * 30 + 2  # and the header
    assert f"... and {chain.back_and_forth - 5:,} more samples." in text.getvalue()


def test_markdown() -> None:
    chain = chain_of(range(3))
    text = chain.to_markdown()
    course = chain.worst[0]
    signs = "".join("✓" if right else "✗" for right in course.right)
    assert f"| {course.sample_id} | {signs} | {course.flips} |" in text
    assert f"Back and forth (right, wrong, right, or the reverse): {chain.back_and_forth} samples." in text
    assert "Left out" not in text
    assert "<table>" in chain._repr_html_()
    with pytest.raises(ValueError, match="most_rows must be at least 1"):
        chain.to_markdown(most_rows=0)


def test_a_chain_without_samples_that_flip_back_and_forth() -> None:
    rows = drawn(0)
    worse = {key: (target, (target + 1) % 3 if key < "s10" else pred) for key, (target, pred) in rows.items()}
    chain = compare_chain([version(rows, "a"), version(worse, "b"), version(worse, "c")])
    assert (chain.back_and_forth, chain.worst) == (0, ())
    assert "Samples that flip back and forth" not in chain.to_markdown()
    assert chain.warnings == (
        "b → c: Both files predict the same class for every one of the 60 samples. If one is a copy of the other, this"
        " comparison says nothing about an update.",
    )
    assert "Warning: b → c: Both files predict the same class" in chain.to_markdown()


def test_files_and_a_rollback(tmp_path: Path) -> None:
    paths = []
    for seed in range(2):
        paths.append(tmp_path / f"v{seed}.csv")
        lines = [f"{key},{target},{pred}" for key, (target, pred) in drawn(seed).items()]
        paths[-1].write_text("\n".join(["sample_id,target,pred", *lines]) + "\n")
    chain = compare_chain([paths[0], paths[1], str(paths[0])])
    assert int(chain.first_to_last.cells.negative) == 0
    assert int(chain.steps[0].cells.negative) == int(chain.steps[1].cells.positive) > 0
    with pytest.raises(ValueError, match="number 2 and 3 are the same"):
        compare_chain([paths[0], paths[1], tmp_path / ".." / tmp_path.name / "v1.csv"])


def test_samples_that_not_all_versions_can_be_judged_on() -> None:
    full, short = drawn(0), drawn(1, range(5, 60))
    versions = [version(full, "a"), version(drawn(2), "b"), version(short, "c")]
    with pytest.raises(PredictionError, match="5 samples are only in b"):
        compare_chain(versions)
    chain = compare_chain(versions, allow_partial=True)
    assert (chain.num_samples, chain.left_out) == (55, (5, 5, 0))
    assert "Left out, as not every version can be judged on them: 5 of a, 5 of b." in chain.to_markdown()
    with pytest.raises(PredictionError, match="of b are in both files, and min_coverage"):
        compare_chain(versions, allow_partial=True, min_coverage=0.95)
    # Every pair has 55 of 60, all three only 50.
    overlapping = [version(full, "a"), version(short, "c"), version(drawn(2, range(55)), "d")]
    with pytest.raises(PredictionError, match=r"83\.3% of the 60 samples of a are in all files"):
        compare_chain(overlapping, allow_partial=True, min_coverage=0.9)
    apart = [version(drawn(k, names), str(k)) for k, names in enumerate((range(40), range(20, 60), range(40, 60)))]
    with pytest.raises(PredictionError, match="0, 1, 2 have no sample in common"):
        compare_chain(apart, allow_partial=True)


def test_labels_and_classes_are_checked_pair_by_pair() -> None:
    other = {key: ((target + 1) % 3, pred) for key, (target, pred) in drawn(2).items()}
    with pytest.raises(PredictionError, match="b and c must agree on the target"):
        compare_chain([version(drawn(0), "a"), version(drawn(1), "b"), version(other, "c")])
    known = [(0, 1, 2), (0, 1, 2), (0, 1)]
    versions = [
        PredictionSet(version(drawn(k, classes=2), str(k)).rows, str(k), names) for k, names in enumerate(known)
    ]
    chain = compare_chain(versions, shared_classes=True)
    assert (chain.num_samples, chain.left_out) == (40, (20, 20, 20))


def test_refusals() -> None:
    versions = [version(drawn(seed), str(seed)) for seed in range(3)]
    with pytest.raises(ValueError, match="at least three versions, the oldest first"):
        compare_chain(versions[:2])
    with pytest.raises(ValueError, match=r"got 'v1\.csv'"):
        compare_chain("v1.csv")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="number 1 and 2 are the same"):
        compare_chain([versions[0], versions[0], versions[1]])
    with pytest.raises(ValueError, match="worst must be at least 0, got -1"):
        compare_chain(versions, worst=-1)
    with pytest.raises(TypeError, match="version 2 must be predictions"):
        compare_chain([versions[0], 3, versions[1]])  # type: ignore[list-item]
    chain = compare_chain(versions, confidence=0.5)
    assert chain.steps[0].rates["negative_flip_rate"].low > chain_of(range(3)).steps[0].rates["negative_flip_rate"].low  # type: ignore[operator]
    with pytest.raises(ValueError, match="confidence must be between 0 and 1"):
        compare_chain(versions, confidence=1.0)
