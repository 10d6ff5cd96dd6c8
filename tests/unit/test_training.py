"""The training step, its schedule and averages, prefetching, logs, checkpoints and models on disk."""

import dataclasses
import functools
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from boltzflow import targets
from boltzflow.config import EACF, ECNF, EGNN, Adam, DataConfig, FlowMatching, Optimiser, PathGradient, RunConfig, RunOptions, Stage
from boltzflow.config.io import load_config
from boltzflow.errors import CheckpointError, ConfigError, DataError, RunError, TargetError
from boltzflow.flows import ContinuousFlow
from boltzflow.flows.build import build_flow
from boltzflow.models.storage import MODEL_FILE, load_model, save_model, with_parameters_of
from boltzflow.nets.base import AbstractVectorField
from boltzflow.nets.mlp import Dense
from boltzflow.objectives.base import AbstractObjective, Needs, Proposal, Setting
from boltzflow.objectives.flow_matching import Pairs
from boltzflow.objectives.making import made
from boltzflow.targets.base import Target
from boltzflow.training.batches import prefetch
from boltzflow.training.checkpoint import Checkpoints
from boltzflow.training.logging import MetricsLog
from boltzflow.training.loop import train
from boltzflow.training.optimisers import optimiser, schedule
from boltzflow.training.parameters import flat, with_parameters
from boltzflow.training.sharding import data_mesh
from boltzflow.training.stages import Part, begun, parts
from boltzflow.training.state import TrainState, initial_state, make_step, place_batch, place_state

OPTIMISER = Adam(warmup_steps=0, learning_rate=0.1, final_learning_rate=0.1, clip_norm=1e6)
STAGE = Stage(optimiser=OPTIMISER, steps=20, batch_size=8, microbatch=8)
SPRINGS = targets.from_function(lambda x: jnp.sum((x - jnp.mean(x, axis=0, keepdims=True)) ** 2), 3, 2, name="springs")


class Field(AbstractVectorField):
    """A small nonlinear equivariant field that compiles fast."""

    weight: Any
    root: Any

    def __call__(self, t, positions):
        difference = positions[:, None] - positions[None]
        squared = jnp.sum(difference**2, axis=-1)
        features = jnp.stack([jnp.exp(-squared), jnp.sin(squared), t * jnp.ones_like(squared)], axis=-1)
        pair = jnp.sum(jnp.tanh(features @ self.weight)[..., None] * difference, axis=1)
        return pair + jnp.sqrt(jnp.abs(self.root)) * positions


def field(*, root: float = 1.0) -> Field:
    return Field(jnp.asarray([0.5, -0.3, 0.8]), jnp.asarray(root))


def objective(*, seed: int = 0, batch_size: int = 8) -> Any:
    setting = Setting(ContinuousFlow(field=field(), n_particles=3, dimension=2), SPRINGS, batch_size, seed)
    return made(FlowMatching(pairing=cast(Any, "independent"), sigma=0.1), setting)


def batch_of(n: int = 8, *, seed: int = 0) -> Pairs:
    frames = np.random.default_rng(9).normal(size=(30, 3, 2)).astype(np.float32)
    frames -= frames.mean(axis=1, keepdims=True)
    return objective(seed=seed, batch_size=n).propose((), None, frames, step=0).batch


OBJECTIVE = objective()


def options_of(stage: Stage, **options: Any) -> Stage:
    """The stage with some options of itself or of its optimiser changed."""
    own = {name: value for name, value in options.items() if hasattr(stage, name)}
    others = {name: value for name, value in options.items() if name not in own}
    return dataclasses.replace(stage, optimiser=dataclasses.replace(stage.optimiser, **others), **own)


