"""Molecules are kept whole: what a run folder, data and samples say of one is what it is."""

import dataclasses
import io
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import checking
from boltzflow import datasets, targets
from boltzflow.config import EACF, Harmonic, RunConfig, Spherical
from boltzflow.datasets import Dataset
from boltzflow.errors import DataError, TargetError
from boltzflow.flows.build import build_flow
from boltzflow.models.storage import MODEL_FILE, load_model, save_model, shipped_models
from boltzflow.sampling.export import export
from boltzflow.sampling.generate import log_density
from boltzflow.sampling.samples import Samples
from boltzflow.targets import description, molecule_folder
from boltzflow.training.folder import record
from boltzflow.training.run import fit

pytest.importorskip("openmm")
pytest.importorskip("mdtraj")
import mdtraj  # noqa: E402
import openmm  # noqa: E402
from openmm import app  # noqa: E402
from safetensors import safe_open  # noqa: E402

from boltzflow.chemistry.openmm_systems import system_hash  # noqa: E402

# Not imported by name: OpenMM makes its units at run time, and a type checker does not know them.
unit = pytest.importorskip("openmm.unit")

# 1-chloro-1-fluoroethane: two centres, of which one is chiral, and a methyl group.
ELEMENTS = ["C", "F", "Cl", "H", "C", "H", "H", "H"]
BONDS = [(0, 1), (0, 2), (0, 3), (0, 4), (4, 5), (4, 6), (4, 7)]
CORNERS = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)


def ethane() -> np.ndarray:
    x = np.zeros((8, 3))
    x[1:5] = CORNERS * np.array([0.136, 0.177, 0.109, 0.152])[:, None]
    u = np.cross(CORNERS[3], [1, 0, 0])
    u /= np.linalg.norm(u)
    v = np.cross(CORNERS[3], u)
    for k in range(3):
        a = 2 * np.pi * k / 3 + 0.3
        x[5 + k] = x[4] + 0.109 * (CORNERS[3] * np.cos(1.23) + np.sin(1.23) * (np.cos(a) * u + np.sin(a) * v))
    return x


def springs(x: np.ndarray, bonds: list[tuple[int, int]], urey_bradley: bool = True) -> openmm.System:
    """Bonds, angles, and springs over the angles, as CHARMM has them in a second force of bonds."""
    system, bond, angle, urey = openmm.System(), openmm.HarmonicBondForce(), openmm.HarmonicAngleForce(), openmm.HarmonicBondForce()
    near: dict[int, list[int]] = {}
    for i, j in bonds:
        bond.addBond(i, j, float(np.linalg.norm(x[i] - x[j])), 2.8e5)
        near.setdefault(i, []).append(j)
        near.setdefault(j, []).append(i)
    for centre, around in near.items():
        for k, p in enumerate(around):
            for q in around[:k]:
                angle.addAngle(p, centre, q, 1.911, 350.0)
                if urey_bradley:
                    urey.addBond(p, q, float(np.linalg.norm(x[p] - x[q])), 5000.0)
    for _ in range(len(x)):
        system.addParticle(12.0)
    for force in (bond, angle, urey):
        system.addForce(force)
    return system


