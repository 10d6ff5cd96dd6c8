"""What targets need of OpenMM: importing it, numbers with units, energies and minima, and a hash of a system."""

import hashlib
import importlib
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from boltzflow.errors import TargetError

# What OpenMM writes about a system that does not change the energy, or changes from version to version.
_IRRELEVANT_ATTRIBUTES = {"openmmVersion", "version", "forceGroup", "name", "mass"}
_IRRELEVANT_FORCES = {"CMMotionRemover", "AndersenThermostat"}
# Digits kept of numbers in the hash: enough to tell parameters apart, few enough that rounding in another version does not matter.
_DIGITS = 9
# Lists whose entries name their atoms, so that their order means nothing: it depends on the order of the bonds in a file.
_UNORDERED = {"Bonds", "Angles", "Torsions", "Impropers", "Exceptions", "Exclusions"}
# Terms that are the same when their atoms are read backwards, by the type of the force.
_REVERSIBLE = {
    **dict.fromkeys(("HarmonicBondForce", "CustomBondForce", "NonbondedForce", "CustomNonbondedForce"), ("p1", "p2")),
    **dict.fromkeys(("HarmonicAngleForce", "CustomAngleForce"), ("p1", "p2", "p3")),
    **dict.fromkeys(("PeriodicTorsionForce", "RBTorsionForce", "CustomTorsionForce"), ("p1", "p2", "p3", "p4")),
}
# Standard deviations in nm that bring atoms out of line.
_SHAKES = (1e-5, 1e-4, 1e-3)
# A molecule of some thousand atoms takes a few thousand.
_MOST_ITERATIONS = 100_000


def import_openmm() -> Any:
    """The module openmm with its submodules app and unit.

    Raises:
        TargetError: if it is not installed.
    """
    try:
        for submodule in ("app", "unit"):
            importlib.import_module(f"openmm.{submodule}")
        return importlib.import_module("openmm")
    except ImportError as error:
        raise TargetError("targets of molecules need OpenMM; install it with: pip install 'boltzflow[molecules]'.") from error


def in_unit(value: Any, unit: str) -> Any:
    """A plain number or array of an OpenMM quantity; what has no unit is in that unit already.

    Args:
        value: a quantity, a number, or a sequence of them.
        unit: name of the unit in openmm.unit, such as "nanometer".

    Raises:
        TargetError: if the quantity has another dimension.
    """
    units = import_openmm().unit
    if isinstance(value, list | tuple):
        return [in_unit(entry, unit) for entry in value] if any(units.is_quantity(entry) for entry in value) else value
    if not units.is_quantity(value):
        return value
    try:
        return value.value_in_unit(getattr(units, unit))
    except TypeError as error:
        raise TargetError(f"a value in {value.unit} was given where one in {unit} is needed.") from error


def context(system: Any, integrator: Any, platform: str) -> Any:
    """A context of OpenMM.

    Raises:
        TargetError: if the platform is not there, or OpenMM refuses the system; says why in OpenMM's words.
    """
    openmm = import_openmm()
    known = platforms()
    if platform not in known:
        raise TargetError(f"OpenMM has no platform {platform!r} here; there are: {', '.join(known)}.")
    try:
        return openmm.Context(system, integrator, openmm.Platform.getPlatformByName(platform))
    except openmm.OpenMMException as error:
        raise TargetError(f"OpenMM cannot compute the system on its platform {platform} ({one_line(error)}); mend the system.") from error


def platforms() -> list[str]:
    """Names of OpenMM's platforms on this machine."""
    openmm = import_openmm()
    return [openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())]


