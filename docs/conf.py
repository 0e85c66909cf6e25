"""Settings of the documentation site: ``sphinx-build -W docs out/site``."""

import sys
from pathlib import Path

from symprop import __version__

sys.path.insert(0, str(Path(__file__).parent))

project = "symprop"
author = "The symprop authors"
project_copyright = author
release = version = __version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "derived_pages"]
html_theme = "furo"
html_title = f"symprop {release}"
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".ipynb": "myst-nb"}
exclude_patterns = ["**.ipynb_checkpoints"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
# The notebooks are stored with their outputs, which the tests compare with a new run.
nb_execution_mode = "off"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {"members": True, "ignore-module-all": True, "show-inheritance": True}
add_module_names = False
