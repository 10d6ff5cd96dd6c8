"""Molecules: any system and topology of OpenMM as a target."""

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from boltzflow.blackbox.farm import Submits
from boltzflow.chemistry.bonds import find_bonds, springs, topology_bonds
from boltzflow.chemistry.chirality import ChiralCentre, adjacency, chirality_signs, find_chiral_centres, stereocentres
from boltzflow.chemistry.openmm_systems import Mechanics, import_openmm, in_unit, system_hash
from boltzflow.chemistry.symmetry import interchangeable, mirror_symmetric
from boltzflow.errors import TargetError
from boltzflow.targets.base import BOLTZMANN, Target
from boltzflow.targets.invariance import DOUBLE_ROUNDING, Trial

if TYPE_CHECKING:
    from boltzflow.chemistry.force_field import ForceField

_COLDEST = 150.0
_START_NOISE = 0.005
# Nearer than this two nuclei are at the same place, in nm; the shortest bond, H2, is 0.074 nm.
_SAME_PLACE = 0.02
# Bonds are 0.1 to 0.2 nm long; ten times that is a structure in Ångström, a tenth one that was divided by 10 once too often.
_LONGEST_TYPICAL_BOND, _SHORTEST_TYPICAL_BOND = 0.5, 0.05
# Minimising changes bonds of sane structures by less; between other atoms than those that were meant, distances are those of angles,
# 1.6 times a bond, or more.
_LARGEST_CHANGE = 1.4


def from_openmm(
    system: Any,
    topology: Any,
    temperature: Any,
    *,
    positions: Any,
    name: str = "molecule",
    parameters: Mapping[str, float | int | str | bool] | None = None,
    energies: Literal["compiled", "openmm"] = "compiled",
    executor: Submits | str | None = None,
) -> Target:
    """Makes a target of a molecule that OpenMM describes; its energy is compiled to JAX, or left to OpenMM.

    The system must be free of constraints, virtual sites and a periodic box: create it with `constraints=None, rigidWater=False,
    nonbondedMethod=NoCutoff`. Positions are minimised for the sampler's start, and tell which chirality chiral centres have: only that one
    is meant, and reflections are no symmetry then, whatever the energy of a mirror image is.

    Args:
        system: an `openmm.System`.
        topology: an `openmm.app.Topology` of the same atoms.
        temperature: in kelvin, or a quantity.
        positions: a structure, (N, 3) in nm, or a quantity. None: the start is minimised from random positions, which is refused for
            molecules with chiral centres.
        name: a name; part of the fingerprint.
        parameters: what else belongs in the fingerprint, such as the force field's label. A hash of the system and of the chirality of its
            chiral centres is added.
        energies: "compiled" to JAX, or "openmm": by OpenMM itself in worker processes, slower, for forces that cannot be compiled.
        executor: where OpenMM computes, instead of in processes of our own; see `from_calculator`.

    Returns:
        The target, in nm.

    Raises:
        TargetError: if the system cannot be compiled or computed, the atoms disagree in number or order, the temperature is not
            positive, the positions are not finite, clash beyond repair or lie flat at a chiral centre, or the energy depends on the centre
            of mass or on directions in space.
    """
    from boltzflow.chemistry.force_field import check_system, compile_system

    _check_types(system, topology)
    kelvin = _kelvin(temperature)
    n, atoms = system.getNumParticles(), list(topology.atoms())
    if len(atoms) != n:
        raise TargetError(f"the topology has {len(atoms)} atoms, but the system has {n} particles; give those of the same molecule.")
    if [atom.index for atom in atoms] != list(range(n)):
        raise TargetError(
            "the topology does not list the atoms of a residue one after the other; give atoms, and particles, residue by residue."
        )
    if energies not in ("compiled", "openmm"):
        raise TargetError(f'energies must be "compiled" or "openmm", got {energies!r}.')
    field = compile_system(system) if energies == "compiled" else None
    check_system(system)
    elements = tuple(atom.name if atom.element is None else atom.element.symbol for atom in atoms)
    structure = None if positions is None else _checked_positions(positions, atoms, topology_bonds(topology))
    bonds = find_bonds(system, topology, elements, structure)
    _warn_if_in_pieces(system, bonds)

    mechanics = Mechanics(system)
    given = _random_positions(atoms, elements, bonds) if structure is None else structure
    minimum = mechanics.minimise(given)
    if positions is not None:
        _check_same_molecule(given, minimum, atoms, bonds)
    centres = find_chiral_centres(elements, bonds, given)
    turned = [
        _label(atoms[centre.atom])
        for centre, chirality in zip(centres, chirality_signs(minimum[None], centres)[0], strict=True)
        if chirality < 0
    ]
    if turned:
        raise TargetError(f"minimising the positions turned the chirality of {', '.join(turned)}; give a structure with fewer clashes.")
    minimum -= minimum.mean(axis=0)
    target = assembled(
        system,
        topology,
        kelvin,
        name=name,
        parameters=parameters or {},
        energies=energies,
        executor=executor,
        minimum=minimum,
        bonds=bonds,
        classes=interchangeable(elements, bonds, mechanics.energy, minimum),
        reflections=not centres and mirror_symmetric(mechanics.energy, minimum),
        chiral_centres=centres,
        field=field,
        mechanics=mechanics,
    )
    _check_symmetries(target, mechanics, minimum)
    return target


