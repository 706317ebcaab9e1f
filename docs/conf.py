"""The site's settings: `make docs` builds it into docs/_build/html, without a network."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_ext")]
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # modules are imported for their docstrings alone

from rljax import __version__  # noqa: E402

project = "rljax"
author = "the authors of rljax"
release = version = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "docstrings",
    "mathml",
    "repository",
    "results",
    "settings_table",
]
exclude_patterns = ["_build", "notebooks/.ipynb_checkpoints"]
# Two classes are called Run, and annotations name one of them without its module.
suppress_warnings = ["ref.python"]

myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
# A notebook shows the outputs that it is committed with: tests/test_notebooks.py runs it.
nb_execution_mode = "off"

# Docstrings write `name` for code.
default_role = "code"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Fields", "params_style")]
napoleon_use_rtype = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
add_module_names = False
toc_object_entries = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
# Types of other packages, whose documentation is elsewhere, and those of ours that no page of the reference lists.
nitpick_ignore_regex = [
    ("py:.*", r"(?!rljax\.).*"),
    ("py:.*", r"rljax\.(envs\.mujoco\.engine|envs\.spaces_only|envs\.manipulation\.demonstrators)\..*"),
    ("py:.*", r"rljax\.(data\.replay\.Sequences|experiment\.settings\.Which)"),
    ("py:.*", r"rljax\.(remote\.play|training\.plan)\..*"),
]

html_theme = "furo"
html_title = f"rljax {release}"
html_static_path = ["_static"]
html_css_files = ["rljax.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1f5fa8", "color-brand-content": "#1f5fa8"},
    "dark_css_variables": {"color-brand-primary": "#7fb2ee", "color-brand-content": "#7fb2ee"},
}
