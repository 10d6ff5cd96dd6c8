"""Chunks of samples and densities on all local devices at once: one program, a chunk to each device, nothing exchanged.

Each device computes what one device alone would for the same chunk, so that a sample does not depend on how many there are. Cores of a
processor are not devices in this sense: there chunks run in threads side by side (`generate.in_chunks`).
"""

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import equinox as eqx
import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import PyTree

from boltzflow.errors import ConfigError

T = TypeVar("T")


def local(devices: int | None) -> list[Any]:
    """The local devices that work side by side.

    Args:
        devices: how many; None: all accelerators there are, and one processor.

    Raises:
        ConfigError: if there are fewer.
    """
    there = jax.local_devices()
    if devices is None:
        devices = 1 if jax.default_backend() == "cpu" else len(there)
    if not 1 <= devices <= len(there):
        raise ConfigError(f"{devices} devices were asked for, and JAX sees {len(there)} here; ask for 1 to {len(there)}.")
    return there[:devices]


def mesh(devices: int | None, chunks: int) -> Mesh | None:
    """The local devices among which so many chunks are divided; None where that is one.

    Args:
        devices: how many; None: all accelerators there are, and one processor.
        chunks: that there are to compute; no more devices than chunks are of use.

    Raises:
        ConfigError: if there are fewer.
    """
    used = local(devices)[:chunks]
    return None if len(used) <= 1 else Mesh(np.array(used), ("data",))


def on(places: Sequence[Any], number: int) -> AbstractContextManager[Any]:
    """Within it programs run on the device whose turn it is for the piece of work of a number; anywhere where there is but one."""
    return jax.default_device(places[number % len(places)]) if len(places) > 1 else contextlib.nullcontext()


def size(mesh: Mesh | None) -> int:
    """Number of devices."""
    return 1 if mesh is None else mesh.size


def over(function: Callable[..., T], mesh: Mesh, shared: PyTree, *columns: PyTree) -> T:
    """What a function of something shared and of columns gives, each device computing its rows.

    Args:
        function: of the shared thing and of columns; gives arrays with as many rows.
        mesh: the devices, with one axis "data".
        shared: such as a flow, whole on each device.
        columns: arrays whose rows are divided evenly.
    """
    return _compiled(function, mesh, shared, columns)


@eqx.filter_jit
def _compiled(function: Callable[..., Any], mesh: Mesh, shared: PyTree, columns: tuple[PyTree, ...]) -> Any:
    arrays, static = eqx.partition(shared, eqx.is_array)
    rows = PartitionSpec("data")

    def own(arrays: PyTree, columns: tuple[PyTree, ...]) -> Any:
        return function(eqx.combine(arrays, static), *columns)

    return jax.shard_map(own, mesh=mesh, in_specs=(PartitionSpec(), rows), out_specs=rows, check_vma=False)(arrays, columns)
