"""Peptides built from their sequence; alanine dipeptide is the shortest of those between caps."""

from collections.abc import Collection, Sequence
from typing import Any

from boltzflow.chemistry.peptides import PH, build_peptide, read_sequence
from boltzflow.chemistry.systems import create_system, label, load_force_field
from boltzflow.config.molecule import Caps, Energies
from boltzflow.errors import TargetError
from boltzflow.targets.base import Target
from boltzflow.targets.molecules import from_openmm


def alanine_dipeptide(force_field: str | Sequence[str] = "ff99", temperature: Any = 300.0) -> Target:
    """Alanine dipeptide, Ace-Ala-NMe: 22 atoms, the usual test molecule, of the L form.

    The atoms are in Amber's order: HH31 CH3 HH32 HH33 C O, N H CA HA CB HB1 HB2 HB3 C O, N H CH3 HH31 HH32 HH33.

    Args:
        force_field: "ff96" (amber96 with OBC water), "ff99" (amber99sbildn with OBC water), or names of OpenMM's force field files.
        temperature: in kelvin, or a quantity.

    Returns:
        The target, in nm.
    """
    return peptide("A", force_field, temperature, name="alanine_dipeptide")


def peptide(
    sequence: str,
    force_field: str | Sequence[str] = "ff99",
    temperature: Any = 300.0,
    *,
    caps: Caps = "ace-nme",
    ph: float = PH,
    disulfides: Collection[tuple[int, int]] = (),
    cutoff: Any = None,
    energies: Energies = "compiled",
    name: str | None = None,
) -> Target:
    """A peptide built from its sequence.

    Force fields know L amino acids. Bonds, angles and torsions of a mirror image are as good, so that D amino acids have their parameters,
    but not the maps over phi and psi (CMAP) of ff19SB and CHARMM, which would have to be turned: those force fields are refused for them.

    Args:
        sequence: one-letter codes of the 20 amino acids, such as "A" or "GAV"; small letters are D amino acids, as in "AaA".
        force_field: "ff96", "ff99", or names of OpenMM's force field files, as for `from_pdb`.
        temperature: in kelvin, or a quantity.
        caps: what is at the ends: "ace-nme" for acetyl and N-methyl caps, "zwitterion" for NH3+ and COO-, "neutral" for NH2 and COOH (which
            CHARMM's force fields know and Amber's do not), "cyclic" for a bond from the last residue to the first.
        ph: decides which side chains are protonated; the ends are what `caps` says.
        disulfides: pairs of cysteines that are bound to each other, by their numbers from 1, such as [(1, 6)].
        cutoff: of charges, Lennard-Jones and solvent, in nm, or a quantity; None: none. Published peptides often have 2 nm.
        energies: "compiled" to JAX or by "openmm", as for `from_openmm`.
        name: a name for the fingerprint; None: "peptide_", the sequence, and the caps where they are not "ace-nme".

    Returns:
        The target, in nm.

    Raises:
        TargetError: if a letter stands for no amino acid, a bridge or a ring cannot be closed, the force field does not fit, or the
            temperature or the cut-off is not positive.
    """
    field = load_force_field(force_field)
    topology, positions = build_peptide(sequence, caps, ph=ph, disulfides=disulfides)
    try:
        system = create_system(field, topology, positions, force_field, cutoff)
    except TargetError as error:
        _check_ends(field, topology, caps, label(force_field), error)
        raise
    if any(not residue.left for residue in read_sequence(sequence)) and _has_maps(system):
        raise TargetError(
            f"the force field {label(force_field)} has maps over phi and psi (CMAP) that are made for L amino acids, and {sequence!r} has "
            "D ones; choose one without, such as 'amber14-all.xml'."
        )
    return from_openmm(
        system,
        topology,
        temperature,
        positions=positions,
        name=name or f"peptide_{sequence}{'' if caps == 'ace-nme' else f'_{caps}'}",
        parameters={"force_field": label(force_field)},
        energies=energies,
    )


def _check_ends(field: Any, topology: Any, caps: str, force_field: str, error: TargetError) -> None:
    """Says of ends that few force fields know that it is them that are not known."""
    first, *_, last = [*topology.residues()] * 2
    unknown = field.getUnmatchedResidues(topology)
    if caps == "zwitterion" and first is last and first in unknown:
        raise TargetError(
            f"the force field {force_field} does not know a {first.name} that is alone, with both ends free; choose a longer peptide, or "
            "caps='ace-nme'."
        ) from error
    if caps == "neutral" and (first in unknown or last in unknown):
        raise TargetError(
            f"the force field {force_field} does not know the neutral ends NH2 and COOH, which Amber's force fields lack; choose "
            "'charmm36.xml', or caps='zwitterion'."
        ) from error


def _has_maps(system: Any) -> bool:
    return any(type(force).__name__ == "CMAPTorsionForce" and force.getNumTorsions() for force in system.getForces())