def assembled(
    system: Any,
    topology: Any,
    kelvin: float,
    *,
    name: str,
    parameters: Mapping[str, float | int | str | bool],
    energies: Literal["compiled", "openmm"],
    minimum: Float[np.ndarray, "N 3"],
    bonds: tuple[tuple[int, int], ...],
    classes: tuple[int, ...],
    reflections: bool,
    chiral_centres: tuple[ChiralCentre, ...],
    executor: Submits | str | None = None,
    field: "ForceField | None" = None,
    mechanics: Mechanics | None = None,
) -> Target:
    """The target of a molecule of which all is known: what `from_openmm` has found out, or a run folder has kept.

    Args:
        system: as for `from_openmm`.
        topology: as for `from_openmm`.
        kelvin: the temperature.
        name: as for `from_openmm`.
        parameters: as for `from_openmm`.
        energies: as for `from_openmm`.
        minimum: (N, 3) the minimum of the energy in nm, its mean at the origin.
        bonds: as in `Target`.
        classes: as in `Target`.
        reflections: as in `Target`.
        chiral_centres: as in `Target`.
        executor: as for `from_openmm`.
        field: the compiled force field; None: compiled here, where it is needed.
        mechanics: OpenMM's own energies of the system; None: made here.

    Returns:
        The target, in nm.

    Raises:
        TargetError: if the system cannot be compiled, or its compiled energy is not that of OpenMM.
    """
    from boltzflow.chemistry.force_field import check_system, compile_system

    n = system.getNumParticles()
    if energies == "compiled" and field is None:
        check_system(system)
        field = compile_system(system)

    def start(key: PRNGKeyArray) -> Float[Array, "N 3"]:
        x = jnp.asarray(minimum, jnp.result_type(float)) + _START_NOISE * jax.random.normal(key, (n, 3))
        return x - jnp.mean(x, axis=0)[None]

    energy = _by_openmm(system, name, kelvin, start, executor) if field is None else _reduced(field, kelvin)
    target = Target(
        name=name,
        n_particles=n,
        dimension=3,
        energy_function=energy,
        classes=classes,
        reflections=reflections,
        units="nm",
        temperature=kelvin,
        parameters={**parameters, "system": system_hash(system, [centre.sign for centre in chiral_centres])},
        start=start,
        bonds=bonds,
        topology=topology,
        system=import_openmm().XmlSerializer.serialize(system),
        structure=minimum,
        energies_by=energies,
        chiral_centres=chiral_centres,
        elements=tuple("X" if atom.element is None else atom.element.symbol for atom in topology.atoms()),
    )
    # Nothing of a molecule that was kept needs to be tried again, but what compiles it may be of another version.
    _check_compiled(target, mechanics or Mechanics(system), minimum)
    target.mark_checked()
    return target


def _reduced(field: "ForceField", kelvin: float) -> Callable[[Float[Array, "N 3"]], Float[Array, ""]]:
    """The reduced energy of a compiled force field."""

    def energy(x: Float[Array, "N 3"]) -> Float[Array, ""]:
        u = field.energy(x) / (BOLTZMANN * kelvin)
        # Neither a NaN nor a charge fallen into another may get a weight.
        return jnp.where(u > -jnp.inf, u, jnp.inf)

    return energy


