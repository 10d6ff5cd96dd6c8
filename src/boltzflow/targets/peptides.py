"""Peptides between acetyl and N-methyl caps, built from their sequence; alanine dipeptide is the shortest of them."""

from collections.abc import Sequence
from typing import Any

from boltzflow.chemistry.peptides import build_peptide
from boltzflow.chemistry.systems import create_system, label, load_force_field
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


def peptide(sequence: str, force_field: str | Sequence[str] = "ff99", temperature: Any = 300.0, *, name: str | None = None) -> Target:
    """A peptide of L amino acids between an acetyl and an N-methyl cap, as at pH 7, built from its sequence.

    Args:
        sequence: one-letter codes of the 20 amino acids, such as "A" or "GAV".
        force_field: "ff96", "ff99", or names of OpenMM's force field files, as for `from_pdb`.
        temperature: in kelvin, or a quantity.
        name: a name for the fingerprint; None: "peptide_" and the sequence.

    Returns:
        The target, in nm.

    Raises:
        TargetError: if a letter stands for no amino acid, the force field does not fit, or the temperature is not positive.
    """
    field = load_force_field(force_field)
    topology, positions = build_peptide(sequence)
    system = create_system(field, topology, positions, force_field)
    return from_openmm(
        system,
        topology,
        temperature,
        positions=positions,
        name=name or f"peptide_{sequence.upper()}",
        parameters={"force_field": label(force_field)},
    )
