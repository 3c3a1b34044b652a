"""One run a folder, whoever comes at the same moment."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_flip.stores import (
    ClaimLostError,
    read_run,
    read_soft_targets,
    write_predictions,
    write_soft_targets,
    write_transition,
    write_zigzag,
)
from lightning_flip.stores import files as files_module
from lightning_flip.stores.claims import claim, discard_empty_run, open_run
from lightning_flip.stores.history.parts import list_parts

FORK = multiprocessing.get_context("fork")
ROUNDS = 200


def attempt(work: Callable[[], Any], barrier: Any) -> str:
    """What one of several that start together gets."""
    barrier.wait()
    try:
        return str(work())
    except FileExistsError as error:
        return "refused" if "overwrite=True" in str(error) else str(error)


def together(works: list[Callable[[], Any]]) -> list[str]:
    """Run all of them in threads that start at one moment."""
    barrier, results = threading.Barrier(len(works)), []
    threads = [threading.Thread(target=lambda work=work: results.append(attempt(work, barrier))) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == len(works)
    return results


def race(root: str, rounds: int, threads: int, barrier: Any, results: Any, versioned: bool) -> None:
    """One process of a race; its threads start with those of the others."""
    for number in range(rounds):
        folder = root if versioned else f"{root}/round-{number}"
        for result in together_across(folder, threads, barrier, versioned):
            results.put((number, result))


def together_across(folder: str, threads: int, barrier: Any, versioned: bool) -> list[str]:
    found: list[str] = []

    def one() -> None:
        taken = attempt(lambda: claim(folder, versioned=versioned), barrier)
        found.append(taken if taken == "refused" else "taken")

    running = [threading.Thread(target=one) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return found


def race_of_processes(root: Path, rounds: int, processes: int, threads: int, *, versioned: bool = False) -> list[Any]:
    barrier, results = FORK.Barrier(processes * threads), FORK.SimpleQueue()
    arguments = (str(root), rounds, threads, barrier, results, versioned)
    running = [FORK.Process(target=race, args=arguments) for _ in range(processes)]
    for process in running:
        process.start()
    found = [results.get() for _ in range(rounds * processes * threads)]
    for process in running:
        process.join()
    return found


@pytest.mark.slow
def test_of_simultaneous_claims_of_processes_and_threads_exactly_one_succeeds(tmp_path: Path) -> None:
    found = race_of_processes(tmp_path, ROUNDS, processes=3, threads=2)
    for number in range(ROUNDS):
        results = [result for where, result in found if where == number]
        assert sorted(results) == ["refused"] * 5 + ["taken"]
        assert len(read_run(tmp_path / f"round-{number}").run_id) == 32
        assert os.listdir(tmp_path / f"round-{number}") == ["run.json"]


def test_of_200_simultaneous_claims_exactly_one_succeeds(tmp_path: Path) -> None:
    results = together([lambda: claim(tmp_path / "run").run_id] * 200)
    assert results.count("refused") == 199
    assert read_run(tmp_path / "run").run_id in results


def test_open_run_is_such_a_claim(tmp_path: Path) -> None:
    for number in range(20):
        results = together([lambda number=number: open_run(tmp_path / str(number), run_id=None, info={})] * 8)
        assert results.count("refused") == 7


@pytest.mark.slow
def test_200_simultaneous_versioned_claims_get_200_folders(tmp_path: Path) -> None:
    results = together([lambda: claim(tmp_path, versioned=True).folder.name] * 200)
    assert sorted(results) == sorted(f"version_{number}" for number in range(200))
    assert len({read_run(tmp_path / name).run_id for name in results}) == 200


def test_versioned_claims_of_processes_get_folders_of_their_own(tmp_path: Path) -> None:
    found = race_of_processes(tmp_path, 25, processes=4, threads=2, versioned=True)
    assert [result for _, result in found] == ["taken"] * 200
    assert sorted(os.listdir(tmp_path)) == sorted(f"version_{number}" for number in range(200))


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP])
def test_without_links_one_succeeds_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def no_link(*args: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files_module.os, "link", no_link)
    for number in range(20):
        results = together([lambda number=number: claim(tmp_path / str(number)).run_id] * 8)
        assert results.count("refused") == 7
        assert read_run(tmp_path / str(number)).run_id in results


def test_without_a_lock_one_succeeds_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_flip.stores.claims.fcntl", None)
    for number in range(50):
        results = together([lambda number=number: claim(tmp_path / str(number)).run_id] * 8)
        assert results.count("refused") == 7


def test_of_racing_overwrites_the_loser_finds_out_at_its_next_write(run_folder: Path, write_rows: Callable) -> None:
    for _ in range(20):
        write_rows(run_folder, [{"index": 0}])
        claims: list[Any] = []
        together([lambda claims=claims: claims.append(claim(run_folder, overwrite=True))] * 6)
        owner = read_run(run_folder).run_id
        assert list_parts(run_folder) == {}
        lost = 0
        for mine in claims:
            if mine.run_id == owner:
                mine.check()
                continue
            with pytest.raises(ClaimLostError, match=f"now holds the run {owner}"):
                mine.check()
            lost += 1
        assert lost == 5


def test_a_fresh_claim_survives_those_who_must_not_overwrite(run_folder: Path) -> None:
    """One overwrites, others claim: nobody but the one gets the folder, and never half of it."""
    for _ in range(20):
        before = read_run(run_folder).run_id
        works = [lambda: claim(run_folder, overwrite=True).run_id, *[lambda: claim(run_folder).run_id] * 5]
        results = together(works)
        assert results.count("refused") == 5
        assert read_run(run_folder).run_id in results
        assert read_run(run_folder).run_id != before


def test_a_claim_is_checked_before_a_write(tmp_path: Path) -> None:
    mine = claim(tmp_path / "run")
    mine.check()
    part = tmp_path / "run" / "history"
    with pytest.raises(ClaimLostError, match=r"history is gone.*Nothing was written.*dirpath="):
        mine.check(part)
    (tmp_path / "run" / "run.json").write_text("{")
    with pytest.raises(ClaimLostError, match=r"run\.json cannot be read"):
        mine.check()
    (tmp_path / "run" / "run.json").unlink()
    with pytest.raises(ClaimLostError, match=r"run\.json is gone"):
        mine.check()
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(ClaimLostError, match="run is gone"):
        mine.check()
    assert not (tmp_path / "run").exists()


def test_versions_go_on_after_the_latest_and_take_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "version_3").mkdir()
    (tmp_path / "version_x").mkdir()
    assert [claim(tmp_path, versioned=True).folder.name for _ in range(2)] == ["version_3", "version_4"]
    (tmp_path / "version_6").write_text("a file")
    assert claim(tmp_path, versioned=True).folder.name == "version_7"
    assert claim(tmp_path / "other", versioned=True, first=1).folder.name == "version_1"


def write_parts_of(run: str, folder: Path) -> None:
    """What version 0.1 left of a run without a history: no run.json, an id in each file."""
    scores = {"index": [0], "sample_id": None, "target": [0], "other": [1], "visits": [1], "zigzag": [0.5]}
    write_zigzag(folder, {**scores, "base_difficulty": None}, run_id=run)
    write_soft_targets(folder / "soft_targets" / "best.safetensors", np.eye(2), manifest={"run": run})


def test_a_folder_of_0_1_is_known_by_its_files(tmp_path: Path) -> None:
    write_parts_of("a" * 32, tmp_path)
    with pytest.raises(FileExistsError, match=r"run\.json is gone"):
        claim(tmp_path)
    with pytest.raises(FileExistsError, match=r"run\.json is gone"):
        claim(tmp_path, "b" * 32)
    assert claim(tmp_path, "a" * 32).run_id == "a" * 32
    assert (tmp_path / "zigzag.parquet").exists()


def test_each_of_a_runs_ids_opens_a_folder_of_0_1(tmp_path: Path) -> None:
    claim(tmp_path, "h" * 32)
    write_parts_of("a" * 32, tmp_path)
    assert claim(tmp_path, "a" * 32).run_id == "h" * 32
    assert claim(tmp_path, None, known=["h" * 32]).run_id == "h" * 32
    with pytest.raises(FileExistsError, match="already holds the run hhhh"):
        claim(tmp_path, "b" * 32)


def test_overwrite_removes_all_that_another_run_has_recorded(tmp_path: Path) -> None:
    claim(tmp_path)
    write_parts_of("a" * 32, tmp_path)
    claim(tmp_path / "paths" / "one")
    votes = write_soft_targets(tmp_path / "soft_targets" / "votes.safetensors", np.eye(2))  # names no run: the user's
    (tmp_path / "notes.txt").write_text("mine")
    claim(tmp_path, overwrite=True)
    left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["notes.txt", "run.json", "soft_targets/votes.json", "soft_targets/votes.safetensors"]
    assert read_soft_targets(votes).num_samples == 2


def test_a_run_that_recorded_anything_is_not_discarded(tmp_path: Path) -> None:
    mine = claim(tmp_path)
    claim(tmp_path / "paths", new_id=mine.run_id)
    write_parts_of(mine.run_id, tmp_path)
    assert not discard_empty_run(tmp_path, mine.run_id)
    (tmp_path / "zigzag.parquet").unlink()
    shutil.rmtree(tmp_path / "soft_targets")
    assert discard_empty_run(tmp_path, mine.run_id)
    assert list(tmp_path.rglob("*.json")) == []


def test_run_json_is_flushed_and_whole(tmp_path: Path) -> None:
    claim(tmp_path, info={"a": 1})
    assert json.loads((tmp_path / "run.json").read_text())["info"] == {"a": 1}


@pytest.mark.parametrize("kind", ["predictions", "soft targets", "transition"])
def test_of_simultaneous_writers_of_one_file_one_succeeds(tmp_path: Path, kind: str) -> None:
    rows = {"index": [0], "sample_id": ["a"], "pred": [0], "confidence": [0.5]}

    def write(path: Path) -> None:
        if kind == "predictions":
            write_predictions(path / "p.parquet", rows)
        elif kind == "soft targets":
            write_soft_targets(path / "s.safetensors", np.eye(2))
        else:
            write_transition(path / "t.npz", np.eye(2), overwrite=False)

    for number in range(20):
        barrier, results = threading.Barrier(4), []

        def one(number: int = number, barrier: Any = barrier, results: Any = results) -> None:
            barrier.wait()
            try:
                write(tmp_path / str(number))
                results.append("written")
            except FileExistsError:
                results.append("refused")

        threads = [threading.Thread(target=one) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results) == ["refused"] * 3 + ["written"]
