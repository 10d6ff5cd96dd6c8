"""Exported trajectories, read back by mdtraj where it knows the format."""

import dataclasses
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from boltzflow import cli, datasets
from boltzflow.chemistry.peptides import build_peptide
from boltzflow.errors import ConfigError, DataError, RunError
from boltzflow.sampling import SamplesWriter
from boltzflow.sampling.export import export
from boltzflow.sampling.samples import Samples
from boltzflow.targets import Target
from boltzflow.targets.molecule_folder import structure_text


def make(n: int = 6, particles: int = 4, dimension: int = 3, units: str = "reduced") -> Samples:
    rng = np.random.default_rng(0)
    positions = rng.normal(size=(n, particles, dimension)).astype(np.float32)
    solved = np.zeros(n, int)
    return Samples(positions, rng.normal(size=n), rng.normal(size=n), solved, solved, np.zeros(n), {"target": "toy", "units": units})


def read_xyz(path: Path) -> tuple[list[str], np.ndarray, list[str]]:
    lines = path.read_text().splitlines()
    size = int(lines[0])
    frames = [lines[i : i + size + 2] for i in range(0, len(lines), size + 2)]
    coordinates = np.array([[[float(word) for word in line.split()[1:]] for line in frame[2:]] for frame in frames])
    return [frame[1] for frame in frames], coordinates, [line.split()[0] for line in frames[0][2:]]


@pytest.fixture(scope="module")
def molecule() -> Target:
    """Capped alanine as far as export needs it: without an energy that takes time to compile."""
    pytest.importorskip("openmm", reason="OpenMM (extra `molecules`) is not installed")
    topology, structure = build_peptide("A")
    n = topology.getNumAtoms()
    return Target("capped_alanine", n, 3, lambda x: 0.0 * x.sum(), tuple(range(n)), units="nm", topology=topology, structure=structure)


@pytest.fixture
def molecule_samples(molecule: Target) -> Samples:
    rng = np.random.default_rng(1)
    positions = (np.asarray(molecule.structure) + 0.01 * rng.normal(size=(5, molecule.n_particles, 3))).astype(np.float32)
    columns = rng.normal(size=(2, 5))
    meta = {"target": molecule.name, "units": "nm", "structure": structure_text(molecule)}
    return Samples(positions, columns[0], columns[1], np.array([0, 0, 1, 0, 0]), np.zeros(5, int), np.zeros(5), meta)


@pytest.fixture
def topology():
    mdtraj = pytest.importorskip("mdtraj", reason="mdtraj (extra `molecules`) is not installed")
    topology = mdtraj.Topology()
    residue = topology.add_residue("LIG", topology.add_chain())
    for symbol in ("C", "O", "H", "H"):
        topology.add_atom(symbol, mdtraj.element.get_by_symbol(symbol), residue)
    return topology