def advance(batches: list[Pairs], *, devices: int = 1, start: Field | None = None, **options: Any) -> tuple[list[TrainState], list[Any]]:
    """The states after each step, and the metrics of each."""
    start = field() if start is None else start
    stage = options_of(STAGE, **options)
    mesh = data_mesh(devices, stage.batch_size, stage.microbatch)
    step = make_step(start, OBJECTIVE, stage, mesh)
    state: Any = jax.device_put(initial_state(start, stage), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    states, metrics = [], []
    for batch in batches:
        state, found = step(state, place_batch(batch, mesh))
        # A copy, because the next step takes the buffers.
        states.append(jax.tree.map(np.array, state))
        metrics.append(jax.tree.map(float, found))
    return states, metrics


def gradient_in(state: TrainState) -> Any:
    """The gradient of the first step, from Adam's mean, which is a tenth of it."""
    return jax.tree.map(lambda a: 10.0 * np.asarray(a), optax.tree.get(state.optimiser, "mu"))


@eqx.filter_jit
def loss_and_gradient(start: Field, batch: Pairs) -> Any:
    return eqx.filter_value_and_grad(lambda f: jnp.mean(OBJECTIVE.losses(f, batch)))(start)


def exact_gradient(batch: Pairs, *, kept: Any = ..., start: Field | None = None) -> tuple[float, Any]:
    part = Pairs(*(jnp.asarray(np.asarray(values)[kept]) for values in batch))
    loss, gradient = loss_and_gradient(field() if start is None else start, part)
    return float(loss), gradient


def rate_of(options: Optimiser, steps: int) -> Callable[[Any], Any]:
    """The schedule, whose rates may be complex or arrays for Optax's annotations."""
    return schedule(options, steps)


def assert_close(found: Any, expected: Any, **tolerances: Any) -> None:
    found, expected = jax.tree.leaves(found), jax.tree.leaves(expected)
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, **tolerances)


def test_parameters_as_one_array_and_back():
    network = field()
    assert_close(with_parameters(network, flat(network)), network, rtol=0)
    doubled = with_parameters(network, 2.0 * flat(network))
    assert_close(eqx.filter(doubled, eqx.is_array), jax.tree.map(lambda a: 2.0 * a, eqx.filter(network, eqx.is_array)), rtol=0)


