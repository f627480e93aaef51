"""Configuration of Sphinx for the documentation site, which `nox -s docs` builds.

The build fails if there is a warning, or if a code cell of a page raises an error.
"""

import os
import sys
import tomllib
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(DOCS / "_ext"), str(ROOT)]
# of the kernels that run the code cells
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(ROOT), os.environ.get("PYTHONPATH", "")]
)
os.environ["KERAS_BACKEND"] = "jax"
# pages share what XLA compiles: most of their time is compilation
os.environ |= {
    "JAX_COMPILATION_CACHE_DIR": str(DOCS / "_build" / "xla"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}
os.environ |= {"JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
# a kernel warns that its messages are not encrypted; they do not leave this machine
PROFILE = DOCS / "_build" / "ipython" / "profile_default"
PROFILE.mkdir(parents=True, exist_ok=True)
(PROFILE / "ipython_kernel_config.py").write_text(
    'get_config().IPKernelApp.log_level = "ERROR"\n'
)
os.environ["IPYTHONDIR"] = str(PROFILE.parent)

from lstm_jax.lab.machine.processes import code_digest  # noqa: E402

project = "lstm_jax"
version = release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
    "version"
]
copyright = author = "the lstm_jax authors"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "generated",
]
exclude_patterns = ["_build", "_ext", "_static"]
templates_path: list[str] = []
default_role = "literal"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

nb_execution_mode = "cache"
# outputs are kept until the library changes
nb_execution_cache_path = str(DOCS / "_build" / "cells" / code_digest()[:16])
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_execution_timeout = 600
nb_execution_show_tb = True
nb_merge_streams = True
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # the site needs no network

autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_maximum_signature_line_length = 88
add_module_names = False

html_theme = "sphinx_book_theme"
html_title = f"lstm_jax {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_last_updated_fmt = ""
html_theme_options = {
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "home_page_in_toc": False,
    "navbar_persistent": [],  # the sidebar has a search field
}
copybutton_exclude = ".linenos, .gp, .go"
copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True