# Name, and for each atom chain, residue, number, insertion code and name.
UNIQUE = ["C1", "F1", "CL1", "H1", "C2", "H2", "H3", "H4"]
ZOO = {
    "ligand": [("A", "LIG", "1", "", name) for name in UNIQUE],
    "caps in a standard residue": [("A", "ALA", "1", "", name) for name in ("CY", "FY", "XY", "HY", "CAY", "HY1", "HY2", "HY3")],
    "backbone names": [("A", "ALA", "7", "", name) for name in ("CA", "N", "C", "HA", "CB", "HB1", "HB2", "HB3")],
    "names repeated": [("A", "LIG", "1", "", name) for name in ELEMENTS],
    "names empty": [("A", "LIG", "1", "", "")] * 8,
    "names of five characters": [("A", "LIGAND", "1", "", f"{name}A10X") for name in UNIQUE],
    "names not ASCII": [("A", "λιγ", "1", "", f"{name}α") for name in UNIQUE],
    "insertion codes": [("A", "GLY", "52", code, name) for code, name in zip("    AAAA", UNIQUE, strict=True)],
    "long numbers": [("A", "LIG", "12345B", "", name) for name in UNIQUE],
    "two residues of one number": [("A", res, "1", "", name) for res, name in zip(["ONE"] * 4 + ["TWO"] * 4, UNIQUE, strict=True)],
    "lactam": [("A", *("LYS 3" if k < 4 else "ASP 7").split(), "", "NZ" if k == 0 else "CG" if k == 4 else f"X{k}") for k in range(8)],
    "disulfide over chains": [("A" if k < 4 else "BB", "CYS", "5", "", "SG" if k in (0, 4) else f"X{k}") for k in range(8)],
}


def labelled(labels: list[tuple[str, str, str, str, str]], elements: list[str] = ELEMENTS) -> app.Topology:
    topology = app.Topology()
    chains: dict[str, app.Chain] = {}
    residues: dict[tuple[str, ...], app.Residue] = {}
    atoms = []
    for (chain, residue, number, code, name), symbol in zip(labels, elements, strict=True):
        if chain not in chains:
            chains[chain] = topology.addChain(chain)
        key = (chain, residue, number, code)
        if key not in residues:
            residues[key] = topology.addResidue(residue, chains[chain], number, code.strip())
        atoms.append(topology.addAtom(name, app.Element.getBySymbol(symbol), residues[key]))
    for i, j in BONDS:
        topology.addBond(atoms[i], atoms[j], app.Single, 1)
    return topology


def assert_same(found: targets.Target, expected: targets.Target) -> None:
    """Everything that a flow is built from, and everything that people read."""
    for name in ("fingerprint", "bonds", "classes", "chiral_centres", "reflections", "elements", "units", "temperature", "system"):
        assert getattr(found, name) == getattr(expected, name), name
    np.testing.assert_array_equal(found.structure, expected.structure)
    assert description.plain_topology(found.topology) == description.plain_topology(expected.topology)


@pytest.mark.parametrize("kind", ZOO)
def test_a_molecule_comes_back_whole(kind: str, tmp_path: Path):
    x = ethane()
    target = targets.from_openmm(springs(x, BONDS), labelled(ZOO[kind]), 300.0, positions=x, name="zoo")
    assert target.bonds == tuple(BONDS)
    assert target.classes == (0, 1, 2, 3, 4, 5, 5, 5)
    assert [centre.atom for centre in target.chiral_centres] == [0]
    molecule_folder.save(target, tmp_path)
    assert_same(molecule_folder.load(tmp_path), target)
    known = molecule_folder.load_description(tmp_path)
    assert known is not None
    assert known == description.of(target)
    assert (known.units, known.elements, known.bonds) == ("nm", tuple(ELEMENTS), tuple(BONDS))
    # The PDB file is readable, and gives viewers the same atoms and bonds.
    pdb = app.PDBFile(io.StringIO(molecule_folder.structure_text(target)))
    assert [atom.element.symbol for atom in pdb.topology.atoms()] == ELEMENTS
    assert {tuple(sorted((a.index, b.index))) for a, b in pdb.topology.bonds()} == set(BONDS)
    # Data, samples, and what is exported from them.
    frames = np.repeat(np.asarray(target.structure, np.float32)[None], 2, axis=0)
    Dataset(frames, target.fingerprint, "nm", {}, **molecule_folder.texts(target)).save(tmp_path / "data.h5")
    assert description.read(datasets.read(tmp_path / "data.h5").molecule) == known
    zero, solved = np.zeros(2), np.zeros(2, int)
    meta = {"target": "zoo", "fingerprint": target.fingerprint, "units": "nm", **molecule_folder.texts(target)}
    Samples(frames, log_q=zero, u=zero, status=solved, nfe=solved, path_length=zero, meta=meta).save(tmp_path / "samples.h5")
    samples = Samples.load(tmp_path / "samples.h5")
    assert description.read(samples.meta["molecule"]) == known
    for name in ("frames.pdb", "frames.h5", "frames.extxyz"):
        assert export(samples, tmp_path / name) == 2
    for name in ("frames.pdb", "frames.h5"):
        written = mdtraj.load(str(tmp_path / name))
        assert [atom.element.symbol for atom in written.topology.atoms] == ELEMENTS
    assert {tuple(sorted((a.index, b.index))) for a, b in written.topology.bonds} == set(BONDS)
    assert [atom.name for atom in written.topology.atoms] == [atom.name for atom in target.topology.atoms()]
    assert [line.split()[0] for line in (tmp_path / "frames.extxyz").read_text().splitlines()[2:10]] == ELEMENTS


