"""The site of the documentation: `python -m sphinx -W --keep-going docs build/docs` makes it in build/docs/index.html.

Warnings are errors (-W): a link to a page or heading that does not exist, a page that is not in _toc.yml, an object of
the Python API without its docstring. `python -m sphinx -b linkcheck docs build/links` asks for every external link.
"""

import re
import tomllib
from pathlib import Path

project = 'ule_jax'
author = 'The ule_jax authors'
release = tomllib.loads((Path(__file__).parents[1] / 'pyproject.toml').read_text())['project']['version']
extensions = ['myst_nb', 'sphinx_external_toc', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinx_copybutton']

html_theme = 'furo'
html_title = 'ule_jax'
html_static_path = ['images']
html_css_files = ['site.css']
html_copy_source = False
html_show_sphinx = False
exclude_patterns = ['images']

external_toc_path = '_toc.yml'
myst_heading_anchors = 4  # headings are anchors as on GitHub
myst_enable_extensions = ['dollarmath']
nb_execution_mode = 'off'  # tests run the notebook; its outputs are in the file

autodoc_typehints = 'signature'
autodoc_member_order = 'bysource'
napoleon_google_docstring = True

smartquotes = False  # --flags stay
default_role = 'code'  # `name` in docstrings

linkcheck_anchors = False
linkcheck_timeout = 20


def setup(app):
  """Render docstrings, which are plain text, as reStructuredText."""
  app.connect('autodoc-process-docstring', _render)


def _render(*event):
  """Take the bars of |g| as they are, and make the fields of a class (`name: meaning`) a list."""
  _, what, *_, lines = event
  fields = re.compile(r'^(\w+(?:, \w+)*): ') if what == 'class' else re.compile(r'(?!)()')
  lines[:] = [fields.sub(r'- ``\1``: ', line).replace('|', '\\|') for line in lines]
