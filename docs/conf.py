"""The documentation site: Sphinx with Furo and MyST, formulas as MathML, no script, font or formula from anywhere else.

`make docs` builds it; every warning is an error there, so that a broken link, a reference that leads nowhere or a public name without a
docstring fails.
"""

import os
import sys
from pathlib import Path

# Kernels of notebooks inherit these: what one has compiled serves the others.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent / "_build" / "compiled"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1] / "src"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

sys.path[:0] = [str(Path(__file__).parent / "site"), str(Path(__file__).parents[1] / "src")]

import boltzflow  # noqa: E402 (the path comes first)

project = "boltzflow"
author = copyright = "The boltzflow authors"
version = release = boltzflow.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "mathml", "docstrings"]
exclude_patterns = ["_build", "figures", "site"]
nitpicky = True
# Type variables, and what only the package itself makes.
nitpick_ignore = [
    ("py:class", "boltzflow.blackbox.farm.R"),
    ("py:class", "boltzflow.blackbox.farm.T"),
    ("py:class", "boltzflow.cluster.T"),
    ("py:class", "boltzflow.register.C"),
    ("py:class", "boltzflow.register.F"),
    ("py:class", "boltzflow.targets.invariance.Trial"),
]
nitpick_ignore_regex = [("py:class", r"boltzflow\.flows\.coupling\..*")]

# Notebooks are text, and executed when the site is built; what has not changed since is taken from the cache.
# `NOTEBOOKS=off make docs` shows their code without running it.
nb_execution_mode = os.environ.get("NOTEBOOKS", "cache")
if nb_execution_mode == "off":
    # The language of the code comes from the kernel, which is not asked then.
    suppress_warnings = ["myst-nb.lexer"]
nb_execution_cache_path = str(Path(__file__).parent / "_build" / "notebooks")
nb_execution_in_temp = True
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_dmath_double_inline = True
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_custom_sections = [("Class attributes", "params_style")]
add_module_names = False
python_maximum_signature_line_length = 90

html_theme = "furo"
html_title = f"boltzflow {version}"
html_copy_source = False
html_show_sphinx = False
html_static_path = ["site/static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_theme_options = {"navigation_with_keys": True}


def _spread(app, env, docnames: list[str]) -> None:  # noqa: ANN001
    """Puts the notebooks at even distances, so that processes that share the pages (`-j`) share their running, too."""
    slow = [name for name in docnames if name.startswith("notebooks/")]
    quick = [name for name in docnames if name not in slow]
    for number, name in enumerate(slow):
        quick.insert(number * len(docnames) // len(slow), name)
    docnames[:] = quick


def setup(app) -> None:  # noqa: ANN001, D103
    app.connect("env-before-read-docs", _spread)
    from pygments.lexers.special import TextLexer

    app.add_lexer("pdb", TextLexer)