def cyclic_diglycine() -> tuple[app.Topology, np.ndarray]:
    """cyclo(Gly-Gly), a ring of standard residues: 14 atoms, 14 bonds."""
    topology = app.Topology()
    chain, atoms = topology.addChain("A"), []
    for number in "12":
        residue = topology.addResidue("GLY", chain, number)
        for name in ("N", "H", "CA", "HA2", "HA3", "C", "O"):
            atoms.append(topology.addAtom(name, app.Element.getBySymbol(name[0]), residue))
    for first in (0, 7):
        for i, j in ((0, 1), (0, 2), (2, 3), (2, 4), (2, 5), (5, 6)):
            topology.addBond(atoms[first + i], atoms[first + j])
    topology.addBond(atoms[5], atoms[7])
    topology.addBond(atoms[12], atoms[0])
    ring = [np.array([np.cos(a), np.sin(a), 0]) for a in np.arange(6) * np.pi / 3]
    x, z = np.zeros((14, 3)), np.array([0, 0, 1.3])
    for first, corner in ((0, 0), (7, 3)):
        n, ca, c = (0.145 * ring[corner + i] for i in range(3))
        up, down = ring[corner + 1] + z, ring[corner + 1] - z
        hydrogens = [ca + 0.109 * arm / np.linalg.norm(arm) for arm in (up, down)]
        x[first : first + 7] = [n, n + 0.101 * ring[corner], ca, *hydrogens, c, c + 0.123 * ring[corner + 2]]
    return topology, x


@pytest.fixture(scope="module")
def ring() -> targets.Target:
    topology, x = cyclic_diglycine()
    bonds = [(a.index, b.index) for a, b in topology.bonds()]
    return targets.from_openmm(springs(x, bonds), topology, 300.0, positions=x, name="cyclo-gly-gly")


def test_the_model_of_a_ring_is_loaded_with_its_density(ring: targets.Target, tmp_path: Path):
    """The harmonic base is made of the bonds; without the one that closes the ring it is another density."""
    assert len(ring.bonds) == 14
    flow_config = EACF(Spherical(width=4), blocks=1, layers=1, features=4, base=Harmonic())
    config = RunConfig(target=ring.name, flow=flow_config)
    flow = build_flow(config.flow, ring, 0.1, key=jax.random.key(3))
    record(tmp_path, config, ring)
    save_model(tmp_path / MODEL_FILE, flow, config, ring, {})
    loaded = load_model(tmp_path)
    assert_same(loaded.target, ring)
    # The same program with the same numbers: log q is the same bit for bit.
    assert jax.tree.structure(flow) == jax.tree.structure(loaded.flow)
    for one, other in zip(jax.tree.leaves(flow), jax.tree.leaves(loaded.flow), strict=True):
        np.testing.assert_array_equal(one, other)
    rng = np.random.default_rng(0)
    assert ring.structure is not None
    x = (ring.structure + 0.003 * rng.normal(size=(3, 14, 3))).astype(np.float32)
    x -= x.mean(axis=1, keepdims=True)
    np.testing.assert_array_equal(log_density(flow, x).log_q, log_density(loaded.flow, x).log_q)
    # Without the closing bond it would not be.
    opened = build_flow(
        config.flow, dataclasses.replace(ring, bonds=tuple(b for b in ring.bonds if b != (0, 12))), 0.1, key=jax.random.key(3)
    )
    assert jax.tree.structure(opened) != jax.tree.structure(loaded.flow)
    # What is missing is said, not that the target is not built in.
    (tmp_path / molecule_folder.SYSTEM).unlink()
    with pytest.raises(TargetError, match=r"the molecule in .* lacks its file system\.xml; restore it"):
        load_model(tmp_path)


