"""The device mesh that shares each batch."""

import jax
import numpy as np

from boltzflow import cluster
from boltzflow.errors import ConfigError


def data_mesh(devices: int, batch_size: int, microbatch: int, *, section: str = "stages.0") -> jax.sharding.Mesh:
    """Mesh with one axis "data" over the first `devices` devices (0: all); one device is the trivial mesh.

    Of several processes it is always over all devices of all of them; `devices` is then how many each processor was split into.

    Raises:
        ConfigError: if there are fewer devices, or the batch does not divide into microbatches on them.
    """
    available = jax.devices()
    devices = 0 if cluster.joined() else devices
    count = devices or len(available)
    if count > len(available):
        raise ConfigError(
            f"run.devices is {devices} but JAX sees {len(available)}; lower it, or set the environment variable "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={devices} to split the processor."
        )
    if batch_size % (microbatch * count):
        raise ConfigError(
            f"{section}.batch_size {batch_size} must be a multiple of {section}.microbatch {microbatch} times {count} devices; "
            f"{microbatch * count * max(1, batch_size // (microbatch * count))} would do."
        )
    return jax.sharding.Mesh(np.array(available[:count]), ("data",))
