"""Private modules are imported by their own folder alone; import-linter checks layers and circles."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from types import ModuleType

import grimp

import lightning_flip

Import = tuple[str, str]


def across_folders(imports: Iterable[Import]) -> list[Import]:
    """Imports of a module with ``_`` in its path below a top-level folder, from outside of that folder."""
    found = []
    for importer, imported in imports:
        _, folder, *rest = [*imported.split("."), ""]
        private = any(part.startswith("_") and not part.startswith("__") for part in rest)
        if private and importer.split(".")[1:2] != [folder]:
            found.append((importer, imported))
    return found


def test_private_modules_are_imported_by_their_own_folder_alone() -> None:
    graph = grimp.build_graph("lightning_flip", cache_dir=None)
    imports = [(module, other) for module in graph.modules for other in graph.find_modules_directly_imported_by(module)]
    assert len(imports) > 500
    assert across_folders(imports) == []


def test_what_it_looks_for() -> None:
    own = ("lightning_flip.steps.attachment", "lightning_flip.steps._block")
    deeper = ("lightning_flip.callbacks.learning_path", "lightning_flip.callbacks.paths._choice")
    other = ("lightning_flip.mixins.base", "lightning_flip.steps._block")
    top = ("lightning_flip", "lightning_flip.steps._block")
    everybodys = ("lightning_flip.reports.update.comparison", "lightning_flip._deprecate")
    assert across_folders([own, deeper, other, top, everybodys]) == [other, top]


def test_no_module_hides_a_public_name() -> None:
    for found in pkgutil.walk_packages(lightning_flip.__path__, "lightning_flip."):
        if "__main__" not in found.name:
            module = importlib.import_module(found.name)
            for name in getattr(module, "__all__", []):
                assert not isinstance(getattr(module, name), ModuleType), f"{found.name}.{name}"
