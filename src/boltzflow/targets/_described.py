"""A molecule whose energy comes from elsewhere: by its atoms and a geometry, or by another target of it."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from boltzflow.errors import TargetError
from boltzflow.targets.base import Target

# Standard deviation in nm of the noise on the coordinates of a start: chains must not start alike, nor with torn bonds.
_START_NOISE = 0.002


class Described(NamedTuple):
    """What is known of a molecule beside its energy.

    Attributes:
        symbols: chemical symbols of the atoms.
        geometry: (N, 3) a sensible one in nm.
        temperature: in kelvin.
        classes: interchangeability class of each atom; None where nobody tells.
        reflections: whether mirror images are as probable; None where nobody tells.
        bonds: pairs of bonded atoms.
        same: the target of the molecule that all this was taken from; None where there was none.
    """

    symbols: tuple[str, ...]
    geometry: Float[np.ndarray, "N 3"]
    temperature: float
    classes: tuple[int, ...] | None
    reflections: bool | None
    bonds: tuple[tuple[int, int], ...]
    same: Target | None

    @property
    def start(self) -> Callable[[PRNGKeyArray], Float[Array, "N 3"]]:
        """Makes starting configurations near the geometry."""
        return functools.partial(_near, self.geometry - self.geometry.mean(axis=0))

    def completed(self, target: Target) -> Target:
        """A target of another energy with what only the target of the molecule knows: topology, structure and chirality."""
        if self.same is None:
            return target
        same = self.same
        found = dataclasses.replace(target, topology=same.topology, structure=same.structure, chiral_centres=same.chiral_centres)
        found.mark_checked()
        return found


def described(
    molecule: Sequence[str] | Target,
    *,
    name: str,
    positions: Any,
    temperature: float | None,
    classes: Sequence[int] | None,
    reflections: bool | None,
    bonds: Sequence[tuple[int, int]] | None,
) -> Described:
    """The molecule of arguments that makers of targets share; what is given goes before what its target says.

    Raises:
        TargetError: if the target is no molecule, positions or temperature are missing, or the numbers of symbols and positions differ.
    """
    if isinstance(molecule, Target):
        same, symbols = molecule, symbols_of(molecule)
        positions = same.structure if positions is None else positions
        temperature = same.temperature if temperature is None else temperature
        classes = same.classes if classes is None else classes
        reflections = same.reflections if reflections is None else reflections
        bonds = same.bonds if bonds is None else bonds
    else:
        same, symbols = None, tuple(molecule)
    if positions is None or temperature is None:
        raise TargetError(
            f"target {name!r} needs positions= (N, 3) in nm and temperature= in kelvin, unless a target of the molecule has them."
        )
    geometry = np.asarray(positions, np.float64)
    if geometry.shape != (len(symbols), 3):
        raise TargetError(
            f"target {name!r} has {len(symbols)} symbols but positions of shape {geometry.shape}; give one row of 3 per atom."
        )
    return Described(
        symbols,
        geometry,
        temperature,
        None if classes is None else tuple(int(number) for number in classes),
        reflections,
        tuple((int(i), int(j)) for i, j in bonds or ()),
        same,
    )


def symbols_of(molecule: Target) -> tuple[str, ...]:
    """Chemical symbols of the atoms of a target.

    Raises:
        TargetError: if it is no molecule.
    """
    if molecule.topology is None:
        raise TargetError(f"the target {molecule.name!r} is no molecule with a topology; give the chemical symbols and positions.")
    return tuple("X" if atom.element is None else atom.element.symbol for atom in molecule.topology.atoms())


def _near(geometry: Float[np.ndarray, "N 3"], key: PRNGKeyArray) -> Float[Array, "N 3"]:
    noisy = jnp.asarray(geometry, jnp.zeros(()).dtype) + _START_NOISE * jax.random.normal(key, geometry.shape)
    return noisy - jnp.mean(noisy, axis=0)[None]
