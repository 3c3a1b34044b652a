"""Sphinx configuration."""

import importlib.metadata

project = "lightning-flip"
author = "The lightning-flip authors"
copyright = "2026, The lightning-flip authors"
release = version = importlib.metadata.version("lightning-flip")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = f"lightning-flip {release}"
exclude_patterns = ["_build"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_mock_imports = []
suppress_warnings = ["ref.python", "autodoc"]
myst_heading_anchors = 3
napoleon_use_ivar = True
