"""Programs are compiled once: neither a second chunk of samples nor a second step of a stage compiles anything."""

import collections
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import boltzflow as bf
from boltzflow import targets
from boltzflow.config import ECNF, EGNN, Adam, GaussLegendre, RunOptions, Stage
from boltzflow.flows.build import build_flow
from boltzflow.sampling import generate
from boltzflow.targets.base import Target

# Options that no other test of this process has, so that nothing has been compiled already.
FLOW = ECNF(EGNN(layers=1, hidden=5), GaussLegendre(2))
_HEARD: list[str] = []


def _hear(event: str, duration_secs: float, **about: Any) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        _HEARD.append(str(about["fun_name"]))


@pytest.fixture(scope="module", autouse=True)
def _listener() -> Iterator[None]:
    # Programs kept on disk have names of their own; another test of this process may have set the folder.
    folder = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_compilation_cache_dir", None)
    jax.monitoring.register_event_duration_secs_listener(_hear)
    yield
    jax.monitoring.unregister_event_duration_listener(_hear)
    jax.config.update("jax_compilation_cache_dir", folder)


@pytest.fixture
def compiled() -> list[str]:
    """Names of the functions that have been compiled since the test began."""
    _HEARD.clear()
    return _HEARD


@pytest.fixture(scope="module")
def target() -> Target:
    return targets.from_function(lambda x: 0.5 * jnp.sum((x - jnp.mean(x, axis=0, keepdims=True)) ** 2), 3, 2, name="a well of its own")


def test_all_chunks_of_samples_are_drawn_by_one_program(target: Target, compiled: list[str]) -> None:
    flow = build_flow(FLOW, target, 1.0, key=jax.random.key(0))
    generate.generate(flow, target, 4, seed=0, chunk=4)
    assert sum("draw" in name for name in compiled) == 1
    compiled.clear()
    # Other keys, more chunks, the last one cut.
    generate.generate(flow, target, 11, seed=1, chunk=4)
    assert compiled == []
    # Other parameters.
    generate.generate(build_flow(FLOW, target, 1.0, key=jax.random.key(1)), target, 8, seed=0, chunk=4)
    assert not any("draw" in name for name in compiled)


def test_log_densities_of_all_chunks_come_from_one_program(target: Target, compiled: list[str]) -> None:
    flow = build_flow(FLOW, target, 1.0, key=jax.random.key(0))
    positions = np.random.default_rng(0).normal(size=(11, 3, 2)).astype(np.float32)
    generate.log_density(flow, positions[:4], chunk=4)
    assert sum("density" in name for name in compiled) == 1
    compiled.clear()
    generate.log_density(flow, positions, chunk=4)
    assert compiled == []


OBJECTIVES = [bf.FlowMatching(), pytest.param(bf.PathGradient(), marks=pytest.mark.slow)]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=["frames", "energies"])
def test_steps_of_a_stage_share_one_program(target: Target, tmp_path: Path, compiled: list[str], objective: Any) -> None:
    frames = np.random.default_rng(0).normal(size=(40, 3, 2)).astype(np.float32)
    frames -= frames.mean(axis=1, keepdims=True)

    def train(steps: int) -> collections.Counter[str]:
        compiled.clear()
        stage = Stage(objective=objective, optimiser=Adam(warmup_steps=0), steps=steps, batch_size=8, microbatch=8)
        options = RunOptions(log_every=1, checkpoint_every=100)
        bf.fit(target, frames, flow=FLOW, stages=[stage, stage], validation=0, options=options, out=tmp_path / f"{steps}")
        return collections.Counter(compiled)

    train(1)
    few = train(2)
    assert few["jit(step)"] == 2, few  # one for each stage
    assert train(7) == few
