"""Cooling: temperatures that weights can reach, moves that leave a density as it is, and whole stages from energies alone."""

import dataclasses
import json
import math
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boltzflow import targets
from boltzflow.chemistry.amides import amide_torsions
from boltzflow.cli import main
from boltzflow.config import (
    EACF,
    ECNF,
    EGNN,
    Adam,
    AugmentedLikelihood,
    Cooling,
    DataConfig,
    FlowMatching,
    GaussLegendre,
    OptimalTransport,
    PathGradient,
    RunConfig,
    RunOptions,
    Stage,
    Vector,
)
from boltzflow.config import io as config_io
from boltzflow.datasets import has_gradient
from boltzflow.errors import ConfigError, DataError, TargetError
from boltzflow.flows.build import build_flow
from boltzflow.flows.continuous import ContinuousFlow
from boltzflow.objectives import cooling as objectives
from boltzflow.objectives import rungs
from boltzflow.objectives.base import Setting
from boltzflow.objectives.making import made
from boltzflow.targets.calculators import failures, is_expensive
from boltzflow.training.loop import train
from boltzflow.training.run import Run, fit
from corrections import normal

FREEDOM = 6


def draws(temperature: float, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Energies |x|²/2 and log densities of draws of a normal at a temperature."""
    x = math.sqrt(temperature) * np.random.default_rng(seed).standard_normal((n, FREEDOM))
    u = 0.5 * np.sum(x**2, axis=1)
    return u, -u / temperature - 0.5 * FREEDOM * math.log(2.0 * math.pi * temperature)


def exact_share(hot: float, cold: float) -> float:
    """Effective share of draws of a normal at one temperature, weighted for another: E[w]² / E[w²]."""
    change = 1.0 / cold - 1.0 / hot
    return ((1.0 / hot + change) ** -2 * (1.0 / hot) * (1.0 / hot + 2.0 * change)) ** (0.5 * FREEDOM)


class TestTemperatures:
    def test_effective_share_is_that_of_normals(self):
        u, log_q = draws(2.0, 400_000)
        assert rungs.effective_share(rungs.log_weights(u, log_q, 1.4)) == pytest.approx(exact_share(2.0, 1.4), abs=0.005)

    def test_the_lowest_temperature_that_keeps_its_share(self):
        u, log_q = draws(4.0, 200_000)
        choice = rungs.next_temperature(u, log_q, 4.0, share=0.3)
        assert choice.before == pytest.approx(1.0)
        assert choice.after == pytest.approx(0.3, abs=1e-3)
        assert exact_share(4.0, choice.temperature) == pytest.approx(0.3, abs=0.01)

    def test_of_a_flow_that_is_off_a_share_of_its_own(self):
        # Draws that are too wide for the temperature that they are said to be of.
        u, log_q = draws(3.0, 200_000)
        choice = rungs.next_temperature(u, log_q, 2.0, share=0.5)
        assert choice.before == pytest.approx(exact_share(3.0, 2.0), abs=0.01)
        assert choice.after == pytest.approx(0.5 * choice.before, rel=1e-3)

    def test_entropy_and_the_bound_on_its_drop(self):
        u, log_q = draws(2.0, 200_000)
        for temperature in (2.0, 1.5):
            found = rungs.entropy(u, rungs.log_weights(u, log_q, temperature), temperature)
            assert found == pytest.approx(0.5 * FREEDOM * math.log(2.0 * math.pi * math.e * temperature), abs=0.02)
        choice = rungs.next_temperature(u, log_q, 2.0, share=0.01, entropy_drop=0.4)
        assert 0.5 * FREEDOM * math.log(2.0 / choice.temperature) == pytest.approx(0.4, abs=0.02)

    def test_never_below_the_target_and_never_on_too_few(self):
        u, log_q = draws(1.1, 10_000)
        assert rungs.next_temperature(u, log_q, 1.1, share=0.5).temperature == 1.0
        assert rungs.next_temperature(u, log_q, 1.0, share=0.5).temperature == 1.0
        u, log_q = draws(4.0, 60)
        assert rungs.next_temperature(u, log_q, 4.0, share=0.5).temperature == 4.0

    def test_energies_that_are_not_finite_have_no_weight(self):
        u, log_q = draws(2.0, 1000)
        u[::7], log_q[1::7], u[2::7] = np.nan, np.inf, 1e300
        log_weight = rungs.log_weights(u, log_q, 1.5)
        assert np.isneginf(log_weight[::7]).all()
        assert np.isneginf(log_weight[1::7]).all()
        assert np.isfinite(log_weight[3::7]).all()
        assert 1.0 < rungs.next_temperature(u, log_q, 2.0, share=0.5, least=10).temperature < 2.0


def springs(x):
    return jnp.sum((x - jnp.mean(x, axis=0, keepdims=True)) ** 2)


@pytest.fixture(scope="module")
def target():
    return targets.from_function(springs, 3, 2, name="springs")


class TestMoves:
    @pytest.mark.parametrize("temperature", [1.0, 2.5])
    def test_they_leave_a_temperature_as_it_is_and_lead_to_it(self, target, temperature):
        space = rungs.space_of(normal(target, 1.0, scale=0.7), target)
        rng, n, freedom = np.random.default_rng(1), 2048, 4

        def after(width: float, moves: int) -> rungs.Moved:
            x = width * rng.standard_normal((n, 3, 2))
            x -= x.mean(axis=1, keepdims=True)
            options = {"moves": moves, "leapfrog": 4, "chunk": 128, "key": jax.random.key(3)}
            return rungs.moved(space, jnp.asarray(x), jnp.asarray(temperature), jnp.asarray(0.5), **options)

        stationary = math.sqrt(0.5 * temperature)
        for width in (stationary, 0.5 * stationary):
            found = after(width, 12)
            energies = np.asarray(jax.vmap(target.energy)(found.positions))
            # u is a sum of four squares: mean and variance of u / T are both 2.
            assert energies.mean() / temperature == pytest.approx(0.5 * freedom, abs=5.0 * math.sqrt(0.5 * freedom / n))
            assert 0.3 < float(found.acceptance) <= 1.0

    def test_step_sizes_follow_the_acceptance(self, target):
        space = rungs.space_of(normal(target, 1.0), target)
        x = jnp.asarray(np.random.default_rng(0).standard_normal((64, 3, 2)))
        options = {"moves": 12, "leapfrog": 4, "chunk": 64, "key": jax.random.key(0)}
        small, large = (rungs.moved(space, x, jnp.asarray(1.0), jnp.asarray(step), **options) for step in (0.01, 8.0))
        assert float(small.step) > 0.02
        assert float(large.step) < 4.0


class TestWhatIsPermitted:
    def test_amides(self):
        # CH3-C(=O)-N(H)-CH3 without the hydrogens of the methyls.
        elements, bonds = ["C", "C", "O", "N", "H", "C"], [(0, 1), (1, 2), (3, 1), (3, 4), (3, 5)]
        np.testing.assert_array_equal(amide_torsions(elements, bonds), [[0, 1, 3, 5]])
        # Without a carbon on one side, or with two, nothing is cis by name.
        assert amide_torsions(["H", *elements[1:]], bonds).shape == (0, 4)
        assert amide_torsions([*elements[:4], "C", "C"], bonds).shape == (0, 4)
        # An ester is none.
        assert amide_torsions(["C", "C", "O", "O", "C"], [(0, 1), (1, 2), (1, 3), (3, 4)]).shape == (0, 4)

    def test_chirality_and_trans(self):
        molecule = targets.get("alanine-dipeptide")
        x = np.asarray(molecule.structure, np.float64)
        torsion = amide_torsions(molecule.elements, molecule.bonds)
        assert len(torsion) == 2
        anyhow, trans = (rungs.permitted(molecule, trans=wanted) for wanted in (False, True))
        assert anyhow is not None
        assert trans is not None
        assert anyhow(jnp.asarray(x))
        assert trans(jnp.asarray(x))
        assert not anyhow(jnp.asarray(-x))
        # The first amide turned by half a turn about its bond: all before it.
        a, b, c, _ = torsion[0]
        axis = (x[c] - x[b]) / np.linalg.norm(x[c] - x[b])
        turned = x.copy()
        side = [i for i in range(molecule.n_particles) if i in _side(molecule.bonds, a, b)]
        offset = x[side] - x[b]
        turned[side] = x[b] + 2.0 * (offset @ axis)[:, None] * axis - offset
        assert anyhow(jnp.asarray(turned))
        assert not trans(jnp.asarray(turned))
        assert np.isinf(rungs.walled(molecule, trans=True).energy(jnp.asarray(turned)))
        counted = bound(OPTIONS, Setting(normal(molecule, 0.1, scale=0.1), molecule, 32))._basins(np.array([x, turned, x, x]))
        assert counted == {"phi_positive": 0.0, "cis": 0.25}
        hot = rungs.walled(molecule, trans=False, temperature=2.0)
        assert float(hot.energy(jnp.asarray(x))) == pytest.approx(0.5 * float(molecule.energy(jnp.asarray(x))), rel=1e-5)

    def test_particles_may_do_as_they_like(self, target):
        assert rungs.permitted(target, trans=True) is None
        assert rungs.walled(target, trans=True) is target


def _side(bonds, atom: int, other: int) -> set[int]:
    """Atoms on the side of `atom` of its bond to `other`."""
    found, left = {atom}, [atom]
    while left:
        here = left.pop()
        for i, j in bonds:
            for near, far in ((i, j), (j, i)):
                if near == here and far not in found and (near, far) != (atom, other):
                    found.add(far)
                    left.append(far)
    return found


OPTIONS = Cooling(learn=FlowMatching(pairing=OptimalTransport()), hottest=4.0, chains=8, frames=256, rung_steps=20, moves=3, leapfrog=3)
SMALL = {"batch_size": 32, "microbatch": 16}


def config_of(options: Cooling, *, steps: int = 80, **rest) -> RunConfig:
    flow = ECNF(network=EGNN(layers=1, hidden=8), solver=GaussLegendre(nodes=4))
    stage = Stage(objective=options, optimiser=Adam(warmup_steps=0, ema_decay=0.5), steps=steps, **SMALL)
    return RunConfig("springs", data=DataConfig(n=0, validation=0), flow=flow, stages=(stage,), run=RunOptions(log_every=5), **rest)


def bound(options: Cooling, setting: Setting) -> objectives.Cooling:
    return cast(objectives.Cooling, made(options, setting))


def setting(target, flow=None) -> Setting:
    return Setting(normal(target, 1.0) if flow is None else flow, target, 32)


class TestRungs:
    """One objective by hand, with a flow in closed form in the place of one that has been learnt."""

    def test_hot_chains_then_lower_and_lower(self, target):
        objective = bound(OPTIONS, setting(target))
        state, told = objective.init(key=jax.random.key(0)), []
        found = objective.renew(state, normal(target, 1.0), None, step=0, report=told.append)
        hot = found.state
        assert found.figures["temperature"] == 4.0
        assert int(hot.done) == 1
        assert found.evaluations.gradients > 256
        assert np.shape(objective.frames_in(hot)) == (256, 3, 2)
        u = np.asarray(target.energies(jnp.asarray(objective.frames_in(hot))))
        assert u.mean() / 4.0 == pytest.approx(2.0, abs=0.5)
        # A flow of exactly this temperature: the next one keeps half of the samples.
        found = objective.renew(hot, normal(target, math.sqrt(2.0)), None, step=20, report=told.append)
        assert found.figures["ess_of_rung"] == pytest.approx(1.0, abs=1e-3)
        assert found.figures["ess_of_step"] == pytest.approx(0.5, abs=0.01)
        assert 1.0 < found.figures["temperature"] < 4.0
        assert found.evaluations == (256, 256 * (1 + 3 * 3))
        u = np.asarray(target.energies(jnp.asarray(objective.frames_in(found.state))))
        assert u.mean() / found.figures["temperature"] == pytest.approx(2.0, abs=0.4)
        assert not told

    def test_the_same_again(self, target):
        objective = bound(dataclasses.replace(OPTIONS, start="flow", hottest=None, chains=None), setting(target))
        state = objective.init(key=jax.random.key(0))
        one, other, later = (objective.renew(state, normal(target, 0.8), None, step=step, report=print).state for step in (20, 20, 40))
        np.testing.assert_array_equal(one.frames, other.frames)
        assert np.any(one.frames != later.frames)
        assert float(one.temperatures[0]) == 1.0

    def test_a_rung_that_is_not_learnt_is_told_and_stays(self, target):
        objective = bound(OPTIONS, setting(target))
        frames = math.sqrt(1.5) * np.random.default_rng(0).standard_normal((256, 3, 2), np.float32)
        frames -= frames.mean(axis=1, keepdims=True)
        state = objective.init(key=jax.random.key(0))
        state = state._replace(frames=frames[None], done=np.int32(3), temperatures=np.full(1, 3.0, np.float32))
        told = []
        found = objective.renew(state, normal(target, 0.05), None, step=60, report=told.append)
        assert found.figures["temperature"] == 3.0
        assert "Rung 3" in told[0]
        assert "too few to learn from" in told[0]
        assert "rung_steps" in told[0]
        # The frames before are kept and moved on, not those of the few samples that count.
        assert np.all(np.linalg.norm(objective.frames_in(found.state) - frames, axis=(1, 2)) < 4.0)
        assert np.any(objective.frames_in(found.state) != frames)
        u = np.asarray(target.energies(jnp.asarray(objective.frames_in(found.state))))
        assert u.mean() / 3.0 == pytest.approx(2.0, abs=0.5)

    def test_nothing_left_is_an_error_in_words(self, target):
        apart = jnp.array([[0.0, 0.0], [0.01, 0.0], [0.0, 0.01]])
        energy = lambda x: jnp.where(jnp.sum((x - jnp.mean(x, axis=0, keepdims=True)) ** 2) > 0.01, jnp.nan, springs(x))  # noqa: E731
        broken = dataclasses.replace(target, energy_function=energy, start=lambda key: apart, name="broken")
        objective = bound(dataclasses.replace(OPTIONS, start="flow", hottest=None, chains=None), setting(broken))
        with pytest.raises(DataError, match=r"0\.00% of 256 samples .* too few to start from"):
            objective.renew(objective.init(key=jax.random.key(0)), normal(broken, 1.0), None, step=0, report=print)

    def test_energies_that_fail_in_part_leave_the_others(self, target):
        # Half of the plane has no energy; whoever is there has no weight, and nobody moves there.
        energy = lambda x: jnp.where(jnp.linalg.norm(x[0] - x[1] + 1e-9) > 1.2, jnp.nan, springs(x))  # noqa: E731
        half = dataclasses.replace(target, energy_function=energy, name="half")
        objective = bound(dataclasses.replace(OPTIONS, start="flow", hottest=None, chains=None), setting(half))
        found = objective.renew(objective.init(key=jax.random.key(0)), normal(half, 0.7), None, step=0, report=print)
        assert 0.1 < found.figures["without_weight"] < 0.9
        assert np.isfinite(np.asarray(half.energies(jnp.asarray(objective.frames_in(found.state))))).all()

    def test_a_lost_basin_is_told(self, target):
        objective = bound(OPTIONS, setting(target))
        state = objective.init(key=jax.random.key(0))._replace(basin=np.float32(0.05), done=np.int32(2))
        told = []
        objective._warn(state, {"phi_positive": 0.0, "distinct": 1.0}, told.append)
        assert len(told) == 1
        assert "from 5.0% to 0.00%" in told[0]
        objective._warn(state, {"phi_positive": 0.02, "distinct": 1.0}, told.append)
        assert len(told) == 1


def outside(positions):
    return np.sum((positions - positions.mean(axis=0)) ** 2)


class TestTempered:
    """A flow that knows the temperature, which learns from several rungs."""

    OPTIONS = dataclasses.replace(OPTIONS, remember=3)

    @staticmethod
    def tempered(target) -> ContinuousFlow:
        options = ECNF(network=EGNN(layers=1, hidden=8), solver=GaussLegendre(nodes=4), tempered=True)
        return cast(ContinuousFlow, build_flow(options, target, 1.0, key=jax.random.key(0)))

    def test_rungs_are_remembered_one_for_each_temperature(self, target):
        objective = bound(self.OPTIONS, setting(target, self.tempered(target)))
        frames = [np.full((256, 3, 2), number, np.float32) * np.array([[-1.0], [0.0], [1.0]], np.float32) for number in range(5)]
        state = objective.init(key=jax.random.key(0))
        for number, temperature in enumerate((4.0, 2.0, 1.0, 1.0)):
            state = objective._rung(state, frames[number], temperature, 0.1, {})
        ladder = cast(objectives.Ladder, objective.frames_in(state))
        np.testing.assert_array_equal(ladder.temperatures, [1.0, 2.0, 4.0])
        assert [rung[0, 2, 0] for rung in ladder.frames] == [3.0, 1.0, 0.0]
        # Half of the steps are of the present rung, and each batch is told its temperature.
        seen = [objective.propose((), None, ladder, step=step).batch for step in range(200)]
        found = np.exp([batch.log_temperature[0] for batch in seen])
        for temperature, share, value in ((1.0, 0.5, 3.0), (2.0, 0.25, 1.0), (4.0, 0.25, 0.0)):
            own = np.isclose(found, temperature)
            assert abs(own.mean() - share) < 4.0 * math.sqrt(share * (1 - share) / 200)
            chosen = [batch.batch.data for batch, is_own in zip(seen, own, strict=True) if is_own]
            assert all(np.all(np.abs(data).max(axis=(1, 2)) == value) for data in chosen)

    def test_losses_are_those_of_the_field_of_the_temperature(self, target):
        flow = self.tempered(target)
        objective = bound(self.OPTIONS, setting(target, flow))
        frames = np.random.default_rng(0).standard_normal((1, 256, 3, 2), np.float32)
        ladder = objectives.Ladder(frames - frames.mean(axis=2, keepdims=True), np.array([3.0], np.float32))
        batch = objective.propose((), None, ladder, step=1).batch
        hot, cold = (bound(OPTIONS, setting(target, flow)).losses(flow.at_temperature(t).network, batch.batch) for t in (3.0, 1.0))
        np.testing.assert_array_equal(objective.losses(flow.network, batch), hot)
        assert np.any(hot != cold)
        slopes = jax.grad(lambda network: jnp.sum(objective.losses(network, batch)))(flow.network)
        assert float(slopes.temperature) == 0.0

    def test_one_temperature_cannot_learn_from_several_rungs(self, target):
        with pytest.raises(ConfigError, match=r"flow\.tempered=true, or remember=1"):
            bound(self.OPTIONS, setting(target))

    @pytest.mark.slow
    def test_a_run_gives_samples_at_every_temperature(self, target, tmp_path):
        config = config_of(dataclasses.replace(self.OPTIONS, rung_steps=200), steps=1600)
        config = dataclasses.replace(config, flow=dataclasses.replace(config.flow, tempered=True))
        model = Run(train(config, tmp_path / "run", target=target, progress=False), target=target).model
        for temperature in (1.0, 1.5, 3.0):
            samples = model.at_temperature(temperature).sample(2000, seed=1)
            # Four degrees of freedom of u = |x|², so that Z = (pi T)^2 and <u / T> = 2.
            log_z, energy = samples.log_z(), samples.expectation(lambda x: np.asarray(target.energies(jnp.asarray(x))))
            assert log_z.low < 2.0 * math.log(math.pi * temperature) < log_z.high
            assert energy.low < 2.0 * temperature < energy.high
            assert samples.ess().value > 0.5
        with pytest.raises(TargetError, match="must be positive"):
            model.at_temperature(-3.0)


class TestRefusals:
    def test_what_needs_more_than_frames_cannot_teach(self, target):
        with pytest.raises(ConfigError, match="path-gradient needs more"):
            made(dataclasses.replace(OPTIONS, learn=PathGradient()), setting(target))

    def test_moves_need_a_gradient(self):
        with ThreadPoolExecutor(2) as threads:
            self._moves_need_a_gradient(targets.from_calculator(outside, 3, 2, name="dark", executor=threads))

    def _moves_need_a_gradient(self, dark):
        with pytest.raises(ConfigError, match="moves=0"):
            made(OPTIONS, setting(dark))
        # By weights alone it works.
        objective = bound(dataclasses.replace(OPTIONS, start="flow", hottest=None, chains=None, moves=0), setting(dark))
        found = objective.renew(objective.init(key=jax.random.key(0)), normal(dark, 0.9), None, step=0, report=print)
        assert found.evaluations == (256, 0)
        assert "acceptance" not in found.figures
        u = np.sum(np.asarray(objective.frames_in(found.state), np.float64) ** 2, axis=(1, 2))
        assert u.mean() == pytest.approx(2.0, abs=0.5)

    def test_an_energy_outside_jax_stays_one_at_every_temperature(self):
        with ThreadPoolExecutor(2) as threads:
            dark = targets.from_calculator(outside, 3, 2, name="dark", executor=threads)
            for hot in (dark.at_temperature(2.0), dark.at_temperature(2.0).at_temperature(1.5)):
                assert is_expensive(hot)
                assert not has_gradient(hot)
                assert failures(hot) is failures(dark)
        assert not is_expensive(targets.get("dw4").at_temperature(2.0))

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            (["stages.0.objective={cooling: {start: flow, hottest: 3.0}}"], "hottest would have no effect: start is flow"),
            (["stages.0.objective={cooling: {learn: {augmented-likelihood: {}}}}"], "made for the flow eacf"),
            (["stages.0.objective={cooling: {share: 1.5}}"], "share must be between 0 and 1"),
            (["stages.0.objective={cooling: {learn: {cooling: {}}}}"], "needs more"),
            (["data.validation=5"], "validation must be 0 where data.n is 0"),
        ],
    )
    def test_in_the_configuration(self, words, sentence, tmp_path):
        with pytest.raises(ConfigError, match=sentence.replace("(", r"\(")):
            train(config_io.apply_overrides(config_io.load_preset("dw4-cooling"), words), tmp_path / "run")
        assert not (tmp_path / "run" / "config.yaml").exists()


class TestStages:
    def test_a_run_from_energies_alone(self, target, tmp_path):
        """Cooled to the target, the frames of the last rung have its energies, and everything that was spent is counted."""
        folder = train(config_of(OPTIONS, steps=100), tmp_path / "run", target=target, progress=False)
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        temperatures = [line["temperature"] for line in lines if "temperature" in line]
        assert temperatures[0] == 4.0
        assert np.all(np.diff(temperatures) <= 0)
        assert temperatures[-1] < 3.0
        assert len(temperatures) == 5
        card = json.loads((folder / "model.json").read_text())
        assert card["frames"] == 0
        assert not (folder / "data.h5").exists()
        spent = card["energies"]["training"]
        assert spent["energies"] == 4 * 256
        assert spent["gradients"] > 4 * 256 * 10
        samples = Run(folder, target=target).sample(200, seed=1)
        assert np.isfinite(samples.log_weight).all()

    def test_stopped_in_a_rung_it_ends_bit_identical(self, target, tmp_path):
        whole, halves = (config_of(OPTIONS, steps=60) for _ in range(2))
        train(whole, tmp_path / "whole", target=target, progress=False)
        # As if killed between two rungs' ends: the later checkpoints are gone.
        train(halves, tmp_path / "halves", target=target, progress=False)
        saved = sorted(int(path.name) for path in (tmp_path / "halves" / "checkpoints").iterdir() if path.name.isdigit())
        assert 40 in saved
        for step in saved:
            if step > 40:
                (tmp_path / "halves" / "checkpoints" / str(step)).rename(tmp_path / f"gone{step}")
        train(halves, tmp_path / "halves", resume=True, target=target, progress=False)
        one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "halves"))
        assert one == other

    @pytest.mark.slow
    def test_the_other_family(self, target, tmp_path):
        options = dataclasses.replace(OPTIONS, learn=AugmentedLikelihood(collinearity=0.0))
        flow = EACF(projection=Vector(width=8), blocks=1, layers=1, features=8, scale=1.0)
        config = dataclasses.replace(config_of(options, steps=100), flow=flow)
        folder = train(config, tmp_path / "run", target=target, progress=False)
        temperatures = Run(folder, target=target).metrics["temperature"]
        temperatures = temperatures[np.isfinite(temperatures)]
        assert temperatures[0] == 4.0
        assert np.all(np.diff(temperatures) <= 0)
        assert temperatures[-1] < 4.0
        samples = Run(folder, target=target).sample(500, seed=1)
        assert samples.log_z().low < math.log(math.pi**2) < samples.log_z().high

    def test_from_few_frames(self, target, tmp_path):
        """A short trajectory to start with: what it lacks is found, and its number does not matter any more."""
        rng = np.random.default_rng(0)
        few = math.sqrt(0.5) * rng.standard_normal((40, 3, 2))
        options = dataclasses.replace(OPTIONS, start="frames", hottest=None, chains=None)
        stage = config_of(options).stages[0]
        run = fit(
            target,
            few - few.mean(axis=1, keepdims=True),
            flow=config_of(options).flow,
            stages=[stage],
            options=RunOptions(log_every=5),
            out=tmp_path / "run",
            progress=False,
            validation=0,
        )
        metrics = run.metrics
        # Of the first rung the frames given count, of the later ones those that the flow stands for.
        distinct = metrics["distinct"]
        assert distinct[np.isfinite(distinct)][0] == pytest.approx(40 / 256)
        assert np.nanmin(metrics["temperature"]) == np.nanmax(metrics["temperature"]) == 1.0
        assert run.sample(500, seed=2).expectation(lambda x: np.asarray(target.energies(jnp.asarray(x)))).low < 2.0


def test_the_command_line_is_for_molecules(capsys):
    assert main(["train", "dw4", "--energies-only"]) == 2
    assert "--energies-only is for a molecule" in capsys.readouterr().err
