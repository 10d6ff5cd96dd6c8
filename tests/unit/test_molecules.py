"""Molecules as targets: symmetries, chirality, energies against OpenMM, and input that must be refused."""

import concurrent.futures
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import checking
from boltzflow import reference, targets
from boltzflow.analysis import weights
from boltzflow.chemistry import chirality, symmetry
from boltzflow.cli import main
from boltzflow.errors import TargetError
from boltzflow.sampling.samples import Samples
from boltzflow.targets import molecule_folder

pytest.importorskip("openmm")
import openmm  # noqa: E402
from openmm import app  # noqa: E402

from boltzflow.chemistry.openmm_systems import Mechanics, in_unit, system_hash  # noqa: E402
from boltzflow.chemistry.peptides import build_peptide  # noqa: E402
from boltzflow.chemistry.systems import create_system, load_force_field  # noqa: E402
from boltzflow.targets.base import BOLTZMANN  # noqa: E402

# Not imported by name: OpenMM makes its units at run time, and a type checker does not know them.
unit = pytest.importorskip("openmm.unit")

FF99 = ("amber99sbildn.xml", "amber99_obc.xml")


@pytest.fixture(scope="module")
def dipeptide() -> targets.Target:
    return targets.get("alanine-dipeptide")


@pytest.fixture(scope="module")
def pdb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Alanine dipeptide in a file."""
    path = tmp_path_factory.mktemp("pdb") / "dipeptide.pdb"
    write_pdb(path, *build_peptide("A"))
    return path


def write_pdb(path: Path, topology: app.Topology, positions: np.ndarray) -> None:
    with path.open("w", encoding="utf-8") as file:
        app.PDBFile.writeFile(topology, positions * unit.nanometer, file)


def _hashes(pattern: str) -> str:
    """A pattern for a fingerprint with the hashes of its symmetry and system."""
    return pattern.replace("HASHES", "symmetry='[0-9a-f]{8}', system='[0-9a-f]{8}'")


def start(target: targets.Target, seed: int = 0) -> np.ndarray:
    return np.asarray(target.starting_positions(key=jax.random.key(seed)), np.float64)


def dihedral(x: np.ndarray, *atoms: int) -> float:
    b0, b1, b2 = np.diff(x[list(atoms)], axis=0)
    m, n = np.cross(b0, b1), np.cross(b1, b2)
    return float(np.degrees(np.arctan2(np.dot(np.cross(m, n), b1) / np.linalg.norm(b1), np.dot(m, n))))


# Graphs: which atoms are alike, which are chiral centres.


def molecule(smiles: str) -> tuple[list[str], list[tuple[int, int]]]:
    """Elements and bonds of `C-C H-0 ...`: each word is an element and the atoms before it that it is bonded to."""
    elements, bonds = [], []
    for i, word in enumerate(smiles.split()):
        element, *others = word.split("-")
        elements.append(element)
        bonds += [(int(j), i) for j in others]
    return elements, bonds


@pytest.mark.parametrize(
    ("smiles", "expected"),
    [
        ("C H-0 F-0 Cl-0 Br-0", (0,)),
        ("C H-0 H-0 Cl-0 Br-0", ()),
        # 2-butanol: C1 H3, C2 (H, OH), C3 H2, C4 H3.
        ("C C-0 C-1 C-2 O-1 H-4 H-1 H-0 H-0 H-0 H-2 H-2 H-3 H-3 H-3", (1,)),
        # 2-propanol.
        ("C C-0 C-1 O-1 H-3 H-1 H-0 H-0 H-0 H-2 H-2 H-2", ()),
        # A carbon whose branches differ at their far ends only: chloropropyl against bromopropyl.
        ("C H-0 F-0 C-0 C-3 C-4 Cl-5 C-0 C-7 C-8 Br-9 H-3 H-3 H-4 H-4 H-5 H-5 H-7 H-7 H-8 H-8 H-9 H-9", (0,)),
        ("C H-0 F-0 C-0 C-3 C-4 Cl-5 C-0 C-7 C-8 Cl-9 H-3 H-3 H-4 H-4 H-5 H-5 H-7 H-7 H-8 H-8 H-9 H-9", ()),
        # The same groups in another order: hexyls with chlorine at the fourth and at the third carbon.
        (
            "C H-0 F-0 C-0 C-3 C-4 C-5 C-6 C-7 C-0 C-9 C-10 C-11 C-12 C-13 Cl-6 Cl-11 "
            "H-3 H-3 H-4 H-4 H-5 H-5 H-6 H-7 H-7 H-8 H-8 H-8 H-9 H-9 H-10 H-10 H-11 H-12 H-12 H-13 H-13 H-14 H-14 H-14",
            (0, 6, 11),
        ),
        # Rings: fluorocyclobutane has a mirror plane, 1-fluoro-2-chlorocyclobutane has two centres.
        ("C C-0 C-1 C-2-0 F-0 H-0 H-1 H-1 H-2 H-2 H-3 H-3", ()),
        ("C C-0 C-1 C-2-0 F-0 H-0 Cl-1 H-1 H-2 H-2 H-3 H-3", (0, 1)),
    ],
)
def test_chiral_centres_of_graphs(smiles: str, expected: tuple[int, ...]):
    elements, bonds = molecule(smiles)
    assert chirality.stereocentres(elements, bonds) == expected
    # The order of atoms means nothing.
    order = np.random.default_rng(0).permutation(len(elements))
    where = np.argsort(order)
    renumbered = [elements[i] for i in order], [(int(where[j]), int(where[i])) for i, j in bonds]
    assert {int(order[i]) for i in chirality.stereocentres(*renumbered)} == set(expected)


def test_hands_turn_under_reflection_only():
    elements, bonds = molecule("C H-0 F-0 Cl-0 Br-0")
    x = np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], float)
    (centre,) = targets.find_chiral_centres(elements, bonds, x)
    assert (centre.atom, centre.neighbours) == (0, (1, 2, 3, 4))
    # The triple product by hand: (2,2,0) · ((2,0,-2) × (0,2,-2)) = 16.
    assert centre.sign == 1
    (mirrored,) = targets.find_chiral_centres(elements, bonds, -x)
    assert mirrored.sign == -1
    rng = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    rotation *= np.linalg.det(rotation)
    exchanged = x[[0, 2, 1, 3, 4]]
    broken = np.full_like(x, np.nan)
    frames = np.stack([x, 3.0 * x @ rotation + 7.0, x + 0.1 * rng.standard_normal(x.shape), -x, x * [1, 1, -1], exchanged, broken])
    assert targets.chirality_signs(frames, [centre])[:, 0].tolist() == [1, 1, 1, -1, -1, -1, -1]
    assert targets.chirality_signs(frames, [mirrored])[:6, 0].tolist() == [-1, -1, -1, 1, 1, 1]
    assert targets.chirality_signs(frames, []).shape == (7, 0)
    with pytest.raises(TargetError, match=r"atom 0 \(C\) is a chiral centre but lies flat"):
        targets.find_chiral_centres(elements, bonds, x * [1, 1, 0])


def test_interchangeable_atoms_of_graphs():
    # Ethanol: the hydrogens of CH3, of CH2; the hydroxyl's is alone, and so are the carbons.
    elements, bonds = molecule("C C-0 O-1 H-2 H-0 H-0 H-0 H-1 H-1")
    assert targets.interchangeable(elements, bonds) == (0, 1, 2, 3, 4, 4, 4, 5, 5)
    # Chloromethane: elements matter. Propane: the methyls as wholes are not exchanged.
    assert targets.interchangeable(*molecule("C Cl-0 H-0 H-0 H-0")) == (0, 1, 2, 2, 2)
    assert targets.interchangeable(*molecule("C C-0 C-1 H-0 H-0 H-0 H-1 H-1 H-2 H-2 H-2")) == (0, 1, 2, 3, 3, 3, 4, 4, 5, 5, 5)


def test_an_energy_separates_atoms_that_only_look_alike():
    elements, bonds = molecule("C H-0 H-0 H-0 Cl-0")
    x = np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1.6, -1.6, 1.6]], float)

    def symmetric(y: np.ndarray) -> float:
        return float(np.sum((np.linalg.norm(y[1:4] - y[0], axis=-1) - 1.7) ** 2))

    def first_differs(y: np.ndarray) -> float:
        return symmetric(y) + 1e-4 * float(np.linalg.norm(y[1] - y[4]))

    assert targets.interchangeable(elements, bonds, symmetric, x) == (0, 1, 1, 1, 2)
    assert targets.interchangeable(elements, bonds, first_differs, x) == (0, 1, 2, 2, 3)
    assert symmetry.mirror_symmetric(first_differs, x)
    assert not symmetry.mirror_symmetric(lambda y: float(np.linalg.det(y[1:4] - y[0])), x)


# Alanine dipeptide.


def test_alanine_dipeptide(dipeptide: targets.Target):
    atoms = list(dipeptide.topology.atoms())
    assert [atom.element.symbol for atom in atoms] == list("HCHHCO" + "NHCHCHHHCO" + "NHCHHH")
    assert [residue.name for residue in dipeptide.topology.residues()] == ["ACE", "ALA", "NME"]
    assert (dipeptide.n_particles, dipeptide.dimension, dipeptide.units, dipeptide.temperature) == (22, 3, "nm", 300.0)
    assert re.fullmatch(_hashes(r"alanine_dipeptide\(force_field='ff99', HASHES\) N=22 D=3 \[nm, T=300\.0 K\]"), dipeptide.fingerprint)
    assert len(dipeptide.bonds) == 21
    assert targets.name_of(dipeptide) == "alanine-dipeptide"


def test_classes_of_alanine_dipeptide(dipeptide: targets.Target):
    members = [[i for i, c in enumerate(dipeptide.classes) if c == number] for number in range(max(dipeptide.classes) + 1)]
    assert sorted(len(atoms) for atoms in members) == [1] * 13 + [3] * 3
    assert [atoms for atoms in members if len(atoms) == 3] == [[0, 2, 3], [11, 12, 13], [19, 20, 21]]


def test_the_amino_acid_is_l(dipeptide: targets.Target):
    x = start(dipeptide)
    n, ca, cb, c = 6, 8, 10, 14
    # Seen with the hydrogen in front, CO, R and N go clockwise.
    assert np.dot(x[n] - x[ca], np.cross(x[c] - x[ca], x[cb] - x[ca])) > 0
    (centre,) = dipeptide.chiral_centres
    assert (centre.atom, centre.neighbours) == (8, (6, 9, 10, 14))
    assert not dipeptide.reflections
    frames = np.stack([start(dipeptide, seed) for seed in range(8)])
    assert (targets.chirality_signs(frames, dipeptide.chiral_centres) == 1).all()
    assert (targets.chirality_signs(frames * [1, -1, 1], dipeptide.chiral_centres) == -1).all()


def test_the_start_is_a_sensible_minimum(dipeptide: targets.Target):
    _, built = build_peptide("A")
    assert dihedral(built, 4, 6, 8, 14) == pytest.approx(-80, abs=0.1), "phi"
    assert dihedral(built, 6, 8, 14, 16) == pytest.approx(80, abs=0.1), "psi"
    x = start(dipeptide)
    assert -120 < dihedral(x, 4, 6, 8, 14) < -40, "phi"
    for omega in (dihedral(x, 1, 4, 6, 8), dihedral(x, 8, 14, 16, 18)):
        assert abs(omega) > 150, "peptide bonds are trans"
    u = np.asarray(dipeptide.energies(jnp.asarray(np.stack([start(dipeptide, seed) for seed in range(20)]))))
    assert u.std() > 1
    assert u.max() < 200


def test_energy_is_that_of_openmm(dipeptide: targets.Target):
    topology, _ = build_peptide("A")
    system = create_system(load_force_field("ff99"), topology, None, "ff99")
    x = start(dipeptide)
    frames = x + 0.01 * np.random.default_rng(0).standard_normal((4, *x.shape))
    expected = np.array([Mechanics(system).energy(frame) for frame in frames]) / (BOLTZMANN * 300.0)
    exchanged = frames.copy()
    exchanged[:, [0, 2]] = frames[:, [2, 0]]
    exchanged[:, [11, 12, 13]] = frames[:, [13, 11, 12]]
    wrong = frames.copy()
    wrong[:, [9, 11]] = frames[:, [11, 9]]
    with jax.enable_x64(True):
        u = np.asarray(dipeptide.energies(jnp.asarray(np.concatenate([frames, exchanged, -frames, wrong])))).reshape(4, 4)
    np.testing.assert_allclose(u[0], expected, rtol=1e-6)
    np.testing.assert_allclose(u[1], expected, rtol=1e-6)
    np.testing.assert_allclose(u[2], expected, rtol=1e-6)
    assert (np.abs(u[3] - expected) > 1).all()


def test_coincident_atoms_have_no_weight(dipeptide: targets.Target):
    x = start(dipeptide)
    x[21] = x[0]
    assert np.asarray(dipeptide.energies(jnp.asarray(x, jnp.float32)[None]))[0] == np.inf


@pytest.mark.parametrize("distance", [0.0, 1e-6, 1e-3, 0.01])
def test_clashes_of_any_two_atoms_weigh_nothing(dipeptide: targets.Target, distance: float):
    """Energies from a hundred kT (two hydrogens of a methyl, which do not repel) over 1e12 to infinity, and never NaN."""
    i, j = np.triu_indices(22, 1)
    assert dipeptide.structure is not None
    frames = np.repeat(dipeptide.structure[None], len(i) + 1, axis=0)
    frames[np.arange(len(i)), j] = frames[np.arange(len(i)), i] + [0.0, 0.0, distance]
    u, gradients = map(np.asarray, dipeptide.energies_and_gradients(jnp.asarray(frames, jnp.float32)))
    assert not np.isnan(u).any()
    assert np.isfinite(gradients).all()
    assert (u[:-1] > u[-1] + 150).all()
    assert (u[:-1] > 1e12).sum() > 50
    zero, solved = np.zeros(len(u)), np.zeros(len(u), int)
    samples = Samples(frames, log_q=zero, u=u, status=solved, nfe=solved, path_length=zero)
    normalised = weights.normalized(samples.log_weight)
    assert normalised[-1] == 1.0
    assert (normalised[:-1] < 1e-65).all()
    assert (normalised[:-1][u[:-1] > 1e12] == 0.0).all()
    assert samples.ess().value == pytest.approx(1 / len(u))


def test_the_force_field_is_part_of_the_fingerprint(dipeptide: targets.Target):
    other = targets.alanine_dipeptide("ff96", 300.0 * unit.kelvin)
    assert "force_field='ff96'" in other.fingerprint
    assert other.parameters["system"] != dipeptide.parameters["system"]
    assert other.temperature == 300.0
    assert targets.name_of(other) is None


def test_files_give_the_same_density(dipeptide: targets.Target, pdb: Path, tmp_path: Path):
    """A PDB without hydrogens that are added, and a serialised system with the mirrored structure: D, and another density."""
    structure = app.PDBFile(str(pdb))
    modeller = app.Modeller(structure.topology, structure.positions)
    modeller.delete([atom for atom in structure.topology.atoms() if atom.element.symbol == "H"])
    bare = tmp_path / "bare.pdb"
    write_pdb(bare, modeller.topology, np.array(modeller.positions.value_in_unit(unit.nanometer)))
    with pytest.raises(TargetError, match=r"residue ACE 1 of chain A lacks 3 hydrogens; add them, .*ph=7.*pdbfixer"):
        targets.from_pdb(bare, force_field=FF99, temperature=300)
    completed = targets.from_pdb(bare, force_field=FF99, temperature=300, ph=7.0)
    assert completed.n_particles == 22
    assert "bare(force_field='amber99sbildn+amber99_obc', symmetry=" in completed.fingerprint

    topology, positions = build_peptide("A")
    system = create_system(load_force_field("ff99"), topology, positions, "ff99")
    xml, mirrored = tmp_path / "system.xml", tmp_path / "mirrored.pdb"
    xml.write_text(openmm.XmlSerializer.serialize(system), encoding="utf-8")
    write_pdb(mirrored, topology, -positions)
    target = targets.from_xml(xml, mirrored, temperature=300)
    assert target.chiral_centres[0].sign == -dipeptide.chiral_centres[0].sign
    assert (targets.chirality_signs(start(target)[None], dipeptide.chiral_centres) == -1).all()
    assert target.parameters["system"] != dipeptide.parameters["system"]
    assert target.classes == dipeptide.classes
    x = jnp.asarray(start(dipeptide), jnp.float32)[None]
    np.testing.assert_allclose(target.energies(x), dipeptide.energies(x), rtol=1e-4)


# Other peptides.


@pytest.mark.parametrize("letter", "ARNDCQEGHILKMFPSTWYV")
def test_all_amino_acids_are_built(letter: str):
    topology, positions = build_peptide(letter)
    atoms = list(topology.atoms())
    bonds = [(a.index, b.index) for a, b in topology.bonds()]
    minimum = Mechanics(create_system(load_force_field("ff99"), topology, positions, "ff99")).minimise(positions)
    for i, j in bonds:
        built, relaxed = (np.linalg.norm(x[i] - x[j]) for x in (positions, minimum))
        assert abs(built - relaxed) < 0.03, (str(atoms[i]), str(atoms[j]))
    centres = targets.find_chiral_centres([atom.element.symbol for atom in atoms], bonds, positions)
    assert [atoms[centre.atom].name for centre in centres] == {"G": [], "I": ["CA", "CB"], "T": ["CA", "CB"]}.get(letter, ["CA"])
    assert (targets.chirality_signs(minimum[None], centres) == 1).all()
    index = {atom.name: atom.index for atom in atoms if atom.residue.index == 1}
    # Three neighbours by falling priority of Cahn, Ingold and Prelog: R if the triple product is negative. IUPAC: threonine is 3R,
    # isoleucine 3S; all amino acids are S but cysteine, whose sulfur comes before the carbonyl: the first entry is L, not S.
    known = {"CA": ("N", "C", "CB", 1)} if letter != "G" else {}
    known |= {"T": {"CB": ("OG1", "CA", "CG2", -1)}, "I": {"CB": ("CA", "CG1", "CG2", 1)}}.get(letter, {})
    for centre, (*names, sign) in known.items():
        a, b, c = (positions[index[name]] - positions[index[centre]] for name in names)
        assert np.sign(np.dot(a, np.cross(b, c))) == sign, (letter, centre)


def test_amber_carboxylates_are_not_symmetric():
    """The improper dihedral of an Amber carboxylate is not symmetric in its oxygens, in spite of the bonds; an ammonium is."""
    for letter, group, together in (("D", ("OD1", "OD2"), False), ("K", ("HZ1", "HZ2", "HZ3"), True)):
        topology, positions = build_peptide(letter)
        mechanics = Mechanics(create_system(load_force_field("ff99"), topology, positions, "ff99"))
        elements = [atom.element.symbol for atom in topology.atoms()]
        bonds = [(a.index, b.index) for a, b in topology.bonds()]
        members = [atom.index for atom in topology.atoms() if atom.name in group]
        for energy, expected in ((None, True), (mechanics.energy, together)):
            classes = targets.interchangeable(elements, bonds, energy, mechanics.minimise(positions))
            assert (len({classes[i] for i in members}) == 1) == expected


def test_building_is_reproducible_and_leaves_random_numbers_alone():
    import random

    random.seed(5)
    expected = random.random()
    random.seed(5)
    # The checks of annotations draw random numbers themselves, of which items of a list they look at.
    with checking.unchecked():
        first = build_peptide("S")[1]
    assert random.random() == expected
    np.testing.assert_array_equal(first, build_peptide("S")[1])


@pytest.mark.parametrize("sequence", ["AXB", "", "A A"])
def test_unknown_amino_acids(sequence: str):
    with pytest.raises(TargetError, match="must be letters of ACDEFGHIKLMNPQRSTVWY"):
        targets.peptide(sequence)


# from_openmm on a small molecule: chloromethane, or bromochlorofluoromethane, of bonds and angles.


def methane(*elements: str) -> tuple[openmm.System, app.Topology, np.ndarray]:
    """A carbon and four atoms around it."""
    topology = app.Topology()
    residue = topology.addResidue("LIG", topology.addChain("A"))
    atoms = [topology.addAtom(f"{symbol}{i}", app.Element.getBySymbol(symbol), residue) for i, symbol in enumerate(["C", *elements])]
    system, bonds, angles = openmm.System(), openmm.HarmonicBondForce(), openmm.HarmonicAngleForce()
    for atom in atoms:
        system.addParticle(atom.element.mass)
    lengths = {"H": 0.11, "F": 0.135, "Cl": 0.177, "Br": 0.194}
    for atom in atoms[1:]:
        topology.addBond(atoms[0], atom)
        bonds.addBond(0, atom.index, lengths[atom.element.symbol], 3e5)
        for other in atoms[1 : atom.index]:
            angles.addAngle(other.index, 0, atom.index, 1.91, 300.0)
    system.addForce(bonds)
    system.addForce(angles)
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)
    scale = np.array([lengths[symbol] for symbol in elements])[:, None]
    return system, topology, np.concatenate([np.zeros((1, 3)), scale * corners])


def test_from_openmm():
    system, topology, x = methane("H", "H", "H", "Cl")
    target = targets.from_openmm(system, topology, 300.0, positions=x * 10 * unit.angstrom, name="chloromethane", parameters={"a": 1})
    assert re.fullmatch(_hashes(r"chloromethane\(a=1, HASHES\) N=5 D=3 \[nm, T=300\.0 K\]"), target.fingerprint)
    assert target.classes == (0, 1, 1, 1, 2)
    assert target.reflections
    assert target.chiral_centres == ()
    assert target.bonds == ((0, 1), (0, 2), (0, 3), (0, 4))
    assert target.topology is topology
    stretched = x.copy()
    stretched[4] *= 1.1
    expected = 0.5 * 3e5 * 0.0177**2 / (0.00831446261815324 * 300)
    rest = 6 * 0.5 * 300 * (np.arccos(-1 / 3) - 1.91) ** 2 / (0.00831446261815324 * 300)
    assert float(target.energy(jnp.asarray(stretched))) == pytest.approx(expected + rest, rel=1e-3)
    # A topology without bonds, as of a PDB file without CONECT records; no positions; another temperature.
    bare = app.Topology()
    residue = bare.addResidue("LIG", bare.addChain("A"))
    for atom in topology.atoms():
        bare.addAtom(atom.name, atom.element, residue)
    other = targets.from_openmm(system, bare, 310, positions=None, name="chloromethane", parameters={"a": 1})
    assert other.bonds == target.bonds
    assert other.classes == target.classes
    assert other.parameters == target.parameters
    assert other.fingerprint != target.fingerprint
    assert float(other.energy(jnp.asarray(start(other)))) < 50


def test_from_openmm_of_a_chiral_molecule():
    system, topology, x = methane("H", "F", "Cl", "Br")
    target = targets.from_openmm(system, topology, 300.0, positions=x)
    assert len(target.chiral_centres) == 1
    assert target.classes == (0, 1, 2, 3, 4)
    assert not target.reflections, "one enantiomer is meant, although the energy knows none"
    with pytest.raises(TargetError, match="chirality of C0 of LIG .* cannot be told without positions"):
        targets.from_openmm(system, topology, 300.0, positions=None)
    with pytest.raises(TargetError, match="lies flat"):
        targets.from_openmm(system, topology, 300.0, positions=x * [1, 1, 0.01])


def constrained(system: openmm.System) -> None:
    system.addConstraint(0, 1, 0.11)


def periodic(system: openmm.System) -> None:
    force = openmm.NonbondedForce()
    force.setNonbondedMethod(openmm.NonbondedForce.PME)
    for _ in range(system.getNumParticles()):
        force.addParticle(0.0, 0.3, 0.0)
    system.addForce(force)


def virtual(system: openmm.System) -> None:
    system.setParticleMass(4, 0.0)
    system.setVirtualSite(4, openmm.TwoParticleAverageSite(1, 2, 0.5, 0.5))


@pytest.mark.parametrize(
    ("change", "message"),
    [(constrained, "1 constraints.*constraints=None and rigidWater=False"), (periodic, "periodic box"), (virtual, "virtual sites")],
)
def test_systems_that_are_no_free_molecules(change, message: str):
    system, topology, x = methane("H", "H", "H", "H")
    change(system)
    with pytest.raises(TargetError, match=message):
        targets.from_openmm(system, topology, 300.0, positions=x)


@pytest.mark.parametrize("temperature", [0, -5.0, float("nan"), float("inf"), "warm", None])
def test_bad_temperatures(temperature: object):
    system, topology, x = methane("H", "H", "H", "H")
    with pytest.raises(TargetError, match="temperature must be a positive number of kelvin, got"):
        targets.from_openmm(system, topology, temperature, positions=x)


def test_a_temperature_in_celsius_is_suspected():
    system, topology, x = methane("H", "H", "H", "H")
    with pytest.warns(UserWarning, match="the temperature is in kelvin, and 25 K is very cold; did you mean Celsius?") as caught:
        targets.from_openmm(system, topology, 25.0, positions=x)
    assert len(caught) == 1
    # With the checks on, a call has their frame between.
    assert checking.installed or caught[0].filename == __file__


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:4], r"system has 5 atoms, but the positions have shape \(4, 3\)"),
        (lambda x: np.concatenate([x[:4], [[np.nan, 0, 0]]]), "1 atoms are not finite"),
        (lambda x: x * 10, "longer than 1.1 nm; positions are in nm, so divide by 10"),
        (lambda x: x / 10, "shorter than 0.011 nm; multiply by 10"),
        (lambda x: x[[0, 1, 1, 3, 4]], "H1 of LIG 1 and H2 of LIG 1 lie 0 nm apart"),
        (lambda x: "positions", "not an array of numbers"),
        (lambda x: x * unit.kelvin, "a value in kelvin was given where one in nanometer is needed"),
    ],
)
def test_bad_positions(change, message: str):
    system, topology, x = methane("H", "H", "H", "H")
    with pytest.raises(TargetError, match=message):
        targets.from_openmm(system, topology, 300.0, positions=change(x))


def test_what_does_not_belong_together():
    system, topology, x = methane("H", "H", "H", "H")
    other, _ = build_peptide("G")
    with pytest.raises(TargetError, match="the topology has 19 atoms, but the system has 5 particles"):
        targets.from_openmm(system, other, 300.0, positions=x)
    with pytest.raises(TargetError, match=r"topology must be OpenMM's Topology, got builtins.list; .*to_openmm\(\)"):
        targets.from_openmm(system, [], 300.0, positions=x)
    with pytest.raises(TargetError, match="system must be OpenMM's System"):
        targets.from_openmm("system.xml", topology, 300.0, positions=x)


def in_order(topology: app.Topology, order: list[int]) -> app.Topology:
    """The same molecule with its atoms in another order."""
    moved, atoms = app.Topology(), list(topology.atoms())
    chain = moved.addChain("A")
    residues = {residue: moved.addResidue(residue.name, chain, residue.id) for residue in topology.residues()}
    copies = {i: moved.addAtom(atoms[i].name, atoms[i].element, residues[atoms[i].residue]) for i in order}
    for first, second in topology.bonds():
        moved.addBond(copies[first.index], copies[second.index])
    return moved


@pytest.mark.parametrize("order", [[1, 0, *range(2, 22)], [*range(8), 10, 9, 8, *range(11, 22)]], ids=["cap", "backbone"])
def test_atoms_in_another_order(order: list[int]):
    """As from files of two programs: without a check the minimiser would make some molecule of it, perhaps of the other enantiomer."""
    topology, x = build_peptide("A")
    system = create_system(load_force_field("ff99"), topology, x, "ff99")
    for wrong in (topology, in_order(topology, order)):
        with pytest.raises(TargetError, match=r"the bond of .* nm when the energy is minimised: .* same atoms in the same order"):
            targets.from_openmm(system, wrong, 300.0, positions=x[order])


def test_two_molecules_drift_apart():
    system, topology, x = methane("H", "H", "H", "H")
    residue = topology.addResidue("NA", topology.addChain("B"))
    topology.addAtom("NA", app.Element.getBySymbol("Na"), residue)
    system.addParticle(23.0)
    with pytest.warns(UserWarning, match="connect only 5 of 6 atoms .* drift apart"):
        targets.from_openmm(system, topology, 300.0, positions=np.concatenate([x, [[1.0, 0.0, 0.0]]]))


def test_the_hash_keeps_what_matters():
    system, _, _ = methane("H", "H", "H", "Cl")
    reference = system_hash(system)
    system.setParticleMass(1, 4.0)
    system.addForce(openmm.CMMotionRemover())
    system.setDefaultPeriodicBoxVectors([5, 0, 0], [0, 5, 0], [0, 0, 5])
    bonds = system.getForce(0)
    bonds.setName("springs")
    bonds.setForceGroup(3)
    bonds.setBondParameters(0, 0, 1, 0.11 * (1 + 1e-15), 3e5)
    assert system_hash(system) == reference
    bonds.setBondParameters(0, 0, 1, 0.1101, 3e5)
    assert system_hash(system) != reference
    assert system_hash(system, [1]) != system_hash(system, [-1])


def test_quantities():
    assert in_unit(3.0 * unit.angstrom, "nanometer") == pytest.approx(0.3)
    assert in_unit([1.0 * unit.nanometer, 20.0 * unit.angstrom], "nanometer") == [1.0, 2.0]
    assert in_unit((1.0, 2.0), "nanometer") == (1.0, 2.0)


# Files.


def test_pdb_files_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(TargetError, match=r"there is no file .*nowhere\.pdb; correct the path"):
        targets.from_pdb(tmp_path / "nowhere.pdb", force_field=FF99, temperature=300)
    garbage = tmp_path / "garbage.pdb"
    garbage.write_text("ATOM  this is no structure\n" * 3, encoding="utf-8")
    with pytest.raises(TargetError, match=r"garbage\.pdb is not a readable PDB or mmCIF file"):
        targets.from_pdb(garbage, force_field=FF99, temperature=300)
    garbage.write_bytes(bytes(range(256)) * 20)
    with pytest.raises(TargetError, match=r"garbage\.pdb (is not a readable|holds no atoms)"):
        targets.from_pdb(garbage, force_field=FF99, temperature=300)
    empty = tmp_path / "empty.pdb"
    empty.write_text("REMARK nothing\nEND\n", encoding="utf-8")
    with pytest.raises(TargetError, match=r"empty\.pdb (is not a readable|holds no atoms)"):
        targets.from_pdb(empty, force_field=FF99, temperature=300)


@pytest.mark.parametrize(
    ("force_field", "message"),
    [
        ("ff98", r"there is no force field 'ff98'; did you mean 'ff9\d' or 'ff9\d'\? Or name files of OpenMM"),
        (("amber15.xml",), "there is no force field file 'amber15.xml', neither here nor among those of OpenMM; did you mean 'amber"),
        (("protein.ff14sb.xml",), "did you mean 'amber14/protein.ff14SB.xml'"),
        ("amber14", "there is no force field 'amber14'; did you mean 'amber14-all.xml' or .* short names are ff96 and ff99"),
        ("charm36", "there is no force field 'charm36'; did you mean 'charmm36.xml'"),
        ("/nowhere/my.xml", "there is no force field file '/nowhere/my.xml', .*; correct the path"),
        (("ff99", "implicit/gbn2.xml"), "'ff99' is a short name, which stands alone; name the files .*amber99sbildn.xml"),
        ((), "no force field is named"),
        # A file of solvent alone knows no residue.
        (("tip3p.xml",), "the force field tip3p does not know residue ACE 1 of chain A: "),
    ],
)
def test_force_fields_that_do_not_fit(pdb: Path, force_field: Any, message: str):
    with pytest.raises(TargetError, match=message):
        targets.from_pdb(pdb, force_field=force_field, temperature=300)


def test_unknown_residues(pdb: Path, tmp_path: Path):
    system, topology, x = methane("H", "H", "H", "Cl")
    path = tmp_path / "ligand.pdb"
    write_pdb(path, topology, x)
    with pytest.raises(TargetError, match="amber99sbildn.amber99_obc does not know residue LIG 1 of chain A: .*; add a file that has it"):
        targets.from_pdb(path, force_field=FF99, temperature=300)
    without = "".join(line for line in path.read_text(encoding="utf-8").splitlines(True) if not line.startswith("CONECT"))
    path.write_text(without, encoding="utf-8")
    with pytest.raises(
        TargetError, match="does not know residue LIG 1 of chain A without its bonds, .* CONECT records .* force field file"
    ):
        targets.from_pdb(path, force_field=FF99, temperature=300)


def test_a_ring_needs_connections_and_solvent_must_go(pdb: Path, tmp_path: Path):
    """Cyclo(Gly-Gly) without the bond that closes it is no peptide that lacks hydrogens."""
    lines = []
    ring = ("N 0.145 0 H 0.246 0", "CA 0.145 60", "C 0.145 120 O 0.268 120")
    for residue, turn in ((1, 0), (2, 180)):
        for part in ring:
            words = part.split()
            for name, radius, angle in zip(*[iter(words)] * 3, strict=True):
                a = np.radians(float(angle) + turn)
                lines.append((name, residue, (float(radius) * np.cos(a), float(radius) * np.sin(a), 0.0)))
            if part.startswith("CA"):
                for k, side in (("2", 1), ("3", -1)):
                    r = 0.145 + 0.109 * 0.6
                    lines.append((f"HA{k}", residue, (r * np.cos(a), r * np.sin(a), side * 0.109 * 0.8)))
    records = [
        f"ATOM  {i:5d}  {name:3s} GLY A   {residue}    {10 * x:8.3f}{10 * y:8.3f}{10 * z:8.3f}  1.00  0.00           {name[0]}\n"
        for i, (name, residue, (x, y, z)) in enumerate(lines, start=1)
    ]
    path = tmp_path / "ring.pdb"
    for ph in (None, 7.0):
        path.write_text("".join(records) + "END\n", encoding="utf-8")
        with pytest.raises(TargetError, match=r"N of GLY 1 and C of GLY 2 lie 0\.145 nm apart, .*; add CONECT records"):
            targets.from_pdb(path, force_field="amber14-all.xml", temperature=300, ph=ph)
    ends = [i for i, (name, residue, _) in enumerate(lines, start=1) if (name, residue) in (("N", 1), ("C", 2))]
    path.write_text("".join(records) + f"CONECT{ends[0]:5d}{ends[1]:5d}\nEND\n", encoding="utf-8")
    assert len(targets.from_pdb(path, force_field="amber14-all.xml", temperature=300).bonds) == 14

    def solvent(number: int, name: str, residue: str, element: str) -> str:
        place = f"{20 + number:8.3f}   0.000   0.000"
        return f"HETATM{number:5d} {name:4s} {residue:>3s} B{number:4d}    {place}  1.00  0.00          {element:>2s}\n"

    text = pdb.read_text(encoding="utf-8")
    extra = solvent(30, " O", "HOH", "O") + solvent(40, " O", "HOH", "O") + solvent(50, "NA", "NA", "Na")
    path.write_text(text[: text.index("CONECT")] + extra + text[text.index("CONECT") :], encoding="utf-8")
    with pytest.raises(TargetError, match="2 water molecules and 1 ion, such as residue HOH 30 of chain B; .* delete water and ions"):
        targets.from_pdb(path, force_field=FF99, temperature=300)


@pytest.mark.parametrize(("factor", "unit_name"), [(0.1, "nm"), (1.8897, "bohr"), (100.0, "pm")])
def test_units_of_files_are_guessed(factor: float, unit_name: str, tmp_path: Path):
    topology, positions = build_peptide("A")
    path = tmp_path / "other.pdb"
    write_pdb(path, topology, positions * factor)
    with pytest.raises(TargetError, match=rf"the bonds in .*other\.pdb would be .* its coordinates seem to be in {unit_name}, where"):
        targets.from_pdb(path, force_field=FF99, temperature=300)


@pytest.mark.parametrize("names", [["C", "H", "H", "H", "H"], [""] * 5, ["CL"] * 5])
def test_atoms_that_share_a_name_are_read(names: list[str], tmp_path: Path):
    """Two models, so that the same atom has the same place in each; OpenMM alone drops atoms of one name."""
    system, _, x = methane("H", "H", "H", "H")
    model = "".join(
        f"HETATM{i:5d}  {name:3s} LIG A   1    {a:8.3f}{b:8.3f}{c:8.3f}  1.00  0.00           {'CHHHH'[i - 1]}\n"
        for i, (name, (a, b, c)) in enumerate(zip(names, 10 * x, strict=True), start=1)
    )
    xml, path = tmp_path / "methane.xml", tmp_path / "methane.pdb"
    xml.write_text(openmm.XmlSerializer.serialize(system), encoding="utf-8")
    path.write_text("".join(f"MODEL     {k:4d}\n{model}ENDMDL\n" for k in (1, 2)) + "END\n", encoding="utf-8")
    target = targets.from_xml(xml, path, temperature=300)
    assert [atom.name for atom in target.topology.atoms()] == names
    assert target.elements == tuple("CHHHH")
    assert target.bonds == ((0, 1), (0, 2), (0, 3), (0, 4))


def test_xml_files_that_do_not_fit(pdb: Path, tmp_path: Path):
    system, topology, x = methane("H", "H", "H", "Cl")
    path = tmp_path / "system.xml"
    path.write_text("<System>", encoding="utf-8")
    with pytest.raises(TargetError, match=r"system\.xml is not a readable serialised OpenMM file"):
        targets.from_xml(path, pdb, temperature=300)
    path.write_text(openmm.XmlSerializer.serialize(openmm.VerletIntegrator(0.001)), encoding="utf-8")
    with pytest.raises(TargetError, match=r"system\.xml holds a VerletIntegrator, not a System"):
        targets.from_xml(path, pdb, temperature=300)
    path.write_text(openmm.XmlSerializer.serialize(system), encoding="utf-8")
    with pytest.raises(TargetError, match="the topology has 22 atoms, but the system has 5 particles"):
        targets.from_xml(path, pdb, temperature=300)


def water_prmtop() -> str:
    """One flexible TIP3P water in Amber's format, hydrogens after the oxygen."""
    pointers = [0] * 31
    pointers[0], pointers[1], pointers[2], pointers[4], pointers[10], pointers[11] = 3, 2, 2, 1, 4, 1
    pointers[15], pointers[16], pointers[18], pointers[28] = 1, 1, 2, 3
    text, integers, reals = ("20a4", "%-4s", 20), ("10I8", "%8d", 10), ("5E16.8", "%16.8E", 5)
    sections = [
        ("TITLE", text, ["WAT"]),
        ("POINTERS", integers, pointers),
        ("ATOM_NAME", text, ["O", "H1", "H2"]),
        ("CHARGE", reals, [-0.834 * 18.2223, 0.417 * 18.2223, 0.417 * 18.2223]),
        ("ATOMIC_NUMBER", integers, [8, 1, 1]),
        ("MASS", reals, [16.0, 1.008, 1.008]),
        ("ATOM_TYPE_INDEX", integers, [1, 2, 2]),
        ("NUMBER_EXCLUDED_ATOMS", integers, [2, 1, 1]),
        ("NONBONDED_PARM_INDEX", integers, [1, 2, 2, 3]),
        ("RESIDUE_LABEL", text, ["WAT"]),
        ("RESIDUE_POINTER", integers, [1]),
        ("BOND_FORCE_CONSTANT", reals, [553.0]),
        ("BOND_EQUIL_VALUE", reals, [0.9572]),
        ("ANGLE_FORCE_CONSTANT", reals, [100.0]),
        ("ANGLE_EQUIL_VALUE", reals, [1.82421813]),
        ("DIHEDRAL_FORCE_CONSTANT", reals, []),
        ("DIHEDRAL_PERIODICITY", reals, []),
        ("DIHEDRAL_PHASE", reals, []),
        ("SOLTY", reals, [0.0, 0.0]),
        ("LENNARD_JONES_ACOEF", reals, [581935.564, 0.0, 0.0]),
        ("LENNARD_JONES_BCOEF", reals, [594.825035, 0.0, 0.0]),
        ("BONDS_INC_HYDROGEN", integers, [0, 3, 1, 0, 6, 1]),
        ("BONDS_WITHOUT_HYDROGEN", integers, []),
        ("ANGLES_INC_HYDROGEN", integers, [3, 0, 6, 1]),
        ("ANGLES_WITHOUT_HYDROGEN", integers, []),
        ("DIHEDRALS_INC_HYDROGEN", integers, []),
        ("DIHEDRALS_WITHOUT_HYDROGEN", integers, []),
        ("HBOND_ACOEF", reals, []),
        ("HBOND_BCOEF", reals, []),
        ("EXCLUDED_ATOMS_LIST", integers, [2, 3, 3, 0]),
        ("AMBER_ATOM_TYPE", text, ["OW", "HW", "HW"]),
        ("RADIUS_SET", ("1a80", "%-80s", 1), ["H(N)-modified Bondi radii (mbondi2)"]),
        ("RADII", reals, [1.5, 1.2, 1.2]),
        ("SCREEN", reals, [0.85, 0.85, 0.85]),
    ]
    lines = ["%VERSION  VERSION_STAMP = V0001.000  DATE = 01/01/00  00:00:00"]
    for flag, (layout, form, columns), values in sections:
        lines += [f"%FLAG {flag}", f"%FORMAT({layout})"]
        rows = [values[i : i + columns] for i in range(0, len(values), columns)] or [[]]
        lines += ["".join(form % value for value in row) for row in rows]
    return "\n".join(lines) + "\n"


