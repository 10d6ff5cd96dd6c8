"""Activations, dense layers that act on the last axis of an array of any rank, and features of time and distance."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray


@jax.custom_jvp
def sigmoid(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Logistic function, in the form that XLA evaluates fastest on a CPU."""
    return 0.5 + 0.5 * jnp.tanh(0.5 * x)


@sigmoid.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    value = sigmoid(*primals)
    return value, value * (1.0 - value) * tangents[0]


def silu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x·sigmoid(x)."""
    return x * sigmoid(x)


def positive(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Softplus, shifted so that 0 gives 1: factors that start as the identity."""
    return jax.nn.softplus(x + math.log(math.e - 1.0))


def normalized(x: Float[Array, "... F"]) -> Float[Array, "... F"]:
    """Zero mean and unit variance over the last axis (layer norm without parameters: the map that follows has its own)."""
    # Means as matrix products, which take half the time of reductions on a CPU.
    share = jnp.full((x.shape[-1], 1), 1.0 / x.shape[-1], x.dtype)
    centred = x - x @ share
    return centred * jax.lax.rsqrt(centred**2 @ share + 1e-5)


class Dense(eqx.Module):
    """Affine map of the last axis.

    Unlike `equinox.nn.Linear` it takes any leading axes, so that one large matrix product serves all edges of a configuration.
    """

    weight: Float[Array, "in out"]
    bias: Float[Array, " out"] | None

    def __init__(self, n_in: int, n_out: int, *, bias: bool = True, gain: float = 1.0, key: PRNGKeyArray) -> None:
        """Uniform initialisation with variance gain² / n_in; zero bias."""
        bound = gain * np.sqrt(3.0 / n_in)
        self.weight = jax.random.uniform(key, (n_in, n_out), minval=-bound, maxval=bound)
        self.bias = jnp.zeros(n_out) if bias else None

    def __call__(self, x: Float[Array, "... in"]) -> Float[Array, "... out"]:
        """Apply the map."""
        y = x @ self.weight
        return y if self.bias is None else y + jax.lax.broadcast_to_rank(self.bias, y.ndim)


# Times closer to an end than this are not resolved.
_TIME_FLOOR = 0.03


class TimeFeatures(eqx.Module):
    """Smooth features of time: powers, a few Fourier modes and the logarithm of the time left.

    The field changes fastest where little noise is left, on the scale of 1-t; the logarithm resolves it. With paired samples it also
    changes fast near the prior, on the scale of t.

    Attributes:
        modes: Fourier modes.
        near_prior: take the logarithm of t in place of its square.
        log_temperature: see `temperature_features`, which follow those of time; None: none.
    """

    modes: int = eqx.field(static=True, default=3)
    near_prior: bool = eqx.field(static=True, default=False)
    log_temperature: Float[Array, ""] | None = None

    @property
    def size(self) -> int:
        """Number of features."""
        return 3 + 2 * self.modes + (0 if self.log_temperature is None else TEMPERATURE_FEATURES)

    def __call__(self, t: Float[Array, ""]) -> Float[Array, " F"]:
        """Features of one time."""
        if self.log_temperature is None:
            return self._of_time(t)
        return jnp.concatenate([self._of_time(t), temperature_features(self.log_temperature).astype(t.dtype)])

    def _of_time(self, t: Float[Array, ""]) -> Float[Array, " F"]:
        frequencies = jnp.pi * jnp.arange(1, self.modes + 1, dtype=t.dtype)
        clipped = jnp.clip(t, 0.0, 1.0)
        second = jnp.log(clipped + _TIME_FLOOR) if self.near_prior else t**2
        return jnp.concatenate(
            [jnp.stack([t, second, jnp.log(1.0 - clipped + _TIME_FLOOR)]), jnp.sin(frequencies * t), jnp.cos(frequencies * t)]
        )


TEMPERATURE_FEATURES = 2
"""Number of `temperature_features`."""


def temperature_features(log_temperature: Float[Array, ""]) -> Float[Array, " 2"]:
    """Features of the temperature, as a multiple T of the target's: ln T and 1 - 1/T, both 0 at the target's. No gradient reaches it."""
    told = jax.lax.stop_gradient(log_temperature)
    return jnp.stack([told, 1.0 - jnp.exp(-told)])


class RadialFunctions(eqx.Module):
    """Gaussian functions of log(r + offset), evenly spaced between the images of 0 and `reach`.

    Attributes:
        count: number of functions.
        reach: distance of the last centre, in units of the prior.
        offset: shifts resolution from r = 0 (small) to large r (large).
        cutoff: distance beyond which all functions vanish smoothly; None: no cut-off.
    """

    count: int = eqx.field(static=True)
    reach: float = eqx.field(static=True, default=6.0)
    offset: float = eqx.field(static=True, default=0.4)
    cutoff: float | None = eqx.field(static=True, default=None)

    def __call__(self, r: Float[Array, "..."]) -> Float[Array, "... K"]:
        """Values at distances r."""
        low, high = math.log(self.offset), math.log(self.reach + self.offset)
        centres = jnp.linspace(low, high, self.count, dtype=r.dtype)
        width = (high - low) / max(self.count - 1, 1)
        log_distance = jnp.log(r + self.offset)[..., None]
        values = jnp.exp(-0.5 * ((log_distance - jax.lax.broadcast_to_rank(centres, log_distance.ndim)) / width) ** 2)
        return values * cutoff_envelope(r, self.cutoff)[..., None] if self.cutoff is not None else values


def cutoff_envelope(r: Float[Array, "..."], cutoff: float | None) -> Float[Array, "..."]:
    """1 at r = 0, falling to 0 at the cut-off with two continuous derivatives; 1 everywhere without a cut-off."""
    if cutoff is None:
        return jnp.ones_like(r)
    x = jnp.clip(r / cutoff, 0.0, 1.0)
    return 1.0 - x**3 * (10.0 - 15.0 * x + 6.0 * x**2)
