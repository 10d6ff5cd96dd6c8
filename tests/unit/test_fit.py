"""Runs from Python: what is refused before the first step, whose data a run has, precision, and what is remembered."""

import concurrent.futures
import contextlib
import dataclasses
import json
import subprocess
import sys
import typing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import boltzflow as bf
from boltzflow import datasets, targets
from boltzflow.config import (
    EACF,
    ECNF,
    EGNN,
    Adam,
    AugmentedPathGradient,
    DataConfig,
    GaussLegendre,
    MaximumLikelihood,
    NoProjection,
    PathGradient,
    RunConfig,
    RunOptions,
    Spherical,
    Stage,
    TwoInteraction,
)
from boltzflow.datasets import Dataset
from boltzflow.datasets import loading as loading_module
from boltzflow.errors import ConfigError, DataError, RunError
from boltzflow.flows.build import build_flow
from boltzflow.objectives.base import Setting
from boltzflow.objectives.making import made
from boltzflow.progress import Silent
from boltzflow.targets.base import Target
from boltzflow.training.folder import LOCK, locked
from boltzflow.training.loop import train
from boltzflow.training.outcome import periodic_evaluation

SOLVER = GaussLegendre(2)
FLOW = ECNF(EGNN(layers=1, hidden=4), SOLVER)
MATCHING = bf.FlowMatching(pairing=typing.cast(typing.Any, "independent"))
STAGE = Stage(objective=MATCHING, optimiser=Adam(warmup_steps=0), steps=2, batch_size=8, microbatch=8)
LOOP = RunOptions(log_every=1, checkpoint_every=1)


def well(x: typing.Any) -> typing.Any:
    return 0.5 * jnp.sum((x - jnp.mean(x, axis=0, keepdims=True)) ** 2)


def energy_alone(x: np.ndarray) -> float:
    """The well outside JAX, without a gradient."""
    return 0.5 * float(np.sum((x - x.mean(axis=0)) ** 2))


def frames(n: int = 60, *, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(n, 3, 2)).astype(np.float32)
    return x - x.mean(axis=1, keepdims=True)


def make_target() -> Target:
    return targets.from_function(well, 3, 2, name="well")


@pytest.fixture(scope="module")
def target() -> Target:
    return make_target()