class TestText:
    def test_xyz(self, tmp_path: Path) -> None:
        samples = make()
        assert samples.export(tmp_path / "t.xyz") == 6
        comments, coordinates, symbols = read_xyz(tmp_path / "t.xyz")
        np.testing.assert_allclose(coordinates, samples.positions, atol=1e-7)
        assert symbols == ["X"] * 4
        assert "reduced" in comments[0]
        assert [file.name for file in tmp_path.iterdir()] == ["t.xyz"]

    def test_extxyz_carries_the_weights(self, tmp_path: Path) -> None:
        samples = make()
        export(samples, tmp_path / "t.extxyz")
        comments, coordinates, _ = read_xyz(tmp_path / "t.extxyz")
        np.testing.assert_allclose(coordinates, samples.positions, atol=1e-7)
        for i, comment in enumerate(comments):
            assert comment.startswith("Properties=species:S:1:pos:R:3 ")
            for key in ("u", "log_q", "log_weight"):
                found = re.search(rf"(?<!\S){key}=(\S+)", comment)
                assert found is not None
                assert float(found[1]) == pytest.approx(getattr(samples, key)[i], abs=1e-6)

    def test_plane_gets_z_zero(self, tmp_path: Path) -> None:
        samples = make(dimension=2)
        export(samples, tmp_path / "t.xyz")
        coordinates = read_xyz(tmp_path / "t.xyz")[1]
        np.testing.assert_allclose(coordinates[..., :2], samples.positions, atol=1e-7)
        assert not coordinates[..., 2].any()

    def test_nanometres_become_angstrom(self, tmp_path: Path) -> None:
        samples = make(units="nm")
        export(samples, tmp_path / "t.xyz", symbols=["C", "O", "H", "H"])
        comments, coordinates, symbols = read_xyz(tmp_path / "t.xyz")
        np.testing.assert_allclose(coordinates, 10 * samples.positions, atol=1e-5)
        assert symbols == ["C", "O", "H", "H"]
        assert "Angstrom" in comments[0]

    def test_bare_positions(self, tmp_path: Path) -> None:
        positions = np.zeros((3, 2, 3))
        positions[1] = np.nan
        assert export(positions, tmp_path / "t.xyz") == 2
        assert export(positions, tmp_path / "t.extxyz") == 2
        assert "log_weight" not in (tmp_path / "t.extxyz").read_text()

    def test_the_same_again_is_no_loss(self, tmp_path: Path) -> None:
        path, samples = tmp_path / "t.xyz", make()
        assert export(samples, path) == 6
        before = path.read_bytes()
        assert export(samples, path) == 6
        for other in (dataclasses.replace(samples, positions=samples.positions + 0.1), samples.take(slice(0, 5))):
            with pytest.raises(RunError, match="holds something else"):
                export(other, path)
        assert path.read_bytes() == before
        assert [file.name for file in tmp_path.iterdir()] == ["t.xyz"]
        assert export(samples.take(slice(0, 5)), path, overwrite=True) == 5
        assert len(read_xyz(path)[1]) == 5

    def test_samples_without_weight_are_left_out(self, tmp_path: Path) -> None:
        samples = dataclasses.replace(make(), status=np.array([0, 1, 0, 0, 0, 0]), u=np.array([0, 0, np.inf, 0, 0, 0]))
        assert export(samples, tmp_path / "t.extxyz") == 4
        np.testing.assert_allclose(read_xyz(tmp_path / "t.extxyz")[1], samples.positions[[0, 3, 4, 5]], atol=1e-7)
        with pytest.raises(DataError, match="no frame to write"):
            export(dataclasses.replace(samples, status=np.ones(6)), tmp_path / "none.xyz")

    def test_resampled(self, tmp_path: Path) -> None:
        samples = dataclasses.replace(make(), u=np.array([0.0, 900, 900, 900, 900, 0.0]), log_q=np.zeros(6))
        assert export(samples, tmp_path / "t.extxyz", resampled=True, n=10) == 10
        comments, coordinates, _ = read_xyz(tmp_path / "t.extxyz")
        assert all("log_weight=0 " in comment for comment in comments)
        matches = np.isclose(coordinates[:, None], samples.positions[None], atol=1e-6).all(axis=(2, 3)).sum(axis=0)
        np.testing.assert_array_equal(matches, [5, 0, 0, 0, 0, 5])


