"""Lennard-Jones, Coulomb and the solvent model of Onufriev, Bashford and Case, with and without cut-off."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from boltzflow.chemistry.force_field.bonded import Term, constant, plain
from boltzflow.chemistry.force_field.cutoff import Cutoff, cut_off
from boltzflow.chemistry.force_field.geometry import Geometry, pairs

COULOMB = 138.93545764438198
"""1 / (4 pi epsilon_0) in kJ/mol nm / e², OpenMM's value."""

# Onufriev, Bashford and Case, Proteins 55, 383 (2004), model II; lengths in nm.
_ALPHA, _BETA, _GAMMA = 1.0, 0.8, 4.85
_OFFSET = 0.009
_PROBE = 0.14


def nonbonded(force: Any) -> Term:
    """NonbondedForce: 4 epsilon ((sigma/r)^12 - (sigma/r)^6) + q q / (4 pi epsilon_0 r), exceptions in place of their pairs.

    With a cut-off the charges have a reaction field, 1/r + k r² - c in place of 1/r (Tironi et al., J. Chem. Phys. 102, 5451 (1995), as in
    OpenMM's theory guide). Exceptions have neither cut-off nor field.
    """
    count = force.getNumParticles()
    charge, sigma, epsilon = (
        np.array(column) for column in zip(*[map(plain, force.getParticleParameters(i)) for i in range(count)], strict=True)
    )
    first, second = pairs(count)
    charges = charge[first] * charge[second]
    sigmas, epsilons = 0.5 * (sigma[first] + sigma[second]), np.sqrt(epsilon[first] * epsilon[second])
    place = np.zeros((count, count), np.int32)
    place[first, second] = place[second, first] = np.arange(len(first))
    usual = np.ones(len(first), bool)
    for i in range(force.getNumExceptions()):
        a, b, *changed = force.getExceptionParameters(i)
        charges[place[a, b]], sigmas[place[a, b]], epsilons[place[a, b]] = map(plain, changed)
        usual[place[a, b]] = False
    cut = cut_off(force)
    # Pairs that are excluded cost nothing.
    counted = (charges != 0.0) | (epsilons != 0.0)
    if cut is None:
        return _pair_sum(np.flatnonzero(counted), charges, sigmas, epsilons)
    field = _reaction_field(plain(force.getReactionFieldDielectric()), cut.distance)
    within = _pair_sum(np.flatnonzero(counted & usual), charges, sigmas, epsilons, cut, field)
    exceptions = _pair_sum(np.flatnonzero(counted & ~usual), charges, sigmas, epsilons)
    return lambda geometry: within(geometry) + exceptions(geometry)


def _reaction_field(dielectric: float, distance: float) -> tuple[float, float]:
    """The coefficients k and c of a solvent of that dielectric constant beyond a distance."""
    return (dielectric - 1.0) / (2.0 * dielectric + 1.0) / distance**3, 3.0 * dielectric / (2.0 * dielectric + 1.0) / distance


def _pair_sum(
    used: Any, charges: Any, sigmas: Any, epsilons: Any, cut: Cutoff | None = None, field: tuple[float, float] = (0.0, 0.0)
) -> Term:
    """The energy of some pairs; all arguments but the first are of all pairs i < j."""
    used = used.astype(np.int32)
    everything = len(used) == len(charges)
    coulomb = COULOMB * charges[used, None]
    # As c12 / r^12 - c6 / r^6; in single precision their ratio is kept inside the power, where it does not overflow.
    scale, depth = sigmas[used, None], 4.0 * epsilons[used, None]
    stiffness, shift = field

    def energy(geometry: Geometry) -> Float[Array, " B"]:
        r = geometry.pair_distances if everything else geometry.pair_distances[used]
        inverse = 1.0 / r
        sixth = (constant(scale, geometry) * inverse) ** 6
        steric, electric = constant(depth, geometry) * (sixth * sixth - sixth), inverse
        if cut is None:
            return jnp.sum(steric + constant(coulomb, geometry) * electric, axis=0)
        steric = steric * cut.switched(r)
        electric = electric - shift + (stiffness * r * r if stiffness else 0.0)
        return jnp.sum(jnp.where(cut.inside(r), steric + constant(coulomb, geometry) * electric, 0.0), axis=0)

    return energy


def obc(force: Any) -> Term:
    """GBSAOBCForce: generalised Born energy of charges in a solvent, and the surface term of Schaefer, Bartels and Karplus.

    Beyond a cut-off atoms neither take solvent from each other nor screen their charges; the screening is shifted to 0 there.

    Source: Onufriev, Bashford and Case, Proteins 55, 383 (2004), as in OpenMM's theory guide.
    """
    count = force.getNumParticles()
    charge, radius, factor = (
        np.array(column) for column in zip(*[map(plain, force.getParticleParameters(i)) for i in range(count)], strict=True)
    )
    first, second = pairs(count)
    offset = radius - _OFFSET
    scaled = offset * factor
    strength = -COULOMB * (1.0 / force.getSoluteDielectric() - 1.0 / force.getSolventDielectric())
    surface = 4.0 * math.pi * plain(force.getSurfaceAreaEnergy())
    products = strength * (charge[first] * charge[second])[:, None]
    own = 0.5 * strength * (charge**2)[:, None]
    cut = cut_off(force)

    def counted(values: Float[Array, "P B"], r: Float[Array, "P B"]) -> Float[Array, "P B"]:
        return values if cut is None else jnp.where(cut.inside(r), values, 0.0)

    def energy(geometry: Geometry) -> Float[Array, " B"]:
        r = geometry.pair_distances
        seen = jnp.zeros((count, r.shape[1]), r.dtype)
        for one, other in ((first, second), (second, first)):
            taken = _descreening(r, constant(offset[one, None], geometry), constant(scaled[other, None], geometry))
            seen = seen.at[one].add(counted(taken, r))
        inner, outer = constant(offset[:, None], geometry), constant(radius[:, None], geometry)
        psi = 0.5 * inner * seen
        born = 1.0 / (1.0 / inner - jnp.tanh(_ALPHA * psi - _BETA * psi**2 + _GAMMA * psi**3) / outer)
        product = born[first] * born[second]
        square = r * r
        screened = 1.0 / jnp.sqrt(square + product * jnp.exp(-0.25 * square / product))
        between = counted(constant(products, geometry) * (screened if cut is None else screened - 1.0 / cut.distance), r)
        surfaces = surface * (outer + _PROBE) ** 2 * (outer / born) ** 6 if surface else 0.0
        return jnp.sum(between, axis=0) + jnp.sum(constant(own, geometry) / born + surfaces, axis=0)

    return energy


def _descreening(r: Float[Array, "P B"], own: Float[Array, "P 1"], other: Float[Array, "P 1"]) -> Float[Array, "P B"]:
    """What one atom's sphere takes from the solvent around another, the Coulomb-field integral."""
    outer = r + other
    lower, upper = 1.0 / jnp.maximum(own, jnp.abs(r - other)), 1.0 / outer
    inverse = 1.0 / r
    squares = lower * lower - upper * upper
    value = lower - upper - 0.25 * r * squares + 0.5 * inverse * jnp.log(upper / lower) + 0.25 * other * other * inverse * squares
    inside = jnp.where(own < other - r, 2.0 * (1.0 / own - lower), 0.0)
    return jnp.where(own < outer, value + inside, 0.0)