def test_what_a_folder_lacks_is_named(ring: targets.Target, tmp_path: Path):
    molecule_folder.save(ring, tmp_path)
    system, about = tmp_path / molecule_folder.SYSTEM, tmp_path / molecule_folder.DESCRIPTION
    xml, text = system.read_text(), about.read_text()
    (tmp_path / molecule_folder.STRUCTURE).unlink()
    assert_same(molecule_folder.load(tmp_path), ring)
    for content, message in ((None, r"lacks its file system\.xml"), ("<System", r"system\.xml is not a readable serialised OpenMM file")):
        system.unlink()
        if content is not None:
            system.write_text(content)
        with pytest.raises(TargetError, match=message):
            molecule_folder.load(tmp_path)
        system.write_text(xml)
    for change, message in (
        (lambda plain: plain["molecule"]["bonds"].pop(), "is now .* but was .*molecule.json was changed; restore it"),
        (lambda plain: plain["molecule"].pop("bonds"), "molecule.json is damaged"),
        (lambda plain: plain.pop("format"), "of an earlier version"),
        (lambda plain: plain.update(format=99), "update boltzflow"),
        (lambda plain: plain["structure"].pop(), "are of different molecules"),
    ):
        plain = json.loads(text)
        change(plain)
        about.write_text(json.dumps(plain))
        with pytest.raises(TargetError, match=message):
            molecule_folder.load(tmp_path)


def test_targets_that_cannot_be_made_again_leave_what_is_known_of_them(tmp_path: Path):
    target = targets.from_function(
        lambda x: 50.0 * jnp.sum((x - jnp.mean(x, axis=0, keepdims=True)) ** 2), 3, 3, name="mine", units="nm", temperature=310.0
    )
    target = dataclasses.replace(target, elements=("O", "H", "H"), bonds=((0, 1), (0, 2)))
    molecule_folder.save(target, tmp_path)
    assert not molecule_folder.holds(tmp_path)
    known = molecule_folder.load_description(tmp_path)
    assert known is not None
    assert (known.name, known.units, known.temperature, known.elements, known.bonds, known.topology) == (
        *("mine", "nm", 310.0, ("O", "H", "H"), ((0, 1), (0, 2))),
        None,
    )
    assert molecule_folder.texts(target) == {"structure": "", "molecule": known.to_json()}
    (tmp_path / molecule_folder.UNREGISTERED).write_text("{")
    with pytest.raises(TargetError, match="damaged"):
        molecule_folder.load_description(tmp_path)
    assert molecule_folder.load_description(tmp_path / "elsewhere") is None
    assert molecule_folder.texts(targets.get("dw4")) == {"structure": "", "molecule": ""}


# Bonds.


