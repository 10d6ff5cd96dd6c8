"""Samples, and what is on the disk after a kill at any moment."""

import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from filelock import FileLock, Timeout

from boltzflow.errors import DataError, RunError
from boltzflow.flows import Status
from boltzflow.sampling import generate
from boltzflow.sampling.samples import FIELDS, Samples
from boltzflow.sampling.thinning import thinned
from boltzflow.sampling.writer import SamplesWriter, lock_file, parts_folder

META = {"target": "lj13", "fingerprint": "lennard_jones(epsilon=2.0) N=13 D=3 [reduced]", "model": "runs/a", "seed": 1, "units": "reduced"}


def make(n: int, *, start: int = 0, particles: int = 5, meta: dict | None = None) -> Samples:
    """Samples whose every number tells their place in the stream."""
    index = np.arange(start, start + n)
    rng = np.random.default_rng(start)
    positions = rng.normal(size=(n, particles, 3)).astype(np.float32)
    positions[:, 0, 0] = index
    return Samples(
        positions=positions,
        log_q=-index.astype(float),
        u=0.5 * index,
        status=np.zeros(n, int),
        nfe=index % 100,
        path_length=np.full(n, 2.0),
        meta=META if meta is None else meta,
    )


def assert_stream(samples: Samples, n: int) -> None:
    assert samples.n == n
    np.testing.assert_array_equal(samples.positions[:, 0, 0], np.arange(n))
    np.testing.assert_array_equal(samples.log_q, -np.arange(n))
    np.testing.assert_array_equal(samples.nfe, np.arange(n) % 100)


def listed(folder: Path) -> list[str]:
    """The files of a folder."""
    return sorted(file.name for file in folder.iterdir())


