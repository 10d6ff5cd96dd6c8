"""A density that is known by its frames alone, on files as qm9pack has them."""

import csv
import dataclasses

import numpy as np
import pytest

from boltzflow import datasets, reference, targets
from boltzflow.errors import DataError
from boltzflow.sampling.samples import Samples
from boltzflow.targets.qm9 import read_frames


def write(folder, molecules) -> None:
    """A file of molecules (name, positions) in the package's format, with the columns that are read and one more."""
    with (folder / "qm9_part1.csv").open("w", newline="") as file:
        rows = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC)
        rows.writerow(["Index", "SMILES", "N_atoms", "XYZ_Ang"])
        for index, positions in enumerate(molecules):
            rows.writerow([index, "C", len(positions), str(positions.tolist()).replace(" ", "")])


@pytest.fixture
def molecules() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(n, 3)).round(10) for n in (19, 5, 19, 21, 19)]


def test_molecules_of_nineteen_atoms_are_read(molecules, tmp_path):
    write(tmp_path, molecules)
    np.testing.assert_array_equal(read_frames(tmp_path), np.stack([m for m in molecules if len(m) == 19]))


def test_what_is_missing_is_told(tmp_path):
    with pytest.raises(DataError, match="pip install --no-deps qm9pack"):
        read_frames(tmp_path)
    (tmp_path / "qm9_part1.csv").write_text("Index,N_atoms\n1,19\n")
    with pytest.raises(DataError, match="not as qm9pack has it"):
        read_frames(tmp_path)


@pytest.fixture
def target(molecules, tmp_path) -> targets.Target:
    write(tmp_path, molecules)
    return dataclasses.replace(targets.get("qm9-positional"), frames=lambda: read_frames(tmp_path))


def test_reference_data_are_the_frames(target, molecules, tmp_path):
    result = reference.sample(target, 100, seed=1)
    assert "3 of the 3 frames" in result.sentence()
    known = np.stack([m - m.mean(axis=0) for m in molecules if len(m) == 19])
    for frame in result.dataset.positions:
        assert np.abs(known - frame).max(axis=(1, 2)).min() < 1e-5
    assert reference.sample(target, 2, seed=1).dataset.n == 2
    result.dataset.save(tmp_path / "frames.h5")
    # There is no energy that a virial check could use.
    np.testing.assert_allclose(datasets.load(tmp_path / "frames.h5", target).positions, result.dataset.positions, atol=1e-6)


def test_samples_without_energy_have_no_weights(target):
    n = 6
    status = np.array([0, 0, 0, 0, 0, 2])
    columns = {"log_q": np.zeros(n), "u": np.full(n, np.nan), "nfe": np.ones(n, int), "path_length": np.full(n, np.nan)}
    samples = Samples(positions=np.zeros((n, 19, 3)), status=status, **columns, meta={"target": target.name, "energy": False})
    np.testing.assert_array_equal(samples.log_weight, [0, 0, 0, 0, 0, -np.inf])
    assert samples.n_failed == 1
    with pytest.raises(DataError, match="has no energy"):
        samples.ess()
    summary = samples.summary()
    assert [summary[name] for name in ("ess_reverse", "log_z", "pareto_k", "path_length")] == [None] * 4
