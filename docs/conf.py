"""The documentation as a site: `make docs` writes it to docs/_build."""

from importlib.metadata import version as version_of

project = "regard"
author = "The regard authors"
project_copyright = "The regard authors"
release = version = version_of("regard")

extensions = ["myst_parser", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = "regard"
html_show_sphinx = False
