"""Energy functions as a worker calls them: plain Python functions and ASE calculators, brought to the target's units."""

import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from boltzflow.blackbox.worker import Function


@dataclasses.dataclass(frozen=True)
class Plain:
    """A function of the positions alone, that gives a gradient always or never."""

    function: Callable[[Float[np.ndarray, "N D"]], Any]

    def __call__(self, positions: Float[np.ndarray, "N D"], gradient: bool) -> Any:
        """What the function returns."""
        return self.function(positions)


@dataclasses.dataclass(frozen=True)
class Converted:
    """A function in units of its own.

    Attributes:
        function: takes positions and returns energies in units of its own.
        length: its length unit in those of the target.
        energy: its energy unit in kT.
        reference: the energy, in its unit, that counts as zero.
    """

    function: Function
    length: float
    energy: float
    reference: float

    def __call__(self, positions: Float[np.ndarray, "N D"], gradient: bool) -> Any:
        """Reduced energy, and its gradient by the target's length unit where the function gives one."""
        value = self.function(positions / self.length, gradient)
        if isinstance(value, tuple):
            energy, slope = value
            return (np.asarray(energy) - self.reference) * self.energy, np.asarray(slope) * (self.energy / self.length)
        return (np.asarray(value) - self.reference) * self.energy


@dataclasses.dataclass(frozen=True)
class AseEnergy:
    """Energies in eV of positions in Å by an ASE calculator, which each thread of each process makes once.

    Attributes:
        make_calculator: makes the calculator.
        symbols: chemical symbols of the atoms.
        token: tells this function's calculators from others'.
    """

    make_calculator: Callable[[], Any]
    symbols: tuple[str, ...]
    token: str

    def __call__(self, positions: Float[np.ndarray, "N 3"], gradient: bool) -> Any:
        """Energy, and its gradient if it is wanted and the calculator has forces."""
        atoms = self._atoms()
        try:
            atoms.set_positions(positions)
            if not gradient or "forces" not in atoms.calc.implemented_properties:
                return atoms.get_potential_energy()
            # Forces first: many calculators compute only what is asked for, and the energy comes with the forces.
            forces = atoms.get_forces()
            return atoms.get_potential_energy(), -forces
        except BaseException:
            # What is left in a calculator that failed must not spoil the next configuration.
            vars(_calculators).pop(self.token, None)
            raise

    def _atoms(self) -> Any:
        atoms = vars(_calculators).get(self.token)
        if atoms is None:
            import ase  # pyright: ignore[reportMissingImports]

            atoms = ase.Atoms(list(self.symbols), np.zeros((len(self.symbols), 3)))
            atoms.calc = self.make_calculator()
            vars(_calculators)[self.token] = atoms
        return atoms


@dataclasses.dataclass(frozen=True)
class OpenMMEnergy:
    """Energies in kJ/mol of positions in nm by OpenMM's reference platform, in a context that each thread of each process makes once.

    Attributes:
        system: XML of the system.
    """

    system: str

    def __call__(self, positions: Float[np.ndarray, "N 3"], gradient: bool) -> Any:
        """Energy, and its gradient if it is wanted."""
        contexts = vars(_contexts)
        if self.system not in contexts:
            import openmm

            platform = openmm.Platform.getPlatformByName("Reference")
            contexts[self.system] = openmm.Context(openmm.XmlSerializer.deserialize(self.system), openmm.VerletIntegrator(0.001), platform)
        context = contexts[self.system]
        context.setPositions(positions)
        state = context.getState(energy=True, forces=gradient)
        # OpenMM's numbers come in its own units, which are these.
        energy = state.getPotentialEnergy()._value
        return (energy, -state.getForces(asNumpy=True)._value) if gradient else energy


_calculators, _contexts = threading.local(), threading.local()


def make_gfn2_xtb(solvent: str | None, charge: int, multiplicity: int, electronic_temperature: float) -> Any:
    """A GFN2-xTB calculator of tblite."""
    from tblite.ase import TBLite  # pyright: ignore[reportMissingImports]

    solvation: dict[str, Any] = {} if solvent is None else {"solvation": ("alpb", solvent)}
    return TBLite(
        method="GFN2-xTB",
        charge=charge,
        multiplicity=multiplicity,
        electronic_temperature=electronic_temperature,
        # Each configuration from the same guess, so that its energy does not depend on what was computed before it.
        cache_api=False,
        verbosity=0,
        **solvation,
    )
