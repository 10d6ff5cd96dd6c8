"""Bonds, angles and torsions of an OpenMM system as functions of the geometry.

Each function takes a force of OpenMM and returns its energy in kJ/mol as a function of a batch of configurations.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.interpolate import CubicSpline

from boltzflow.chemistry.force_field.geometry import Geometry, Turn

Term = Callable[[Geometry], Float[Array, " B"]]
"""Energy in kJ/mol of each configuration."""


def plain(value: Any) -> float:
    """A number without its unit; OpenMM's own are nm, ps, kJ/mol, radian and elementary charge."""
    from openmm import unit

    return float(value.value_in_unit_system(unit.md_unit_system)) if unit.is_quantity(value) else float(value)


def columns(rows: Sequence[Sequence[Any]], atoms: int) -> tuple[tuple[np.ndarray, ...], tuple[Float[np.ndarray, "M 1"], ...]]:
    """The first `atoms` columns as indices, the others as numbers to be broadcast over the batch."""
    turned = list(zip(*rows, strict=True))
    indices = tuple(np.array(column, np.int32) for column in turned[:atoms])
    return indices, tuple(np.array([plain(value) for value in column])[:, None] for column in turned[atoms:])


def bonds(force: Any) -> Term:
    """HarmonicBondForce: k/2 (r - r0)²."""
    (first, second), (rest, stiffness) = columns([force.getBondParameters(i) for i in range(force.getNumBonds())], 2)

    def energy(geometry: Geometry) -> Float[Array, " B"]:
        return jnp.sum(0.5 * constant(stiffness, geometry) * (geometry.distances(first, second) - constant(rest, geometry)) ** 2, axis=0)

    return energy


def angles(force: Any) -> Term:
    """HarmonicAngleForce: k/2 (theta - theta0)²."""
    (first, middle, last), (rest, stiffness) = columns([force.getAngleParameters(i) for i in range(force.getNumAngles())], 3)

    def energy(geometry: Geometry) -> Float[Array, " B"]:
        return jnp.sum(0.5 * constant(stiffness, geometry) * (geometry.angles(first, middle, last) - constant(rest, geometry)) ** 2, axis=0)

    return energy


def torsions(force: Any) -> Term:
    """PeriodicTorsionForce: k (1 + cos(n phi - phi0)).

    All terms of the same four atoms share their angle, and multiples of an angle come by recurrence: no arc tangent is taken.
    """
    rows = [force.getTorsionParameters(i) for i in range(force.getNumTorsions())]
    quadruples = {row[:4]: None for row in map(tuple, rows)}
    number = {atoms: i for i, atoms in enumerate(quadruples)}
    highest = max(int(row[4]) for row in rows)
    cosines, sines, total = np.zeros((highest + 1, len(number), 1)), np.zeros((highest + 1, len(number), 1)), 0.0
    for row in map(tuple, rows):
        periodicity, phase, k = int(row[4]), plain(row[5]), plain(row[6])
        total += k
        cosines[periodicity, number[row[:4]]] += k * np.cos(phase)
        sines[periodicity, number[row[:4]]] += k * np.sin(phase)
    # Phases of 0 and pi, which are almost all, leave no sine.
    sines[np.abs(sines) < 1e-12 * max(np.abs(cosines).max(), 1e-300)] = 0.0
    atoms, _ = columns(list(quadruples), 4)

    def energy(geometry: Geometry) -> Float[Array, " B"]:
        turn = geometry.turns(*atoms)
        multiple, before = turn, Turn(jnp.ones_like(turn.cosine), jnp.zeros_like(turn.sine))
        found = jnp.full(turn.cosine.shape[1:], total, turn.cosine.dtype)
        for n in range(1, highest + 1):
            if cosines[n].any():
                found = found + jnp.sum(constant(cosines[n], geometry) * multiple.cosine, axis=0)
            if sines[n].any():
                found = found + jnp.sum(constant(sines[n], geometry) * multiple.sine, axis=0)
            double = 2.0 * turn.cosine
            multiple, before = Turn(double * multiple.cosine - before.cosine, double * multiple.sine - before.sine), multiple
        return found

    return energy


