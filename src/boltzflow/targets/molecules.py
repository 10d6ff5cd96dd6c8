"""Molecules: any system and topology of OpenMM as a target."""

import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from boltzflow.errors import TargetError
from boltzflow.targets._openmm import Mechanics, import_openmm, in_unit, system_hash
from boltzflow.targets.base import BOLTZMANN, Target
from boltzflow.targets.chirality import adjacency, find_chiral_centres, hands, stereocentres
from boltzflow.targets.invariance import DOUBLE_ROUNDING, Trial
from boltzflow.targets.symmetry import interchangeable, mirror_symmetric

if TYPE_CHECKING:
    from boltzflow.targets.force_field import ForceField

_COLDEST = 150.0
_START_NOISE = 0.005
# Nearer than this two nuclei are at the same place, in nm; the shortest bond, H2, is 0.074 nm.
_SAME_PLACE = 0.02
# Bonds are 0.1 to 0.2 nm long; ten times that is a structure in Ångström.
_LONGEST_TYPICAL_BOND = 0.5
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
    executor: Executor | None = None,
) -> Target:
    """Makes a target of a molecule that OpenMM describes; its energy is compiled to JAX, or left to OpenMM.

    The system must be free of constraints, virtual sites and a periodic box: create it with `constraints=None, rigidWater=False,
    nonbondedMethod=NoCutoff`. Positions are minimised for the sampler's start, and tell which hand chiral centres have: only that hand
    is meant, and reflections are no symmetry then, although the energy of a mirror image is the same.

    Args:
        system: an `openmm.System`.
        topology: an `openmm.app.Topology` of the same atoms.
        temperature: in kelvin, or a quantity.
        positions: a structure, (N, 3) in nm, or a quantity. None: the start is minimised from random positions, which is refused for
            molecules with chiral centres.
        name: a name; part of the fingerprint.
        parameters: what else belongs in the fingerprint, such as the force field's label. A hash of the system and of the hands of its
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
    from boltzflow.targets.force_field import check_system, compile_system

    _check_types(system, topology)
    kelvin = _kelvin(temperature)
    n, atoms = system.getNumParticles(), list(topology.atoms())
    if len(atoms) != n:
        raise TargetError(f"the topology has {len(atoms)} atoms, but the system has {n} particles; give those of the same molecule.")
    if energies not in ("compiled", "openmm"):
        raise TargetError(f'energies must be "compiled" or "openmm", got {energies!r}.')
    field = compile_system(system) if energies == "compiled" else None
    check_system(system)
    elements = [atom.name if atom.element is None else atom.element.symbol for atom in atoms]
    bonds = _bonds(system, topology)
    _warn_if_in_pieces(n, bonds)

    mechanics = Mechanics(system)
    if positions is None:
        given = _random_positions(atoms, elements, bonds)
    else:
        given = _checked_positions(positions, atoms, bonds)
    minimum = mechanics.minimise(given)
    if positions is not None:
        _check_same_molecule(given, minimum, atoms, bonds)
    centres = find_chiral_centres(elements, bonds, given)
    turned = [_label(atoms[centre.atom]) for centre, hand in zip(centres, hands(minimum[None], centres)[0], strict=True) if hand < 0]
    if turned:
        raise TargetError(f"minimising the positions turned the hand of {', '.join(turned)}; give a structure with fewer clashes.")
    minimum -= minimum.mean(axis=0)

    def start(key: PRNGKeyArray) -> Float[Array, "N 3"]:
        x = jnp.asarray(minimum, jnp.result_type(float)) + _START_NOISE * jax.random.normal(key, (n, 3))
        return x - jnp.mean(x, axis=0)

    energy = _by_openmm(system, name, kelvin, start, executor) if field is None else _reduced(field, kelvin)
    target = Target(
        name=name,
        n_particles=n,
        dimension=3,
        energy_function=energy,
        classes=interchangeable(elements, bonds, mechanics.energy, minimum),
        reflections=not centres and mirror_symmetric(mechanics.energy, minimum),
        units="nm",
        temperature=kelvin,
        parameters={**(parameters or {}), "system": system_hash(system, [centre.sign for centre in centres])},
        start=start,
        bonds=bonds,
        topology=topology,
        system=import_openmm().XmlSerializer.serialize(system),
        structure=minimum,
        energies_by=energies,
        chiral_centres=centres,
    )
    _check_compiled(target, mechanics, minimum)
    # In OpenMM's double precision, which the compiled energy has just been found to agree with.
    trial = Trial(name, lambda x: np.array([mechanics.energy(frame) for frame in x]) / (BOLTZMANN * kelvin), DOUBLE_ROUNDING, minimum[None])
    trial.check_values()
    trial.check(target.classes, target.reflections)
    target.mark_checked()
    return target


def _reduced(field: "ForceField", kelvin: float) -> Callable[[Float[Array, "N 3"]], Float[Array, ""]]:
    """The reduced energy of a compiled force field."""

    def energy(x: Float[Array, "N 3"]) -> Float[Array, ""]:
        u = field.energy(x) / (BOLTZMANN * kelvin)
        # Neither a NaN nor a charge fallen into another may get a weight.
        return jnp.where(u > -jnp.inf, u, jnp.inf)

    return energy


def _by_openmm(system: Any, name: str, kelvin: float, start: Callable[[PRNGKeyArray], Array], executor: Executor | None) -> Any:
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


def _bonds(system: Any, topology: Any) -> tuple[tuple[int, int], ...]:
    """The topology's bonds; atoms that it leaves without any (in a PDB file without CONECT records) take those of the system."""
    pairs = {(min(a.index, b.index), max(a.index, b.index)) for a, b in topology.bonds()}
    bonded = {atom for pair in pairs for atom in pair}
    for force in system.getForces():
        if type(force).__name__ == "HarmonicBondForce":
            for bond in range(force.getNumBonds()):
                i, j, *_ = force.getBondParameters(bond)
                if i not in bonded or j not in bonded:
                    pairs.add((min(i, j), max(i, j)))
    return tuple(sorted(pairs))