class TestStep:
    @pytest.mark.parametrize(("devices", "microbatch"), [(1, 2), (2, 2)])
    def test_microbatches_and_devices_change_nothing(self, devices, microbatch):
        assert len(jax.devices()) >= 2
        batches = [batch_of(seed=seed) for seed in range(10)]
        states, metrics = advance(batches, devices=devices, microbatch=microbatch)
        loss, gradient = exact_gradient(batches[0])
        assert metrics[0].loss == pytest.approx(loss, rel=1e-5)
        assert metrics[0].grad_norm == pytest.approx(float(optax.tree.norm(gradient)), rel=1e-5)
        assert_close(gradient_in(states[0]), flat(gradient), rtol=1e-4, atol=1e-6)
        assert (int(states[-1].step), int(states[-1].left_out), int(states[-1].masked)) == (10, 0, 0)
        # Wherever the arithmetic is done, the same parameters come out after ten steps.
        whole, metrics_of_whole = self.in_one_piece(batches)
        assert_close(metrics, metrics_of_whole, rtol=1e-4)
        assert_close((states[-1].parameters, states[-1].average), (whole.parameters, whole.average), rtol=1e-4)

    @staticmethod
    @functools.cache
    def ten_steps() -> Any:
        return advance([batch_of(seed=seed) for seed in range(10)])

    def in_one_piece(self, batches: list[Pairs]) -> Any:
        states, metrics = self.ten_steps()
        return states[len(batches) - 1], metrics[: len(batches)]

    def test_it_is_adam_on_clipped_gradients(self):
        batches = [batch_of(seed=seed) for seed in range(4)]
        options = {"clip_norm": 0.5, "warmup_steps": 2, "final_learning_rate": 1e-3}
        rate = rate_of(dataclasses.replace(OPTIMISER, **options), STAGE.steps)
        states, metrics = advance(batches, **options)
        assert min(found.grad_norm for found in metrics) > 0.5
        transform = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(rate))
        parameters = field()
        inner = transform.init(eqx.filter(parameters, eqx.is_array))
        for batch in batches:
            updates, inner = transform.update(exact_gradient(batch, start=parameters)[1], inner)
            parameters = eqx.apply_updates(parameters, updates)
        assert_close(states[-1].parameters, flat(parameters), rtol=1e-4)
        np.testing.assert_allclose([found.learning_rate for found in metrics], [rate(i) for i in range(4)], rtol=1e-6)

    def test_weight_decay_is_decoupled(self):
        plain, _ = self.in_one_piece([batch_of()])
        (decayed,), _ = advance([batch_of()], weight_decay=0.5)
        expected = plain.parameters - 0.1 * 0.5 * flat(field())
        assert_close(decayed.parameters, expected, rtol=1e-5)

    @pytest.mark.parametrize("name", ["adam", "muon"])
    def test_biases_do_not_decay(self, name):
        dense = eqx.tree_at(lambda d: d.bias, Dense(4, 3, key=jax.random.key(0)), jnp.ones(3))
        options = Optimiser.named(name)(weight_decay=0.1, learning_rate=1.0, warmup_steps=0)
        transform = optimiser(options, 10, dense)
        parameters = flat(dense)
        still = jnp.zeros_like(parameters)
        updates, _ = transform.update(still, transform.init(parameters), parameters, norm=jnp.asarray(0.0), step=jnp.asarray(0))
        update: Any = with_parameters(dense, jnp.asarray(updates))
        np.testing.assert_array_equal(update.bias, 0.0)
        np.testing.assert_allclose(update.weight, -0.1 * dense.weight, rtol=1e-6)

    def test_pairs_that_are_not_finite_are_left_out_and_counted(self):
        batch = batch_of()
        data, prior = np.array(batch.data), np.array(batch.prior)
        data[3, 1, 0], data[4, 0, 0], prior[6, 2, 1] = np.nan, np.inf, np.nan
        kept = np.array([0, 1, 2, 5, 7])
        states, metrics = advance([batch._replace(data=data, prior=prior), batch._replace(data=np.full_like(data, np.nan))], microbatch=2)
        loss, gradient = exact_gradient(batch, kept=kept)
        assert metrics[0].loss == pytest.approx(loss, rel=1e-5)
        assert_close(gradient_in(states[0]), flat(gradient), rtol=1e-4, atol=1e-6)
        assert (int(states[0].step), int(states[0].left_out), int(states[0].masked)) == (1, 0, 3)
        # A batch without a single finite pair changes nothing but the counters.
        assert (int(states[1].step), int(states[1].left_out), int(states[1].masked)) == (2, 1, 3 + 8)
        assert np.isfinite(metrics[1].loss)
        for name in ("parameters", "average"):
            assert_close(getattr(states[1], name), getattr(states[0], name), rtol=0)
        assert_close(states[1].optimiser.inner, states[0].optimiser.inner, rtol=0)

    def test_a_gradient_that_is_not_finite_changes_nothing(self):
        # The loss is finite at root = 0, its derivative is not.
        start = field(root=0.0)
        (state,), (metrics,) = advance([batch_of()], start=start)
        # Each pair is left out and counted, so that there is nothing to learn from.
        assert metrics.grad_norm == 0.0
        assert (int(state.step), int(state.left_out), int(state.masked)) == (1, 1, 8)
        # The start is as it was, too: its buffers were not the state's.
        for values in (state.parameters, state.average):
            assert_close(values, flat(start), rtol=0)
        assert_close(gradient_in(state), jnp.zeros_like(flat(start)), rtol=0)

    def test_limits_by_the_median_norm(self):
        batches = [batch_of(seed=seed) for seed in range(6)]
        far = batches[4]._replace(data=40.0 * np.asarray(batches[4].data))
        batches[4] = far
        free, measured = advance(batches[:4])
        norms = np.array([found.grad_norm for found in measured])
        states, metrics = advance(batches, clip_median=0.5, skip_median=3.0)
        # The first step has no median to compare with; each later one is cut to half the median of those before it.
        assert_close(states[0].parameters, free[0].parameters, rtol=1e-6)
        assert metrics[4].grad_norm > 3.0 * np.median(norms)
        assert [int(state.left_out) for state in states] == [0, 0, 0, 0, 1, 1]
        assert_close(states[4].parameters, states[3].parameters, rtol=0)
        for name in ("mu", "nu", "average"):
            assert_close(optax.tree.get(states[4].optimiser, name), optax.tree.get(states[3].optimiser, name), rtol=0)
        seen = np.array([found.grad_norm for found in metrics])
        rings = [ring for _, ring in optax.tree.get_all_with_path(states[5].optimiser, "ring")]
        assert len(rings) == 2
        for ring in rings:
            np.testing.assert_allclose(ring[:6], seen, rtol=1e-6)
            assert np.isnan(ring[6:]).all()
        mean = [optax.tree.get(state.optimiser, "mu") for state in states]
        second = jax.tree.map(lambda new, old: 10.0 * (np.asarray(new) - 0.9 * np.asarray(old)), mean[1], mean[0])
        np.testing.assert_allclose(float(optax.tree.norm(second)), min(seen[1], 0.5 * seen[0]), rtol=1e-4)

    def test_average(self):
        states, _ = advance([batch_of(seed=seed) for seed in range(5)], ema_decay=0.25)
        expected = flat(field())
        for count, state in enumerate(states, start=1):
            # (1 + s) / (10 + s) at first, until it reaches the decay asked for.
            decay = min(0.25, count / (9 + count))
            expected = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, expected, state.parameters)
            assert_close(state.average, expected, rtol=1e-5)
            assert int(state.left_out) == 0

    def test_double_precision(self):
        # Batches are made in single precision whatever the precision of the run.
        with jax.enable_x64(True):
            start = field()
            (state,), (metrics,) = advance([batch_of()], start=start, microbatch=4)
            loss, _ = exact_gradient(batch_of(), start=start)
        assert {leaf.dtype for leaf in jax.tree.leaves(state.parameters)} == {np.dtype("float64")}
        assert metrics.loss == pytest.approx(loss, rel=1e-6)


