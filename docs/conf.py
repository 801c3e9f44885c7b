"""Settings of the documentation site: `make docs`."""

from omnitune import __version__

project = "omnitune"
author = "the authors of omnitune"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "omnitune"
exclude_patterns = ["_build", "measured"]
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autoclass_content = "both"  # arguments of trainers stand at their `__init__`
autodoc_member_order = "bysource"
napoleon_google_docstring = True
suppress_warnings = ["myst.xref_missing"]  # links from pages to files of the repository, such as ../examples
