"""Monotone rational-quadratic splines of one variable, on an interval and on the circle.

Source: Durkan, Bekasov, Murray and Papamakarios, NeurIPS 2019, arXiv:1906.04032, section 3 and appendix A; on the circle: Rezende et al.,
ICML 2020, arXiv:2002.02428, section 2.1.1.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Least width and height of a bin as shares of the interval, and least slope.
_LEAST_BIN = 1e-4
_LEAST_SLOPE = 1e-4

Value = tuple[Float[Array, "..."], Float[Array, "..."]]
"""A value and the logarithm of the derivative that belongs to it."""


class Spline(NamedTuple):
    """An increasing function with K = B + 1 knots, continued linearly beyond them.

    Attributes:
        x: arguments of the knots, (..., K).
        y: values at the knots, (..., K).
        slope: derivatives at the knots, (..., K).
    """

    x: Float[Array, "... K"]
    y: Float[Array, "... K"]
    slope: Float[Array, "... K"]

    def __call__(self, x: Float[Array, "..."]) -> Value:
        """The function and its log derivative."""
        b = self._bin(x, self.x)
        xi = jnp.clip((x - b.x) / b.width, 0.0, 1.0)
        across = xi * (1.0 - xi)
        denominator = b.mean + (b.left + b.right - 2.0 * b.mean) * across
        y = b.y + b.height * (b.mean * xi**2 + b.left * across) / denominator
        log_slope = _log_slope(b, xi, across, denominator)
        beyond = jnp.maximum(x - self.x[..., -1], 0.0) * self.slope[..., -1] + jnp.minimum(x - self.x[..., 0], 0.0) * self.slope[..., 0]
        return y + beyond, log_slope

    def inverse(self, y: Float[Array, "..."]) -> Value:
        """The inverse function and its log derivative."""
        b = self._bin(y, self.y)
        delta = jnp.clip(y - b.y, 0.0, b.height)
        bend = b.left + b.right - 2.0 * b.mean
        # The root of a xi² + p xi + q that lies in [0, 1], in the form that does not cancel.
        a = b.height * (b.mean - b.left) + delta * bend
        p = b.height * b.left - delta * bend
        q = -b.mean * delta
        xi = jnp.clip(-2.0 * q / (p + jnp.sqrt(jnp.maximum(p**2 - 4.0 * a * q, 0.0))), 0.0, 1.0)
        across = xi * (1.0 - xi)
        log_slope = _log_slope(b, xi, across, b.mean + bend * across)
        above, below = jnp.maximum(y - self.y[..., -1], 0.0), jnp.minimum(y - self.y[..., 0], 0.0)
        return b.x + xi * b.width + above / self.slope[..., -1] + below / self.slope[..., 0], -log_slope

    def _bin(self, value: Float[Array, "..."], knots: Float[Array, "... K"]) -> "_Bin":
        """The bin of each value; the first or the last one for values beyond the knots."""
        inner = value[..., None] >= knots[..., 1:-1]
        ones = jnp.ones_like(inner[..., :1])
        # One true element each: chosen by masked sums, whose gradient is no scatter.
        chosen = jnp.concatenate([ones, inner], axis=-1) & ~jnp.concatenate([inner, ~ones], axis=-1)

        ends = (self.x[..., :-1], self.y[..., :-1], jnp.diff(self.x), jnp.diff(self.y), self.slope[..., :-1], self.slope[..., 1:])
        of_bin = jnp.sum(jnp.where(chosen[..., None, :], jnp.stack(ends, axis=-2), 0.0), axis=-1)
        x, y, width, height, left, right = jnp.moveaxis(of_bin, -1, 0)
        return _Bin(x, y, width, height, left, right, height / width)


class _Bin(NamedTuple):
    """Left knot, width and height of a bin, slopes at its ends and its mean slope."""

    x: Float[Array, "..."]
    y: Float[Array, "..."]
    width: Float[Array, "..."]
    height: Float[Array, "..."]
    left: Float[Array, "..."]
    right: Float[Array, "..."]
    mean: Float[Array, "..."]


def _log_slope(b: _Bin, xi: Array, across: Array, denominator: Array) -> Float[Array, "..."]:
    numerator = b.right * xi**2 + 2.0 * b.mean * across + b.left * (1.0 - xi) ** 2
    return 2.0 * jnp.log(b.mean) + jnp.log(numerator) - 2.0 * jnp.log(denominator)


def parameters(bins: int) -> int:
    """Raw numbers that a spline takes, on an interval as on the circle."""
    return 3 * bins + 1


def on_interval(raw: Float[Array, "... P"], low: float, high: float) -> Spline:
    """Spline that maps [low, high] onto itself, with free slopes at the ends; raw zeros give the identity.

    Args:
        raw: 3 B + 1 numbers: B widths, B heights, B + 1 slopes.
        low: first knot.
        high: last knot.
    """
    bins = (raw.shape[-1] - 1) // 3
    shares, slopes = jnp.split(raw, [2 * bins], axis=-1)
    knots = _knots(shares.reshape(*raw.shape[:-1], 2, bins), low, high)
    return Spline(knots[..., 0, :], knots[..., 1, :], _slopes(slopes))


class CircularSpline(NamedTuple):
    """An increasing map of the circle [-pi, pi) onto itself.

    Attributes:
        spline: a spline on [-pi, pi] with equal slopes at the ends.
        shift: angle added first, without which -pi would be a fixed point.
    """

    spline: Spline
    shift: Float[Array, "..."]

    def __call__(self, angle: Float[Array, "..."]) -> Value:
        """The angle's image and the log derivative."""
        return self.spline(wrapped(angle + self.shift))

    def inverse(self, angle: Float[Array, "..."]) -> Value:
        """The inverse image and its log derivative."""
        before, log_slope = self.spline.inverse(wrapped(angle))
        return wrapped(before - self.shift), log_slope


