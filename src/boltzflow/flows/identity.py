"""Hashes that tell flows apart: by their weights, and by all that decides which samples they draw and with which log q.

Stored with samples and evaluations, so that figures of different weights, solvers or precisions are never mixed.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from boltzflow.flows.base import AbstractFlow

_DIGITS = 16


def named_arrays(tree: Any) -> dict[str, np.ndarray]:
    """The parameters of a network by the names that they have in a model file."""
    paths = jax.tree_util.tree_flatten_with_path(eqx.filter(tree, eqx.is_inexact_array))[0]
    return {jax.tree_util.keystr(path).lstrip("."): np.asarray(leaf) for path, leaf in paths}


def hash_of_weights(arrays: Mapping[str, np.ndarray], scale: float) -> str:
    """Hash of parameters by name and of the unit of length; in single precision, so that it is the same in either."""
    digest = hashlib.sha256(repr(float(scale)).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name], np.dtype("<f4"))
        digest.update(f"|{name}{array.shape}|".encode() + array.tobytes())
    return digest.hexdigest()[:_DIGITS]


def identity(flow: AbstractFlow) -> dict[str, str]:
    """What samples of a flow and figures about it store of it.

    Returns:
        `weights`, the hash of the weights; "divergence", "solver" (the flow's settings in words) and `precision`, that of new arrays; and
        `identity`, a hash of all of these and of what the words leave out.
    """
    known = {
        "weights": hash_of_weights(named_arrays(flow.network), flow.scale),
        **flow.settings,
        "precision": str(jnp.zeros(()).dtype),
    }
    text = "|".join([*(f"{key}={known[key]}" for key in sorted(known)), flow.unsaid])
    return {**known, "identity": hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]}