class Wanted(NamedTuple):
    root: Any


@dataclasses.dataclass(frozen=True)
class Chasing(AbstractObjective):
    """Keeps the last roots of the network, and draws towards their mean with noise."""

    needs: ClassVar[Needs] = Needs(frames=False)
    on_host: ClassVar[bool] = False

    kept: int = 3

    def init(self, *, key: Any) -> Any:
        return jnp.arange(self.kept, dtype=jnp.float32)

    def propose(self, state: Any, network: Any, frames: Any, *, step: Any, key: Any) -> Proposal:
        assert len(frames) == 0
        state = jnp.concatenate([network.root[None], state])[: self.kept]
        noise = jax.random.normal(key, (self.setting.batch_size,))
        return Proposal(state, Wanted(jnp.mean(state) + noise), {"newest": state[0], "oldest": state[-1], "noise": noise[0]})

    def losses(self, network: Any, batch: Wanted) -> Any:
        return (network.root - batch.root) ** 2


class TestObjectivesOnTheDevice:
    FRAMES = np.zeros((5, 3, 2), np.float32)

    def run(self, state: Any, end: int, mesh: Any) -> tuple[Any, list[dict[str, float]]]:
        setting = Setting(ContinuousFlow(field=field(), n_particles=3, dimension=2), SPRINGS, 8, seed=5, mesh=mesh)
        stage = options_of(STAGE, microbatch=2)
        part = Part(0, stage, Chasing().bound(setting), end, 1, 1)
        state = begun(part, field(), None, mesh) if state is None else place_state(state, mesh)
        seen = []
        for after, _, proposal in part.steps(state, field(), self.FRAMES, mesh, print):
            state = after
            seen.append({name: float(value) for name, value in proposal.figures.items()} | {"root": float(after.parameters[-1])})
        return jax.tree.map(np.array, state), seen

    @pytest.mark.parametrize("devices", [1, 2])
    def test_they_see_the_present_parameters_and_keep_a_state(self, devices):
        mesh = data_mesh(devices, 8, 2)
        state, seen = self.run(None, 6, mesh)
        # What is newest is the root before the step, and what is oldest that of two steps before.
        assert [line["newest"] for line in seen] == [1.0, *(line["root"] for line in seen[:-1])]
        assert [line["oldest"] for line in seen[:3]] == [1.0, 0.0, 1.0]
        assert [line["oldest"] for line in seen[3:]] == [line["newest"] for line in seen[1:4]]
        assert len({line["noise"] for line in seen}) == 6
        # Stopped in the middle, written down and gone on with, it ends bit-identical.
        half, before = self.run(None, 3, mesh)
        again, after = self.run(half, 6, mesh)
        assert bits(again) == bits(state)
        assert before + after == seen