def closed(raw: Float[Array, "... P"]) -> tuple[Float[Array, "... P"], Float[Array, "..."]]:
    """Raw numbers of a spline with equal slopes at its ends, and the shift that takes the place of the last one.

    Args:
        raw: 3 B + 1 numbers: B widths, B heights, B slopes, the shift.
    """
    bins = (raw.shape[-1] - 1) // 3
    return jnp.concatenate([raw[..., :-1], raw[..., 2 * bins : 2 * bins + 1]], axis=-1), raw[..., -1]


def on_circle(raw: Float[Array, "... P"]) -> CircularSpline:
    """Spline of the circle; raw zeros give the identity.

    Args:
        raw: 3 B + 1 numbers: B widths, B heights, B slopes, the shift.
    """
    around, shift = closed(raw)
    return CircularSpline(on_interval(around, -math.pi, math.pi), shift)


def wrapped(angle: Float[Array, "..."]) -> Float[Array, "..."]:
    """The same angle in [-pi, pi)."""
    return angle - 2.0 * math.pi * jnp.floor((angle + math.pi) / (2.0 * math.pi))


def _knots(raw: Float[Array, "... B"], low: float, high: float) -> Float[Array, "... K"]:
    bins = raw.shape[-1]
    shares = _LEAST_BIN + (1.0 - bins * _LEAST_BIN) * jax.nn.softmax(raw, axis=-1)
    # The sum of all shares is 1 up to rounding; the last knot must be the end itself.
    inner = low + (high - low) * jnp.cumsum(shares, axis=-1)[..., :-1]
    end = jnp.ones_like(raw[..., :1])
    return jnp.concatenate([low * end, inner, high * end], axis=-1)


def _slopes(raw: Float[Array, "... K"]) -> Float[Array, "... K"]:
    return _LEAST_SLOPE + jax.nn.softplus(raw + math.log(math.expm1(1.0 - _LEAST_SLOPE)))