@pytest.mark.parametrize("urey_bradley", [True, False])
@pytest.mark.parametrize("listed", [[], BONDS[:3], BONDS], ids=["none", "some", "all"])
def test_bonds_are_those_of_chemistry(listed: list[tuple[int, int]], urey_bradley: bool):
    """Whatever the topology lists: springs over angles are none, and a bond that is not listed is found."""
    x = ethane()
    topology = labelled(ZOO["ligand"])
    topology._bonds = [bond for bond in topology._bonds if tuple(sorted((bond[0].index, bond[1].index))) in listed]
    system = springs(x, BONDS, urey_bradley)
    # An elastic network, and a restraint over a short distance.
    network = openmm.HarmonicBondForce()
    for i, j in ((1, 7), (2, 5), (3, 6)):
        network.addBond(i, j, float(np.linalg.norm(x[i] - x[j])), 500.0)
    network.addBond(1, 5, 0.0, 1e-3)
    system.addForce(network)
    target = targets.from_openmm(system, topology, 300.0, positions=x)
    assert target.bonds == tuple(BONDS)
    assert [centre.atom for centre in target.chiral_centres] == [0]
    assert not target.reflections


def test_bonds_without_springs_are_found_by_distance():
    """Bonds as a custom force, as some force fields have them, and an ion that lies near."""
    x = np.concatenate([ethane(), [[0.3, 0.3, 0.3]]])
    topology = labelled(ZOO["ligand"])
    topology._bonds = []
    topology.addAtom("NA", app.Element.getBySymbol("Na"), topology.addResidue("NA", next(topology.chains())))
    system = springs(x[:8], BONDS)
    system.removeForce(0)
    morse = openmm.CustomBondForce("400*(1-exp(-18*(r-r0)))^2")
    morse.addPerBondParameter("r0")
    for i, j in BONDS:
        morse.addBond(i, j, [float(np.linalg.norm(x[i] - x[j]))])
    system.addForce(morse)
    tether = openmm.CustomBondForce("100*(r-0.6)^2")
    tether.addBond(0, 8)
    system.addForce(tether)
    system.addParticle(23.0)
    assert targets.from_openmm(system, topology, 300.0, positions=x).bonds == tuple(BONDS)


# Fingerprints.


def test_the_order_of_bonds_in_a_file_is_not_in_the_fingerprint():
    x = ethane()
    rng = np.random.default_rng(1)
    shuffled = [(j, i) if rng.random() < 0.5 else (i, j) for i, j in rng.permutation(BONDS).tolist()]
    one, other = springs(x, BONDS), springs(x, shuffled)
    assert openmm.XmlSerializer.serialize(one) != openmm.XmlSerializer.serialize(other)
    assert system_hash(one) == system_hash(other)
    other.getForce(0).setBondParameters(0, *shuffled[0], 0.2, 2.8e5)
    assert system_hash(one) != system_hash(other)


def test_pdb_and_mmcif_have_one_fingerprint(ring: targets.Target, tmp_path: Path):
    """By content: what the file is called does not matter, .pdbx was read as PDB."""
    (tmp_path / "ring.ent").write_text("\n" + molecule_folder.structure_text(ring))
    with (tmp_path / "ring.pdbx").open("w") as file:
        app.PDBxFile.writeFile(ring.topology, np.asarray(ring.structure) * unit.nanometer, file)
        # OpenMM's writer leaves out the bond that closes the ring.
        columns = [f"_struct_conn.{name}\n" for name in ("id", "conn_type_id")]
        columns += [f"_struct_conn.ptnr{k}_label_{name}\n" for k in "12" for name in ("asym_id", "seq_id", "atom_id")]
        file.write("loop_\n" + "".join(columns) + "ring covale A 1 N A 2 C\n#\n")
    one, other = (targets.from_pdb(path, force_field=("amber14-all.xml",), temperature=300.0) for path in tmp_path.iterdir())
    assert one.fingerprint == other.fingerprint
    assert one.bonds == other.bonds == ring.bonds
    assert [b[0].index for b in one.topology.bonds()] != [b[0].index for b in other.topology.bonds()], "in another order"