def data(target: Target, **options: int) -> Dataset:
    return Dataset(frames(**options), target.fingerprint, target.units)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"flow": "foo"}, "there is no flow 'foo'"),
        ({"flow": ECNF(EGNN(reach=3.0))}, "flow.network.reach would have no effect"),
        ({"flow": "eacf", "objective": bf.FlowMatching()}, "made for the flow ecnf"),
        ({"stages": []}, "stages must hold at least one stage"),
        ({"stages": [STAGE], "objective": MATCHING}, "not both"),
        ({"stages": [Stage(steps=typing.cast(typing.Any, 10.5))]}, "stages.0.steps must be a whole number"),
        ({"options": RunOptions(seed=-1)}, "run.seed must be a whole number from 0 to"),
        ({"options": RunOptions(evaluate_n=3)}, "run.evaluate_n=3 would have no effect"),
        ({"precision": "half"}, "precision must be one of single, double"),
        ({"validation": -1}, "validation must be a whole number"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_made(options, said, target, tmp_path):
    with pytest.raises(ConfigError) as caught:
        bf.fit(target, frames(), out=tmp_path / "a" / "run", **options)
    assert said in str(caught.value)
    assert not (tmp_path / "a").exists()


def test_frames_that_do_not_fit_leave_no_folder(target, tmp_path):
    with pytest.raises(DataError) as caught:
        bf.fit(target, Dataset(3.0 * frames(), target.fingerprint, target.units), out=tmp_path / "a" / "run")
    # It names what was given, not a file that was never there.
    assert "virial check failed" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    assert not (tmp_path / "a").exists()


def test_frames_that_do_not_fit_are_taken_where_that_is_said(target, tmp_path):
    options = {"flow": FLOW, "stages": [STAGE], "options": LOOP, "allow_virial_mismatch": True, "out": tmp_path / "run"}
    run = bf.fit(target, Dataset(3.0 * frames(), target.fingerprint, target.units), **options)
    assert "virial check failed" in str(run.model.card["data"]["virial_check"])
    # The run remembers it: its frames are read again without a word of the option.
    assert bf.open_run(tmp_path / "run", target=target).evaluate(8, seed=0)["n"] == 8


def test_a_run_goes_on_with_its_own_frames_in_its_own_precision(target, tmp_path):
    options = {"flow": FLOW, "stages": [STAGE], "options": LOOP, "precision": "double", "out": tmp_path / "run"}
    run = bf.fit(target, data(target), **options)
    assert {a.dtype for a in load_file(tmp_path / "run" / "model.safetensors").values()} == {np.dtype(np.float64)}
    samples = run.sample(5, seed=1)
    assert samples.meta["precision"] == "float64"
    assert not jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    with pytest.raises(RunError, match="the frames given .* are not those that the run in .* was begun with"):
        bf.fit(target, data(target, seed=1), resume=True, **options)
    assert bf.fit(target, data(target), resume=True, **options).model.config.precision == "double"
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before
    with pytest.raises(ConfigError, match="seed must be a whole number"):
        run.sample(5, seed=-1)
    # Never, as it says.
    assert "validation_nll" not in (tmp_path / "run" / "metrics.jsonl").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flow", "objective"),
    [
        (ECNF(EGNN(layers=3, hidden=4), SOLVER), None),
        (ECNF(TwoInteraction(hidden=4, depth=1, radial=4, channels=2), SOLVER), None),
        (FLOW, MaximumLikelihood(nodes=2)),
        (EACF(Spherical(width=4), blocks=1, features=4, marginal_draws=2), None),
        (EACF(NoProjection(), blocks=1, features=4, marginal_draws=2), None),
    ],
)
def test_every_family_trains_refines_resumes_and_samples_in_double_precision(flow, objective, target, tmp_path):
    first = dataclasses.replace(STAGE, objective=objective)
    second = dataclasses.replace(STAGE, steps=1, objective=AugmentedPathGradient() if isinstance(flow, EACF) else PathGradient())
    config = RunConfig("well", DataConfig(n=60, validation=6), flow, (first,), LOOP, "double")
    train(config, tmp_path / "run", target=target, dataset=data(target))
    train(dataclasses.replace(config, stages=(first, second)), tmp_path / "run", target=target, resume=True)
    model = bf.load_model(tmp_path / "run", target=target)
    assert [stage.steps for stage in model.config.stages] == [2, 1]
    drawn = model.sample(4, seed=0)
    assert np.isfinite(drawn.log_q).all()
    assert drawn.meta["precision"] == "float64"
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(line["masked"] == line["skipped"] == 0 for line in lines)


def test_batches_are_drawn_in_the_precision_of_the_frames(target):
    for dtype in (np.float32, np.float64):
        objective = made(MATCHING, Setting(build_flow(FLOW, target, 1.0, key=jax.random.key(0)), target, 4))
        batch = objective.propose((), None, frames().astype(dtype), step=0, key=None).batch
        assert {part.dtype for part in batch} == {np.dtype(dtype)}
    # More than float32 numbers in a wider type.
    assert not np.array_equal(batch.prior, batch.prior.astype(np.float32))


def test_targets_without_gradients_train_on_frames(tmp_path):
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        target = targets.from_calculator(energy_alone, 3, 2, name="alone", executor=threads)
        assert not datasets.has_gradient(target)
        run = bf.fit(
            target,
            Dataset(frames(), target.fingerprint, target.units),
            flow=FLOW,
            stages=[STAGE],
            options=LOOP,
            out=tmp_path / "run",
        )
        said = str(run.model.card["data"]["virial_check"])
        assert "left out" in said
        stored = datasets.read(tmp_path / "run" / "data.h5")
        assert stored.energies is not None
        np.testing.assert_allclose(stored.energies, [energy_alone(x) for x in frames()], rtol=1e-5)
        longer = (STAGE, dataclasses.replace(STAGE, objective=PathGradient(), steps=1))
        config = dataclasses.replace(run.model.config, stages=longer)
        with pytest.raises(ConfigError, match="path-gradient needs forces"):
            train(config, tmp_path / "run", target=target, resume=True)