def test_schedule():
    rate = rate_of(Adam(warmup_steps=10, learning_rate=1e-2, final_learning_rate=1e-3), 110)
    values = [float(rate(step)) for step in range(111)]
    np.testing.assert_allclose(values[:11], np.linspace(0.0, 1e-2, 11), atol=1e-9)
    np.testing.assert_allclose(values[60], 0.5 * (1e-2 + 1e-3), rtol=1e-4)
    assert values[110] == pytest.approx(1e-3)
    assert np.all(np.diff(values[10:]) < 0)
    for steps, warmup in ((1, 200), (5, 200), (1, 0)):
        rate = rate_of(Adam(warmup_steps=warmup, learning_rate=1e-2, final_learning_rate=1e-3), steps)
        assert all(0.0 <= float(rate(step)) <= 1e-2 for step in range(steps + 1))


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ConfigError, match="multiple of stages.0.microbatch 8 times 2 devices"):
        data_mesh(2, 8, 8)
    with pytest.raises(ConfigError, match=r"run\.devices is 99"):
        data_mesh(99, 8, 8)
    assert data_mesh(0, 16, 8).devices.size == len(jax.devices())


class TestPrefetch:
    def test_in_order_and_ahead(self):
        assert list(prefetch(lambda step: step * step, 3, 9)) == [9, 16, 25, 36, 49, 64]
        assert list(prefetch(lambda step: step, 5, 5)) == []

    def test_made_in_another_thread_while_one_is_used(self):
        made: list[int] = []
        ready = threading.Event()

        def make(step: int) -> int:
            assert threading.current_thread() is not threading.main_thread()
            made.append(step)
            if step == 2:
                ready.set()
            return step

        batches = prefetch(make, 0, 100, depth=3)
        assert next(batches) == 0
        assert ready.wait(10)
        batches.close()
        assert len(made) <= 4

    def test_an_exception_comes_at_its_batch(self):
        def make(step: int) -> int:
            if step == 4:
                raise DataError("no such frames.")
            return step

        batches = prefetch(make, 0, 10)
        assert [next(batches) for _ in range(4)] == [0, 1, 2, 3]
        with pytest.raises(DataError, match="no such frames"):
            next(batches)


class TestMetricsLog:
    def test_lines_after_the_checkpoint_are_dropped_on_resume(self, tmp_path):
        log = MetricsLog(tmp_path, keep_until=0, tensorboard=False)
        for step in range(1, 6):
            log.write(step=step, loss=float(step), ess_reverse={"value": 0.5})
        log.close()
        path = tmp_path / "metrics.jsonl"
        whole = path.read_text().splitlines()
        path.write_text(path.read_text() + '{"step": 2, "lo')
        log = MetricsLog(tmp_path, keep_until=3, tensorboard=False)
        log.write(step=4, loss=-1.0)
        log.close()
        assert path.read_text().splitlines() == [*whole[:3], '{"step": 4, "loss": -1.0}']

    def test_what_is_not_finite_is_still_json(self, tmp_path):
        log = MetricsLog(tmp_path, keep_until=0, tensorboard=False)
        log.write(step=1, loss=float("nan"), grad_norm=float("inf"), ess_reverse={"value": float("nan"), "n": 3})
        log.close()

        def refuse(constant: str) -> None:
            raise AssertionError(constant)

        line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
        assert line == {"step": 1, "loss": None, "grad_norm": None, "ess_reverse": {"value": None, "n": 3}}

    def test_tensorboard(self, tmp_path):
        pytest.importorskip("tensorboardX")
        log = MetricsLog(tmp_path, keep_until=0, tensorboard=True)
        log.write(step=1, loss=1.0, ess_reverse={"value": 0.5})
        log.close()
        assert list((tmp_path / "tensorboard").glob("events*"))


def state_of(number: int) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    weight = rng.normal(size=(40, 30)).astype(np.float32)
    weight[0, :3] = [-0.0, np.nan, 1e-42]
    return {"weight": jnp.asarray(weight), "step": jnp.asarray(number, jnp.int32), "inner": (jnp.asarray(rng.normal(size=5), jnp.float32),)}


def bits(state: Any) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def three_checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints") / "checkpoints"
    checkpoints = Checkpoints(folder, keep=2, identity="this run")
    for step in (10, 20, 30):
        checkpoints.save(step, state_of(step), {"seconds": 0.1 + step, "losses": [1 / 3, 2.0]})
    checkpoints.close()
    return folder