def ryckaert_bellemans(force: Any) -> Term:
    """RBTorsionForce: sum of c_n cos(psi)^n with psi = phi - pi."""
    atoms, coefficients = columns([force.getTorsionParameters(i) for i in range(force.getNumTorsions())], 4)

    def energy(geometry: Geometry) -> Float[Array, " B"]:
        cosine = -geometry.turns(*atoms).cosine
        found = jnp.zeros_like(cosine)
        for coefficient in reversed(coefficients):
            found = found * cosine + constant(coefficient, geometry)
        return jnp.sum(found, axis=0)

    return energy


def cmap(force: Any) -> Term:
    """CMAPTorsionForce: bicubic interpolation of maps over two torsions."""
    maps = [_patches(*force.getMapParameters(i)) for i in range(force.getNumMaps())]
    rows = [force.getTorsionParameters(i) for i in range(force.getNumTorsions())]
    indices, _ = columns(rows, 9)
    which, first, second = indices[0], indices[1:5], indices[5:9]

    def energy(geometry: Geometry) -> Float[Array, " B"]:
        found = jnp.zeros(geometry.positions.shape[2], geometry.positions.dtype)
        for number, patches in enumerate(maps):
            chosen = np.flatnonzero(which == number).astype(np.int32)
            if len(chosen):
                phi, psi = (geometry.torsions(*(index[chosen] for index in atoms)) for atoms in (first, second))
                found = found + jnp.sum(_interpolated(constant(patches, geometry), phi, psi), axis=0)
        return found

    return energy


def _patches(size: int, energies: Any) -> Float[np.ndarray, "n n 4 4"]:
    """Coefficients of u^a v^b on every cell of a periodic map, whose first angle runs fastest in the list of energies."""
    values = np.array([plain(energy) for energy in energies]).reshape(size, size).T
    cells = np.arange(size + 1)

    def slope(table: np.ndarray, axis: int) -> np.ndarray:
        """Derivative in units of cells, by periodic cubic splines."""
        closed = np.concatenate([table, table.take([0], axis=axis)], axis=axis)
        return CubicSpline(cells, closed, axis=axis, bc_type="periodic")(cells[:-1], nu=1)

    by_first, by_second = slope(values, 0), slope(values, 1)
    both = slope(by_first, 1)
    # Values and slopes at 0 and 1 from the coefficients of a cubic.
    inverse = np.linalg.inv([[1, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0], [0, 1, 2, 3]])

    def corners(table: np.ndarray) -> np.ndarray:
        """The table at the four corners of each cell, (n, n, 2, 2)."""
        shifted = [[np.roll(table, (-a, -b), (0, 1)) for b in (0, 1)] for a in (0, 1)]
        return np.moveaxis(np.array(shifted), (0, 1), (2, 3))

    known = np.block([[corners(values), corners(by_second)], [corners(by_first), corners(both)]])
    return inverse @ known @ inverse.T


def _interpolated(patches: Float[Array, "n n 4 4"], phi: Float[Array, "M B"], psi: Float[Array, "M B"]) -> Float[Array, "M B"]:
    """Energies at pairs of angles."""
    size = patches.shape[0]

    def located(angle: Array) -> tuple[Array, Array]:
        place = jnp.mod(angle, 2.0 * np.pi) * (size / (2.0 * np.pi))
        cell = jnp.minimum(jnp.floor(place), size - 1)
        return cell.astype(jnp.int32), place - cell

    (i, u), (j, v) = located(phi), located(psi)
    coefficients = patches[i, j]
    powers_u, powers_v = (jnp.stack([jnp.ones_like(w), w, w**2, w**3], axis=-1) for w in (u, v))
    return jnp.einsum("...ab,...a,...b->...", coefficients, powers_u, powers_v)


def constant(values: Any, geometry: Geometry) -> Array:
    """Numbers in the precision of the positions."""
    return jnp.asarray(values, geometry.positions.dtype)
