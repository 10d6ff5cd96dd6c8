"""Trajectories of other programs: their atoms found in any order, molecules whole, in the right unit, or one sentence."""

import gc

import numpy as np
import pytest

from boltzflow import datasets, targets
from boltzflow.chemistry import matching
from boltzflow.chemistry.matching import Atoms
from boltzflow.config import DataConfig
from boltzflow.datasets import trajectories
from boltzflow.errors import DataError

mdtraj = pytest.importorskip("mdtraj")


@pytest.fixture(scope="module")
def target():
    return targets.get("alanine-dipeptide")


@pytest.fixture(scope="module")
def frames(target):
    rng = np.random.default_rng(0)
    return target.structure + 0.01 * rng.standard_normal((6, target.n_particles, 3))


@pytest.fixture(scope="module")
def trajectory(target, frames):
    return mdtraj.Trajectory(frames.astype(np.float32), mdtraj.Topology.from_openmm(target.topology))


# What formats keep: XTC rounds to 1e-3 nm, PDB and GRO to 1e-4 and 1e-3.
ROUNDED = {".xtc": 6e-4, ".dcd": 1e-6, ".trr": 1e-6, ".nc": 1e-6, ".pdb": 6e-5, ".gro": 6e-4, ".h5": 1e-6, ".xyz": 1e-5, ".lammpstrj": 1e-4}


@pytest.mark.filterwarnings("ignore:Warning. The 'netCDF4'")
@pytest.mark.parametrize("ending", list(ROUNDED))
def test_formats(ending, target, frames, trajectory, tmp_path):
    path = tmp_path / f"frames{ending}"
    if ending == ".xyz":
        atoms, io = pytest.importorskip("ase").Atoms, pytest.importorskip("ase.io")
        io.write(path, [atoms(target.elements, 10.0 * x) for x in frames], format="extxyz")
    elif ending == ".lammpstrj":
        boxed = mdtraj.Trajectory(
            trajectory.xyz, trajectory.topology, unitcell_lengths=np.full((6, 3), 9.0), unitcell_angles=np.full((6, 3), 90.0)
        )
        boxed.save(str(path))
    else:
        trajectory.save(str(path))
    found = trajectories.read(path, target)
    np.testing.assert_allclose(found - found.mean(axis=1, keepdims=True), frames - frames.mean(axis=1, keepdims=True), atol=ROUNDED[ending])
    data = datasets.load(path, target, allow_virial_mismatch=True)
    assert data.n == 6
    assert data.provenance["source"] == path.name


def test_atoms_in_another_order_are_put_right_by_name(target, frames, trajectory, tmp_path):
    order = np.concatenate([np.random.default_rng(1).permutation(np.arange(a, b)) for a, b in ((0, 6), (6, 16), (16, 22))])
    shuffled = mdtraj.Trajectory(trajectory.xyz[:, order], trajectory.topology.subset(np.arange(22)))
    for atom, index in zip(shuffled.topology.atoms, order, strict=True):
        source = trajectory.topology.atom(int(index))
        atom.name, atom.element = source.name, source.element
    shuffled.save(str(tmp_path / "shuffled.h5"))
    np.testing.assert_allclose(trajectories.read(tmp_path / "shuffled.h5", target), frames, atol=1e-6)


class TestByBonds:
    def test_any_order_of_a_molecule(self, target):
        wanted = trajectories.atoms_of(target)._replace(names=())
        for seed in range(5):
            order = np.random.default_rng(seed).permutation(target.n_particles)
            place = np.argsort(order)
            bonds = tuple((int(place[i]), int(place[j])) for i, j in wanted.bonds)
            there = Atoms(tuple(wanted.elements[i] for i in order), (), bonds)
            found = matching.order(there, wanted)
            assert found is not None
            assert [there.elements[i] for i in found] == list(wanted.elements)
            back = {frozenset((int(np.flatnonzero(found == i)[0]), int(np.flatnonzero(found == j)[0]))) for i, j in there.bonds}
            assert back == {frozenset(bond) for bond in wanted.bonds}

    def test_rings_that_refinement_cannot_tell_apart(self):
        ring = tuple((i, (i + 1) % 6) for i in range(6))
        triangles = ((0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3))
        carbon = ("C",) * 6
        assert matching.order(Atoms(carbon, (), ring), Atoms(carbon, (), triangles)) is None
        found = matching.order(Atoms(carbon, (), tuple((5 - i, 5 - j) for i, j in ring)), Atoms(carbon, (), ring))
        assert found is not None
        assert sorted(found) == list(range(6))

    def test_isomers_are_other_molecules(self):
        # C-C-O and C-O-C.
        assert matching.order(Atoms(("C", "C", "O"), (), ((0, 1), (1, 2))), Atoms(("C", "C", "O"), (), ((0, 2), (1, 2)))) is None

    def test_without_names_and_bonds_the_elements_must_agree(self):
        np.testing.assert_array_equal(matching.order(Atoms(("C", "H")), Atoms(("C", "H"))), [0, 1])
        assert matching.order(Atoms(("H", "C")), Atoms(("C", "H"))) is None
        assert matching.difference(Atoms(("H", "C")), Atoms(("C", "H"))) == 0


