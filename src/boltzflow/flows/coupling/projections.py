"""The three ways in which a coupling layer sees a particle: in a Cartesian frame, in spherical coordinates, or along a vector.

A particle at z is moved relative to the place y of its conditioning copy, in a basis made of equivariant vectors that depend on the
conditioning copies alone, by functions of one variable whose parameters are invariant. Functions act on any leading axes.

Source: Midgley, Stimper et al., NeurIPS 2023, arXiv:2308.10364, section 3.2 and appendix C.
"""

import dataclasses
import math
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float

from boltzflow.flows import splines
from boltzflow.flows.coupling import frames
from boltzflow.nets.mlp import positive

Moved = tuple[Float[Array, "... D"], Float[Array, "..."]]
"""Positions after a transform, and its log-det of each."""

# Lengths and sines below this one count as it. Nothing is added to what is larger, else the inverse would miss its start near a pole.
_TINY = 1e-12


@runtime_checkable
class Projection(Protocol):
    """What a coupling layer asks of its kind."""

    @property
    def dimension(self) -> int:
        """D."""
        ...

    @property
    def mirror_symmetric(self) -> bool:
        """Whether the transform is equivariant under reflections."""
        ...

    @property
    def vectors(self) -> int:
        """Vectors per transform."""
        ...

    @property
    def transforms(self) -> int:
        """Transforms one after the other."""
        ...

    @property
    def parameters(self) -> int:
        """Raw parameters per transform; zeros give the identity."""
        ...

    def __call__(
        self,
        z: Float[Array, "... D"],
        y: Float[Array, "... D"],
        vectors: Float[Array, "... C D"],
        raw: Float[Array, "... P"],
        *,
        inverse: bool,
    ) -> Moved:
        """Positions moved by the transform, or by its inverse."""
        ...

    def collinearity(self, vectors: Float[Array, "... C D"]) -> Float[Array, "..."]:
        """Cosine of the angle between the vectors of the frame, whose size is penalised; 0 where there is no such angle."""
        ...


@dataclasses.dataclass(frozen=True)
class Cartesian:
    """Coordinates in a frame, each transformed by itself: equivariant under rotations, not under reflections.

    Attributes:
        dimension: D.
        bins: bins of the splines; 0: affine functions.
        reach: the splines act between -reach and reach.
    """

    dimension: int
    bins: int = 0
    reach: float = 10.0

    @property
    def mirror_symmetric(self) -> bool:
        """No: the frame is right-handed."""
        return False

    @property
    def vectors(self) -> int:
        """Origin, and the vectors of a frame."""
        return self.dimension

    @property
    def transforms(self) -> int:
        """One."""
        return 1

    @property
    def parameters(self) -> int:
        """A function for each coordinate."""
        return self.dimension * (splines.parameters(self.bins) if self.bins else 2)

    def __call__(
        self,
        z: Float[Array, "... D"],
        y: Float[Array, "... D"],
        vectors: Float[Array, "... C D"],
        raw: Float[Array, "... P"],
        *,
        inverse: bool,
    ) -> Moved:
        """Positions moved by the transform, or by its inverse."""
        origin = y + vectors[..., 0, :]
        rotation = frames.frame(vectors[..., 1, :], vectors[..., 2, :] if self.dimension == 3 else None)
        w = jnp.einsum("...ab,...a->...b", rotation, z - origin)
        raw = raw.reshape(*raw.shape[:-1], self.dimension, -1)
        if self.bins:
            spline = splines.on_interval(raw, -self.reach, self.reach)
            w, log_slope = spline.inverse(w) if inverse else spline(w)
        else:
            log_scale = jnp.log(positive(raw[..., 0]))
            shift = raw[..., 1]
            w = (w - shift) * jnp.exp(-log_scale) if inverse else w * jnp.exp(log_scale) + shift
            log_slope = -log_scale if inverse else log_scale
        return origin + jnp.einsum("...ab,...b->...a", rotation, w), jnp.sum(log_slope, axis=-1)

    def collinearity(self, vectors: Float[Array, "... C D"]) -> Float[Array, "..."]:
        """Cosine of the two vectors of the frame."""
        if self.dimension == 2:
            return jnp.zeros(vectors.shape[:-2], vectors.dtype)
        return frames.cosine(vectors[..., 1, :], vectors[..., 2, :])