def _by_openmm(system: Any, name: str, kelvin: float, start: Callable[[PRNGKeyArray], Array], executor: Submits | str | None) -> Any:
    """The reduced energy by OpenMM itself."""
    from boltzflow.blackbox.functions import OpenMMEnergy
    from boltzflow.targets.calculators import from_worker_function

    n = system.getNumParticles()
    return from_worker_function(
        OpenMMEnergy(import_openmm().XmlSerializer.serialize(system)),
        (n, 3),
        name=name,
        energy_unit="kJ/mol",
        length_unit="nm",
        # As the compiled energies have none.
        reference_energy=0.0,
        executor=executor,
        workers=None,
        timeout=None,
        parameters={},
        classes=range(n),
        reflections=False,
        # OpenMM's energy is tried in this process, where it is faster.
        tested=True,
        temperature=kelvin,
        start=start,
    ).energy_function


def _check_types(system: Any, topology: Any) -> None:
    openmm = import_openmm()
    for given, needed, what in ((system, openmm.System, "system"), (topology, openmm.app.Topology, "topology")):
        if not isinstance(given, needed):
            kind = f"{type(given).__module__}.{type(given).__name__}"
            raise TargetError(f"the {what} must be OpenMM's {needed.__name__}, got {kind}; convert it, an mdtraj topology by to_openmm().")


def _kelvin(temperature: Any) -> float:
    value = in_unit(temperature, "kelvin")
    if not isinstance(value, int | float | np.number) or not 0 < value < np.inf:
        raise TargetError(f"the temperature must be a positive number of kelvin, got {temperature}.")
    if value < _COLDEST:
        warnings.warn(f"the temperature is in kelvin, and {value:g} K is very cold; did you mean Celsius?", stacklevel=3)
    return float(value)


def _warn_if_in_pieces(system: Any, bonds: tuple[tuple[int, int], ...]) -> None:
    """Warns where neither bonds nor springs hold the atoms together."""
    n = system.getNumParticles()
    neighbours = adjacency(n, [*bonds, *((i, j) for i, j, _ in springs(system))])
    reached, todo = {0}, [0]
    while todo:
        new = set(neighbours[todo.pop()]) - reached
        reached |= new
        todo += new
    if len(reached) < n:
        warnings.warn(
            f"bonds connect only {len(reached)} of {n} atoms to the first one: in open space the pieces drift apart, and a density that "
            "nothing holds together cannot be normalised; keep one molecule, without water and ions, or add a restraint between them.",
            stacklevel=3,
        )


def _checked_positions(positions: Any, atoms: list[Any], bonds: set[tuple[int, int]]) -> Float[np.ndarray, "N 3"]:
    n = len(atoms)
    try:
        x = np.asarray(in_unit(positions, "nanometer"), np.float64)
    except (TypeError, ValueError) as error:
        raise TargetError(f"the positions are not an array of numbers of shape ({n}, 3) in nm ({error}).") from error
    if x.shape != (n, 3):
        raise TargetError(f"the system has {n} atoms, but the positions have shape {x.shape} instead of ({n}, 3).")
    if not np.isfinite(x).all():
        raise TargetError(f"the positions of {int((~np.isfinite(x)).any(axis=1).sum())} atoms are not finite; give a complete structure.")
    distances = np.linalg.norm(x[:, None] - x, axis=-1) + np.diag(np.full(n, np.inf))
    typical = _typical_length(x, bonds)
    if typical > _LONGEST_TYPICAL_BOND:
        raise TargetError(
            f"half of the bonds are longer than {typical:.3g} nm; positions are in nm, so divide by 10 if these are in Ångström."
        )
    if 0.0 < typical < _SHORTEST_TYPICAL_BOND:
        raise TargetError(
            f"half of the bonds are shorter than {typical:.3g} nm; multiply by 10 if these positions were divided by 10 once too often."
        )
    i, j = np.unravel_index(int(distances.argmin()), distances.shape)
    if distances[i, j] < _SAME_PLACE:
        raise TargetError(
            f"the atoms {_label(atoms[i])} and {_label(atoms[j])} lie {distances[i, j]:.2g} nm apart, at the same place; give a structure "
            "without clashes, in nm."
        )
    return x