def lock_is_held(path: Path) -> bool:
    lock = FileLock(lock_file(path), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return True
    lock.release()
    return False


def interrupted(path: Path, n: int = 10) -> None:
    """Leaves what a writer leaves that was killed."""
    writer = SamplesWriter(path, META)
    writer.append(make(n))
    writer.release()


@dataclasses.dataclass
class FakeTarget:
    fingerprint: str


class TestSamples:
    def test_failed_samples_have_no_weight_and_never_nan(self) -> None:
        samples = dataclasses.replace(
            make(6),
            status=np.array([0, 1, 0, 0, 0, 0]),
            u=np.array([1.0, 2.0, np.inf, np.nan, 1.0, -np.inf]),
            log_q=np.array([-3.0, -3.0, -3.0, -3.0, np.nan, -3.0]),
        )
        np.testing.assert_array_equal(samples.log_weight, [2.0, *[-np.inf] * 5])
        assert (samples.n_failed, samples.n_solver_failed) == (5, 1)
        assert samples.ess().value == pytest.approx(1 / 6)
        assert samples.summary()["failed"] == 5

    def test_reweighting(self) -> None:
        rng = np.random.default_rng(0)
        x = 1.3 * rng.normal(size=(20_000, 2, 1))
        log_q = -0.5 * (x[:, :, 0] / 1.3) ** 2 - math.log(1.3 * math.sqrt(2 * math.pi))
        zero = np.zeros(len(x), int)
        samples = Samples(x, log_q.sum(axis=1), 0.5 * (x**2).sum(axis=(1, 2)), zero, zero, zero.astype(float))
        assert samples.log_z().value == pytest.approx(math.log(2 * math.pi), abs=0.02)
        estimate = samples.expectation(lambda x: x[:, 0, 0] ** 2)
        assert estimate.value == pytest.approx(1.0, abs=0.05)
        assert samples.expectation(x[:, 0, 0] ** 2) == estimate
        assert samples.free_energy_difference(lambda x: x[:, 0, 0] > 0, lambda x: x[:, 0, 0] < 0).value == pytest.approx(0.0, abs=0.1)
        assert samples.resample(5000, seed=0).var() == pytest.approx(1.0, abs=0.06)

    def test_observable_for_one_configuration_is_explained(self) -> None:
        with pytest.raises(DataError, match=r"each of the 4 samples, but gave shape \(\).*jax.vmap"):
            make(4).expectation(lambda x: x.sum())

    def test_shapes_are_checked(self) -> None:
        with pytest.raises(DataError, match=r"\(n, N, D\)"):
            dataclasses.replace(make(4), positions=np.zeros((4, 8)))
        with pytest.raises(DataError, match=r"log_q of 4 samples must have shape \(4,\)"):
            dataclasses.replace(make(4), log_q=np.zeros(3))

    def test_concatenate_and_take(self) -> None:
        first, second = make(3, meta={**META, "seconds": 1.5}), make(4, start=3, meta={**META, "seconds": 2.0})
        joined = Samples.concatenate([first, second])
        assert_stream(joined, 7)
        assert joined.meta["seconds"] == 3.5
        assert_stream(joined.take(slice(0, 5)), 5)
        with pytest.raises(DataError, match="cannot be joined"):
            Samples.concatenate([first, make(3, meta={"fingerprint": "other"})])

    def test_weights_follow_from_u_and_log_q_until_they_are_their_own(self) -> None:
        samples = make(4)
        np.testing.assert_array_equal(samples.log_weight, -samples.u - samples.log_q)
        other = dataclasses.replace(samples, u=samples.u + 1.0)
        np.testing.assert_array_equal(other.log_weight, samples.log_weight - 1.0)
        own = dataclasses.replace(samples, log_weight=np.array([0.0, -np.inf, 1.0, 2.0]))
        np.testing.assert_array_equal(own.log_weight, [0.0, -np.inf, 1.0, 2.0])
        assert (samples.weights_follow, other.weights_follow, own.weights_follow) == (True, True, False)
        # Nothing tells how weights of their own change with the energy.
        for name in ("u", "log_q"):
            with pytest.raises(DataError, match="weights of their own"):
                dataclasses.replace(own, **{name: np.zeros(4)})
        both = dataclasses.replace(own, u=np.zeros(4), log_weight=np.ones(4))
        np.testing.assert_array_equal(both.log_weight, np.ones(4))
        with pytest.raises(DataError, match="finite, or -inf"):
            dataclasses.replace(samples, log_weight=np.full(4, np.nan))
        failed = dataclasses.replace(samples, status=np.array([1, 0, Status.OTHER_STEREOISOMER, 0]), log_weight=np.zeros(4))
        np.testing.assert_array_equal(failed.log_weight, [-np.inf, 0.0, -np.inf, 0.0])
        assert (failed.n_failed, failed.n_solver_failed, failed.n_other_stereoisomer) == (1, 1, 1)

    def test_samples_without_energy_count_alike(self) -> None:
        samples = dataclasses.replace(make(3, meta={**META, "energy": False}), u=np.full(3, np.nan), status=np.array([0, 1, 0]))
        np.testing.assert_array_equal(samples.log_weight, [0.0, -np.inf, 0.0])
        with pytest.raises(DataError, match="has no energy"):
            samples.ess()

    def test_own_weights_go_wherever_the_samples_go(self, tmp_path: Path) -> None:
        samples = make(300)
        few = thinned(samples, np.where(np.arange(300) % 3, 0.2, 1.0), seed=0)
        assert 100 < few.n < 250
        np.testing.assert_array_equal(few.log_q, samples.take(few.positions[:, 0, 0].astype(int)).log_q)
        few.save(tmp_path / "few.h5")
        with SamplesWriter(tmp_path / "streamed.h5", META) as writer:
            writer.append(few.take(slice(0, 50)))
            writer.append(few.take(slice(50, None)))
        joined = Samples.concatenate([few.take(slice(0, 30)), few.take(np.arange(few.n) >= 30)])
        for found in (Samples.load(tmp_path / "few.h5"), Samples.load(tmp_path / "streamed.h5"), joined):
            np.testing.assert_array_equal(found.log_weight, few.log_weight)
            assert found.log_z() == few.log_z()
            assert not found.weights_follow
        weights = np.exp(few.log_weight - few.log_weight.max())
        drawn = np.bincount(few.resample(20_000, seed=0)[:, 0, 0].astype(int), minlength=300)[few.positions[:, 0, 0].astype(int)]
        np.testing.assert_allclose(drawn / 20_000, weights / weights.sum(), atol=1e-3)
        with h5py.File(tmp_path / "few.h5") as file:
            stored = file["log_weight"]
            assert isinstance(stored, h5py.Dataset)
            np.testing.assert_array_equal(stored[:], few.log_weight)

    def test_thinned_twice_and_joined_with_the_rest(self) -> None:
        rng = np.random.default_rng(3)
        x = 1.3 * rng.normal(size=(40_000, 2, 1))
        log_q = (-0.5 * (x / 1.3) ** 2 - math.log(1.3 * math.sqrt(2 * math.pi))).sum(axis=(1, 2))
        zero = np.zeros(len(x), int)
        samples = Samples(x, log_q, 0.5 * (x**2).sum(axis=(1, 2)), zero, zero, zero.astype(float))
        keep = np.where(x[:, 0, 0] > 1.0, 1.0, 0.3)
        half = thinned(samples.take(slice(0, 20_000)), keep[:20_000], seed=0)
        quarter = thinned(half, np.where(half.positions[:, 1, 0] > 0, 0.9, 0.4), seed=1)
        for found in (half, quarter, Samples.concatenate([quarter, samples.take(slice(20_000, None))])):
            assert found.log_z().value == pytest.approx(math.log(2 * math.pi), abs=0.03)
            assert found.expectation(found.positions[:, 0, 0] > 1.0).value == pytest.approx(0.158655, abs=0.02)

    def test_what_adds_up_counts_each_drawing_once(self) -> None:
        drawn = make(10, meta={**META, "seconds": 1.0, "reflected": 4, "other_stereoisomer": 1})
        again = make(10, start=10, meta={**META, "seconds": 2.0, "reflected": 3, "other_stereoisomer": 0})
        for parts in ([drawn, drawn], [drawn.take(slice(0, 5)), drawn.take(slice(5, 10))], [drawn.take([0])]):
            assert Samples.concatenate(parts).meta == drawn.meta
        joined = Samples.concatenate([drawn.take(slice(0, 2)), again, drawn, again])
        assert (joined.meta["seconds"], joined.meta["reflected"], joined.meta["other_stereoisomer"]) == (3.0, 7, 1)
        slower = dataclasses.replace(drawn, meta={**drawn.meta, "seconds": 5.0})
        assert Samples.concatenate([slower, again]).meta["seconds"] == 7.0

    @pytest.mark.parametrize(
        ("key", "one", "other", "told"),
        [
            ("weights", "a1", "b2", "weights of the flow"),
            ("divergence", "exact", "hutchinson", "divergence"),
            ("solver", "rk4, 20 steps", "rk4, 40 steps", "solver"),
            ("precision", "float32", "float64", "precision"),
            ("identity", "a1", "b2", "settings of the solver"),
            ("draws", None, 21, "copies that log q is averaged over"),
        ],
    )
    def test_samples_of_other_flows_are_not_joined(self, tmp_path: Path, key: str, one: object, other: object, told: str) -> None:
        first, second = (make(3, start=start, meta={**META, **({key: value} if value else {})}) for start, value in ((0, one), (3, other)))
        with pytest.raises(DataError, match=f"{told}.*cannot be joined"):
            Samples.concatenate([first, second])
        writer = SamplesWriter(tmp_path / "s.h5", first.meta)
        writer.append(first)
        with pytest.raises(RunError, match=told if told != "solver" else "solver rk4, 20 steps, not rk4, 40 steps"):
            writer.append(second)
        writer.close()
        with pytest.raises(RunError, match=told.split()[0]):
            SamplesWriter(tmp_path / "s.h5", second.meta, resume=True)
        assert_stream(Samples.load(tmp_path / "s.h5"), 3)

    def test_summary_of_nothing_usable(self) -> None:
        summary = dataclasses.replace(make(300), status=np.ones(300, int)).summary()
        assert summary["log_z"]["value"] is None
        assert summary["ess_reverse"]["value"] == 0.0
        assert summary["pareto_k"] is None


class TestFile:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("n", [0, 1, 250])
    def test_round_trip(self, tmp_path: Path, n: int, dtype: type) -> None:
        samples = make(n, meta={**META, "seconds": np.float64(1.5), "path": Path("x"), "versions": {"jax": "0.10"}})
        samples = dataclasses.replace(samples, positions=samples.positions.astype(dtype), u=np.full(n, np.nan))
        samples.save(tmp_path / "new" / "s.h5")
        loaded = Samples.load(tmp_path / "new" / "s.h5")
        for field in ("positions", *FIELDS):
            np.testing.assert_array_equal(getattr(loaded, field), getattr(samples, field))
            assert getattr(loaded, field).dtype == getattr(samples, field).dtype
        assert loaded.meta == {**META, "seconds": 1.5, "path": "x", "versions": {"jax": "0.10"}}
        assert listed(tmp_path / "new") == ["s.h5"]

    def test_other_target_is_refused_with_both_names(self, tmp_path: Path) -> None:
        make(3).save(tmp_path / "s.h5")
        assert Samples.load(tmp_path / "s.h5", FakeTarget(META["fingerprint"])).n == 3
        with pytest.raises(DataError, match=r"lennard_jones.*not of double_well"):
            Samples.load(tmp_path / "s.h5", FakeTarget("double_well"))

    def test_no_silent_overwriting(self, tmp_path: Path) -> None:
        make(3).save(tmp_path / "s.h5")
        with pytest.raises(RunError, match="exists already"):
            make(4).save(tmp_path / "s.h5")
        make(4).save(tmp_path / "s.h5", overwrite=True)
        assert_stream(Samples.load(tmp_path / "s.h5"), 4)

    def test_missing_foreign_and_damaged(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="there are no samples at"):
            Samples.load(tmp_path / "none.h5")
        with h5py.File(tmp_path / "foreign.h5", "w") as file:
            file["positions"] = np.zeros((3, 2, 2))
        with pytest.raises(DataError, match="holds no boltzflow samples"):
            Samples.load(tmp_path / "foreign.h5")
        (tmp_path / "text.h5").write_text("not HDF5")
        with pytest.raises(DataError, match="damaged or not an HDF5 file"):
            Samples.load(tmp_path / "text.h5")
        make(1000).save(tmp_path / "whole.h5")
        whole = (tmp_path / "whole.h5").read_bytes()
        for cut in (100, len(whole) // 2, len(whole) - 1):
            (tmp_path / "cut.h5").write_bytes(whole[:cut])
            with pytest.raises(DataError, match="damaged"):
                Samples.load(tmp_path / "cut.h5")

    def test_files_without_weights_are_read(self, tmp_path: Path) -> None:
        # Those of version 1, which told other stereoisomers by an infinite energy.
        u = np.where(np.arange(6) < 2, np.inf, 1.0)
        dataclasses.replace(make(6, meta={**META, "other_stereoisomer": 2}), u=u).save(tmp_path / "old.h5")
        with h5py.File(tmp_path / "old.h5", "a") as file:
            del file["log_weight"]
            file.attrs["version"] = 1
        found = Samples.load(tmp_path / "old.h5")
        np.testing.assert_array_equal(found.log_weight, [-np.inf, -np.inf, 1.0, 2.0, 3.0, 4.0])
        assert (found.n_other_stereoisomer, found.n_failed) == (2, 0)
        with SamplesWriter(tmp_path / "old.h5", META, resume=True) as writer:
            writer.append(make(3, start=6))
        assert_stream(Samples.load(tmp_path / "old.h5"), 9)


class TestWriter:
    def test_a_second_writer_is_refused_and_nothing_is_lost(self, tmp_path: Path) -> None:
        path = tmp_path / "s.h5"
        first = SamplesWriter(path, META, resume=True)
        first.append(make(100))
        for resume in (True, False):
            with pytest.raises(RunError, match=r"another writer has .*s\.h5 open; wait"):
                SamplesWriter(path, META, resume=resume)
        with pytest.raises(RunError, match="another writer"):
            make(5).save(path, overwrite=True)
        first.append(make(50, start=100))
        first.close()
        assert_stream(Samples.load(path), 150)
        with pytest.raises(RunError, match="is closed"):
            first.append(make(5, start=150))
        with SamplesWriter(path, META, resume=True) as second:
            second.append(make(10, start=150))
        assert_stream(Samples.load(path), 160)
        assert listed(tmp_path) == ["s.h5"]

    def test_a_refusal_leaves_nothing_behind(self, tmp_path: Path) -> None:
        (tmp_path / "notes.h5").write_text("mine")
        with pytest.raises(RunError):
            SamplesWriter(tmp_path / "notes.h5", META, resume=True)
        assert [file.name for file in tmp_path.iterdir()] == ["notes.h5"]

    def test_an_error_lets_go_of_the_file(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="broken"), SamplesWriter(tmp_path / "s.h5", META) as writer:  # noqa: PT012
            writer.append(make(5))
            raise ValueError("broken")
        assert not lock_is_held(tmp_path / "s.h5")

    def test_appends_become_one_file(self, tmp_path: Path) -> None:
        path = tmp_path / "s.h5"
        with SamplesWriter(path, META) as writer:
            for start in range(0, 50, 10):
                writer.append(make(10, start=start, meta={**META, "seconds": 0.25}))
                assert writer.n_written == start + 10
                assert_stream(Samples.load(path), start + 10)
        loaded = Samples.load(path)
        assert_stream(loaded, 50)
        assert loaded.meta == {**META, "seconds": 1.25}
        assert listed(tmp_path) == ["s.h5"]

    def test_resume_of_interrupted_and_of_finished(self, tmp_path: Path) -> None:
        path = tmp_path / "s.h5"
        interrupted(path)
        with pytest.raises(RunError, match="was interrupted and holds 10 samples.*resume"):
            SamplesWriter(path, META)
        for start, end in ((10, 25), (25, 40)):
            with SamplesWriter(path, META, resume=True) as writer:
                assert writer.n_written == start
                writer.append(make(end - start, start=start))
            assert_stream(Samples.load(path), end)
        with SamplesWriter(path, META, resume=True) as writer:
            assert writer.n_written == 40
        assert_stream(Samples.load(path), 40)

    def test_resume_of_nothing_starts(self, tmp_path: Path) -> None:
        with SamplesWriter(tmp_path / "s.h5", META, resume=True) as writer:
            assert writer.n_written == 0
            writer.append(make(5))
        assert_stream(Samples.load(tmp_path / "s.h5"), 5)

    def test_a_torn_append_is_dropped(self, tmp_path: Path) -> None:
        path = tmp_path / "s.h5"
        writer = SamplesWriter(path, META)
        writer.append(make(10))
        writer.append(make(10, start=10))
        writer.release()
        last = parts_folder(path) / "000000000010.h5"
        last.write_bytes(last.read_bytes()[:-200])
        (parts_folder(path) / "000000000020.tmp").write_bytes(b"half")
        assert_stream(Samples.load(path), 10)
        with SamplesWriter(path, META, resume=True) as writer:
            assert writer.n_written == 10
            writer.append(make(7, start=10))
        assert_stream(Samples.load(path), 17)

    def test_killed_between_joining_and_tidying(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "s.h5"
        writer = SamplesWriter(path, META)
        for start in (0, 10, 20):
            writer.append(make(10, start=start))
        monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)
        writer.close()
        monkeypatch.undo()
        assert len(list(parts_folder(path).iterdir())) == 3
        assert_stream(Samples.load(path), 30)
        with SamplesWriter(path, META, resume=True) as writer:
            assert writer.n_written == 30
            writer.append(make(5, start=30))
            assert_stream(Samples.load(path), 35)
        assert_stream(Samples.load(path), 35)

    @pytest.mark.parametrize(("key", "value"), [("seed", 2), ("model", "runs/b"), ("fingerprint", "other"), ("target", "dw4")])
    @pytest.mark.parametrize("finished", [True, False])
    def test_other_samples_are_not_mixed(self, tmp_path: Path, key: str, value: object, finished: bool) -> None:
        path = tmp_path / "s.h5"
        writer = SamplesWriter(path, META)
        writer.append(make(5))
        (writer.close if finished else writer.release)()
        with pytest.raises(RunError, match=f"with {key} .*{META[key] if key != 'fingerprint' else 'lennard'}.*not {value}"):
            SamplesWriter(path, {**META, key: value}, resume=True)
        with pytest.raises(RunError, match="5 samples \\(target lj13, model runs/a, seed 1\\)"):
            SamplesWriter(path, META)
        assert_stream(Samples.load(path), 5)

    def test_other_files_are_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "notes.h5").write_text("mine")
        for resume in (True, False):
            with pytest.raises(RunError, match="holds no boltzflow samples"):
                SamplesWriter(tmp_path / "notes.h5", META, resume=resume)
        assert (tmp_path / "notes.h5").read_text() == "mine"
        with pytest.raises(RunError, match="is a folder"):
            SamplesWriter(tmp_path, META)

    def test_other_shape(self, tmp_path: Path) -> None:
        writer = SamplesWriter(tmp_path / "s.h5", META)
        writer.append(make(5))
        with pytest.raises(DataError, match="cannot follow"):
            writer.append(make(5, start=5, particles=6))
        assert_stream(Samples.load(tmp_path / "s.h5"), 5)

    def test_ctrl_c_leaves_a_joined_file_and_errors_leave_parts(self, tmp_path: Path) -> None:
        for error, joined in ((KeyboardInterrupt, True), (ValueError, False)):
            path = tmp_path / f"{error.__name__}.h5"
            with pytest.raises(error), SamplesWriter(path, META) as writer:  # noqa: PT012
                writer.append(make(5))
                raise error
            assert path.exists() == joined
            assert_stream(Samples.load(path), 5)

    def test_unwritable_folder(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for write in (lambda path: SamplesWriter(path, META), make(2).save):
            with pytest.raises(RunError, match=r"cannot write .*s\.h5: "):
                write(tmp_path / "file" / "s.h5")

    def test_full_disk(self, tmp_path: Path) -> None:
        """The system refuses files above a size, first for an append and then for joining; what was written stays usable."""
        script = """
import resource, sys
from test_samples import META, make
from boltzflow.errors import RunError
from boltzflow.sampling.writer import SamplesWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
writer = SamplesWriter(sys.argv[1], META)
for start in range(0, 2000, 500):
    writer.append(make(500, start=start))
for action in (lambda: writer.append(make(5000, start=2000)), writer.close):
    try:
        action()
    except RunError as error:
        print(error)
"""
        path = tmp_path / "s.h5"
        command = [sys.executable, "-c", script, str(path)]
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
        sentences = done.stdout.splitlines()
        assert done.returncode == 0, done.stderr
        assert len(sentences) == 2
        for sentence in sentences:
            assert "cannot write" in sentence
            assert "2000 samples written before are kept" in sentence
        assert_stream(Samples.load(path), 2000)
        assert not path.exists()
        with SamplesWriter(path, META, resume=True) as writer:
            assert writer.n_written == 2000
            writer.append(make(10, start=2000))
        assert_stream(Samples.load(path), 2010)


def test_of_a_block_that_does_not_fit_the_part_that_does_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append = SamplesWriter.append

    def limited(writer: SamplesWriter, samples: Samples) -> None:
        if writer.n_written + samples.n > 13:
            raise RunError(f"full; the {writer.n_written} samples written before are kept.")
        append(writer, samples)

    path = tmp_path / "s.h5"
    with SamplesWriter(path, META) as writer:
        monkeypatch.setattr(SamplesWriter, "append", limited)
        with pytest.raises(RunError, match="the 12 samples written before are kept"):
            generate.append(writer, [make(3, start=start) for start in range(0, 24, 3)], 8.0)
    kept = Samples.load(path)
    assert_stream(kept, 12)
    assert kept.meta["seconds"] == pytest.approx(4.0)


KILL_REPEATEDLY = """
import os, random, signal, sys, time
from pathlib import Path
from test_samples import META, assert_stream, make
from boltzflow.sampling.samples import Samples
from boltzflow.sampling.writer import SamplesWriter

def write_forever(pipe):  # appends, joins and resumes again until the kill
    while True:
        writer = SamplesWriter(path, META, resume=True)
        for _ in range(3):
            writer.append(make(50, start=writer.n_written))
            os.write(pipe, writer.n_written.to_bytes(8, "little"))
        writer.close()

path, kills = Path(sys.argv[1]), int(sys.argv[2])
random.seed(0)
safe, states = 0, set()
for _ in range(kills):
    reader, pipe = os.pipe()
    child = os.fork()
    if child == 0:
        write_forever(pipe)
    os.close(pipe)
    time.sleep(random.uniform(0.0, 0.12))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    acknowledged = b"".join(iter(lambda: os.read(reader, 65536), b""))
    os.close(reader)
    safe = int.from_bytes(acknowledged[-8:], "little") if acknowledged else safe
    states.add((path.exists(), path.with_name(path.name + ".tmp").exists()))
    if safe:
        samples = Samples.load(path)
        assert samples.n in (safe, safe + 50), (samples.n, safe)
        assert_stream(samples, samples.n)
        safe = samples.n
print(safe, len(states))
"""


@pytest.mark.slow
def test_kill_at_random_moments(tmp_path: Path) -> None:
    """SIGKILL while appending, joining and tidying: nothing that was acknowledged is lost, and the stream has no gap."""
    path = tmp_path / "s.h5"
    command = [sys.executable, "-c", KILL_REPEATEDLY, str(path), "40"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    n = int(done.stdout.split()[0])
    assert n >= 100
    with SamplesWriter(path, META, resume=True) as writer:
        assert writer.n_written == n
        writer.append(make(10, start=n))
    assert_stream(Samples.load(path), n + 10)
    assert listed(tmp_path) == ["s.h5"]


TWO_WRITERS = """
import os, random, select, shutil, signal, sys, time
from pathlib import Path
from test_samples import META, assert_stream, make
from boltzflow.errors import RunError
from boltzflow.sampling.samples import Samples
from boltzflow.sampling.writer import SamplesWriter

def attempt(path, said, refused, told):  # refused: where the other one's refusal is heard; told: where it is said
    try:
        writer = SamplesWriter(path, META, resume=True)
    except RunError as error:
        assert "another writer" in str(error), error
        os.write(told, b"r")
        os.write(said, b"r")
        return
    for _ in range(3):
        writer.append(make(20, start=writer.n_written))
        time.sleep(random.uniform(0.0, pause))
    select.select([refused], [], [], 20.0)
    writer.append(make(20, start=writer.n_written))
    writer.close()
    os.write(said, b"w")

path, tries, pause = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
for number in range(tries):
    heard, said = os.pipe()
    one, two = os.pipe(), os.pipe()
    children = []
    for listen, tell in ((one[0], two[1]), (two[0], one[1])):
        child = os.fork()
        if child == 0:
            random.seed(os.getpid())
            time.sleep(random.uniform(0.0, pause))
            status = 1
            try:
                attempt(path, said, listen, tell)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    assert statuses == [0, 0], statuses
    assert sorted(os.read(heard, 10)) == sorted(b"rw"), "one writes, one is refused"
    for end in (heard, said, *one, *two):
        os.close(end)
    assert_stream(Samples.load(path), 80 * (number + 1))

# A writer that is killed lets go.
reader, pipe = os.pipe()
child = os.fork()
if child == 0:
    writer = SamplesWriter(path, META, resume=True)
    writer.append(make(5, start=writer.n_written))
    os.write(pipe, b"x")
    time.sleep(60)
os.read(reader, 1)
try:
    SamplesWriter(path, META, resume=True)
    raise AssertionError("not refused")
except RunError as error:
    print(error)
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
with SamplesWriter(path, META, resume=True) as writer:
    assert writer.n_written == 80 * tries + 5
print("fine")
"""


@pytest.mark.parametrize(("tries", "pause"), [(20, 0.01), pytest.param(200, 0.1, marks=pytest.mark.slow)])
def test_two_writers(tmp_path: Path, tries: int, pause: float) -> None:
    """Of two processes at one file one is refused, each time, and nothing is lost."""
    command = [sys.executable, "-c", TWO_WRITERS, str(tmp_path / "s.h5"), str(tries), str(pause)]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "fine"
