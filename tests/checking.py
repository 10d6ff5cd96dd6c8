"""How calls into boltzflow are checked against its annotations, shapes included (jaxtyping with beartype)."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Self

import beartype
import jaxtyping
import pytest

# As in PEP 484 and for pyright, an int is a float. `Self` means nothing to a decorator of functions.
_CONF = beartype.BeartypeConf(is_pep484_tower=True, hint_overrides=beartype.FrozenDict({Self: object}))
# Where the classes of options are, and the objectives derived from them.
_OPTIONS = ("boltzflow.config.", "boltzflow.objectives.")
_PYTEST_RAISES = pytest.raises
installed = False
"""Whether calls are checked."""


def install() -> None:
    """To be called before anything of boltzflow is imported."""
    global installed
    installed = True
    jaxtyping.install_import_hook("boltzflow", "checking.checked")
    pytest.raises = _raises


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with its arguments and what it returns checked."""
    if function.__module__.startswith(_OPTIONS) and function.__qualname__.endswith(".__init__"):
        return function  # a variant may be given by its name, and what pydantic checks it converts
    return beartype.beartype(conf=_CONF)(function)


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """For wrong input that is meant: within, the package's own words are heard, as its users hear them."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


@contextlib.contextmanager
def _raises(expected: Any, **options: Any) -> Iterator[Any]:
    """As `pytest.raises`; what a test expects an error for may be just what the annotations forbid."""
    with _PYTEST_RAISES(expected, **options) as error, unchecked():
        yield error
