"""OpenMM's custom forces: energies that are given as expressions."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from boltzflow.chemistry.force_field.bonded import Term, columns, constant, plain
from boltzflow.chemistry.force_field.cutoff import Cutoff, cut_off
from boltzflow.chemistry.force_field.expressions import Expression
from boltzflow.chemistry.force_field.geometry import Geometry, pairs
from boltzflow.chemistry.force_field.tables import tabulated
from boltzflow.errors import TargetError


def custom_bonds(force: Any) -> Term:
    """CustomBondForce: an expression of the distance r."""
    rows = [force.getBondParameters(i) for i in range(force.getNumBonds())]
    return _along(force, [(a, b, *values) for a, b, values in rows], 2, "Bond", "r")


def custom_angles(force: Any) -> Term:
    """CustomAngleForce: an expression of the angle theta."""
    rows = [force.getAngleParameters(i) for i in range(force.getNumAngles())]
    return _along(force, [(a, b, c, *values) for a, b, c, values in rows], 3, "Angle", "theta")


def custom_torsions(force: Any) -> Term:
    """CustomTorsionForce: an expression of the torsion angle theta."""
    rows = [force.getTorsionParameters(i) for i in range(force.getNumTorsions())]
    return _along(force, [(a, b, c, d, *values) for a, b, c, d, values in rows], 4, "Torsion", "theta")


def _along(force: Any, rows: list[tuple[Any, ...]], atoms: int, kind: str, variable: str) -> Term:
    """An expression of one internal coordinate of some atoms, summed over all such groups."""
    names = [getattr(force, f"getPer{kind}ParameterName")(i) for i in range(getattr(force, f"getNumPer{kind}Parameters")())]
    indices, values = columns(rows, atoms)
    expression, shared = Expression(force.getEnergyFunction()), dict(_globals(force))

    def energy(geometry: Geometry) -> Float[Array, " B"]:
        if atoms == 4:
            coordinate = geometry.torsions(*indices)
        else:
            coordinate = geometry.distances(*indices) if atoms == 2 else geometry.angles(*indices)
        own = {name: constant(value, geometry) for name, value in zip(names, values, strict=True)}
        return jnp.sum(jnp.broadcast_to(expression({**shared, **own, variable: coordinate}), coordinate.shape), axis=0)

    return energy


def custom_pairs(force: Any) -> Term:
    """CustomNonbondedForce: an expression of the distance r of all pairs that are not excluded nor beyond its cut-off."""
    if force.getNumInteractionGroups():
        raise TargetError('a CustomNonbondedForce with interaction groups cannot be compiled; use energies="openmm" instead.')
    if hasattr(force, "getNumComputedValues") and force.getNumComputedValues():
        raise TargetError("a CustomNonbondedForce with computed values cannot be compiled; write them into its expression.")
    count = force.getNumParticles()
    names = [force.getPerParticleParameterName(i) for i in range(force.getNumPerParticleParameters())]
    table = np.array([force.getParticleParameters(i) for i in range(count)], np.float64).reshape(count, len(names))
    first, second = pairs(count)
    excluded = {tuple(sorted(force.getExclusionParticles(i))) for i in range(force.getNumExclusions())}
    used = np.array([i for i, pair in enumerate(zip(first, second, strict=True)) if pair not in excluded], np.int32)
    expression, shared = Expression(force.getEnergyFunction(), tabulated(force)), dict(_globals(force))
    own = {**_sided(names, table[first[used]], 1), **_sided(names, table[second[used]], 2)}
    cut = cut_off(force)

    def energy(geometry: Geometry) -> Float[Array, " B"]:
        r = geometry.pair_distances[used]
        found = jnp.broadcast_to(expression({**shared, **own, "r": _read(r, cut)}), r.shape)
        return jnp.sum(found if cut is None else _counted(found * cut.switched(r), r, cut), axis=0)

    return energy


def custom_born(force: Any) -> Term:
    """CustomGBForce: values of each atom computed from pairs and from each other, then energies of atoms and pairs.

    Pairs beyond its cut-off do not count, neither in values nor in energies.
    """
    count = force.getNumParticles()
    names = [force.getPerParticleParameterName(i) for i in range(force.getNumPerParticleParameters())]
    table = np.array([force.getParticleParameters(i) for i in range(count)], np.float64).reshape(count, len(names))
    functions, shared = tabulated(force), dict(_globals(force))
    values = [force.getComputedValueParameters(i) for i in range(force.getNumComputedValues())]
    energies = [force.getEnergyTermParameters(i) for i in range(force.getNumEnergyTerms())]
    steps = [(name, Expression(text, functions), kind) for name, text, kind in values]
    sums = [(Expression(text, functions), kind) for text, kind in energies]
    first, second = pairs(count)
    excluded = {tuple(sorted(force.getExclusionParticles(i))) for i in range(force.getNumExclusions())}
    kept = np.array([pair not in excluded for pair in zip(first, second, strict=True)])
    single, pair_all = force.SingleParticle, force.ParticlePairNoExclusions
    cut = cut_off(force)

    def energy(geometry: Geometry) -> Float[Array, " B"]:
        atoms: dict[str, Any] = {name: table[:, i : i + 1] for i, name in enumerate(names)}
        shape = (count, geometry.positions.shape[2])

        def distances_of(which: np.ndarray) -> Float[Array, "M B"]:
            return geometry.pair_distances if len(which) == len(first) else geometry.pair_distances[which]

        def between(which: np.ndarray, *, turned: bool) -> dict[str, Any]:
            """What an expression of a pair reads; `turned`: with the second atom as its first one."""
            one, two = (second[which], first[which]) if turned else (first[which], second[which])
            sides = {f"{name}{side}": value[index] for name, value in atoms.items() for side, index in (("1", one), ("2", two))}
            return {**shared, **sides, "r": _read(distances_of(which), cut)}

        def chosen(kind: int) -> np.ndarray:
            return np.arange(len(first), dtype=np.int32) if kind == pair_all else np.flatnonzero(kept).astype(np.int32)

        for name, expression, kind in steps:
            if kind == single:
                atoms[name] = jnp.broadcast_to(constant(expression({**shared, **atoms}), geometry), shape)
                continue
            which, total = chosen(kind), jnp.zeros(shape, geometry.positions.dtype)
            for turned, index in ((False, first), (True, second)):
                total = total.at[index[which]].add(_counted(expression(between(which, turned=turned)), distances_of(which), cut))
            atoms[name] = total
        found = jnp.zeros(shape[1], geometry.positions.dtype)
        for expression, kind in sums:
            if kind == single:
                found = found + jnp.sum(jnp.broadcast_to(constant(expression({**shared, **atoms}), geometry), shape), axis=0)
            else:
                which = chosen(kind)
                term = expression(between(which, turned=False))
                term = jnp.broadcast_to(constant(term, geometry), (len(which), shape[1]))
                found = found + jnp.sum(_counted(term, distances_of(which), cut), axis=0)
        return found

    return energy


def _read(r: Float[Array, "M B"], cut: Cutoff | None) -> Float[Array, "M B"]:
    """Distances as an expression reads them: of pairs that do not count it may be anything, but not grow beyond bounds."""
    return r if cut is None else cut.clipped(r)


def _counted(values: Any, r: Float[Array, "M B"], cut: Cutoff | None) -> Any:
    """Values of pairs, 0 beyond a cut-off."""
    return values if cut is None else jnp.where(cut.inside(r), values, 0.0)


def _sided(names: list[str], table: np.ndarray, side: int) -> dict[str, np.ndarray]:
    return {f"{name}{side}": table[:, i : i + 1] for i, name in enumerate(names)}


def _globals(force: Any) -> Iterator[tuple[str, float]]:
    """Global parameters at their default values."""
    for i in range(force.getNumGlobalParameters()):
        yield force.getGlobalParameterName(i), plain(force.getGlobalParameterDefaultValue(i))
