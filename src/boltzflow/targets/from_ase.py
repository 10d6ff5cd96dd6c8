"""Any ASE calculator as a target, with GFN2-xTB as the one that is ready made."""

import functools
import importlib.util
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from boltzflow.blackbox.farm import Submits
from boltzflow.blackbox.functions import AseEnergy, make_gfn2_xtb
from boltzflow.errors import TargetError
from boltzflow.targets._described import described, symbols_of
from boltzflow.targets.base import Target
from boltzflow.targets.calculators import from_worker_function


def from_ase(
    make_calculator: Callable[[], Any],
    molecule: Sequence[str] | Target,
    *,
    positions: Float[np.ndarray, "N 3"] | None = None,
    temperature: float | None = None,
    name: str,
    reference_energy: float | None = None,
    executor: Submits | str | None = None,
    workers: int | None = None,
    timeout: float | None = None,
    classes: Sequence[int] | None = None,
    reflections: bool | None = None,
    bonds: Sequence[tuple[int, int]] | None = None,
    parameters: Mapping[str, float | int | str | bool] | None = None,
) -> Target:
    """Makes a target of a molecule in vacuum or implicit solvent whose energy an ASE calculator computes.

    Each worker process makes its own calculator, once. See `from_calculator` for what happens to configurations that fail, and for the
    guard that scripts need. A calculator that can compute many configurations at once says so by a method
    `evaluate_batch(positions)`, (B, N, 3) in Å -> energies (B,) in eV, or (energies, forces (B, N, 3) in eV/Å), which then gets whole
    pieces of a batch; ASE itself has no such method.

    Args:
        make_calculator: makes the calculator; a function at the top level of a module, or a `functools.partial` of one.
        molecule: chemical symbols of the atoms; or a target of this molecule, such as that of a force field, from which all that follows
            and is not given is taken, and its topology and chirality.
        positions: a sensible geometry in nm; samplers start near it.
        temperature: in kelvin.
        name: a name; with the symbols and `parameters` it tells this target from others in data files and checkpoints.
        reference_energy: in eV, subtracted from the energy; None: as in `from_calculator`, about the energy of `positions`.
        executor: where to compute instead of in processes of our own; see `from_calculator`.
        workers: number of processes, or of tasks that `executor` runs side by side; None: the number of cores.
        timeout: seconds that one configuration may take; None: no limit.
        classes: interchangeability class of each atom; None: each atom is a class of its own.
        reflections: whether to treat mirror images as equally probable. Energies are blind to chirality; False, also where
            nothing is given, keeps a chiral molecule as it is.
        bonds: pairs of bonded atoms.
        parameters: settings of the calculator, for the fingerprint.

    Returns:
        The target, in nm.

    Raises:
        TargetError: if ASE is missing, the numbers of symbols and positions differ, the calculator fails on `positions`, or its energy
            lacks a symmetry that is given or that the target of the molecule has.
    """
    _require("ase", "an ASE calculator")
    known = described(
        molecule, name=name, positions=positions, temperature=temperature, classes=classes, reflections=reflections, bonds=bonds
    )
    target = from_worker_function(
        AseEnergy(make_calculator, known.symbols, uuid.uuid4().hex),
        (len(known.symbols), 3),
        name=name,
        energy_unit="eV",
        length_unit="angstrom",
        reference_energy=reference_energy,
        executor=executor,
        workers=workers,
        timeout=timeout,
        classes=range(len(known.symbols)) if known.classes is None else known.classes,
        reflections=bool(known.reflections),
        temperature=known.temperature,
        parameters={**(parameters or {}), "symbols": "".join(known.symbols)},
        bonds=known.bonds,
        elements=known.symbols,
        start=known.start,
    )
    return known.completed(target)