def test_from_amber(tmp_path: Path):
    prmtop, inpcrd = tmp_path / "water.prmtop", tmp_path / "water.inpcrd"
    prmtop.write_text(water_prmtop(), encoding="utf-8")
    numbers = [0.0, 0.0, 0.0, 0.9572, 0.0, 0.0, -0.23998, 0.92662, 0.0]
    rows = ["".join(f"{value:12.7f}" for value in row) for row in (numbers[:6], numbers[6:])]
    inpcrd.write_text("water\n    3\n" + "\n".join(rows) + "\n", encoding="utf-8")
    target = targets.from_amber(prmtop, inpcrd, temperature=300, implicit_solvent="OBC2")
    assert target.classes == (0, 1, 1)
    assert re.fullmatch(_hashes(r"water\(implicit_solvent='OBC2', HASHES\) N=3 D=3 \[nm, T=300\.0 K\]"), target.fingerprint)
    x = start(target)
    assert np.linalg.norm(x[1] - x[0]) == pytest.approx(0.0957, abs=0.02)
    with pytest.raises(TargetError, match=r"no implicit solvent 'OBC3'; did you mean 'OBC\d' or 'OBC\d'"):
        targets.from_amber(prmtop, inpcrd, temperature=300, implicit_solvent="OBC3")
    with pytest.raises(TargetError, match=r"water\.inpcrd is not a readable Amber prmtop file"):
        targets.from_amber(inpcrd, inpcrd, temperature=300)
    short = tmp_path / "short.inpcrd"
    short.write_text("water\n    2\n" + rows[0] + "\n", encoding="utf-8")
    with pytest.raises(TargetError, match=r"the system has 3 atoms, but the positions have shape \(2, 3\)"):
        targets.from_amber(prmtop, short, temperature=300)
    with pytest.raises(TargetError, match=r"there is no file .*ice\.inpcrd"):
        targets.from_amber(prmtop, tmp_path / "ice.inpcrd", temperature=300)


