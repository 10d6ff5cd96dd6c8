"""Compiled programs kept on disk whole, so that a new process need not trace and lower them again.

JAX's own cache of compiled programs spares the compilation, but is asked only once a function has been traced and lowered, which takes
Python longer than drawing a few hundred samples. Here the finished program is found by what it is made from: the source of this package,
the versions of what traces and compiles it, the settings of JAX, and the structure of the flow. It gives the same bits.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import pickle
import platform
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer
from jax.experimental import serialize_executable
from jaxtyping import PyTree

from boltzflow import files

_PACKAGES = ("jax", "jaxlib", "equinox", "diffrax", "numpy")
# What a program depends on beside source and arguments: variables of XLA, and settings of JAX that tracing looks at.
_VARIABLES = ("XLA_FLAGS", "JAX_ENABLE_X64")
_SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_numpy_dtype_promotion",
)


def stored(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles a function of modules and arrays like `equinox.filter_jit`, and keeps its programs beside JAX's cache of compiled programs.

    They are kept on CPUs only, where the cache's folder is set (`runtime.configure`), and where the modules can be told apart by how they
    print; else this is `filter_jit`.
    """
    compiled = eqx.filter_jit(function)
    programs: dict[str, Callable[[list[Any]], Any]] = {}
    lock = threading.Lock()

    @functools.wraps(function)
    def call(*arguments: PyTree) -> Any:
        folder = _folder()
        arrays, static = eqx.partition(arguments, _is_array)
        leaves, structure = jax.tree.flatten(arrays)
        if folder is None or not all(_at_hand(leaf) for leaf in leaves):
            return compiled(*arguments)
        key = _key(f"{function.__module__}.{function.__qualname__}", leaves, structure, static)
        if key is None:
            return compiled(*arguments)
        # Threads that need the same program wait for the one that makes it.
        with lock:
            if key not in programs:
                path = folder / f"{key}.program"
                programs[key] = _kept(path, leaves) or _made(function, path, leaves, structure, static)
        return programs[key](leaves)

    return call


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


def _at_hand(leaf: Any) -> bool:
    """Whether an array is there, not one of a program that is being traced, and not on other devices than the first."""
    return not isinstance(leaf, Tracer) and (not isinstance(leaf, jax.Array) or leaf.devices() == {jax.local_devices()[0]})


def _kept(path: Path, leaves: list[Any]) -> Callable[[list[Any]], Any] | None:
    """The program in the file; None where there is none, it is damaged, or it does not run: some faults show only then."""
    with contextlib.suppress(Exception):
        program = serialize_executable.deserialize_and_load(*pickle.loads(path.read_bytes()), execution_devices=jax.local_devices()[:1])
        jax.block_until_ready(program(leaves))
        return program
    return None


def _made(function: Callable[..., Any], path: Path, leaves: list[Any], structure: Any, static: PyTree) -> Callable[[list[Any]], Any]:
    """A new program, which is then kept in the file."""

    def flat(leaves: list[Any]) -> Any:
        return function(*eqx.combine(jax.tree.unflatten(structure, leaves), static))

    # A program that JAX found in its own cache lacks parts once it is serialised again (jaxlib 0.10): a name that was never there before
    # makes sure that it is compiled.
    flat.__name__ = f"program_{secrets.token_hex(8)}"
    program = jax.jit(flat).lower(leaves).compile()
    # A program that cannot be kept serves all the same.
    with contextlib.suppress(Exception):
        path.parent.mkdir(exist_ok=True)
        files.replace(path, pickle.dumps(serialize_executable.serialize(program)))
    return program


def _folder() -> Path | None:
    """Where programs are kept; None where they are not."""
    cache = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if not cache or not jax.config.jax_enable_compilation_cache or jax.default_backend() != "cpu":  # pyright: ignore[reportAttributeAccessIssue]
        return None
    return Path(cache) / "programs" if Path(cache).is_dir() else None


def _key(name: str, leaves: list[Any], structure: Any, static: PyTree) -> str | None:
    """A hash of all that makes the program what it is; None where a part of it does not print what it is."""
    rest = jax.tree.flatten(static)
    types = [(str(jax.typeof(leaf)), getattr(leaf, "weak_type", False)) for leaf in leaves]
    shown = f"{name} {structure} {rest} {types}"
    # Functions print as addresses, and long arrays with dots.
    if " at 0x" in shown or "..." in shown:
        return None
    settings = [f"{key}={getattr(jax.config, key, None)}" for key in _SETTINGS]
    variables = [f"{key}={os.environ.get(key)}" for key in _VARIABLES]
    return hashlib.sha256("\n".join([source_hash(), str(jax.device_count()), *settings, *variables, shown]).encode()).hexdigest()[:32]


@functools.cache
def source_hash() -> str:
    """A hash of this package's source and of the versions of what traces and compiles."""
    digest = hashlib.sha256(platform.python_version().encode())
    for package in _PACKAGES:
        digest.update(f"{package} {importlib.metadata.version(package)}\n".encode())
    root = Path(__file__).parent.parent
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