def one_line(error: BaseException) -> str:
    """What an error says, in one line without a full stop."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


class Mechanics:
    """Energies and minima of a system in double precision on OpenMM's reference platform."""

    def __init__(self, system: Any) -> None:
        """Makes a context.

        Raises:
            TargetError: if OpenMM refuses the system.
        """
        self._openmm = import_openmm()
        self._context = context(system, self._openmm.VerletIntegrator(0.001), "Reference")

    def energy(self, positions: Float[np.ndarray, "N 3"]) -> float:
        """Potential energy in kJ/mol of positions in nm; infinite if OpenMM finds it is not a number.

        Raises:
            TargetError: if OpenMM cannot compute it.
        """
        return self._evaluated(np.asarray(positions, np.float64), forces=False)[0]

    def minimise(self, positions: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
        """The local minimum in nm downhill of positions in nm.

        Where atoms lie exactly in line, forces of torsions over them are not numbers, even if the torsion has no energy, and OpenMM's
        minimiser would go on with them for ever: positions are then shaken a little.

        Raises:
            TargetError: if there is no way down to a finite energy.
        """
        given = np.asarray(positions, np.float64)
        generator = np.random.default_rng(0)
        start = given
        for noise in (0.0, *_SHAKES):
            if noise:
                start = given + noise * generator.standard_normal(given.shape)
            if not np.isfinite(self._evaluated(start, forces=True)).all():
                continue
            watch = _stop_at_nonsense(self._openmm)
            try:
                self._openmm.LocalEnergyMinimizer.minimize(self._context, reporter=watch)
                state = self._context.getState(positions=True)
            except self._openmm.OpenMMException as error:
                raise TargetError(
                    f"the energy of the positions cannot be minimised ({one_line(error)}); give a structure without clashes."
                ) from error
            minimum = np.asarray(state.getPositions(asNumpy=True).value_in_unit(self._openmm.unit.nanometer), np.float64)
            if not watch.nonsense and np.isfinite(minimum).all() and np.isfinite(self.energy(minimum)):
                return minimum
        raise TargetError(
            "the energy of the positions cannot be minimised to a finite number; give a structure without clashes, and a system whose "
            "energy has a minimum."
        )

    def _evaluated(self, positions: Float[np.ndarray, "N 3"], *, forces: bool) -> tuple[float, float]:
        """Energy in kJ/mol, and the sum of the sizes of all forces, infinite where they are not numbers."""
        self._context.setPositions(positions)
        try:
            state = self._context.getState(energy=True, forces=forces)
        except self._openmm.OpenMMException as error:
            raise TargetError(f"OpenMM cannot compute the energy of the system ({one_line(error)}); mend the system.") from error
        energy = float(state.getPotentialEnergy()._value)
        size = float(np.abs(state.getForces(asNumpy=True)._value).sum()) if forces else 0.0
        return (energy if np.isfinite(energy) else np.inf), (size if np.isfinite(size) else np.inf)


def _stop_at_nonsense(openmm: Any) -> Any:
    """A reporter of OpenMM's minimiser that ends it when positions or forces are not finite, or it does not come to an end."""

    class Watch(openmm.MinimizationReporter):
        nonsense = False

        def report(self, iteration: int, x: Any, gradient: Any, args: Any) -> bool:
            self.nonsense = not (math.isfinite(sum(x)) and math.isfinite(sum(gradient))) or iteration > _MOST_ITERATIONS
            return self.nonsense

    return Watch()


def system_hash(system: Any, chirality: Sequence[int] = ()) -> str:
    """8 hexadecimal digits that tell a system from others of another energy function or another chirality.

    Taken from OpenMM's serialisation without what has no influence on the energy (masses, the default box, names and groups of forces)
    and without version numbers, so that a newer OpenMM does not make old data unreadable.

    Args:
        system: an `openmm.System`.
        chirality: signs of the chiral centres, which the energy does not know but the density means.
    """
    root = ElementTree.fromstring(import_openmm().XmlSerializer.serialize(system))

    def lines(node: ElementTree.Element, force: str) -> list[str]:
        if node.tag == "PeriodicBoxVectors" or node.get("type") in _IRRELEVANT_FORCES:
            return []
        attributes = _forwards(node.attrib, _REVERSIBLE.get(force, ()))
        kept = sorted((key, _rounded(value)) for key, value in attributes.items() if key not in _IRRELEVANT_ATTRIBUTES)
        # Custom forces name their parameters, which does matter.
        name = node.get("name", "") if node.tag != "Force" else ""
        below = [lines(child, node.get("type", force)) for child in node]
        if node.tag in _UNORDERED and all("p1" in child.attrib or "a1" in child.attrib for child in node):
            below.sort()
        return [f"{node.tag} {name} {kept}", *(line for block in below for line in block), "/"]

    content = "\n".join([f"hands {list(chirality)}", *lines(root, "")])
    return hashlib.sha256(content.encode()).hexdigest()[:8]


def _forwards(attributes: dict[str, str], atoms: Sequence[str]) -> dict[str, str]:
    """The attributes of a term with its atoms in the one of two directions that begins with the lower number."""
    if not atoms or any(name not in attributes for name in atoms):
        return attributes
    numbers = [attributes[name] for name in atoms]
    if int(numbers[0]) > int(numbers[-1]):
        numbers.reverse()
    return {**attributes, **dict(zip(atoms, numbers, strict=True))}


def _rounded(value: str) -> str:
    try:
        return f"{float(value):.{_DIGITS}g}"
    except ValueError:
        return value