def _typical_length(positions: Float[np.ndarray, "N 3"], bonds: Collection[tuple[int, int]]) -> float:
    """The median length of the bonds; of the distances to the nearest neighbours where no bonds are known."""
    if bonds:
        first, second = np.asarray(sorted(bonds)).T
        return float(np.median(np.linalg.norm(positions[first] - positions[second], axis=-1)))
    distances = np.linalg.norm(positions[:, None] - positions, axis=-1) + np.diag(np.full(len(positions), np.inf))
    return float(np.median(distances.min(axis=1)))


def _check_same_molecule(
    given: Float[np.ndarray, "N 3"], minimum: Float[np.ndarray, "N 3"], atoms: list[Any], bonds: tuple[tuple[int, int], ...]
) -> None:
    """Refuses atoms in another order: minimising would pull them to where the system wants them, perhaps with the other chirality."""
    if not bonds:
        return
    first, second = np.asarray(bonds).T
    before, after = (np.linalg.norm(x[first] - x[second], axis=-1) for x in (given, minimum))
    change = np.maximum(before / after, after / before)
    worst = int(change.argmax())
    if change[worst] > _LARGEST_CHANGE:
        i, j = bonds[worst]
        raise TargetError(
            f"the bond of {_label(atoms[i])} with {_label(atoms[j])} is {before[worst]:.2g} nm long in the positions and "
            f"{after[worst]:.2g} nm when the energy is minimised: system, topology and positions do not have the same atoms in the same "
            "order, or the structure is badly strained; give those that belong together, or a relaxed structure."
        )


def _random_positions(atoms: list[Any], elements: Sequence[str], bonds: tuple[tuple[int, int], ...]) -> Float[np.ndarray, "N 3"]:
    found = stereocentres(elements, bonds)
    if found:
        raise TargetError(
            f"the chirality of {', '.join(_label(atoms[atom]) for atom in found)} cannot be told without positions; give positions= with a "
            "structure of the right enantiomer."
        )
    return np.random.default_rng(0).normal(scale=0.1 * len(atoms) ** (1 / 3), size=(len(atoms), 3))


def _label(atom: Any) -> str:
    return f"{atom.name} of {atom.residue.name} {atom.residue.id}"


def _check_symmetries(target: Target, mechanics: Mechanics, minimum: Float[np.ndarray, "N 3"]) -> None:
    """Tries the symmetries in OpenMM's double precision, which the compiled energy agrees with."""
    unit = BOLTZMANN * (target.temperature or np.nan)
    trial = Trial(target.name, lambda x: np.array([mechanics.energy(frame) for frame in x]) / unit, DOUBLE_ROUNDING, minimum[None])
    trial.check_values()
    trial.check(target.classes, target.reflections)


def _check_compiled(target: Target, mechanics: Mechanics, minimum: Float[np.ndarray, "N 3"]) -> None:
    """Compares the compiled energy with OpenMM's where it is small and where bonds are strained."""
    strained = minimum + 2 * _START_NOISE * np.random.default_rng(0).standard_normal(minimum.shape)
    compiled = np.asarray(target.energies(jnp.asarray(np.stack([minimum, strained]))), np.float64)
    temperature = target.temperature or np.nan
    expected = np.array([mechanics.energy(minimum), mechanics.energy(strained)]) / (BOLTZMANN * temperature)
    difference = np.abs(compiled - expected)
    # Single precision sums terms of both signs that are larger than their sum.
    if not (difference < 1e-3 * np.maximum(10.0, np.abs(expected))).all():
        with jax.enable_x64(True):
            double = np.asarray(target.energies(jnp.asarray(np.stack([minimum, strained]), jnp.float64)))
        if (np.abs(double - expected) < 1e-6 * np.maximum(10.0, np.abs(expected))).all():
            raise TargetError(
                f"single precision rounds the energy of {target.name!r} by {difference.max():.3g} kT, as torsions do over atoms that lie "
                "in line or nearly so, where they have no angle; leave out those torsions, or compute in double precision."
            )
        raise TargetError(
            f"the energy of {target.name!r} compiled to JAX is {compiled[difference.argmax()]:.6g} kT where OpenMM has "
            f"{expected[difference.argmax()]:.6g} kT; this is a bug of boltzflow, please report it with the system's XML."
        )
