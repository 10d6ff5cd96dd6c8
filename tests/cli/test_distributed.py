"""Several processes on this machine train one model: over loopback, with JAX's own runtime."""

import dataclasses
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from boltzflow import cluster, train
from boltzflow.config import ECNF, EGNN, Adam, DataConfig, GaussLegendre, RunConfig, RunOptions, Stage
from boltzflow.config import io as config_io
from boltzflow.config.objectives import FlowMatching, Independent
from boltzflow.datasets import Dataset
from boltzflow.errors import ConfigError
from boltzflow.targets import get
from boltzflow.training.sharding import data_mesh
from killing import command
from pairs import Pair

STEPS = 40


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preset of few short steps on frames that lie beside it."""
    folder = tmp_path_factory.mktemp("preset")
    target = get("dw4")
    frames = np.random.default_rng(0).normal(size=(64, 4, 2)).astype(np.float32) * 2.0
    Dataset(frames - frames.mean(axis=1, keepdims=True), target.fingerprint, target.units).save(folder / "frames.h5")
    config = RunConfig(
        "dw4",
        data=DataConfig(path=str(folder / "frames.h5"), validation=8, allow_virial_mismatch=True),
        flow=ECNF(EGNN(layers=1, hidden=4), GaussLegendre(2)),
        stages=(
            Stage(objective=FlowMatching(pairing=Independent()), optimiser=Adam(warmup_steps=0), steps=STEPS, batch_size=16, microbatch=4),
        ),
        run=RunOptions(log_every=1, checkpoint_every=2),
    )
    config_io.save_config(config, folder / "tiny.yaml")
    config_io.save_config(dataclasses.replace(config, stages=(dataclasses.replace(config.stages[0], steps=10**6),)), folder / "long.yaml")
    return folder / "tiny.yaml"


def saved(folder: Path, least: int) -> Callable[[], bool]:
    """Whether a checkpoint of at least so many steps is there."""

    def look() -> bool:
        there = folder / "checkpoints"
        return there.is_dir() and any(int(path.name) >= least for path in there.iterdir() if path.name.isdigit())

    return look


def parameters(folder: Path) -> np.ndarray:
    found = load_file(folder / "model.safetensors")
    return np.concatenate([found[name].ravel() for name in sorted(found)])


@pytest.fixture(scope="module")
def whole(preset: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Parameters of one process that was not disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(config_io.load_preset(str(preset)), folder, progress=False)
    return parameters(folder)


def test_two_processes_are_killed_interrupted_and_resumed_by_one(preset, whole, tmp_path):
    folder = tmp_path / "run"
    pair = Pair("train", preset.with_name("long.yaml"), "-o", folder)
    pair.until(saved(folder, 4))
    pair.processes[1].send_signal(signal.SIGKILL)
    codes, said = pair.wait()
    assert codes[1] == -signal.SIGKILL
    assert "boltzflow: error: process 1 on " in said[1]
    assert "was ended because" in said[1]
    assert codes[0] == 75
    assert f"boltzflow: error: process 1 on {socket.gethostname()} has gone or cannot be reached any more" in said[0].splitlines()[-1]
    assert "Traceback" not in said[0]

    # The queue's warning comes to one of them, and all stop after the same step.
    resumed = Pair("resume", folder)
    newest = max(int(path.name) for path in (folder / "checkpoints").iterdir())
    resumed.until(saved(folder, newest + 4))
    resumed.processes[1].send_signal(signal.SIGUSR1)
    codes, said = resumed.wait()
    assert codes == [128 + signal.SIGUSR1] * 2
    assert said[0].splitlines()[-1] == said[1].splitlines()[-1]
    assert "the state is saved, continue with `boltzflow resume" in said[0]
    assert not (folder / ".lock").exists()


@pytest.mark.slow
def test_two_processes_give_what_one_gives(preset, whole, tmp_path):
    folder = tmp_path / "run"
    codes, said = Pair("train", preset, "-o", folder).wait()
    assert codes == [0, 0], said
    np.testing.assert_allclose(parameters(folder), whole, rtol=0, atol=1e-5)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == STEPS
    assert "flow-matching" in said[0]
    assert "flow-matching" not in said[1]


def test_a_run_of_two_processes_is_finished_by_one(preset, whole, tmp_path):
    folder = tmp_path / "run"
    pair = Pair("train", preset, "-o", folder)
    pair.until(saved(folder, 2))
    pair.processes[0].send_signal(signal.SIGTERM)
    codes, said = pair.wait()
    # They may have been done before the signal came.
    assert codes in ([128 + signal.SIGTERM] * 2, [0, 0]), said
    train(config_io.load_config(folder / "config.yaml"), folder, resume=True, progress=False)
    np.testing.assert_allclose(parameters(folder), whole, rtol=0, atol=1e-5)


def test_processes_that_were_started_differently(preset, tmp_path):
    folder = tmp_path / "run"
    codes, said = Pair("train", preset, "-o", folder, own=((), ("--seed", 3))).wait()
    assert codes == [2, 2]
    host = socket.gethostname()
    for text in said:
        assert f"the option run.seed is not given for process 0 on {host}, but 3 for process 1 on {host}" in text
    assert not folder.exists()


def test_a_batch_that_all_devices_do_not_divide(monkeypatch):
    monkeypatch.setattr(cluster, "joined", lambda: True)
    with pytest.raises(ConfigError, match=r"batch_size 4 must be a multiple of stages.0.microbatch 4 times 2 devices"):
        data_mesh(1, 4, 4)
    assert data_mesh(1, 8, 4).size == 2


def test_options_of_several_processes_alone(preset, tmp_path):
    done = subprocess.run(command("train", preset, "-o", tmp_path / "run", "--processes", 2), capture_output=True, text=True, check=False)
    assert (done.returncode, "add --distributed" in done.stderr) == (2, True)


@pytest.mark.slow
def test_ten_random_kills_of_one_of_two(preset, whole, tmp_path):
    rng, hit = random.Random(0), 0
    for number in range(10):
        folder = tmp_path / f"run{number}"
        pair = Pair("train", preset, "-o", folder)
        pair.until(lambda folder=folder: (folder / "metrics.jsonl").is_file())
        time.sleep(rng.uniform(0.0, 1.0))
        pair.processes[number % 2].send_signal(signal.SIGKILL)
        codes, said = pair.wait()
        other = 1 - number % 2
        if codes[other] != 0:
            hit += 1
            assert codes[other] in (75, -signal.SIGABRT), said
            assert "boltzflow: error: process " in said[other]
        codes, said = Pair("resume", folder).wait()
        assert codes == [0, 0], said
        np.testing.assert_allclose(parameters(folder), whole, rtol=0, atol=1e-5)
    print(f"{hit} of 10 were still at work when one was killed", file=sys.stderr)
    assert hit
