"""A molecule as a configuration or the command line names it: a file, a peptide's sequence or a SMILES."""

import dataclasses
import re
from collections.abc import Iterator
from typing import Annotated, Literal, get_args

from boltzflow.config.options import Options
from boltzflow.config.ranges import Positive, Range

Caps = Literal["ace-nme", "zwitterion", "neutral", "cyclic"]
"""What is at the ends of a peptide."""
Solvent = Literal["HCT", "OBC1", "OBC2", "GBn", "GBn2"]
"""Generalised Born models that files of Amber and CHARMM can be given."""

Energies = Literal["compiled", "openmm"]
"""Who computes energies: JAX, or OpenMM in worker processes."""

# The kinds of sources by their endings or prefixes, and which options each takes beside those that all take.
_ENDINGS = {
    **dict.fromkeys((".pdb", ".ent", ".cif", ".mmcif", ".pdbx"), "structure"),
    **dict.fromkeys((".prmtop", ".parm7"), "amber"),
    ".top": "gromacs",
    ".psf": "charmm",
}
_PREFIXES = ("peptide", "smiles")
_OPTIONS = {
    "structure": ("force_field", "ph"),
    "peptide": ("force_field", "caps", "ph", "disulfides"),
    "smiles": ("force_field", "small_molecules"),
    "amber": ("coordinates", "implicit_solvent"),
    "gromacs": ("coordinates", "include"),
    "charmm": ("coordinates", "parameters", "implicit_solvent"),
}
_COMMON = ("temperature", "cutoff", "energies")
_NEEDED = {
    "force_field": "amber14-all.xml implicit/gbn2.xml",
    "coordinates": "molecule.gro",
    "parameters": "top_all36_prot.rtf par_all36_prot.prm",
}
_NAMES = {
    "structure": "PDB and mmCIF files",
    "peptide": "peptides",
    "smiles": "SMILES",
    "amber": "Amber's files",
    "gromacs": "GROMACS' files",
    "charmm": "CHARMM's files",
}


def kind_of(source: str) -> str | None:
    """What kind of source of a molecule a word names; None if it names none, but a target or a preset."""
    prefix, colon, rest = source.partition(":")
    if colon and rest and prefix in _PREFIXES:
        return prefix
    ending = re.search(r"\.\w+$", source)
    return _ENDINGS.get(ending[0].lower()) if ending else None


@dataclasses.dataclass(frozen=True)
class Molecule(Options):
    """A molecule that is made for the run, in place of a target known by name.

    Example:
        >>> bf.Molecule(source="peptide:AAA", force_field=("amber14-all.xml", "implicit/obc1.xml"), temperature=310.0).temperature
        310.0

    Attributes:
        source: a PDB or mmCIF file, "peptide:" and a sequence (small letters are D amino acids), "smiles:" and a SMILES, a prmtop of
            Amber, a .top of GROMACS or a .psf of CHARMM; null: none, the target is the one named `target`.
        force_field: files of OpenMM's force field, such as [amber14-all.xml, implicit/obc1.xml].
        temperature: in kelvin.
        cutoff: of charges, Lennard-Jones and solvent in nm; null: none.
        caps: ends of a peptide: ace-nme, zwitterion (NH3+ and COO-), neutral (NH2 and COOH) or cyclic; null: ace-nme.
        ph: decides which hydrogens a peptide's side chains have, or adds those that a file lacks; null: 7 for a peptide, and files must
            have them all.
        disulfides: pairs of a peptide's cysteines that are bound to each other, counted from 1, such as [1-6].
        coordinates: file of the positions (inpcrd, .gro, .pdb, .crd), beside one that holds the topology.
        parameters: CHARMM's files of parameters (.prm, .rtf, .str).
        implicit_solvent: generalised Born solvent for files of Amber and CHARMM; null: vacuum.
        include: folder of GROMACS' force fields; null: where GROMACS has put them.
        small_molecules: force field of openmmforcefields that parametrises a SMILES, such as openff-2.2.0 or gaff-2.11; null: the files in
            `force_field` have it.
        energies: compiled to JAX, or by openmm in worker processes, which is slower and knows all forces; null: compiled.
    """

    source: str | None = None
    force_field: tuple[str, ...] = ()
    temperature: Positive | None = None
    cutoff: Positive | None = None
    caps: Caps | None = None
    ph: Annotated[float, Range("between 0 and 14", 0, 14)] | None = None
    disulfides: tuple[str, ...] = ()
    coordinates: str | None = None
    parameters: tuple[str, ...] = ()
    implicit_solvent: Solvent | None = None
    include: str | None = None
    small_molecules: str | None = None
    energies: Energies | None = None

    @property
    def given(self) -> tuple[str, ...]:
        """The options that are set, but the source."""
        return tuple(
            field.name for field in dataclasses.fields(self) if field.name != "source" and getattr(self, field.name) != field.default
        )

    def problems(self) -> Iterator[tuple[str, str]]:
        """Each kind of source has options of its own."""
        if self.source is None:
            for name in self.given:
                yield name, "would have no effect without molecule.source, which names the molecule; leave it out"
            return
        kind = kind_of(self.source)
        if kind is None:
            yield (
                "source",
                f"must be a file ({', '.join(_ENDINGS)}), or begin with {' or '.join(f'{prefix}:' for prefix in _PREFIXES)}, "
                f"got {self.source!r}",
            )
            return
        for name in self.given:
            if name not in (*_OPTIONS[kind], *_COMMON):
                takers = [_NAMES[other] for other, options in _OPTIONS.items() if name in options]
                yield name, f"is for {' and '.join(takers)}, and {self.source} is none of them; leave it out"
        for name, example in _NEEDED.items():
            if name in _OPTIONS[kind] and not getattr(self, name) and not (name == "force_field" and self.small_molecules):
                yield name, f"of {self.source} is missing; name it, such as {example}"
        if self.temperature is None:
            yield "temperature", f"of {self.source} is missing; give it in kelvin, such as 300"
        for name, known in (("caps", Caps), ("implicit_solvent", Solvent), ("energies", Energies)):
            if getattr(self, name) is not None and getattr(self, name) not in get_args(known):
                yield name, f"must be one of {', '.join(get_args(known))}, got {getattr(self, name)!r}"
        for pair in self.disulfides:
            if not re.fullmatch(r"\d+-\d+", pair):
                yield "disulfides", f"must be pairs of residue numbers such as 1-6, got {pair!r}"

    @property
    def bridges(self) -> list[tuple[int, int]]:
        """The disulfides as numbers."""
        return [(int(first), int(second)) for first, second in (pair.split("-") for pair in self.disulfides)]
