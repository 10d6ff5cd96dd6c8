"""Whole runs through the command line: killed, interrupted, continued, sampled, measured; and input that must be refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import boltzflow as bf
from boltzflow import cli, runtime
from boltzflow.config import ECNF, EGNN, Adam, Stage
from boltzflow.errors import DataError, RunError, TargetError
from boltzflow.sampling import Samples

FRAMES = 400
STEPS = 200
TINY = (
    "flow.network=egnn flow.network.layers=1 flow.network.hidden=8 stages.0.objective.pairing.full_cost=false data.validation=50 "
    "stages.0.optimiser.warmup_steps=10 stages.0.batch_size=32 stages.0.microbatch=16 "
    f"stages.0.steps={STEPS} run.log_every=7 run.checkpoint_every=10 run.evaluate_every=90 run.evaluate_n=64"
).split()
ALONE = "stages.1=null"
KEYS = (
    "target model n nll nll_minus_entropy ess_reverse ess_forward log_z path_length nfe pareto_k solver_error failed "
    "seconds_per_1000 seconds_compile versions"
).split()


def boltzflow(*words: object, before: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words, before=before), capture_output=True, text=True, check=False, timeout=600)


def command(*words: object, before: str = "") -> list[str]:
    """A process of the command line; `before` is run in it first."""
    code = f"import sys\nfrom boltzflow.cli import main\n{before}\nsys.exit(main({[str(word) for word in words]!r}))"
    return [sys.executable, "-c", code]


def ended_at(words: tuple[object, ...], moment: Callable[[], bool], number: int, *, before: str = "") -> tuple[int, str]:
    """Starts a process, sends it a signal at some moment, and returns its exit code and what it said on stderr."""
    process = subprocess.Popen(command(*words, before=before), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 600
        while not moment():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(number)
        said = process.communicate(timeout=600)[1]
    finally:
        process.kill()
        process.wait()
    return process.returncode, said


def last_step(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("\n")), default=0)


def metrics(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="session")
def frames(tmp_path_factory) -> Path:
    """DW4 frames by a plain Metropolis walk, as somebody would bring them along."""
    target = bf.targets.get("dw4")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(FRAMES, 4, 2)).astype(np.float32) * 2.0
    u = np.array(target.energies(x))
    for _ in range(1500):
        moved = x + rng.normal(scale=0.35, size=x.shape).astype(np.float32)
        energies = np.asarray(target.energies(moved))
        taken = rng.random(FRAMES) < np.exp(np.minimum(u - energies, 0.0))
        x[taken], u[taken] = moved[taken], energies[taken]
    path = tmp_path_factory.mktemp("data") / "frames.npy"
    np.save(path, x.reshape(FRAMES, 8))
    return path


@pytest.fixture(scope="session")
def train_words(frames) -> tuple[str, ...]:
    return ("train", "dw4", "--set", f"data.path={frames}", *TINY, ALONE)


@pytest.fixture(scope="session")
def run_folder(train_words, tmp_path_factory) -> Path:
    """A finished run; not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    done = boltzflow(*train_words, "-o", folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "path-gradient" not in done.stderr
    return folder


@pytest.fixture
def run_copy(run_folder, tmp_path) -> Path:
    return shutil.copytree(run_folder, tmp_path / "copy")


@pytest.fixture
def here(monkeypatch) -> None:
    """For commands that run in this process, whose JAX is set up already."""
    monkeypatch.setattr(runtime, "configure", lambda *_, **__: None)


def refused(capsys, *words: object) -> str:
    """Runs a command here that must be refused, and returns its sentence."""
    assert cli.main([str(word) for word in words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith("boltzflow: error: ")
    assert last.endswith((".", "?"))
    assert "Traceback" not in err
    return last


class TestTraining:
    def test_a_run_folder_describes_itself(self, run_folder):
        names = {path.name for path in run_folder.iterdir()}
        assert names == {"config.yaml", "versions.json", "metrics.jsonl", "checkpoints", "data.h5", "model.safetensors", "model.json"}
        lines = metrics(run_folder)
        assert [line["step"] for line in lines if "loss" in line] == [*range(7, STEPS, 7), STEPS]
        assert [line["step"] for line in lines if "ess_reverse" in line] == [90, 180]
        assert all(np.isfinite(line["loss"]) and line["skipped"] == line["masked"] == 0 for line in lines if "loss" in line)
        assert json.loads((run_folder / "model.json").read_text())["steps"] == STEPS

    def test_killed_and_interrupted_runs_end_bit_identical(self, run_folder, train_words, tmp_path):
        folder = tmp_path / "broken"
        code, _ = ended_at((*train_words, "-o", folder), lambda: last_step(folder) >= 40, signal.SIGKILL)
        assert code == -signal.SIGKILL
        assert not (folder / "model.safetensors").exists()
        stopped = last_step(folder)

        code, said = ended_at(("resume", folder), lambda: last_step(folder) > max(stopped, 90), signal.SIGINT)
        assert code == 130
        assert said.splitlines()[-1].startswith("boltzflow: error: interrupted at step ")
        assert said.splitlines()[-1].endswith(f"the state is saved, continue with `boltzflow resume {folder}`.")
        assert "Traceback" not in said
        step = int(said.rpartition("interrupted at step ")[2].split()[0])
        assert (folder / "checkpoints" / str(step)).is_dir()

        # The same command again continues the run.
        done = boltzflow(*train_words, "-o", folder)
        assert done.returncode == 0, done.stderr
        assert (folder / "model.safetensors").read_bytes() == (run_folder / "model.safetensors").read_bytes()
        assert metrics(folder) == metrics(run_folder)

    def test_a_finished_run_is_refined(self, run_folder, train_words, tmp_path, here, capsys):
        options = "stages.1.objective=path-gradient stages.1.steps=25 stages.1.batch_size=16 stages.1.microbatch=8".split()
        # One direction compiles in half the time; test_killing.py has both, and kills them.
        options += "stages.1.objective.nodes=4 stages.1.objective.direction=reverse stages.1.optimiser.warmup_steps=5".split()
        whole = shutil.copytree(run_folder, tmp_path / "refined")
        done = boltzflow(*train_words, *options, "-o", whole, before="import jax\njax.config.update('jax_log_compiles', True)")
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("Compiling jit(step)") == 1
        assert (whole / "model.safetensors").read_bytes() != (run_folder / "model.safetensors").read_bytes()
        refined = [line for line in metrics(whole) if line["step"] > STEPS]
        assert [line["step"] for line in refined] == [*range(STEPS + 1, STEPS + 26)]
        assert all(np.isfinite(line["divergence"]) and "pairing_cost" not in line for line in refined)

        before = contents(whole)
        assert "stage 1 of the run in" in refused(capsys, *train_words, *options, "stages.1.objective.nodes=5", "-o", whole)
        assert contents(whole) == before

    def test_a_finished_run_is_continued_to_itself(self, run_copy, here, capsys):
        before = contents(run_copy)
        assert cli.main(["resume", str(run_copy)]) == 0
        assert "is complete" in capsys.readouterr().err
        after = contents(run_copy)
        assert {name for name in before if after[name] != before[name]} <= {"model.json"}
        assert set(after) == set(before)

    def test_a_cut_checkpoint_is_passed_over(self, run_copy, run_folder):
        (run_copy / "model.safetensors").unlink()
        cut = [path for path in (run_copy / "checkpoints" / str(STEPS)).rglob("*") if path.is_file() and path.stat().st_size > 0]
        for path in cut:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        done = boltzflow("resume", run_copy)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count(f"the checkpoint of step {STEPS} is damaged") == 1
        assert (run_copy / "model.safetensors").read_bytes() == (run_folder / "model.safetensors").read_bytes()
        assert metrics(run_copy) == metrics(run_folder)

    def test_without_a_checkpoint_that_is_whole_nothing_is_done(self, run_copy, here, capsys):
        for path in (run_copy / "checkpoints").glob("*/state/**/*"):
            if path.is_file():
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        before = contents(run_copy)
        assert "no checkpoint of this run can be used" in refused(capsys, "resume", run_copy)
        assert contents(run_copy) == before

    def test_a_changed_configuration_is_not_continued_and_loses_nothing(self, run_copy, here, capsys):
        config = run_copy / "config.yaml"
        config.write_text(config.read_text().replace("hidden: 8", "hidden: 9"))
        before = contents(run_copy)
        assert "belongs to another run" in refused(capsys, "resume", run_copy)
        assert contents(run_copy) == before

    def test_a_folder_that_holds_something_else_is_left_alone(self, run_copy, train_words, tmp_path, here, capsys):
        before = contents(run_copy)
        assert "already holds a run" in refused(capsys, *train_words, "flow.network.hidden=9", "-o", run_copy)
        assert contents(run_copy) == before
        other = tmp_path / "notes"
        other.mkdir()
        (other / "notes.txt").write_text("precious")
        for words in ((*train_words, "-o", other),):
            assert "is not empty and holds no run" in refused(capsys, *words)
        assert contents(other) == {"notes.txt": b"precious"}
        (other / "notes.txt").rename(other / "data.h5")
        assert "other frames were named" in refused(capsys, *train_words, "-o", other)
        assert contents(other) == {"data.h5": b"precious"}

    def test_double_precision(self, train_words, tmp_path):
        folder = tmp_path / "double"
        done = boltzflow(*train_words, "stages.0.steps=3", "run.evaluate_every=0", "run.evaluate_n=500", "precision=double", "-o", folder)
        assert done.returncode == 0, done.stderr
        assert np.isfinite(metrics(folder)[-1]["loss"])


class TestSamples:
    @pytest.fixture(scope="class")
    @classmethod
    def drawn(cls, run_folder, tmp_path_factory) -> Path:
        path = tmp_path_factory.mktemp("drawn") / "whole.h5"
        done = boltzflow("sample", run_folder, "-n", 1000, "--seed", 5, "-o", path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == str(path)
        return path

    def test_killed_and_continued_sampling_gives_the_same_samples(self, run_folder, drawn, tmp_path):
        path = tmp_path / "broken.h5"
        parts = tmp_path / "broken.h5.parts"
        words = ("sample", run_folder, "-n", 1000, "--seed", 5, "-o", path)
        # Samples reach the disk every ten seconds; with a clock that runs fast, after every chunk. It takes a second to read, so that the
        # end does not come before the signal on a busy machine.
        fast = (
            "import itertools, time, types; from boltzflow.sampling import generate\n"
            "ticks = itertools.count(step=11)\n"
            "generate.time = types.SimpleNamespace(perf_counter=lambda: time.sleep(1.0) or next(ticks))"
        )
        code, _ = ended_at(words, lambda: len(list(parts.glob("*.h5"))) >= 3, signal.SIGKILL, before=fast)
        assert code == -signal.SIGKILL
        kept = Samples.load(path)
        assert 0 < kept.n < 1000

        assert boltzflow(*words).returncode == 2
        done = boltzflow(*words, "--resume")
        assert done.returncode == 0, done.stderr
        assert not parts.exists()
        whole, continued = Samples.load(drawn), Samples.load(path)
        assert whole.n == continued.n == 1000
        for name in ("positions", "log_q", "u", "status", "nfe", "path_length"):
            np.testing.assert_array_equal(getattr(continued, name), getattr(whole, name))
            np.testing.assert_array_equal(getattr(kept, name), getattr(whole, name)[: kept.n])

    def test_samples_say_what_they_are(self, drawn, run_folder):
        samples = Samples.load(drawn, bf.targets.get("dw4"))
        assert np.all(samples.status == 0)
        assert np.all(np.isfinite(samples.log_weight))
        np.testing.assert_allclose(samples.positions.mean(axis=1), 0.0, atol=1e-5)
        # Terms of size 10 to 100 cancel in float32, and programs of another batch size round them differently.
        np.testing.assert_allclose(samples.u, bf.targets.get("dw4").energies(samples.positions), rtol=1e-5, atol=1e-4)
        assert (samples.meta["target"], samples.meta["model"], samples.meta["seed"]) == ("double_well", str(run_folder), 5)

    def test_samples_of_another_model_or_seed_are_not_mixed_in(self, drawn, run_folder, run_copy, here, capsys, tmp_path):
        path = shutil.copy(drawn, tmp_path / "samples.h5")
        before = Path(path).read_bytes()
        for words in ((run_copy, "--seed", 5), (run_folder, "--seed", 6)):
            assert "choose another file" in refused(capsys, "sample", *words, "-n", 1100, "-o", path, "--resume")
        assert Path(path).read_bytes() == before

    def test_report_and_export(self, drawn, run_copy, here, capsys):
        shutil.copy(drawn, run_copy / "samples.h5")
        assert cli.main(["report", str(run_copy)]) == 0
        assert capsys.readouterr().out.strip() == str(run_copy / "report.html")
        assert (run_copy / "report.html").stat().st_size > 100_000
        assert cli.main(["export", str(run_copy / "samples.h5"), str(run_copy / "samples.xyz"), "-n", "7"]) == 0
        assert capsys.readouterr().out.strip() == str(run_copy / "samples.xyz")
        assert (run_copy / "samples.xyz").read_text().count("\n") == 7 * (4 + 2)
        assert "exists already" in refused(capsys, "export", run_copy / "samples.h5", run_copy / "samples.xyz")

    def test_evaluate_prints_one_json_object(self, run_folder, frames):
        done = boltzflow("evaluate", run_folder, "--json", "-n", 64)
        assert done.returncode == 0, done.stderr
        figures = json.loads(done.stdout)
        assert done.stdout.count("\n") == 1
        assert set(KEYS) <= set(figures)
        for name in ("nll", "nll_minus_entropy", "ess_reverse", "ess_forward", "log_z", "path_length", "nfe"):
            assert set(figures[name]) - {"kind", "note", "n_effective"} == {"value", "low", "high", "n"}
            # Of so few samples of a flow so small the tail of the weights may be too heavy for a limit on one side.
            low, high = (figures[name][side] for side in ("low", "high"))
            assert (-np.inf if low is None else low) <= figures[name]["value"] <= (np.inf if high is None else high)
            # All 64 samples, and the 50 frames that the run has held out.
            assert figures[name]["n"] == (50 if name in ("nll", "nll_minus_entropy", "ess_forward") else 64)
        assert (figures["target"], figures["model"], figures["n"], figures["failed"]) == ("dw4", str(run_folder), 64, 0)
        assert figures["seconds_per_1000"] > 0
        assert figures["seconds_compile"] >= 0
        assert 0 < figures["ess_reverse"]["value"] <= 1
        assert figures["nll_minus_entropy"]["value"] > 0
        assert json.loads((run_folder / "evaluation.json").read_text()) == figures


COUPLING = (
    "flow=eacf stages.0.objective=augmented-likelihood flow.blocks=2 flow.layers=1 flow.features=16 flow.projection.width=16 "
    "flow.marginal_draws=5 stages.1.objective=augmented-path-gradient stages.1.steps=10 stages.1.batch_size=16 stages.1.microbatch=8 "
    "stages.0.optimiser.clip_median=2.0 stages.0.optimiser.skip_median=10.0 run.evaluate_every=0 run.evaluate_n=500 stages.0.steps=60"
).split()


@pytest.fixture(scope="module")
def words(train_words) -> tuple[str, ...]:
    return (*train_words, *COUPLING)


@pytest.fixture(scope="module")
def finished(words, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "coupling"
    done = boltzflow(*words, "-o", folder)
    assert done.returncode == 0, done.stderr
    assert metrics(folder)[-1]["step"] == 70
    assert "divergence" in metrics(folder)[-1]
    return folder


class TestAugmentedCouplingFlow:
    """The other family, chosen by its name, and what trains it, on the preset of a continuous flow."""

    @pytest.mark.slow
    def test_a_killed_run_ends_bit_identical(self, finished, words, tmp_path):
        folder = tmp_path / "killed"
        code, _ = ended_at((*words, "-o", folder), lambda: last_step(folder) >= 20, signal.SIGKILL)
        assert code == -signal.SIGKILL
        done = boltzflow("resume", folder)
        assert done.returncode == 0, done.stderr
        assert (folder / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()
        assert metrics(folder) == metrics(finished)
        losses = [line["loss"] for line in metrics(folder) if "loss" in line]
        assert losses[-1] < losses[0]

    def test_it_is_sampled_and_measured_as_the_other_family_is(self, finished, tmp_path, here, capsys):
        assert cli.main(["evaluate", str(finished), "--json", "-n", "64"]) == 0
        figures = json.loads(capsys.readouterr().out)
        assert (figures["marginal_draws"], figures["path_length"], figures["failed"]) == (5, None, 0)
        # By Jensen's inequality the mean of the draws has the smaller NLL, up to noise in which draws they are.
        assert figures["nll"]["value"] < figures["nll_one_draw"]["value"]
        assert 1 / 5 <= figures["ess_of_draws"]["value"] <= 1
        assert 0 < figures["ess_reverse"]["value"] <= 1
        assert 0 < figures["ess_reverse_marginal"]["value"] <= 1
        assert cli.main(["sample", str(finished), "-n", "100", "-o", str(tmp_path / "samples.h5")]) == 0
        samples = Samples.load(tmp_path / "samples.h5")
        assert np.isfinite(samples.log_weight).all()
        assert "coupling layers" in samples.meta["solver"]
        shutil.copy(tmp_path / "samples.h5", finished / "samples.h5")
        assert cli.main(["report", str(finished)]) == 0
        assert "NLL, one draw" in (finished / "report.html").read_text()

    def test_options_that_do_not_fit(self, words, tmp_path, here, capsys):
        for option, said in (
            ("flow.augmented=2", "must be odd"),
            ("stages.0.objective=flow-matching", "choose another, such as stages.0.objective=augmented-likelihood"),
            ("flow.projection=sperical", "Did you mean 'spherical'"),
            ("flow.projection.bins=0", "flow.projection.bins must be at least 1"),
            ("flow.noise=0", "flow.noise must be greater than 0"),
        ):
            assert said in refused(capsys, *words, option, "-o", tmp_path / "run")


class TestRefusals:
    @pytest.fixture
    def out(self, tmp_path) -> Path:
        return tmp_path / "run"

    def train(self, capsys, data: Path, out: Path, *more: str) -> str:
        sentence = refused(capsys, "train", "dw4", "--set", f"data.path={data}", *TINY, ALONE, *more, "-o", out)
        # The folder is free for another try.
        assert contents(out) == {}
        return sentence

    @pytest.mark.parametrize(
        ("spoil", "said"),
        [
            (lambda x: x.reshape(-1, 4, 2)[:, :3], "needs frames of shape (n, 4, 2) or (n, 8)"),
            (lambda x: np.where(np.arange(8) == 3, np.nan, x), "400 frames with NaN or infinite positions"),
            (lambda x: 1.3 * x, "does not belong to target"),
            (lambda x: x[:0], "holds no frames"),
            (lambda x: x[:50], "50 validation frames cannot be held out of 50"),
        ],
        ids=["shape", "nan", "virial", "none", "too few"],
    )
    def test_data_that_cannot_be_used(self, spoil, said, frames, tmp_path, out, here, capsys):
        path = tmp_path / "spoilt.npy"
        np.save(path, spoil(np.load(frames)))
        assert said in self.train(capsys, path, out)

    def test_data_of_another_target(self, frames, tmp_path, out, here, capsys):
        lj13 = bf.targets.get("lj13")
        path = tmp_path / "lj13.h5"
        bf.Dataset(np.load(frames).reshape(-1, 4, 2), lj13.fingerprint, "reduced").save(path)
        sentence = self.train(capsys, path, out)
        assert lj13.fingerprint in sentence
        assert bf.targets.get("dw4").fingerprint in sentence

    def test_data_files_that_are_not(self, tmp_path, out, here, capsys, frames):
        assert "there is no data file" in self.train(capsys, tmp_path / "none.npy", out)
        for name, content in (("text.npy", b"1 2 3"), ("text.h5", b"1 2 3"), ("cut.npy", frames.read_bytes()[:3000])):
            (tmp_path / name).write_bytes(content)
            assert name in self.train(capsys, tmp_path / name, out)

    def test_options_of_a_wrong_type(self, frames, out, here, capsys):
        for option in ("stages.0.steps=many", "flow.network.typed_pairs=3", "stages.0.batch_size=33"):
            sentence = refused(capsys, "train", "dw4", "--set", option, "-o", out)
            assert option.partition("=")[0].replace("batch_size", "microbatch") in sentence
        assert not out.exists()

    def test_a_cut_model(self, run_copy, tmp_path, here, capsys):
        path = run_copy / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])
        for words in (("sample", run_copy, "-o", tmp_path / "s.h5"), ("evaluate", run_copy), ("evaluate", path)):
            assert "is damaged or no safetensors file" in refused(capsys, *words)
        path.unlink()
        assert "holds no trained model yet" in refused(capsys, "evaluate", run_copy)
        assert not (tmp_path / "s.h5").exists()

    def test_folders_that_are_not_there(self, tmp_path, here, capsys):
        for words in (("resume",), ("report",), ("evaluate",), ("sample", "-n", 10, "-o", tmp_path / "s.h5")):
            assert "there is no" in refused(capsys, words[0], tmp_path / "none", *words[1:])
        assert list(tmp_path.iterdir()) == []

    def check_that_cannot_be_written(self, folder: Path, run_folder: Path, train_words: tuple[str, ...], capsys) -> None:
        before = contents(folder.parent)
        for words in (
            (*train_words, "-o", folder / "run"),
            ("sample", run_folder, "-n", 10, "-o", folder / "s.h5"),
            ("report", run_folder, "-o", folder / "report.html"),
            ("reference", "dw4", "-n", 10, "-o", folder / "data.h5"),
        ):
            sentence = refused(capsys, *words)
            assert str(folder) in sentence
        assert contents(folder.parent) == before

    def test_a_folder_below_a_file(self, run_folder, train_words, tmp_path, here, capsys):
        (tmp_path / "file").write_text("in the way")
        self.check_that_cannot_be_written(tmp_path / "file", run_folder, train_words, capsys)

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write to read-only folders")
    def test_a_read_only_folder(self, run_folder, train_words, tmp_path, here, capsys):
        (tmp_path / "locked").mkdir(mode=0o500)
        self.check_that_cannot_be_written(tmp_path / "locked", run_folder, train_words, capsys)

    def test_evaluation_of_other_frames(self, run_folder, tmp_path, here, capsys):
        np.save(tmp_path / "wide.npy", np.random.default_rng(0).normal(size=(100, 13, 3)))
        assert "needs frames of shape" in refused(capsys, "evaluate", run_folder, "--data", tmp_path / "wide.npy", "-n", 10)


class TestLibrary:
    """The public face of README and design: a target of one's own, fitted and sampled in a few lines."""

    @pytest.fixture(scope="class")
    @classmethod
    def target(cls) -> bf.Target:
        # Springs between three particles in the plane: normal with variance 1/4 on the zero-CoM subspace.
        def energy(x):
            return 2.0 * jnp.sum((x - jnp.mean(x, axis=0, keepdims=True)) ** 2)

        return bf.targets.from_function(energy, 3, 2, name="springs")

    @pytest.fixture(scope="class")
    @classmethod
    def data(cls, target) -> bf.Dataset:
        x = 0.5 * np.random.default_rng(0).normal(size=(1000, 3, 2)).astype(np.float32)
        return bf.Dataset(x - x.mean(axis=1, keepdims=True), target.fingerprint, "reduced")

    @pytest.fixture(scope="class")
    @classmethod
    def fitted(cls, target, data, tmp_path_factory):
        stage = Stage(
            objective=bf.FlowMatching(pairing=bf.config.OptimalTransport()),
            optimiser=Adam(warmup_steps=10, learning_rate=5e-3, ema_decay=0.9),
            steps=1000,
            batch_size=64,
        )
        return bf.fit(
            target,
            data,
            flow=ECNF(EGNN(layers=1, hidden=16)),
            stages=[stage],
            out=tmp_path_factory.mktemp("fit") / "springs",
        )

    def test_samples_are_reweighted_to_the_target(self, fitted, target):
        samples = fitted.sample(500, seed=1)
        assert samples.n_failed == 0
        assert samples.ess().value > 0.5
        exact = 2.0 * np.log(2.0 * np.pi / 4.0)
        found = samples.log_z()
        width = found.high - found.low
        assert 0.0 < width < 0.3
        assert found.low - width < exact < found.high + width
        spread = samples.expectation(lambda x: np.sum(x**2, axis=(1, 2)))
        assert spread.value == pytest.approx(1.0, abs=0.2)
        np.testing.assert_array_equal(fitted.sample(20, seed=1).positions, fitted.sample(20, seed=1).positions)
        assert np.abs(fitted.sample(20, seed=1).positions - fitted.sample(20, seed=2).positions).min(axis=(1, 2)).max() > 0

    def test_what_cannot_be(self, fitted, target, data, tmp_path):
        with pytest.raises(DataError, match="must be positive"):
            fitted.sample(0, seed=1)
        with pytest.raises(RunError, match="already holds a run"):
            bf.fit(target, data, stages=[Stage(steps=1)], out=fitted.folder)
        with pytest.raises(TargetError, match="not built in; pass target="):
            bf.load_model(fitted.folder)
        assert bf.load_model(fitted.folder, target=target).target is target
        with pytest.raises(DataError, match="springs"):
            bf.fit(bf.targets.get("dw4"), data, stages=[Stage(steps=1)], out=tmp_path / "other")
        assert contents(tmp_path) == {}