def test_the_virial_check_is_made_once_and_remembered_with_its_frames(target, tmp_path, monkeypatch):
    counted: list[int] = []
    real = loading_module.check_with_energies
    monkeypatch.setattr(loading_module, "check_with_energies", lambda x, *rest: (counted.append(len(x)), real(x, *rest))[1])
    once = datasets.checked(data(target), target)
    assert counted == [60]
    assert once.energies is not None
    np.testing.assert_allclose(once.energies, [energy_alone(x) for x in frames()], rtol=1e-5)
    once.save(tmp_path / "data.h5")
    again = datasets.load(tmp_path / "data.h5", target)
    again.save(tmp_path / "again.h5")
    third = datasets.load(tmp_path / "again.h5", target)
    assert counted == [60]
    np.testing.assert_array_equal(third.energies, once.energies)
    assert third.provenance["virial_check"] == once.provenance["virial_check"]
    # A part of the frames, and frames that were changed, are other frames.
    part = third.split(validation=20, seed=0)[1]
    assert part.energies is not None
    np.testing.assert_allclose(part.energies, [energy_alone(x) for x in part.positions], rtol=1e-5)
    part.save(tmp_path / "part.h5")
    datasets.load(tmp_path / "part.h5", target)
    assert counted == [60, 20]
    changed = dataclasses.replace(once, positions=2.0 * once.positions)
    with pytest.raises(DataError, match="virial check failed"):
        datasets.checked(changed, target)


def test_a_mismatch_that_was_allowed_is_not_allowed_for_ever(target, tmp_path):
    wrong = Dataset(3.0 * frames(), target.fingerprint, target.units)
    datasets.checked(wrong, target, allow_virial_mismatch=True).save(tmp_path / "data.h5")
    assert "failed" in str(datasets.load(tmp_path / "data.h5", target, allow_virial_mismatch=True).provenance["virial_check"])
    with pytest.raises(DataError, match="virial check failed"):
        datasets.load(tmp_path / "data.h5", target)


def test_reference_frames_carry_their_check(tmp_path):
    target = targets.double_well()
    made = bf.reference.sample(target, 64, seed=0).dataset
    assert str(made.provenance[loading_module.MEMORY]).split()[0] in ("passed", "failed")
    assert made.energies is not None
    np.testing.assert_allclose(made.energies, target.energies(jnp.asarray(made.positions)), rtol=1e-5, atol=1e-5)


def test_a_density_without_energy_has_no_effective_sample_size(target):
    alone = Target(name="frames", n_particles=3, dimension=2, energy_function=None, classes=(0, 0, 0), frames=frames)
    flow = build_flow(FLOW, alone, 1.0, key=jax.random.key(0))
    found, spent = periodic_evaluation(flow, alone, Dataset(frames(8), alone.fingerprint, alone.units), 8, seed=0)
    assert set(found) == {"validation_nll"}
    assert spent.total == 0


def test_the_pace_is_told_from_the_first_steps(target, tmp_path):
    told = []

    class Heard(Silent):
        def update(self, done: int, **fields: typing.Any) -> None:
            told.append((done, set(fields)))

    options = RunOptions(log_every=100, checkpoint_every=1)
    stage = dataclasses.replace(STAGE, steps=3)
    bf.fit(target, data(target), flow=FLOW, stages=[stage], options=options, out=tmp_path / "run", progress=Heard())
    # The last step is logged, whatever is said of the others.
    assert [done for done, _ in told] == [1, 2, 3]
    assert [fields for _, fields in told][:2] == [set(), set()]


def test_one_trains_in_a_folder_at_a_time(target, tmp_path):
    folder = tmp_path / "run"
    with locked(folder):
        with pytest.raises(RunError, match="another process is training in"):
            bf.fit(target, data(target), flow=FLOW, stages=[STAGE], options=LOOP, out=folder)
        assert [path.name for path in folder.iterdir()] == [LOCK]
    # Nothing came into it, so nothing is left.
    assert not folder.exists()
    with locked(folder):
        (folder / "kept").write_text("x")
    assert [path.name for path in folder.iterdir()] == ["kept"]


TWO_TRAINERS = """
import sys, time
from pathlib import Path
import boltzflow as bf
from boltzflow.progress import Silent
from test_fit import FLOW, LOOP, STAGE, data, make_target

class UntilTheOtherIsRefused(Silent):
    def __init__(self, refused):
        self.refused, self.deadline = refused, time.monotonic() + 60.0

    def update(self, done, **fields):
        while not self.refused.exists() and time.monotonic() < self.deadline:
            time.sleep(0.002)

target = make_target()
frames = data(target)
print("ready", flush=True)
for line in sys.stdin:
    folder, _, resume = line.strip().rpartition(" ")
    refused = Path(folder + ".refused")
    try:
        bf.fit(
            target, frames, flow=FLOW, stages=[STAGE], options=LOOP, out=folder, resume=resume == "True",
            progress=UntilTheOtherIsRefused(refused),
        )
        print("trained", flush=True)
    except bf.BoltzflowError as error:
        refused.touch()
        print(error, flush=True)
"""


