"""From an OpenMM system to a force field in JAX, or to a sentence that says why not."""

from collections.abc import Callable
from typing import Any

from boltzflow.chemistry.force_field import bonded, custom, nonbonded
from boltzflow.chemistry.force_field.bonded import Term
from boltzflow.chemistry.force_field.field import ForceField
from boltzflow.errors import TargetError

# How each force is compiled, and the method that counts its terms; without terms it has no energy.
_COMPILERS: dict[str, tuple[Callable[[Any], Term], str]] = {
    "HarmonicBondForce": (bonded.bonds, "getNumBonds"),
    "HarmonicAngleForce": (bonded.angles, "getNumAngles"),
    "PeriodicTorsionForce": (bonded.torsions, "getNumTorsions"),
    "RBTorsionForce": (bonded.ryckaert_bellemans, "getNumTorsions"),
    "CMAPTorsionForce": (bonded.cmap, "getNumTorsions"),
    "NonbondedForce": (nonbonded.nonbonded, "getNumParticles"),
    "GBSAOBCForce": (nonbonded.obc, "getNumParticles"),
    "CustomBondForce": (custom.custom_bonds, "getNumBonds"),
    "CustomAngleForce": (custom.custom_angles, "getNumAngles"),
    "CustomTorsionForce": (custom.custom_torsions, "getNumTorsions"),
    "CustomNonbondedForce": (custom.custom_pairs, "getNumParticles"),
    "CustomGBForce": (custom.custom_born, "getNumParticles"),
}
# They act on a simulation, not on the energy.
_WITHOUT_ENERGY = {"CMMotionRemover", "AndersenThermostat"}


def compile_system(system: Any) -> ForceField:
    """Compiles the forces of an `openmm.System` to JAX.

    Known are harmonic bonds and angles, periodic and Ryckaert-Bellemans torsions, CMAP, NonbondedForce, CustomNonbondedForce, GBSAOBCForce
    and CustomGBForce without cut-off or with one in open space (CutoffNonPeriodic), and custom bonds, angles and torsions.

    Args:
        system: the system.

    Returns:
        The force field; energies in kJ/mol of positions in nm.

    Raises:
        TargetError: if the system has constraints, virtual sites or a periodic box, or a force that is not known; says what to do.
    """
    check_system(system)
    _check_known(system)
    terms, names = [], []
    for force in system.getForces():
        kind = type(force).__name__
        if kind in _WITHOUT_ENERGY:
            continue
        compiler, counter = _COMPILERS[kind]
        _check_force(force, kind)
        if getattr(force, counter)():
            terms.append(compiler(force))
            names.append(kind)
    return ForceField(system.getNumParticles(), tuple(terms), tuple(names))


def _check_known(system: Any) -> None:
    """Refuses forces that cannot be compiled; of several the one that tells most."""
    kinds = [type(force).__name__ for force in system.getForces()]
    unknown = [kind for kind in kinds if kind not in _COMPILERS and kind not in _WITHOUT_ENERGY]
    polarisable = [kind for kind in unknown if kind.startswith(("Amoeba", "Hippo"))]
    if polarisable:
        raise TargetError(
            f"the system has a {polarisable[0]}: its force field is polarisable, which cannot be compiled to JAX; let OpenMM compute the "
            'energies in a pool of worker processes with energies="openmm" (--energies openmm), which is slower.'
        )
    if unknown:
        raise TargetError(
            f"the system has a {unknown[0]}, which cannot be compiled to JAX; known are {', '.join(sorted(_COMPILERS))}. "
            'Let OpenMM compute the energies instead with energies="openmm" (--energies openmm), which is slower.'
        )


def check_system(system: Any) -> None:
    """Checks that all particles move freely in open space.

    Raises:
        TargetError: names what binds them, and what to do.
    """
    if any("Drude" in type(force).__name__ for force in system.getForces()):
        raise TargetError(
            "the system has Drude particles, which follow the atoms instead of moving freely, so that they are no coordinates; "
            "choose a force field without them, or give an energy that relaxes them for each configuration to from_calculator, whose pool "
            "of worker processes computes it."
        )
    if system.getNumConstraints():
        raise TargetError(
            f"the system has {system.getNumConstraints()} constraints, but a density in Cartesian coordinates needs all of them free; "
            "make it with constraints=None and rigidWater=False."
        )
    if any(system.isVirtualSite(i) for i in range(system.getNumParticles())):
        raise TargetError("the system has virtual sites, which are not free particles; choose a force field or water model without them.")
    if any(system.getParticleMass(i)._value == 0.0 for i in range(system.getNumParticles())):
        raise TargetError("the system has particles of mass zero, which OpenMM does not move; give every particle its mass.")
    for force in system.getForces():
        kind = type(force).__name__
        if "Barostat" in kind:
            raise TargetError(f"the system has a {kind}, which changes a periodic box that molecules here do not have; leave it out.")
    if system.usesPeriodicBoundaryConditions():
        raise TargetError(
            "the system has a periodic box, but densities here are of molecules in vacuum or implicit solvent; make it with "
            "nonbondedMethod=NoCutoff or CutoffNonPeriodic, without explicit water."
        )


def _check_force(force: Any, kind: str) -> None:
    """Refuses options of a force that would change its energy unnoticed."""
    for counter, what in (
        ("getNumParticleParameterOffsets", "parameter offsets"),
        ("getNumExceptionParameterOffsets", "parameter offsets"),
        ("getNumEnergyParameterDerivatives", "energy parameter derivatives"),
    ):
        if hasattr(force, counter) and getattr(force, counter)():
            raise TargetError(f"the {kind} has {what}, which cannot be compiled; make the system without alchemical parameters.")