def test_classes_reflections_and_bonds_are_in_the_fingerprint():
    def made(**fields: object) -> str:
        return targets.Target("mine", 3, 3, None, **{"classes": (0, 0, 0), **fields}).fingerprint

    assert made() == "mine() N=3 D=3 [reduced]", "as ever where all particles are alike"
    different = [made(), made(reflections=False), made(classes=(0, 0, 1)), made(classes=(0, 1, 1)), made(bonds=((0, 1),))]
    assert len(set(different)) == 5
    assert made(bonds=((1, 0), (2, 1))) == made(bonds=((1, 2), (0, 1))), "in any order"
    with checking.unchecked():  # an array is not what the annotation says, and tells nothing else
        assert made(classes=np.array([0, 0, 1])) == made(classes=(0, 0, 1))


def test_shipped_models_have_present_fingerprints():
    for path in shipped_models().values():
        card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        with safe_open(path, framework="numpy") as file:
            assert file.metadata()["fingerprint"] == card["fingerprint"] == targets.get(card["target"]).fingerprint, path.stem


def test_labels_of_force_fields_have_no_folders():
    from boltzflow.chemistry.systems import label

    assert label("/home/someone/ff/my.xml") == "my"
    assert label(("/scratch/job1/my.xml", "implicit/gbn2.xml")) == "my+gbn2"
    assert label((Path("a/b.xml"), r"C:\Users\someone\c.xml")) == "b+c"
    assert label(("ff99",)) == label("ff99") == "ff99"
    assert not re.search(r"[/\\]", label(("amber14/protein.ff14SB.xml",)))


# Frames: their chirality, and the forms in which they come.


