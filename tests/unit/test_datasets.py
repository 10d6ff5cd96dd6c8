"""Data sets: the file format, and every file that must be refused."""

import os
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boltzflow import datasets, targets
from boltzflow.errors import DataError


def springs(stiffness: float = 1.0, name: str = "springs") -> targets.Target:
    def energy(x):
        return 0.5 * stiffness * jnp.sum((x - x.mean(axis=0, keepdims=True)) ** 2)

    return targets.from_function(energy, 4, 3, name=name, parameters={"stiffness": stiffness})


def exact_frames(n: int = 4000, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((n, 4, 3))
    return (x - x.mean(axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def target() -> targets.Target:
    return springs()


@pytest.fixture
def data(target: targets.Target) -> datasets.Dataset:
    return datasets.Dataset(exact_frames(), target.fingerprint, target.units, {"sampler": "normal", "seed": 3, "seconds": 0.5})


def test_round_trip(tmp_path: Path, target: targets.Target, data: datasets.Dataset):
    path = tmp_path / "new" / "frames.h5"
    data.save(path)
    again = datasets.load(path, target)
    np.testing.assert_allclose(again.positions, data.positions, atol=1e-6)
    assert again.positions.dtype == np.float32
    assert (again.fingerprint, again.units) == (data.fingerprint, data.units)
    assert {key: again.provenance[key] for key in data.provenance} == dict(data.provenance)
    assert type(again.provenance["seed"]) is int
    assert "passed" in str(again.provenance["virial_check"])
    assert os.listdir(path.parent) == ["frames.h5"]


def test_an_interrupted_save_leaves_the_old_file(tmp_path: Path, target: targets.Target, data: datasets.Dataset, monkeypatch):
    path = tmp_path / "frames.h5"
    data.save(path)
    before = path.read_bytes()

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(h5py.Group, "create_dataset", full)
    with pytest.raises(DataError, match="no space left"):
        datasets.Dataset(exact_frames(seed=1), target.fingerprint, target.units).save(path, overwrite=True)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["frames.h5"]


def test_frames_of_another_shape(data: datasets.Dataset):
    with pytest.raises(DataError, match=r"must have shape \(n, N, D\), but have shape \(3, 2\)"):
        datasets.Dataset(np.zeros((3, 2)), data.fingerprint, data.units)


def test_save_below_a_file_is_refused(tmp_path: Path, data: datasets.Dataset):
    (tmp_path / "taken").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        data.save(tmp_path / "taken" / "frames.h5")


@pytest.mark.parametrize("kind", ["npy", "npz", "npz-positions"])
@pytest.mark.parametrize("flat", [False, True])
def test_published_formats_are_centred_on_load(tmp_path: Path, target: targets.Target, kind: str, flat: bool):
    frames = exact_frames()
    given = (frames + 5.0).reshape(len(frames), -1) if flat else frames + 5.0
    path = tmp_path / f"frames.{kind[:3]}"
    if kind == "npy":
        np.save(path, given)
    elif kind == "npz":
        np.savez(path, whatever=given)
    else:
        np.savez(path, positions=given, energies=np.zeros(3))
    loaded = datasets.load(path, target)
    np.testing.assert_allclose(loaded.positions, frames, atol=1e-5)
    assert np.abs(loaded.positions.mean(axis=1)).max() < 1e-6


def write(path: Path, frames: np.ndarray) -> Path:
    np.save(path, frames)
    return path


def test_bad_numpy_files(tmp_path: Path, target: targets.Target):
    frames = exact_frames(100)
    with pytest.raises(DataError, match="there is no data file"):
        datasets.load(tmp_path / "nothing.npy", target)
    with pytest.raises(DataError, match=r"\(100, 3, 3\).*\(n, 4, 3\) or \(n, 12\)"):
        datasets.load(write(tmp_path / "a.npy", frames[:, :3]), target)
    with pytest.raises(DataError, match=r"\(12,\)"):
        datasets.load(write(tmp_path / "b.npy", np.zeros(12)), target)
    with pytest.raises(DataError, match="no frames"):
        datasets.load(write(tmp_path / "c.npy", frames[:0]), target)
    with pytest.raises(DataError, match="<U"):
        datasets.load(write(tmp_path / "d.npy", np.full((5, 12), "x")), target)
    with pytest.raises(DataError, match="not a readable NumPy file"):
        datasets.load(write(tmp_path / "e.npy", np.array([{"a": 1}], dtype=object)), target)
    broken = frames.copy()
    broken[7] = np.nan
    broken[30, 2, 1] = np.inf
    with pytest.raises(DataError, match="2 frames with NaN or infinite.*index 7"):
        datasets.load(write(tmp_path / "f.npy", broken), target)
    (tmp_path / "g.npz").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(DataError, match="not a readable NumPy file"):
        datasets.load(tmp_path / "g.npz", target)
    np.savez(tmp_path / "h.npz", x=frames, y=frames)
    with pytest.raises(DataError, match="the arrays x, y; store the frames under the name 'positions'"):
        datasets.load(tmp_path / "h.npz", target)


def test_bad_hdf5_files(tmp_path: Path, target: targets.Target, data: datasets.Dataset):
    path = tmp_path / "frames.h5"
    data.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="not a readable HDF5.*truncated"):
        datasets.load(path, target)
    path.write_text("no HDF5")
    with pytest.raises(DataError, match="not a readable HDF5"):
        datasets.load(path, target)
    with h5py.File(path, "w") as file:
        file["positions"] = exact_frames(10)
    with pytest.raises(DataError, match="not a boltzflow data set"):
        datasets.load(path, target)
    data.save(path, overwrite=True)
    with h5py.File(path, "a") as file:
        file.attrs["format_version"] = 99
    with pytest.raises(DataError, match="data format 99"):
        datasets.load(path, target)


def test_another_fingerprint_is_refused_with_both_names(tmp_path: Path, data: datasets.Dataset):
    path = tmp_path / "frames.h5"
    data.save(path)
    other = springs(1.01)
    with pytest.raises(DataError) as caught:
        datasets.load(path, other)
    assert data.fingerprint in str(caught.value)
    assert other.fingerprint in str(caught.value)


def test_a_factor_two_in_the_energy_is_refused(tmp_path: Path, target: targets.Target):
    path = write(tmp_path / "frames.npy", exact_frames(200) * np.sqrt(2.0))
    with pytest.raises(DataError, match=r"virial check failed: mean of x·grad u is 1\d.*over 200 frames where 9 is exact"):
        datasets.load(path, target)
    loaded = datasets.load(path, target, allow_virial_mismatch=True)
    assert "failed" in str(loaded.provenance["virial_check"])


def test_frames_in_angstrom_are_suspected(tmp_path: Path):
    def energy(x):
        return 50.0 * jnp.sum((x - x.mean(axis=0, keepdims=True)) ** 2)

    molecule = targets.from_function(energy, 4, 3, name="springs", units="nm", temperature=300.0)
    in_nm = 0.1 * exact_frames(300)
    assert datasets.load(write(tmp_path / "nm.npy", in_nm), molecule).n == 300
    with pytest.raises(DataError, match=r"virial check failed.*divided by 10 the frames give [89].*could be in Ångström.*or allow"):
        datasets.load(write(tmp_path / "angstrom.npy", 10.0 * in_nm), molecule)
    with pytest.raises(DataError, match="virial check failed") as caught:
        datasets.load(write(tmp_path / "hot.npy", 2.0 * in_nm), molecule)
    assert "Ångström" not in str(caught.value)


def test_virial_check_of_exact_samples(target: targets.Target):
    check = datasets.virial_check(exact_frames(10_000), target)
    assert check.ok
    assert check.expected == 9.0
    # The variance of a chi-squared variable with 9 degrees of freedom is 18; the robust estimate is within 30 %.
    assert check.standard_error == pytest.approx(np.sqrt(18 / 10_000), rel=0.3)
    assert abs(check.value - 9) < 5 * check.standard_error
    assert check.tolerance == pytest.approx(0.9)
    assert "10000 frames" in check.sentence()


def test_a_wild_frame_does_not_widen_its_own_tolerance(target: targets.Target):
    frames = exact_frames(4000)
    frames[17] *= 100
    check = datasets.virial_check(frames, target)
    assert not check.ok
    assert check.tolerance < 1.5


def test_virial_check_of_a_few_frames(target: targets.Target):
    check = datasets.virial_check(exact_frames(1), target)
    assert check.standard_error == np.inf
    assert check.ok


def test_clashes_are_counted():
    frames = np.stack([np.asarray(targets.get("lj13").starting_positions(key=key)) for key in jax.random.split(jax.random.key(0), 5)])
    frames[[1, 3], 0] = frames[[1, 3], 1]
    with pytest.raises(DataError, match="2 of 5 frames have an energy or gradient that is not finite"):
        datasets.virial_check(frames, targets.get("lj13"))


def test_split(data: datasets.Dataset):
    train, validation = data.split(validation=1000, seed=4)
    assert (train.n, validation.n) == (3000, 1000)
    rows = {frame.tobytes() for part in (train, validation) for frame in part.positions}
    assert rows == {frame.tobytes() for frame in data.positions}
    again, _ = data.split(validation=1000, seed=4)
    np.testing.assert_array_equal(train.positions, again.positions)
    other, _ = data.split(validation=1000, seed=5)
    assert not np.array_equal(train.positions, other.positions)
    assert train.provenance["split"] == "training"
    assert validation.fingerprint == data.fingerprint
    assert data.split(validation=0, seed=0)[1].n == 0


@pytest.mark.parametrize("validation", [4000, 5000, -1])
def test_split_needs_training_frames(data: datasets.Dataset, validation: int):
    with pytest.raises(DataError, match=f"{validation} validation frames cannot be held out of 4000"):
        data.split(validation=validation, seed=0)
