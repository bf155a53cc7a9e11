"""Sphinx: the pages of this folder, and the API from the docstrings.

Build with ``make docs``. What is generated (``reference/api``) is not committed.
"""

import pipeline

project = "descry"
author = "the descry authors"
copyright = "2026, the descry authors. Research use only; not a medical device"
release = pipeline.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.apidoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"descry {release}"
html_copy_source = False
# No page asks another server for anything.
html_theme_options = {"light_css_variables": {"font-stack": "system-ui, sans-serif"}}

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
# Links into the repository (cards of datasets, scripts) stand outside of these pages; a word in
# backquotes that several classes have is no reference.
suppress_warnings = ["myst.xref_missing", "ref.python"]

apidoc_modules = [
    {
        "path": "../pipeline",
        "destination": "reference/api",
        "module_first": True,
        "max_depth": 2,
        "exclude_patterns": ["../pipeline/__main__.py"],
    }
]
autodoc_typehints = "none"  # numpydoc's sections say the types
autodoc_default_options = {"members": True, "show-inheritance": False}
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
linkcheck_timeout = 20
linkcheck_ignore = [r"https://pacs\.example.*", r"http://127\.0\.0\.1.*"]
