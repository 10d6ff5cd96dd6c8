"""How many samples an accelerator draws at once: timed at the first long drawing from a flow, and remembered.

A processor's chunks have to fit into its cache, which is known beforehand (`AbstractFlow.chunk_size`). What fills an accelerator depends
on the card, its memory and the network.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from boltzflow import files, runtime
from boltzflow.flows.base import AbstractFlow
from boltzflow.flows.identity import identity

LONG = 32
"""Drawings of fewer chunks than this, of the usual size, are over before the timing would pay."""

_FACTORS = (1, 4, 16)
# A larger chunk must be faster by this much, for it takes more memory.
_GAIN = 0.95
_FILE = "chunks.json"


def chunk_size(flow: AbstractFlow, n: int, seconds: Callable[[int], float]) -> int:
    """Samples of a compiled call for a drawing of n samples.

    Args:
        flow: the flow.
        n: samples to draw.
        seconds: of a compiled call for a number of samples.

    Returns:
        `flow.chunk_size` on processors and for short drawings; else the fastest of a few multiples of it on this kind of device.
    """
    usual = flow.chunk_size
    if not _accelerated() or n < LONG * usual:
        return usual
    file, name = runtime.cache_folder() / _FILE, _name(flow)
    kept = _read(file)
    if (chunk := kept.get(name)) is None:
        chunk = _fastest(usual, n, seconds)
        _keep(file, {**_read(file), name: chunk})
    return chunk


def _accelerated() -> bool:
    return jax.default_backend() != "cpu"


def _name(flow: AbstractFlow) -> str:
    """Of a flow on a kind of device with a version of JAX."""
    text = "|".join([identity(flow)["identity"], str(flow.chunk_size), jax.local_devices()[0].device_kind, jax.__version__])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _fastest(usual: int, n: int, seconds: Callable[[int], float]) -> int:
    best, least = usual, float("inf")
    for chunk in (usual * factor for factor in _FACTORS if usual * factor <= n):
        try:
            each = seconds(chunk) / chunk
        except jax.errors.JaxRuntimeError:
            # The memory of the device does not hold so many.
            break
        if each > _GAIN * least:
            break
        best, least = chunk, each
    return best


def _read(file: Path) -> dict[str, int]:
    """What is remembered; nothing where the file is not there or damaged."""
    try:
        kept: Any = json.loads(file.read_text(encoding="utf-8"))
        return {str(name): int(chunk) for name, chunk in kept.items() if int(chunk) > 0}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _keep(file: Path, content: dict[str, int]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        files.replace_json(file, content)
    except OSError:
        # Timed again the next time.
        pass