# Without OpenMM.


def test_openmm_is_imported_only_when_it_is_used():
    code = """
import sys
from boltzflow import targets
targets.names()
assert not [name for name in sys.modules if name.split(".")[0] in ("openmm", "mdtraj")]
sys.modules["openmm"] = None
try:
    targets.get("alanine-dipeptide")
except targets.base.TargetError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "targets of molecules need OpenMM; install it with: pip install 'boltzflow[molecules]'."


class TestEnergiesByOpenMM:
    def test_a_force_that_cannot_be_compiled(self):
        """Threads here; processes are tested with the calculators."""
        topology, positions = build_peptide("A")
        system = app.ForceField("amber96.xml").createSystem(topology, nonbondedMethod=app.NoCutoff, constraints=None, removeCMMotion=False)
        plain = targets.from_openmm(system, topology, 300.0, positions=positions)
        # A force without any effect on the energy, but one that has no translation into JAX.
        system.addForce(openmm.CustomManyParticleForce(3, "0*distance(p1,p2)"))
        for _ in range(22):
            system.getForce(system.getNumForces() - 1).addParticle([], 0)
        with pytest.raises(TargetError, match='CustomManyParticleForce.*energies="openmm"'):
            targets.from_openmm(system, topology, 300.0, positions=positions)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            target = targets.from_openmm(system, topology, 300.0, positions=positions, energies="openmm", executor=pool)
            x = jnp.stack([plain.starting_positions(key=key) for key in jax.random.split(jax.random.key(0), 3)])
            u, gradient = target.energies_and_gradients(x)
            expected = plain.energies_and_gradients(x)
            assert np.ptp(u) > 0.1
            np.testing.assert_allclose(u, expected[0], rtol=1e-4, atol=1e-3)
            np.testing.assert_allclose(gradient, expected[1], rtol=1e-2, atol=1e-3 * np.abs(expected[1]).max())
            assert targets.failures(target).failed == 0


class TestInFolders:
    def test_a_molecule_comes_back_as_it_was(self, dipeptide, tmp_path):
        molecule_folder.save(dipeptide, tmp_path)
        again = molecule_folder.load(tmp_path)
        assert again.fingerprint == dipeptide.fingerprint
        assert again.classes == dipeptide.classes
        assert again.chiral_centres == dipeptide.chiral_centres
        assert [atom.name for atom in again.topology.atoms()] == [atom.name for atom in dipeptide.topology.atoms()]
        x = jnp.asarray(dipeptide.structure, jnp.float32)[None]
        np.testing.assert_allclose(again.energies(x), dipeptide.energies(x), rtol=1e-5)

    def test_other_targets_leave_nothing(self, tmp_path):
        molecule_folder.save(targets.get("dw4"), tmp_path)
        assert not list(tmp_path.iterdir())
        assert not molecule_folder.holds(tmp_path)

    def test_a_changed_system_is_noticed(self, dipeptide, tmp_path):
        molecule_folder.save(dipeptide, tmp_path)
        system = tmp_path / molecule_folder.SYSTEM
        system.write_text(re.sub(r'soluteDielectric="[^"]*"', 'soluteDielectric="2"', system.read_text()))
        with pytest.raises(TargetError, match=r"is now .* but was .*system\.xml or .* was changed; restore"):
            molecule_folder.load(tmp_path)
        (tmp_path / molecule_folder.DESCRIPTION).write_text("{")
        with pytest.raises(TargetError, match=r"molecule\.json is damaged"):
            molecule_folder.load(tmp_path)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--temperature", "300"], "name the force field of"),
        (["--force-field", "amber96.xml"], "give the temperature of"),
        (["--force-field", "amber14.xml", "--temperature", "300"], "amber14"),
        (["--force-field", "amber96.xml", "--temperature", "0"], "temperature"),
        (["--force-field", "tip3p.xml", "--temperature", "300"], "does not know residue ACE 1"),
    ],
)
@pytest.mark.parametrize("verb", ["reference", "train"])
def test_the_command_line_says_what_a_file_needs(verb, words, sentence, pdb, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([verb, str(pdb), *words]) == 2
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.glob("*"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda text: "".join(line for line in text.splitlines(True) if line[76:78] != " H"), "residue ACE 1 of chain A lacks 3 hydrogens"),
        (lambda text: text.replace("ALA", "XYZ"), "does not know residue XYZ 2 of chain A"),
        (lambda text: "", "empty.pdb"),
    ],
)
def test_the_command_line_refuses_files_in_one_sentence(change, sentence, pdb, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("empty.pdb").write_text(change(pdb.read_text(encoding="utf-8")), encoding="utf-8")
    assert main(["reference", "empty.pdb", "--force-field", *FF99, "--temperature", "300"]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.startswith("boltzflow: error: ")
    assert error.count("\n") == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_the_command_line_warns_of_celsius_in_a_sentence(pdb, tmp_path, monkeypatch):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(reference, "sample", stop)
    shown = []
    # pytest replaces what would print; the sentence is made by what the command line has put in place at that moment.
    monkeypatch.setattr(warnings, "showwarning", lambda *parts, **_: shown.append(warnings.formatwarning(*parts[:4])))
    words = ["reference", str(pdb), "--force-field", "amber96.xml", "--temperature", "25", "-o", str(tmp_path / "x.h5")]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(words) == 130
    assert shown == ["boltzflow: warning: the temperature is in kelvin, and 25 K is very cold; did you mean Celsius?\n"]


def test_force_fields_are_for_files(capsys):
    assert main(["reference", "dw4", "--temperature", "300"]) == 2
    assert "for molecules from files" in capsys.readouterr().err
