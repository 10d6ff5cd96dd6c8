"""Packages that sampling a shipped model does not need: extras of the installation, imported where they are used.

Where one is missing, a sentence names the extra that brings it.
"""

import contextlib
import importlib.util
from collections.abc import Iterator

from boltzflow.errors import MissingExtraError

MODULES = {
    "cluster": ("distributed",),
    "evaluate": ("numba", "ot", "pymbar"),
    "molecules": ("deeptime", "mdtraj", "openmm", "tables"),
    "report": ("jinja2", "markupsafe", "matplotlib", "plotly"),
    "smiles": ("rdkit",),
    "tracking": ("tensorboardX",),
    "train": ("numba", "orbax.checkpoint"),
    "xtb": ("ase", "tblite"),
}
"""The modules that each extra brings; `pyproject.toml` has their packages."""


@contextlib.contextmanager
def of(extra: str, purpose: str) -> Iterator[None]:
    """Imports in the block come from an extra: where one is not installed, a sentence says so.

    Args:
        extra: its name, of `MODULES`.
        purpose: what needs it, as the sentence begins.

    Raises:
        MissingExtraError: if a module of the extra is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {module.partition(".")[0] for module in MODULES[extra]}:
            raise
        raise MissingExtraError(_sentence(extra, purpose, str(error.name))) from error


def require(extra: str, purpose: str) -> None:
    """Makes sure that an extra is installed, before work whose last step needs it.

    Args:
        extra: its name, of `MODULES`.
        purpose: what needs it, as the sentence begins.

    Raises:
        MissingExtraError: if a module of the extra is not installed.
    """
    missing = [module for module in MODULES[extra] if not _is_there(module)]
    if missing:
        raise MissingExtraError(_sentence(extra, purpose, missing[0]))


def installed(extra: str) -> bool:
    """Whether all modules of an extra are there.

    Args:
        extra: its name, of `MODULES`.
    """
    return all(_is_there(module) for module in MODULES[extra])


def _is_there(module: str) -> bool:
    """Whether a module can be found; it is not imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _sentence(extra: str, purpose: str, module: str) -> str:
    return f"{purpose} needs {module}, which is not installed; install the extra `{extra}`: pip install 'boltzflow[{extra}]'."