class TestMdtraj:
    @pytest.mark.parametrize(("suffix", "tolerance"), [(".pdb", 1e-4), (".xtc", 1e-3), (".dcd", 1e-5)])
    def test_round_trip(self, tmp_path: Path, topology, suffix: str, tolerance: float) -> None:
        import mdtraj

        samples = make(units="nm")
        path = tmp_path / f"t{suffix}"
        assert samples.export(path, topology) == 6
        read = mdtraj.load(str(path)) if suffix == ".pdb" else mdtraj.load(str(path), top=topology)
        np.testing.assert_allclose(read.xyz, samples.positions, atol=tolerance)
        assert [atom.element.symbol for atom in read.topology.atoms] == ["C", "O", "H", "H"]

    def test_topology_from_a_file(self, tmp_path: Path, topology) -> None:
        samples = make(units="nm")
        samples.take([0]).export(tmp_path / "one.pdb", topology)
        assert samples.export(tmp_path / "t.xyz", tmp_path / "one.pdb") == 6
        assert read_xyz(tmp_path / "t.xyz")[2] == ["C", "O", "H", "H"]
        np.testing.assert_allclose(read_xyz(tmp_path / "t.xyz")[1], 10 * samples.positions, atol=1e-5)

    def test_wrong_topology(self, tmp_path: Path, topology) -> None:
        with pytest.raises(DataError, match="4 atoms but the samples have 5 particles"):
            export(make(particles=5), tmp_path / "t.dcd", topology=topology)
        with pytest.raises(DataError, match="there is no topology file"):
            export(make(), tmp_path / "t.dcd", topology=tmp_path / "none.pdb")
        (tmp_path / "bad.txt").write_text("?")
        with pytest.raises(DataError, match="cannot read a topology"):
            export(make(), tmp_path / "t.dcd", topology=tmp_path / "bad.txt")
        with pytest.raises(DataError, match="but is int"):
            export(make(), tmp_path / "t.dcd", topology=3)

    def test_without_mdtraj(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "mdtraj", None)
        with pytest.raises(DataError, match=r"boltzflow\[molecules\]"):
            export(make(), tmp_path / "t.dcd", topology="top.pdb")