class TestCheckpoints:
    def restore(self, folder: Path, *, identity: str = "this run") -> tuple[Any, list[str]]:
        told: list[str] = []
        checkpoints = Checkpoints(folder, keep=2, identity=identity)
        try:
            return checkpoints.restore(lambda _: state_of(0), told.append), told
        finally:
            checkpoints.close()

    def test_bit_identical_and_the_newest_are_kept(self, three_checkpoints):
        (state, meta), told = self.restore(three_checkpoints)
        assert bits(state) == bits(state_of(30))
        assert {key: meta[key] for key in ("seconds", "losses")} == {"seconds": 30.1, "losses": [1 / 3, 2.0]}
        assert told == []
        assert sorted(path.name for path in three_checkpoints.iterdir() if path.name.isdigit()) == ["20", "30"]

    def test_an_empty_folder_holds_none(self, tmp_path):
        assert self.restore(tmp_path / "none")[0] is None

    # Orbax leaves its event loop behind when it fails.
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    @pytest.mark.parametrize("damage", ["cut in half", "deleted", "overwritten"])
    def test_a_damaged_file_is_never_believed(self, three_checkpoints, tmp_path, damage):
        files = [path.relative_to(three_checkpoints) for path in (three_checkpoints / "30").rglob("*") if path.is_file()]
        # The largest hold the arrays; the others are descriptions, some of which nothing reads.
        files = sorted(files, key=lambda path: -(three_checkpoints / path).stat().st_size)[:4]
        refused = 0
        for number, name in enumerate(files):
            folder = tmp_path / str(number)
            shutil.copytree(three_checkpoints, folder)
            content = (folder / name).read_bytes()
            if damage == "deleted":
                (folder / name).unlink()
            elif damage == "overwritten":
                (folder / name).write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
            else:
                (folder / name).write_bytes(content[: len(content) // 2])
            (state, _), told = self.restore(folder)
            if told:
                refused += 1
                assert len(told) == 1
                assert "the checkpoint of step 30 is damaged" in told[0]
                assert told[0].endswith("The one before it is used.")
            assert bits(state) == bits(state_of(20 if told else 30))
        assert refused >= 2

    def test_the_run_goes_on_where_the_damaged_one_was(self, three_checkpoints, tmp_path):
        folder = tmp_path / "checkpoints"
        shutil.copytree(three_checkpoints, folder)
        shutil.rmtree(folder / "30" / "state")
        checkpoints = Checkpoints(folder, keep=2, identity="this run")
        found = checkpoints.restore(lambda _: state_of(0), lambda _: None)
        assert found is not None
        assert bits(found[0]) == bits(state_of(20))
        checkpoints.save(30, state_of(31), {})
        checkpoints.save(40, state_of(40), {})
        checkpoints.close()
        assert bits(self.restore(folder)[0][0]) == bits(state_of(40))
        shutil.rmtree(folder / "40")
        assert bits(self.restore(folder)[0][0]) == bits(state_of(31))

    def test_foreign_ones_are_refused_and_left_alone(self, three_checkpoints, tmp_path):
        folder = tmp_path / "checkpoints"
        shutil.copytree(three_checkpoints, folder)
        before = contents(folder)
        with pytest.raises(CheckpointError) as caught:
            self.restore(folder, identity="another run")
        assert "step 30 belongs to another run (this run, not another run)" in str(caught.value)
        assert contents(folder) == before
        assert bits(self.restore(folder)[0][0]) == bits(state_of(30))

    def test_a_foreign_one_among_ours_is_passed_over(self, three_checkpoints, tmp_path):
        folder = tmp_path / "checkpoints"
        shutil.copytree(three_checkpoints, folder)
        other = Checkpoints(folder, keep=5, identity="another run")
        other.save(40, {"weight": jnp.zeros(2)}, {})
        other.close()
        (state, _), told = self.restore(folder)
        assert bits(state) == bits(state_of(30))
        assert len(told) == 1
        assert "belongs to another run" in told[0]

    def test_all_damaged(self, three_checkpoints, tmp_path):
        folder = tmp_path / "checkpoints"
        shutil.copytree(three_checkpoints, folder)
        for step in ("20", "30"):
            shutil.rmtree(folder / step / "state")
        with pytest.raises(CheckpointError, match="no checkpoint of this run can be used.*; the newest was refused because the checkpoint"):
            self.restore(folder)

    def test_a_place_that_cannot_be_written_is_told(self, three_checkpoints, tmp_path):
        folder = tmp_path / "checkpoints"
        shutil.copytree(three_checkpoints, folder)
        checkpoints = Checkpoints(folder, keep=2, identity="this run")
        shutil.rmtree(folder)
        folder.write_text("in the way")
        with pytest.raises(RunError, match="the checkpoint of step 40 cannot be written"):
            checkpoints.save(40, state_of(40), {})


TINY = RunConfig("dw4", DataConfig(n=100, validation=10), ECNF(EGNN(layers=1, hidden=4)), (Stage(steps=5),)).completed()


@pytest.fixture(scope="module")
def flow() -> ContinuousFlow:
    built = build_flow(TINY.flow, targets.get("dw4"), 1.5, key=jax.random.key(3))
    assert isinstance(built, ContinuousFlow)
    return built


class TestModels:
    def test_round_trip(self, flow, tmp_path):
        target = targets.get("dw4")
        path = tmp_path / MODEL_FILE
        save_model(path, flow, TINY, target, {"steps": 5, "description": "a test"})
        assert sorted(file.name for file in tmp_path.iterdir()) == ["model.json", MODEL_FILE]
        by_file, by_folder = load_model(path), load_model(tmp_path)
        assert (by_file.run, by_folder.run) == (None, tmp_path)
        for model in (by_file, by_folder):
            assert (model.config, model.target, model.flow.scale) == (TINY, target, 1.5)
            assert model.card["steps"] == 5
            assert model.card["fingerprint"] == target.fingerprint
            assert bits(eqx.filter(model.flow, eqx.is_array)) == bits(eqx.filter(flow, eqx.is_array))
            assert jax.tree.structure(model.flow) == jax.tree.structure(flow)
        # The same model is the same file.
        content = path.read_bytes()
        for _ in range(5):
            save_model(path, flow, TINY, target, {})
            assert path.read_bytes() == content

    def test_damaged_or_foreign_files(self, flow, tmp_path):
        from safetensors.numpy import save_file

        path = tmp_path / MODEL_FILE
        save_model(path, flow, TINY, targets.get("dw4"), {})
        content = path.read_bytes()
        for kept in (0, 4, 100, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:kept])
            with pytest.raises(CheckpointError, match="is damaged or no safetensors file"):
                load_model(path)
        save_file({"a": np.zeros(3)}, path)
        with pytest.raises(CheckpointError, match="no boltzflow model"):
            load_model(path)
        save_model(path, flow, dataclasses.replace(TINY, flow=ECNF(EGNN(layers=1, hidden=5))), targets.get("dw4"), {})
        with pytest.raises(CheckpointError, match="do not fit the network"):
            load_model(path)
        save_model(path, flow, TINY, targets.get("dw4"), {})
        path.with_suffix(".json").write_text('{"steps": 5, "desc')
        with pytest.raises(CheckpointError, match=r"model\.json is damaged"):
            load_model(path)

    def test_wrong_target(self, flow, tmp_path):
        save_model(tmp_path / MODEL_FILE, flow, TINY, targets.get("dw4"), {})
        with pytest.raises(TargetError, match="trained for double_well.*not for lennard_jones"):
            load_model(tmp_path, target=targets.get("lj13"))
        save_model(tmp_path / MODEL_FILE, flow, dataclasses.replace(TINY, target="my-own"), targets.get("dw4"), {})
        with pytest.raises(TargetError, match="'my-own', which is not built in; pass target="):
            load_model(tmp_path)

    def test_nothing_there(self, tmp_path):
        with pytest.raises(CheckpointError, match="holds no trained model yet; finish it with `boltzflow resume"):
            load_model(tmp_path)
        with pytest.raises(CheckpointError, match="no model or run folder"):
            load_model(tmp_path / "none")

    def test_start_from_a_model_of_another_target(self, flow, tmp_path):
        save_model(tmp_path / MODEL_FILE, flow, TINY, targets.get("dw4"), {})
        other = build_flow(TINY.flow, targets.get("lj13"), 1.0, key=jax.random.key(4))
        started = with_parameters_of(other, tmp_path)
        assert isinstance(started, ContinuousFlow)
        assert bits(eqx.filter(started.field, eqx.is_array)) == bits(eqx.filter(flow.field, eqx.is_array))
        assert (started.n_particles, started.scale) == (13, 1.0)
        assert jax.tree.structure(started) == jax.tree.structure(other)
        wide = build_flow(ECNF(EGNN(layers=1, hidden=6)), targets.get("lj13"), 1.0, key=jax.random.key(4))
        with pytest.raises(CheckpointError, match=r"cannot start from.*flow\.network\.hidden=4"):
            with_parameters_of(wide, tmp_path)

    def test_a_run_starts_from_it(self, flow, tmp_path):
        save_model(tmp_path / MODEL_FILE, flow, TINY, targets.get("dw4"), {})
        positions = np.random.default_rng(1).normal(scale=2.0, size=(40, 4, 2))
        np.save(tmp_path / "frames.npy", positions)
        config = dataclasses.replace(
            TINY,
            data=DataConfig(path=str(tmp_path / "frames.npy"), validation=5, allow_virial_mismatch=True),
            stages=(Stage(optimiser=Adam(learning_rate=1e-9, final_learning_rate=0.0), steps=1, batch_size=4, microbatch=4),),
        )
        fresh, started = (
            train(dataclasses.replace(config, run=RunOptions(start_from=name)), tmp_path / run)
            for name, run in ((None, "fresh"), (str(tmp_path), "started"))
        )
        weights = [eqx.filter(part.network, eqx.is_array) for part in (flow, load_model(fresh).flow, load_model(started).flow)]
        begun, apart, near = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(part)]) for part in weights)
        np.testing.assert_allclose(near, begun, atol=1e-7)
        assert np.abs(apart - begun).max() > 0.01
        missing = dataclasses.replace(config, run=RunOptions(start_from="nothing"))
        with pytest.raises(CheckpointError, match="no model or run folder 'nothing'"):
            train(missing, tmp_path / "missing")
        assert not (tmp_path / "missing").exists()
        # A network that does not fit is told before anything is written.
        other = dataclasses.replace(config, flow=ECNF(EGNN(layers=1, hidden=6)))
        misfit = dataclasses.replace(other, run=RunOptions(start_from=str(tmp_path)))
        with pytest.raises(CheckpointError, match="cannot start from"):
            train(misfit, tmp_path / "misfit")
        assert not (tmp_path / "misfit").exists()
        # A run goes on without the model that it was started from.
        (tmp_path / MODEL_FILE).unlink()
        weights = (started / MODEL_FILE).read_bytes()
        train(load_config(started / "config.yaml"), started, resume=True)
        assert (started / MODEL_FILE).read_bytes() == weights


