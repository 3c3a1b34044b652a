import importlib
import subprocess
import sys

import pytest

import lightning_flip.stores

CHECK = """
import sys
import lightning_flip.stores, lightning_flip.reports
heavy = "torch lightning pytorch_lightning torchmetrics jaxtyping scipy pandas polars rich duckdb"
print(sorted(set(heavy.split()) & set(sys.modules)))
"""


def test_reading_stores_and_reports_imports_nothing_heavy() -> None:
    found = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_public_names_are_sorted_and_there() -> None:
    names = lightning_flip.stores.__all__
    assert names == sorted(names)
    assert all(hasattr(lightning_flip.stores, name) for name in names)


@pytest.mark.parametrize("name", lightning_flip.stores._MOVED)
def test_a_name_that_has_moved_warns(name: str) -> None:
    home = f"lightning_flip.stores.{lightning_flip.stores._MOVED[name]}"
    with pytest.warns(FutureWarning, match=f"lightning_flip.stores.{name} is now {home}.{name}"):
        found = getattr(lightning_flip.stores, name)
    assert found is getattr(importlib.import_module(home), name)
