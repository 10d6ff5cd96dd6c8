"""Probability paths between prior and data: x_t = noise(t) x0 + signal(t) x1."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from boltzflow.config import PathName

# Noise rates of the diffusion at the data and at the prior, and the diffusion time that is left out next to the data, where the
# velocity of the path has no bound (Song et al., ICLR 2021, arXiv:2011.13456).
_BETA_DATA, _BETA_PRIOR = 0.1, 20.0
_DIFFUSION_FLOOR = 1e-3


class Path(NamedTuple):
    """Coefficients of a path at some times, and their derivatives with respect to time."""

    noise: Float[Array, "..."]
    signal: Float[Array, "..."]
    noise_rate: Float[Array, "..."]
    signal_rate: Float[Array, "..."]


def path(name: PathName, time: Float[Array, "..."]) -> Path:
    """Coefficients of a path by its name.

    Args:
        name: "linear": 1 - t and t. "diffusion": the variance-preserving diffusion with a linear schedule of noise rates, run
            backwards; it ends at data with noise of one per cent of the prior's width.
        time: t in [0, 1], 0 at the prior.
    """
    coefficients = _COEFFICIENTS[name]
    (noise, signal), (noise_rate, signal_rate) = jax.jvp(coefficients, (time,), (jnp.ones_like(time),))
    return Path(noise, signal, noise_rate, signal_rate)


def _linear(time: Any) -> tuple[Any, Any]:
    return 1.0 - time, time


def _diffusion(time: Any) -> tuple[Any, Any]:
    s = 1.0 - (1.0 - _DIFFUSION_FLOOR) * time
    total = _BETA_DATA * s + 0.5 * (_BETA_PRIOR - _BETA_DATA) * s**2
    return jnp.sqrt(-jnp.expm1(-total)), jnp.exp(-0.5 * total)


_COEFFICIENTS: dict[PathName, Callable[[Any], tuple[Any, Any]]] = {"linear": _linear, "diffusion": _diffusion}