@pytest.mark.parametrize(("options", "mirrored"), [(ECNF(EGNN(hidden=8, layers=1)), True), (EACF(), False)])
def test_pairs_are_mirrored_where_the_flow_cannot_tell_hands(options, mirrored):
    # Such a flow learns the density of both enantiomers, and a frame may come as either; frames of one enantiomer stay so in other flows.
    target = targets.from_function(
        lambda x: jnp.sum((x - jnp.mean(x, axis=0, keepdims=True)) ** 2), 4, 3, name="handed", classes=range(4), reflections=False
    )
    frame = np.array([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 3.0], [0.0, 0.0, 0.0]])
    frames = np.stack([frame - frame.mean(axis=0)] * 8)
    config = RunConfig(target="handed", flow=options, stages=(Stage(batch_size=64, microbatch=64),))
    flow = build_flow(options, target, 1.0, key=jax.random.key(0))
    (part,) = parts(config, flow, target, data_mesh(1, 64, 64))
    data = np.asarray(part.objective.propose((), None, frames, step=0, key=None).batch.data)
    chirality = np.sign(np.linalg.det(data[:, :3] - data[:, 3:]))
    assert ((chirality == 1).any() and (chirality == -1).any()) if mirrored else (chirality == 1).all()


def test_a_density_without_energy_is_not_refined(tmp_path):
    target = Target("frames_only", 3, 2, None, (0, 0, 0))
    config = RunConfig(target="frames_only", stages=(Stage(steps=3), Stage(objective=PathGradient(), steps=3)))
    with pytest.raises(ConfigError, match=r"path-gradient needs an energy, and target 'frames_only' has none; leave its stage out"):
        train(config, tmp_path / "run", target=target)
    assert not (tmp_path / "run").exists()
