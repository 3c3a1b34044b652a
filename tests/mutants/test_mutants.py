from __future__ import annotations

import pytest

from tests.mutants.run import ROOT, Mutant, mutants

MUTANTS = list(mutants())


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_text_of_a_mutant_stands_once_and_its_tests_are_there(mutant: Mutant) -> None:
    assert mutant.place(ROOT).is_file()
    assert mutant.node_ids(ROOT)
    assert mutant.replace != mutant.find


def test_every_folder_of_the_package_has_mutants() -> None:
    folders = {path.parent.name for path in (ROOT / "lightning_flip").glob("*/__init__.py")}
    assert folders <= {mutant.folder for mutant in MUTANTS}


def test_names_of_mutants_are_of_one_kind() -> None:
    assert all(name.replace("-", "").isalnum() for name in (mutant.name for mutant in MUTANTS))
