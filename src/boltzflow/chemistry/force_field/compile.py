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

    Known are harmonic bonds and angles, periodic and Ryckaert-Bellemans torsions, CMAP, NonbondedForce and CustomNonbondedForce without
    cut-off, GBSAOBCForce, CustomGBForce, and custom bonds, angles and torsions.

    Args:
        system: the system.

    Returns:
        The force field; energies in kJ/mol of positions in nm.

    Raises:
        TargetError: if the system has constraints, virtual sites or a periodic box, or a force that is not known; says what to do.
    """
    check_system(system)
    terms, names = [], []
    for force in system.getForces():
        kind = type(force).__name__
        if kind in _WITHOUT_ENERGY:
            continue
        if kind not in _COMPILERS:
            raise TargetError(
                f"the system has a {kind}, which cannot be compiled to JAX; known are {', '.join(sorted(_COMPILERS))}. "
                'Let OpenMM compute the energies instead with energies="openmm", which is slower.'
            )
        compiler, counter = _COMPILERS[kind]
        _check_force(force, kind)
        if getattr(force, counter)():
            terms.append(compiler(force))
            names.append(kind)
    return ForceField(system.getNumParticles(), tuple(terms), tuple(names))


def check_system(system: Any) -> None:
    """Checks that all particles move freely in open space.

    Raises:
        TargetError: names what binds them, and what to do.
    """
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
            "nonbondedMethod=NoCutoff, without explicit water."
        )


def _check_force(force: Any, kind: str) -> None:
    """Refuses options of a force that would change its energy unnoticed."""
    if hasattr(force, "getNonbondedMethod") and force.getNonbondedMethod() != 0:
        raise TargetError(f"the {kind} has a cut-off, which makes energies jump; make the system with nonbondedMethod=NoCutoff.")
    for counter, what in (
        ("getNumParticleParameterOffsets", "parameter offsets"),
        ("getNumExceptionParameterOffsets", "parameter offsets"),
        ("getNumEnergyParameterDerivatives", "energy parameter derivatives"),
    ):
        if hasattr(force, counter) and getattr(force, counter)():
            raise TargetError(f"the {kind} has {what}, which cannot be compiled; make the system without alchemical parameters.")