class TestMolecules:
    """Samples and data sets of a molecule know their atoms."""

    KEPT = (0, 1, 3, 4)

    @pytest.mark.parametrize(("suffix", "tolerance"), [(".pdb", 6e-5), (".xtc", 6e-4), (".dcd", 1e-6), (".h5", 1e-7)])
    def test_no_topology_is_asked_for(self, tmp_path: Path, molecule: Target, molecule_samples: Samples, suffix: str, tolerance: float):
        mdtraj = pytest.importorskip("mdtraj")
        if suffix == ".h5":
            pytest.importorskip("tables", reason="PyTables (extra `molecules`) is not installed")
        molecule_samples.save(tmp_path / "samples.h5")
        path, pdb = tmp_path / f"t{suffix}", tmp_path / "first.pdb"
        loaded = Samples.load(tmp_path / "samples.h5")
        assert loaded.export(path) == 4
        loaded.export(pdb, n=1)
        read = mdtraj.load(str(path)) if suffix in (".pdb", ".h5") else mdtraj.load(str(path), top=str(pdb))
        # MDTraj's positions are in nm, whatever the file's unit.
        np.testing.assert_allclose(read.xyz, molecule_samples.positions[list(self.KEPT)], atol=tolerance)
        expected = [(atom.name, atom.element.symbol, atom.residue.name) for atom in molecule.topology.atoms()]
        assert [(atom.name, atom.element.symbol, atom.residue.name) for atom in read.topology.atoms] == expected
        bonds = {frozenset((a.index, b.index)) for a, b in molecule.topology.bonds()}
        assert {frozenset((a.index, b.index)) for a, b in read.topology.bonds} == bonds

    def test_hdf5_holds_the_weights(self, tmp_path: Path, molecule_samples: Samples) -> None:
        pytest.importorskip("tables", reason="PyTables (extra `molecules`) is not installed")
        molecule_samples.export(tmp_path / "t.h5")
        with h5py.File(tmp_path / "t.h5") as file:
            for name in ("u", "log_q", "log_weight"):
                np.testing.assert_array_equal(np.asarray(file[name]), getattr(molecule_samples, name)[list(self.KEPT)])

    def test_hdf5_without_pytables(self, tmp_path: Path, molecule_samples: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tables" else find(name))
        with pytest.raises(DataError, match=r"needs PyTables; .*boltzflow\[molecules\]"):
            molecule_samples.export(tmp_path / "t.h5")
        assert not list(tmp_path.iterdir())

    def test_a_given_topology_is_preferred(self, tmp_path: Path, molecule_samples: Samples, topology) -> None:
        few = dataclasses.replace(molecule_samples, positions=molecule_samples.positions[:, :4])
        assert few.export(tmp_path / "t.xyz", topology) == 4
        assert read_xyz(tmp_path / "t.xyz")[2] == ["C", "O", "H", "H"]
        with pytest.raises(DataError, match="22 atoms but the samples have 4 particles"):
            few.export(tmp_path / "t.pdb")

    def test_text_takes_the_elements(self, tmp_path: Path, molecule: Target, molecule_samples: Samples, monkeypatch) -> None:
        monkeypatch.setitem(sys.modules, "mdtraj", None)
        molecule_samples.export(tmp_path / "t.xyz")
        assert read_xyz(tmp_path / "t.xyz")[2] == [atom.element.symbol for atom in molecule.topology.atoms()]

    def test_streamed_samples(self, tmp_path: Path, molecule_samples: Samples) -> None:
        # Larger than what an attribute of HDF5 can hold.
        structure = molecule_samples.meta["structure"] * 60
        meta = {**molecule_samples.meta, "structure": structure}
        with SamplesWriter(tmp_path / "s.h5", meta) as writer:
            writer.append(molecule_samples)
            writer.append(molecule_samples)
            assert Samples.load(tmp_path / "s.h5").meta["structure"] == structure
        joined = Samples.load(tmp_path / "s.h5")
        assert joined.n == 10
        assert joined.meta["structure"] == structure

    def test_data_sets(self, tmp_path: Path, molecule: Target, molecule_samples: Samples, capsys: pytest.CaptureFixture[str]) -> None:
        mdtraj = pytest.importorskip("mdtraj")
        frames = molecule_samples.positions
        datasets.Dataset(frames, molecule.fingerprint, "nm", {}, structure_text(molecule)).save(tmp_path / "data.h5")
        words = ["export", str(tmp_path / "data.h5"), str(tmp_path / "t.pdb")]
        assert cli.main([*words, "-n", "2"]) == 0
        np.testing.assert_allclose(mdtraj.load(str(tmp_path / "t.pdb")).xyz, frames[[0, 4]], atol=1e-4)
        assert cli.main([*words, "--force", "--resample"]) != 0
        assert "count alike already" in capsys.readouterr().err
        datasets.Dataset(frames, molecule.fingerprint, "nm").save(tmp_path / "bare.h5")
        assert cli.main(["export", str(tmp_path / "bare.h5"), str(tmp_path / "bare.pdb")]) != 0
        assert "needs a topology and capped_alanine has none" in capsys.readouterr().err
        assert cli.main(["export", str(tmp_path / "bare.h5"), str(tmp_path / "t.dcd"), "--topology", str(tmp_path / "t.pdb")]) == 0

    def test_samples_are_not_replaced_by_themselves(self, tmp_path: Path, molecule_samples: Samples, capsys) -> None:
        molecule_samples.save(tmp_path / "s.h5")
        assert cli.main(["export", str(tmp_path / "s.h5"), str(tmp_path / "s.h5"), "--force"]) != 0
        assert "is the file that is exported" in capsys.readouterr().err
        assert Samples.load(tmp_path / "s.h5").n == 5


class TestBadInput:
    @pytest.mark.parametrize("suffix", [".pdb", ".xtc", ".dcd", ".h5"])
    def test_toys_have_no_topology(self, tmp_path: Path, suffix: str) -> None:
        with pytest.raises(DataError, match=f"{suffix} needs a topology and toy has none; write .xyz"):
            export(make(), tmp_path / f"t{suffix}")

    @pytest.mark.parametrize("name", ["t.gro", "t", "t.hdf5"])
    def test_unknown_ending(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(DataError, match=r"known are \.xyz, \.extxyz, \.pdb, \.xtc, \.dcd"):
            export(make(), tmp_path / name)

    def test_positions_without_weights_cannot_be_resampled(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no weights"):
            export(np.zeros((2, 3, 3)), tmp_path / "t.xyz", resampled=True)

    def test_wrong_shape_and_symbols(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="must have shape"):
            export(np.zeros((2, 8)), tmp_path / "t.xyz")
        with pytest.raises(DataError, match="2 symbols for 4 particles"):
            export(make(), tmp_path / "t.xyz", symbols=["C", "O"])

    def test_unwritable(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(RunError, match="cannot write"):
            export(make(), tmp_path / "file" / "t.xyz")


FULL_DISK = """
import os, resource, sys
import mdtraj, numpy as np
from boltzflow.errors import RunError
from boltzflow.sampling.export import export
topology = mdtraj.Topology()
residue = topology.add_residue("LIG", topology.add_chain())
for i in range(22):
    topology.add_atom(f"C{i}", mdtraj.element.carbon, residue)
frames = np.random.default_rng(0).normal(size=(400, 22, 3)).astype(np.float32)
for limit in (2_000, 60_000):
    for suffix in ("xyz", "extxyz", "pdb", "xtc", "dcd", "h5"):
        with open(f"out.{suffix}", "w") as file:
            file.write("what was there before")
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            export(frames, f"out.{suffix}", topology=topology, overwrite=True)
            print(suffix, "written")
        except RunError as error:
            assert str(error).startswith(f"cannot write out.{suffix}: ") and len(str(error)) < 250, error
            print(suffix, "refused")
        assert open(f"out.{suffix}").read() == "what was there before"
        os.remove(f"out.{suffix}")
        assert not os.listdir("."), os.listdir(".")
"""


class TestPlaces:
    @pytest.mark.parametrize(
        "folder",
        ["M\u00fcller", "\u6570\u636e", "\u0395\u03bb\u03bb\u03ac\u03b4\u03b1 (2)", "\u0645 \U0001f9ea", "/".join(["n" * 200] * 4)],
    )
    @pytest.mark.parametrize("suffix", [".xyz", ".extxyz", ".pdb", ".xtc", ".dcd", ".h5"])
    def test_folders_of_any_name(self, tmp_path: Path, topology, folder: str, suffix: str) -> None:
        mdtraj = pytest.importorskip("mdtraj")
        path = tmp_path / folder / f"\u00fc {folder[:1] * 60}{suffix}"
        samples = make()
        assert export(samples, path, topology=topology, units="nm") == samples.n
        assert [found.name for found in path.parent.iterdir()] == [path.name]
        if suffix in (".xyz", ".extxyz"):
            assert np.allclose(read_xyz(path)[1] / 10, samples.positions, atol=1e-6)
            return
        plain = tmp_path / f"plain{suffix}"
        path.rename(plain)
        read = mdtraj.load(str(plain), top=topology) if suffix in (".xtc", ".dcd") else mdtraj.load(str(plain))
        np.testing.assert_allclose(read.xyz, samples.positions, atol=2e-3)

    def test_names_that_fill_a_folder_entry(self, tmp_path: Path) -> None:
        export(make(), tmp_path / f"{'n' * 250}.xyz")
        with pytest.raises(ConfigError, match="too long"):
            export(make(), tmp_path / f"{'n' * 260}.xyz")
        assert len(list(tmp_path.iterdir())) == 1

    @pytest.mark.skipif(sys.platform == "win32", reason="limits on the size of files are POSIX's")
    def test_a_disk_that_fills_up(self, tmp_path: Path) -> None:
        """Every format says so, keeps what was there before, and leaves no half file; a limit on the size of files stands for the disk."""
        pytest.importorskip("mdtraj")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-c", FULL_DISK]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        said = [line for line in done.stdout.splitlines() if line.endswith(("refused", "written"))]
        assert said == [f"{suffix} refused" for _ in range(2) for suffix in ("xyz", "extxyz", "pdb", "xtc", "dcd", "h5")]

    def test_what_was_written_is_read_back(self, tmp_path: Path, topology, monkeypatch: pytest.MonkeyPatch) -> None:
        """A writer that loses the end without a word."""
        mdtraj = pytest.importorskip("mdtraj")
        for suffix, method in ((".dcd", "save_dcd"), (".xtc", "save_xtc"), (".h5", "save_hdf5")):
            whole = getattr(mdtraj.Trajectory, method)
            with monkeypatch.context() as patch:
                patch.setattr(mdtraj.Trajectory, method, lambda self, name, whole=whole: whole(self[:-1], name))
                with pytest.raises(RunError, match="not complete"):
                    export(make(), tmp_path / f"o{suffix}", topology=topology)
        assert not list(tmp_path.iterdir())