@dataclasses.dataclass(frozen=True)
class Spherical:
    """Distance and angles around an origin.

    Attributes:
        dimension: D.
        bins: bins of the splines.
        reach: distance up to which the radial spline acts; beyond, it is linear.
        reflections: turn the frame's handedness with the vectors, so that the transform is equivariant under reflections too.
    """

    dimension: int
    bins: int = 8
    reach: float = 10.0
    reflections: bool = False

    @property
    def mirror_symmetric(self) -> bool:
        """As chosen."""
        return self.reflections

    @property
    def vectors(self) -> int:
        """Origin, and the vectors of a frame."""
        return self.dimension

    @property
    def transforms(self) -> int:
        """One."""
        return 1

    @property
    def parameters(self) -> int:
        """A spline for the distance and one for each angle."""
        return self.dimension * splines.parameters(self.bins)

    def __call__(
        self,
        z: Float[Array, "... D"],
        y: Float[Array, "... D"],
        vectors: Float[Array, "... C D"],
        raw: Float[Array, "... P"],
        *,
        inverse: bool,
    ) -> Moved:
        """Positions moved by the transform, or by its inverse."""
        origin, rotation = y + vectors[..., 0, :], self._frame(vectors)
        w = jnp.einsum("...ab,...a->...b", rotation, z - origin)
        rho = _length(w)
        # All coordinates at once, each in units of its range.
        raw = raw.reshape(*raw.shape[:-1], self.dimension, -1)
        around, shift = splines.closed(raw[..., 1, :])
        spline = splines.on_interval(jnp.concatenate([raw[..., :1, :], around[..., None, :], raw[..., 2:, :]], axis=-2), 0.0, 1.0)
        if self.dimension == 2:
            across, polar, phi = rho, [], _angle(w[..., 1], w[..., 0])
        else:
            # The polar axis is the first vector of the frame.
            across = _length(w[..., 1:])
            polar, phi = [jnp.arctan2(across, w[..., 0]) / math.pi], _angle(w[..., 2], w[..., 1])
        turns = splines.wrapped(phi if inverse else phi + shift) / (2.0 * math.pi) + 0.5
        before = jnp.stack([rho / self.reach, turns, *polar], axis=-1)
        after, slopes = spline.inverse(before) if inverse else spline(before)
        new_rho, new_phi = self.reach * after[..., 0], 2.0 * math.pi * (after[..., 1] - 0.5) - (shift if inverse else 0.0)
        log_det = jnp.sum(slopes, axis=-1) + (self.dimension - 1) * (jnp.log(jnp.maximum(new_rho, _TINY)) - jnp.log(rho))
        direction = jnp.stack([jnp.cos(new_phi), jnp.sin(new_phi)], axis=-1)
        if self.dimension == 3:
            theta = math.pi * after[..., 2]
            sine = jnp.maximum(jnp.sin(theta), _TINY)
            log_det = log_det + jnp.log(sine) - jnp.log(across) + jnp.log(rho)
            direction = jnp.concatenate([jnp.cos(theta)[..., None], sine[..., None] * direction], axis=-1)
        return origin + jnp.einsum("...ab,...b->...a", rotation, new_rho[..., None] * direction), log_det

    def _axes(self, vectors: Float[Array, "... C D"]) -> tuple[Array, Array | None]:
        """Vectors from the origin to the point on the polar axis and to that in the half-plane of angle 0."""
        first = vectors[..., 0, :]
        return vectors[..., 1, :] - first, vectors[..., 2, :] - first if self.dimension == 3 else None

    def _frame(self, vectors: Float[Array, "... C D"]) -> Float[Array, "... D D"]:
        rotation = frames.frame(*self._axes(vectors))
        if not self.reflections:
            return rotation
        # The last vector is a pseudo-vector; times a pseudo-scalar it is a vector.
        last = rotation[..., :, -1]
        sign = jnp.where(jnp.sum(last * vectors[..., 0, :], axis=-1, keepdims=True) < 0.0, -1.0, 1.0)
        return jnp.concatenate([rotation[..., :, :-1], (sign * last)[..., None]], axis=-1)

    def collinearity(self, vectors: Float[Array, "... C D"]) -> Float[Array, "..."]:
        """Cosine of the two vectors of the frame."""
        axis, half_plane = self._axes(vectors)
        return jnp.zeros(vectors.shape[:-2], vectors.dtype) if half_plane is None else frames.cosine(axis, half_plane)


@dataclasses.dataclass(frozen=True)
class Vector:
    """Distance from an origin, the direction kept: equivariant under rotations and reflections.

    Attributes:
        dimension: D.
        bins: bins of the spline.
        reach: distance up to which the spline acts; beyond, it is linear.
    """

    dimension: int
    bins: int = 8
    reach: float = 10.0

    @property
    def mirror_symmetric(self) -> bool:
        """Yes: there is no frame."""
        return True

    @property
    def vectors(self) -> int:
        """The origin."""
        return 1

    @property
    def transforms(self) -> int:
        """As many as dimensions, around an origin each, for one moves along a line only."""
        return self.dimension

    @property
    def parameters(self) -> int:
        """One spline."""
        return splines.parameters(self.bins)

    def __call__(
        self,
        z: Float[Array, "... D"],
        y: Float[Array, "... D"],
        vectors: Float[Array, "... C D"],
        raw: Float[Array, "... P"],
        *,
        inverse: bool,
    ) -> Moved:
        """Positions moved by the transform, or by its inverse."""
        origin = y + vectors[..., 0, :]
        difference = z - origin
        rho = _length(difference)
        spline = splines.on_interval(raw, 0.0, self.reach)
        new, log_slope = spline.inverse(rho) if inverse else spline(rho)
        log_stretch = jnp.log(jnp.maximum(new, _TINY)) - jnp.log(rho)
        return origin + difference * jnp.exp(log_stretch)[..., None], log_slope + (self.dimension - 1) * log_stretch

    def collinearity(self, vectors: Float[Array, "... C D"]) -> Float[Array, "..."]:
        """There is no frame."""
        return jnp.zeros(vectors.shape[:-2], vectors.dtype)


def _length(w: Float[Array, "... D"]) -> Float[Array, "..."]:
    """Length with gradient 0 at the origin."""
    return jnp.sqrt(jnp.maximum(jnp.sum(w**2, axis=-1), _TINY**2))


def _angle(y: Float[Array, "..."], x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Angle of the point (x, y); 0 with gradient 0 at the origin."""
    away = (x**2 + y**2) > _TINY**2
    return jnp.where(away, jnp.arctan2(jnp.where(away, y, 0.0), jnp.where(away, x, 1.0)), 0.0)