@pytest.mark.slow
def test_of_two_that_train_in_a_folder_one_is_refused(tmp_path):
    """Twenty times; a quick one is above."""

    def started() -> subprocess.Popen[str]:
        words = [sys.executable, "-c", TWO_TRAINERS]
        return subprocess.Popen(words, cwd=Path(__file__).parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    with contextlib.ExitStack() as stack:
        both = [stack.enter_context(started()) for _ in range(2)]
        for trainer in both:
            stack.callback(trainer.kill)

        def heard() -> list[str]:
            return [typing.cast(typing.TextIO, trainer.stdout).readline().strip() for trainer in both]

        assert heard() == ["ready", "ready"]
        models = set()
        for number in range(20):
            folder = tmp_path / f"run-{number}"
            for trainer in both:
                pipe = typing.cast(typing.TextIO, trainer.stdin)
                pipe.write(f"{folder} {bool(number % 2)}\n")
                pipe.flush()
            said = sorted(heard(), key=len)
            assert said[0] == "trained"
            assert f"another process is training in {folder}" in said[1]
            lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            assert [line["step"] for line in lines] == list(range(1, STAGE.steps + 1))
            models.add((folder / "model.safetensors").read_bytes())
        # All of them are the run that nobody disturbed.
        alone = bf.fit(make_target(), data(make_target()), flow=FLOW, stages=[STAGE], options=LOOP, out=tmp_path / "alone")
        assert models == {(alone.folder / "model.safetensors").read_bytes()}


def test_frames_without_room_are_kept_in_another_place(target, tmp_path, monkeypatch):
    real = Dataset.save

    def full(self: Dataset, path: typing.Any) -> None:
        if Path(path).parent == tmp_path / "full":
            raise DataError("the data set cannot be written to here (there is no space left on the disk); choose another place.")
        real(self, path)

    monkeypatch.setattr(Dataset, "save", full)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    with pytest.raises(DataError, match="no space left on the disk.*the frames are kept in") as caught:
        data(target).save_or_rescue(tmp_path / "full" / "data.h5")
    kept = Path(str(caught.value).partition("kept in ")[2].rstrip("."))
    np.testing.assert_array_equal(datasets.read(kept).positions, frames())


class TestStages:
    """A finished run goes on when it is given more stages; what it has done is not done anew, or otherwise."""

    SECOND = dataclasses.replace(STAGE, steps=3, batch_size=4, microbatch=4, optimiser=Adam(learning_rate=1e-3, warmup_steps=0))

    def fit(self, target: Target, folder: Path, *stages: Stage, resume: bool = False) -> bytes:
        bf.fit(target, data(target), flow=FLOW, stages=stages, options=LOOP, out=folder, resume=resume)
        return (folder / "model.safetensors").read_bytes()

    def test_one_after_the_other_is_the_same_as_at_once(self, target, tmp_path):
        first = self.fit(target, tmp_path / "slow", STAGE)
        second = self.fit(target, tmp_path / "slow", STAGE, self.SECOND, resume=True)
        assert first != second
        assert self.fit(target, tmp_path / "fast", STAGE, self.SECOND) == second
        lines = [[json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()] for name in ("slow", "fast")]
        assert [line["step"] for line in lines[0]] == [1, 2, 3, 4, 5]
        for name in ("loss", "learning_rate", "grad_norm"):
            assert [line[name] for line in lines[0]] == [line[name] for line in lines[1]]
        # The schedule begins anew.
        assert [line["learning_rate"] for line in lines[0]][2] == pytest.approx(1e-3)

    def test_a_stage_that_is_done_cannot_be_another(self, target, tmp_path):
        before = self.fit(target, tmp_path / "run", STAGE)
        for changed in (dataclasses.replace(STAGE, steps=3), dataclasses.replace(STAGE, optimiser=Adam(ema_decay=0.5, warmup_steps=0))):
            with pytest.raises(RunError, match="stage 0 of the run in .* was begun with other options"):
                self.fit(target, tmp_path / "run", changed, self.SECOND, resume=True)
        assert (tmp_path / "run" / "model.safetensors").read_bytes() == before
        self.fit(target, tmp_path / "run", STAGE, self.SECOND, resume=True)
        with pytest.raises(RunError, match="has come to stage 1 already"):
            self.fit(target, tmp_path / "run", STAGE, resume=True)
