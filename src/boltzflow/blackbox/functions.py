"""Energy functions as a worker calls them: plain Python functions and ASE calculators, brought to the target's units."""

import dataclasses
import functools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from boltzflow.blackbox.worker import Function, of_many


@dataclasses.dataclass(frozen=True)
class Plain:
    """A function of the positions alone, that gives a gradient always or never."""

    function: Callable[[Float[np.ndarray, "N D"]], Any]

    def __call__(self, positions: Float[np.ndarray, "N D"], gradient: bool) -> Any:
        """What the function returns."""
        return self.function(positions)


@dataclasses.dataclass(frozen=True)
class Batched:
    """A function of many positions (B, N, D) at once, that gives gradients always or never."""

    function: Callable[[Float[np.ndarray, "B N D"]], Any]

    def __call__(self, positions: Float[np.ndarray, "N D"], gradient: bool) -> Any:
        """What the function returns of one configuration."""
        energies, slopes = of_many(self.function(positions[None]), positions[None])
        return energies[0] if slopes is None else (energies[0], slopes[0])

    def many(self, positions: Float[np.ndarray, "B N D"], gradient: bool) -> Any:
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
        return self._converted(self.function(positions / self.length, gradient))

    @property
    def many(self) -> Callable[[Float[np.ndarray, "B N D"], bool], Any] | None:
        """Many configurations at once, where the function takes them."""
        inner = getattr(self.function, "many", None)
        return None if inner is None else lambda positions, gradient: self._converted(inner(positions / self.length, gradient))

    def _converted(self, value: Any) -> Any:
        if isinstance(value, tuple):
            energy, slope = value
            return (np.asarray(energy) - self.reference) * self.energy, np.asarray(slope) * (self.energy / self.length)
        return (np.asarray(value) - self.reference) * self.energy


@dataclasses.dataclass(frozen=True)
class AseEnergy:
    """Energies in eV of positions in Å by an ASE calculator, which each thread of each process makes once.

    A calculator with a method `evaluate_batch` is given many configurations at once; see `targets.from_ase`.

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

    @property
    def many(self) -> Callable[[Float[np.ndarray, "B N 3"], bool], Any] | None:
        """Many configurations at once, where the calculator takes them."""
        batch = getattr(self._atoms().calc, "evaluate_batch", None)
        return None if batch is None else functools.partial(self._many, batch)

    def _many(self, batch: Callable[[Float[np.ndarray, "B N 3"]], Any], positions: Float[np.ndarray, "B N 3"], gradient: bool) -> Any:
        try:
            value = batch(positions)
        except BaseException:
            vars(_calculators).pop(self.token, None)
            raise
        return (value[0], -np.asarray(value[1])) if isinstance(value, tuple) else value

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