def around(target: targets.Target, n: int = 40) -> np.ndarray:
    """Frames near the minimum, of its chirality; not equilibrated."""
    noise = 0.004 * np.random.default_rng(5).normal(size=(n, target.n_particles, 3))
    assert target.structure is not None
    frames = target.structure + noise - noise.mean(axis=1, keepdims=True)
    return (frames - frames.mean(axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def chiral() -> targets.Target:
    x = ethane()
    return targets.from_openmm(springs(x, BONDS), labelled(ZOO["ligand"]), 300.0, positions=x, name="chiral")


def test_mirror_images_are_reflected_and_it_is_said(chiral: targets.Target, tmp_path: Path):
    frames = around(chiral)
    given = np.where(np.arange(40)[:, None, None] % 3 == 0, -frames, frames)
    np.save(tmp_path / "frames.npy", given)
    sentence = r"14 of 40 frames have the other chirality than target 'chiral' \(at C1 of LIG 1\): they are reflected, which is exact"
    for read in (datasets.load, datasets.of):
        with pytest.warns(UserWarning, match=sentence):
            data = read(tmp_path / "frames.npy", chiral, allow_virial_mismatch=True)
        np.testing.assert_allclose(data.positions, frames, atol=1e-7)
        assert data.provenance["reflected"] == 14
    # A data set made by hand, as `fit` and `train` take it; what a run keeps is of the right enantiomer.
    by_hand = Dataset(given, chiral.fingerprint, "nm")
    with pytest.warns(UserWarning, match=sentence):
        kept = datasets.right_enantiomers(by_hand, chiral)
    np.testing.assert_array_equal(kept.positions, frames)
    assert kept.molecule
    assert datasets.right_enantiomers(kept, chiral) is kept, "without another word"


def test_other_stereoisomers_are_refused():
    """1,2-dichloro-1,2-difluoroethane: one of two centres turned is another molecule, not a mirror image."""
    x = ethane()
    x[5:] = x[4] + CORNERS[[0, 1, 2]] * [-1, -1, -1] * np.array([0.136, 0.177, 0.109])[:, None]
    elements = ["C", "F", "Cl", "H", "C", "F", "Cl", "H"]
    topology = labelled([("A", "LIG", "1", "", f"{e}{i}") for i, e in enumerate(elements)], elements)
    target = targets.from_openmm(springs(x, BONDS), topology, 300.0, positions=x, name="dihalide")
    assert [centre.atom for centre in target.chiral_centres] == [0, 4]
    frames = around(target)
    frames[7:9] = frames[7:9][:, [0, 1, 2, 3, 4, 6, 5, 7]]
    frames[3] = -frames[3]
    with pytest.raises(
        DataError,
        match=r"the array of frames: 2 of 40 frames are of another stereoisomer .* first at index 7 \(at C4 of LIG 1\); remove them",
    ):
        datasets.of(frames, target, allow_virial_mismatch=True)


def test_mirror_images_of_another_energy_are_refused():
    """A torsion with a phase of 90 degrees, as CMAP has parts like it: 5 kJ/mol · sin of the torsion is odd."""
    x = ethane()
    system = springs(x, BONDS)
    torsion = openmm.PeriodicTorsionForce()
    torsion.addTorsion(1, 0, 4, 5, 1, np.pi / 2, 5.0)
    system.addForce(torsion)
    target = targets.from_openmm(system, labelled(ZOO["ligand"]), 300.0, positions=x, name="odd")
    frames = around(target)
    frames[:3] *= -1
    with pytest.raises(
        DataError, match=r"3 of 40 frames have the other chirality .* mirror images do not have the same energy .* cannot be refl"
    ):
        datasets.of(frames, target, allow_virial_mismatch=True)
    silent = dataclasses.replace(target, energy_function=None)
    with pytest.raises(DataError, match="3 of 40 frames have the other chirality .* no energy to tell"):
        datasets.of(frames, silent)


def test_arrays_and_trajectories_are_data(chiral: targets.Target, tmp_path: Path):
    frames = around(chiral)
    topology = mdtraj.Topology.from_openmm(chiral.topology)
    for given in (frames, frames.reshape(40, -1).astype(np.float64) + 1.0, frames.tolist(), mdtraj.Trajectory(frames, topology)):
        data = datasets.of(given, chiral, allow_virial_mismatch=True)
        np.testing.assert_allclose(data.positions, frames, atol=1e-6)
        assert data.fingerprint == chiral.fingerprint
    for given, message in (
        (frames[:, :7], r"the array of frames holds an array of shape \(40, 7, 3\)"),
        (np.full_like(frames, np.nan), "the array of frames has 40 frames with NaN"),
        (frames * 3, "the array of frames does not belong to target 'chiral'"),
        (mdtraj.Trajectory(frames[:, :7], topology.subset(list(range(7)))), "the trajectory has 7 atoms, but target 'chiral' has 8"),
        (mdtraj.Trajectory(frames, _swapped(topology)), "atom 1 of the trajectory is Cl, but F in target 'chiral'"),
        ({"positions": frames}, "frames must be a Dataset, the name of a file, an array .* but are builtins.dict"),
        (None, "but are builtins.NoneType"),
        ("nowhere.npz", "there is no data file nowhere.npz"),
    ):
        with pytest.raises(DataError, match=message):
            datasets.of(given, chiral)
    zero, solved = np.zeros(40), np.zeros(40, int)
    samples = Samples(frames, log_q=zero, u=zero, status=solved, nfe=solved, path_length=zero)
    with pytest.raises(DataError, match="the samples belong to an unknown target, but the target is chiral"):
        fit(chiral, samples, out=tmp_path / "run")
    with pytest.raises(DataError, match="a trajectory has positions in nm, but target 'double_well' has reduced units"):
        datasets.of(mdtraj.Trajectory(frames[:, :4], topology.subset(list(range(4)))), targets.get("dw4"))


def _swapped(topology: mdtraj.Topology) -> mdtraj.Topology:
    """The topology with its second and third atom exchanged."""
    swapped = mdtraj.Topology()
    residue = swapped.add_residue("LIG", swapped.add_chain())
    for i in (0, 2, 1, *range(3, 8)):
        swapped.add_atom(topology.atom(i).name, topology.atom(i).element, residue)
    return swapped