@pytest.mark.parametrize("skewed", [False, True])
def test_molecules_are_made_whole(skewed, target, frames):
    box = np.array([[0.9, 0.0, 0.0], [0.2 if skewed else 0.0, 0.9, 0.0], [0.1 if skewed else 0.0, 0.3 if skewed else 0.0, 0.9]])
    boxes = np.broadcast_to(box, (len(frames), 3, 3))
    shifts = np.random.default_rng(2).integers(-1, 2, frames.shape)
    broken = frames + np.einsum("nai,nij->naj", shifts.astype(float), boxes)
    whole = trajectories.whole(broken, boxes, target.bonds)
    offset = whole - frames
    # Whole, up to one vector of the box for all of the molecule.
    np.testing.assert_allclose(offset, np.broadcast_to(offset[:, :1], offset.shape), atol=1e-9)
    # Two molecules that are near each other over the border of the box.
    pair = np.array([[[0.05, 0.0, 0.0], [0.15, 0.0, 0.0], [0.8, 0.0, 0.0], [0.85, 0.0, 0.0]]])
    near = trajectories.whole(pair, np.eye(3)[None] * 0.9, ((0, 1), (2, 3)))
    np.testing.assert_allclose(near[0, :, 0], [0.05, 0.15, -0.1, -0.05], atol=1e-12)


def test_selection_and_topology(target, frames, trajectory, tmp_path):
    topology = trajectory.topology.copy()
    water = topology.add_residue("HOH", topology.add_chain())
    for name, element in (("O", "O"), ("H1", "H"), ("H2", "H")):
        topology.add_atom(name, mdtraj.element.get_by_symbol(element), water)
    solvent = np.concatenate([frames, np.full((6, 3, 3), 0.7)], axis=1)
    wet = mdtraj.Trajectory(solvent.astype(np.float32), topology)
    wet.save(str(tmp_path / "wet.dcd"))
    wet[0].save(str(tmp_path / "wet.pdb"))
    found = trajectories.read(tmp_path / "wet.dcd", target, topology=str(tmp_path / "wet.pdb"), selection="not water")
    np.testing.assert_allclose(found, frames, atol=1e-6)
    for options, sentence in (
        ({}, "has other atoms than target .* name the file that tells them"),
        ({"topology": str(tmp_path / "wet.pdb")}, "has 25 atoms, but target .* has 22; select them"),
        ({"topology": str(tmp_path / "wet.pdb"), "selection": "resname LIG"}, "selects no atom"),
        ({"topology": str(tmp_path / "wet.pdb"), "selection": "name = ="}, "does not understand the selection"),
        ({"topology": str(tmp_path / "none.pdb")}, "there is no topology"),
    ):
        with pytest.raises(DataError, match=sentence):
            trajectories.read(tmp_path / "wet.dcd", target, **options)
    with pytest.raises(DataError, match="tells its atoms itself"):
        trajectories.read(tmp_path / "wet.pdb", target, topology=str(tmp_path / "wet.pdb"))


class TestRefusals:
    def test_another_molecule(self, target, frames, trajectory, tmp_path):
        other = trajectory.topology.copy()
        other.atom(4).element = mdtraj.element.get_by_symbol("S")
        mdtraj.Trajectory(trajectory.xyz, other).save(str(tmp_path / "other.h5"))
        with pytest.raises(DataError, match=r"another molecule .* its atom 4 is S, where the target has C"):
            trajectories.read(tmp_path / "other.h5", target)

    @pytest.mark.filterwarnings("ignore:Warning. The 'netCDF4'")
    @pytest.mark.parametrize("ending", [".dcd", ".xtc", ".trr", ".nc", ".h5"])
    def test_cut_off(self, ending, target, trajectory, tmp_path):
        path = tmp_path / f"cut{ending}"
        trajectory.save(str(path))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 + 17])
        try:
            found = trajectories.read(path, target)
        except DataError as error:
            assert "cut off" in str(error) or "not a readable" in str(error)  # noqa: PT017 (some readers give what is whole)
        else:
            assert 0 < len(found) < 6

    # MDTraj leaves what it cannot read open.
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    def test_ends_that_are_none(self, target, tmp_path):
        for ending in (".dcd", ".xtc", ".pdb", ".xyz", ".gro"):
            path = tmp_path / f"none{ending}"
            path.write_bytes(b"this is no trajectory\n" * 4)
            with pytest.raises(DataError, match="cannot be read, or is cut off"):
                trajectories.read(path, target)
        gc.collect()

    def test_particles_have_no_atoms(self, tmp_path):
        with pytest.raises(DataError, match="is a trajectory of atoms, but target 'double_well' has reduced units"):
            datasets.load(_touched(tmp_path / "frames.xtc"), targets.get("dw4"))

    def test_options_of_what_is_no_trajectory(self, target, tmp_path):
        np.save(tmp_path / "frames.npy", np.zeros((2, 22, 3)))
        with pytest.raises(DataError, match="is no trajectory"):
            datasets.load(tmp_path / "frames.npy", target, selection="protein")
        assert [name for name, _ in DataConfig(selection="protein").problems()] == ["selection"]


def _touched(path):
    path.write_bytes(b"")
    return path