def _warn_if_in_pieces(n: int, bonds: tuple[tuple[int, int], ...]) -> None:
    neighbours = adjacency(n, bonds)
    reached, todo = {0}, [0]
    while todo:
        new = set(neighbours[todo.pop()]) - reached
        reached |= new
        todo += new
    if len(reached) < n:
        warnings.warn(
            f"bonds connect only {len(reached)} of {n} atoms to the first one: in open space the pieces drift apart, and a density that "
            "nothing holds together cannot be normalised; keep one molecule, or add a restraint between them.",
            stacklevel=3,
        )


def _checked_positions(positions: Any, atoms: list[Any], bonds: tuple[tuple[int, int], ...]) -> Float[np.ndarray, "N 3"]:
    n = len(atoms)
    try:
        x = np.asarray(in_unit(positions, "nanometer"), np.float64)
    except (TypeError, ValueError) as error:
        raise TargetError(f"the positions are not an array of numbers of shape ({n}, 3) in nm ({error}).") from error
    if x.shape != (n, 3):
        raise TargetError(f"the system has {n} atoms, but the positions have shape {x.shape} instead of ({n}, 3).")
    if not np.isfinite(x).all():
        raise TargetError(f"the positions of {int((~np.isfinite(x)).any(axis=1).sum())} atoms are not finite; give a complete structure.")
    if bonds:
        first, second = np.asarray(bonds).T
        typical = float(np.median(np.linalg.norm(x[first] - x[second], axis=-1)))
        if typical > _LONGEST_TYPICAL_BOND:
            raise TargetError(
                f"half of the bonds are longer than {typical:.3g} nm; positions are in nm, so divide by 10 if these are in Ångström."
            )
    distances = np.linalg.norm(x[:, None] - x, axis=-1) + np.diag(np.full(n, np.inf))
    i, j = np.unravel_index(int(distances.argmin()), distances.shape)
    if distances[i, j] < _SAME_PLACE:
        raise TargetError(
            f"the atoms {_label(atoms[i])} and {_label(atoms[j])} lie {distances[i, j]:.2g} nm apart, at the same place; give a structure "
            "without clashes, in nm."
        )
    return x


def _check_same_molecule(
    given: Float[np.ndarray, "N 3"], minimum: Float[np.ndarray, "N 3"], atoms: list[Any], bonds: tuple[tuple[int, int], ...]
) -> None:
    """Refuses atoms in another order: minimising would pull them to where the system wants them, perhaps with the other hand."""
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


def _random_positions(atoms: list[Any], elements: list[str], bonds: tuple[tuple[int, int], ...]) -> Float[np.ndarray, "N 3"]:
    found = stereocentres(elements, bonds)
    if found:
        raise TargetError(
            f"the hand of {', '.join(_label(atoms[atom]) for atom in found)} cannot be told without positions; give positions= with a "
            "structure of the right hand."
        )
    return np.random.default_rng(0).normal(scale=0.1 * len(atoms) ** (1 / 3), size=(len(atoms), 3))


def _label(atom: Any) -> str:
    return f"{atom.name} of {atom.residue.name} {atom.residue.id}"


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