def gfn2_xtb(
    molecule: Sequence[str] | Target,
    *,
    positions: Float[np.ndarray, "N 3"] | None = None,
    temperature: float | None = None,
    solvent: str | None = "water",
    charge: int = 0,
    multiplicity: int = 1,
    electronic_temperature: float = 300.0,
    name: str = "gfn2_xtb",
    reference_energy: float | None = None,
    executor: Submits | str | None = None,
    workers: int | None = None,
    timeout: float | None = None,
    classes: Sequence[int] | None = None,
    reflections: bool | None = None,
    bonds: Sequence[tuple[int, int]] | None = None,
) -> Target:
    """A molecule with the semi-empirical energy GFN2-xTB, by tblite.

    GFN2-xTB: Bannwarth, Ehlert and Grimme, J. Chem. Theory Comput. 2019, doi:10.1021/acs.jctc.8b01176. The implicit solvent is ALPB:
    Ehlert et al., J. Chem. Theory Comput. 2021, doi:10.1021/acs.jctc.1c00471.

    Args:
        molecule: as in `from_ase`.
        positions: a sensible geometry in nm; samplers start near it.
        temperature: of the Boltzmann distribution, in kelvin.
        solvent: name of the solvent; None: vacuum.
        charge: total charge in elementary charges.
        multiplicity: number of unpaired electrons plus one.
        electronic_temperature: in kelvin, of the electrons' occupation; the method was fitted with 300.
        name: a name, as in `from_ase`.
        reference_energy: as in `from_ase`.
        executor: as in `from_ase`.
        workers: as in `from_ase`.
        timeout: as in `from_ase`.
        classes: as in `from_ase`.
        reflections: as in `from_ase`.
        bonds: as in `from_ase`.

    Returns:
        The target, in nm.

    Raises:
        TargetError: if tblite or ASE is missing, charge and multiplicity do not fit the number of electrons, or the calculation fails on
            `positions`.
    """
    _require("tblite", "GFN2-xTB")
    _check_electrons(name, symbols_of(molecule) if isinstance(molecule, Target) else tuple(molecule), charge, multiplicity)
    parameters: dict[str, float | int | str | bool] = {
        "solvent": solvent or "vacuum",
        "charge": int(charge),
        "multiplicity": int(multiplicity),
        "electronic_temperature": float(electronic_temperature),
    }
    return from_ase(
        functools.partial(make_gfn2_xtb, solvent, charge, multiplicity, electronic_temperature),
        molecule,
        positions=positions,
        temperature=temperature,
        name=name,
        reference_energy=reference_energy,
        executor=executor,
        workers=workers,
        timeout=timeout,
        classes=classes,
        reflections=reflections,
        bonds=bonds,
        parameters=parameters,
    )


def _check_electrons(name: str, symbols: Sequence[str], charge: int, multiplicity: int) -> None:
    """Refuses electrons that cannot be paired as the multiplicity says; the method itself would spread half an electron."""
    _require("ase", "GFN2-xTB")
    from ase.data import atomic_numbers  # pyright: ignore[reportMissingImports]

    unknown = sorted({symbol for symbol in symbols if atomic_numbers.get(symbol, 0) < 1})
    if unknown:
        raise TargetError(f"target {name!r} has atoms of the unknown elements {', '.join(map(repr, unknown))}; give chemical symbols.")
    if charge != int(charge) or multiplicity != int(multiplicity) or multiplicity < 1:
        raise TargetError(f"target {name!r} has charge {charge} and multiplicity {multiplicity}; give a whole number and one of 1 or more.")
    electrons = sum(atomic_numbers[symbol] for symbol in symbols) - int(charge)
    if electrons < multiplicity - 1 or (electrons - (multiplicity - 1)) % 2:
        raise TargetError(
            f"target {name!r} has {electrons} electrons, of which {int(multiplicity) - 1} unpaired ones (multiplicity {int(multiplicity)}) "
            "leave a number that cannot be paired; mend `charge` or `multiplicity` (number of unpaired electrons plus one)."
        )


def _require(package: str, purpose: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise TargetError(f"{purpose} needs the package {package}, which is not installed; run pip install 'boltzflow[xtb]'.")
