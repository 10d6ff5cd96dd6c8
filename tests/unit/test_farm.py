"""Farms of workers: Dask's processes of which some die, threads in place of MPI and submitit, and what is wrong in a sentence."""

import concurrent.futures
import contextlib
import functools
import os
import random
import signal
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import boltzflow as bf
from boltzflow import targets
from boltzflow.blackbox import farm
from boltzflow.cli import main
from boltzflow.config import ECNF, EGNN, GaussLegendre, RunConfig
from boltzflow.datasets import Dataset
from boltzflow.errors import ConfigError, RunError, TargetError
from boltzflow.evaluation import densities, evaluate
from boltzflow.flows.build import build_flow
from boltzflow.flows.status import Status
from boltzflow.models.remote import Chunks, ratio_farm
from boltzflow.models.storage import save_model
from boltzflow.sampling.generate import log_importance_ratios
from counted_energy import counted, energy_of, evaluations

distributed = pytest.importorskip("distributed")
dask = pytest.importorskip("dask")

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@contextlib.contextmanager
def workers(count: int) -> Iterator[Any]:
    with (
        # Workers that are not back in 15 s would be given up, which a busy machine does not manage.
        dask.config.set({"distributed.deploy.lost-worker-timeout": "600s"}),
        distributed.LocalCluster(n_workers=count, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with workers(4) as client:
        yield client


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bf.Model:
    """A model that compiles in no time, in a file that workers see."""
    config = RunConfig("dw4", flow=ECNF(EGNN(layers=1, hidden=4), GaussLegendre(2)))
    target = targets.get("dw4")
    flow = build_flow(config.flow, target, 1.0, key=jax.random.key(0))
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_model(path, flow, config, target, {})
    return bf.load_model(path)


def target_of(folder: Path, seconds: float, executor: Any) -> bf.Target:
    function = functools.partial(counted, str(folder), seconds)
    options: dict[str, Any] = {"classes": (0, 0, 0), "reflections": True}
    return targets.from_calculator(function, 3, 2, name="counted", executor=executor, **options)


def in_double(target: bf.Target, positions: np.ndarray) -> np.ndarray:
    """Energies in one batch, without JAX."""
    energy: Any = target.energy_function
    return energy.in_double(positions)


def two(client: Any) -> Any:
    """An executor on two of the workers, for each must import JAX."""
    return client.get_executor(pure=False, workers=list(client.nthreads())[:2])


def kill(client: Any, count: int) -> list[int]:
    pids = list(client.run(os.getpid).values())[:count]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return pids


def energies_while_workers_die(client: Any, folder: Path, n: int, moments: list[float]) -> tuple[np.ndarray, np.ndarray, int]:
    """Energies by workers, two of which are killed at each of some moments; what they should be; and how many were computed."""
    target = target_of(folder, 0.001, farm._dask(client, "here"))
    before = evaluations(folder)
    positions = np.random.default_rng(0).normal(size=(n, 3, 2))

    def killing() -> None:
        for moment in moments:
            time.sleep(moment)
            kill(client, 2)

    thread = threading.Thread(target=killing)
    thread.start()
    found = in_double(target, positions)
    thread.join()
    return found, energy_of(positions), evaluations(folder) - before


class TestDask:
    def test_energies_while_two_of_four_workers_die(self, client, tmp_path):
        n = 800
        found, expected, computed = energies_while_workers_die(client, tmp_path, n, [0.25])
        np.testing.assert_array_equal(found, expected)
        # No more than the shares of the two workers that died, however late their results are fetched on a busy machine.
        assert n <= computed <= n + n // 2
        deadline = time.monotonic() + 60
        while len(client.nthreads()) < 4 and time.monotonic() < deadline:
            time.sleep(0.1)

    def test_samples_are_those_of_this_process(self, client, tiny, tmp_path):
        model = tiny
        local = model.sample(300, seed=4, chunk=64, progress=False)
        found = model.sample(300, seed=4, chunk=64, progress=False, executor=two(client), out=tmp_path / "s.h5")
        for name in ("positions", "log_q", "u", "log_weight", "status"):
            np.testing.assert_array_equal(getattr(found, name), getattr(local, name))
        assert found.meta["energy_evaluations"] == local.meta["energy_evaluations"]

    def test_densities_are_those_of_this_process(self, client, tiny):
        frames = np.random.default_rng(2).normal(size=(150, 4, 2)) * 2.0
        local = log_importance_ratios(tiny.flow, frames, seed=3, chunk=64)
        found = ratio_farm(tiny, two(client))(frames, seed=3, chunk=64)
        np.testing.assert_array_equal(found, local)

    def test_another_model_in_the_workers(self, client, tiny):
        work = Chunks(tiny.name, "another", "single", 0)
        with pytest.raises(RunError, match=rf"the worker on {socket.gethostname()} has another model under the name .*tiny"):
            list(farm.in_order(two(client), work, [(0, 8, 8)], lambda piece, error: None))

    def test_versions_of_workers(self, client, monkeypatch):
        farm.require_same_versions(client)
        monkeypatch.setattr(farm.importlib.metadata, "version", lambda name: "0.0.1")
        with pytest.raises(RunError, match=rf"the Dask worker on {socket.gethostname()} has boltzflow .*, and this process 0.0.1"):
            farm.require_same_versions(client)
        monkeypatch.undo()
        monkeypatch.setattr(farm, "_PACKAGES", ("numpy",))
        monkeypatch.setattr(farm, "_PROBE", farm._PROBE.replace("importlib.metadata.version(name)", "None"))
        with pytest.raises(RunError, match="lacks the package numpy"):
            farm.require_same_versions(client)

    def test_a_scheduler_that_dies(self, tmp_path):
        # Else the client tries for half a minute to find it again before it closes.
        with dask.config.set({"distributed.comm.timeouts.connect": "1s"}), workers(1) as client:
            executor = farm._dask(client, "127.0.0.1:1")
            target = target_of(tmp_path, 0.01, executor)
            threading.Timer(0.3, lambda: client.cluster.scheduler.loop.add_callback(client.cluster.scheduler.close)).start()
            with pytest.raises((TargetError, RunError), match="the Dask scheduler at 127.0.0.1:1 has gone"):
                in_double(target, np.zeros((400, 3, 2)))

    @pytest.mark.slow
    def test_ten_random_moments(self, client, tmp_path):
        rng, extra = random.Random(0), []
        for number in range(10):
            folder = tmp_path / str(number)
            folder.mkdir()
            found, expected, computed = energies_while_workers_die(client, folder, 10_000, [rng.uniform(0.0, 3.0)])
            np.testing.assert_array_equal(found, expected)
            extra.append(computed - 10_000)
            deadline = time.monotonic() + 60
            while len(client.nthreads()) < 4 and time.monotonic() < deadline:
                time.sleep(0.1)
        print(f"computed again, of 10 000 each: {extra}")
        assert max(extra) <= 8 * 157


class Job:
    """As submitit's: no future, but with a result."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def result(self) -> Any:
        return self._value


class Submitit:
    """As submitit's AutoExecutor: `submit`, and nothing else of an executor."""

    def submit(self, function: Any, *arguments: Any) -> Job:
        return Job(function(*arguments))


class Unreliable(concurrent.futures.ThreadPoolExecutor):
    """Loses the first tries of some tasks, as an engine whose workers die."""

    def __init__(self, losing: int) -> None:
        super().__init__(2)
        self._left = losing

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        if self._left:
            self._left -= 1
            lost: concurrent.futures.Future[Any] = concurrent.futures.Future()
            lost.set_exception(OSError("the worker died"))
            return lost
        return super().submit(fn, *args, **kwargs)


class TestOthers:
    def test_mpi_and_submitit_by_the_same_socket(self, tmp_path):
        positions = np.random.default_rng(1).normal(size=(20, 3, 2))
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            for executor in (pool, Submitit()):
                target = target_of(tmp_path, 0.0, executor)
                found = in_double(target, positions)
                np.testing.assert_array_equal(found, energy_of(positions))

    def test_results_in_order_and_lost_pieces_again(self):
        def slow(number: int) -> int:
            time.sleep(0.02 * (5 - number))
            return number

        with Unreliable(3) as executor:
            found = list(farm.in_order(executor, slow, [(number,) for number in range(5)], lambda piece, error: -1))
        assert found == [0, 1, 2, 3, 4]

    def test_a_piece_that_fails_each_time_costs_itself(self):
        def fail(number: int) -> int:
            if number == 1:
                raise MemoryError
            return number

        with concurrent.futures.ThreadPoolExecutor(2) as executor:
            assert list(farm.in_order(executor, fail, [(0,), (1,), (2,)], lambda piece, error: -piece[0])) == [0, -1, 2]

    def test_an_executor_that_was_shut_down(self):
        executor = concurrent.futures.ThreadPoolExecutor(1)
        executor.shutdown()
        with pytest.raises(RunError, match="the executor takes no more work"):
            list(farm.in_order(executor, int, [(0,)], lambda piece, error: 0))

    def test_a_chunk_that_no_worker_can_draw(self, tiny, monkeypatch):
        model = tiny
        real = Chunks.__call__

        def failing(self: Chunks, begin: int, end: int, chunk: int) -> Any:
            if begin == 64:
                raise MemoryError("no room")
            return real(self, begin, end, chunk)

        monkeypatch.setattr(Chunks, "__call__", failing)
        with (
            concurrent.futures.ThreadPoolExecutor(2) as executor,
            pytest.warns(UserWarning, match=r"the samples 64 to 127 have no weight, .* in 3 tries \(MemoryError: no room\)"),
        ):
            found = model.sample(200, seed=4, chunk=64, progress=False, executor=executor)
        assert found.n == 200
        assert found.n_failed == 64
        assert set(found.status[64:128]) == {Status.LOST}
        whole = model.sample(200, seed=4, chunk=64, progress=False)
        np.testing.assert_array_equal(found.positions[128:], whole.positions[128:])

    # An untrained flow has weights that no bootstrap can deal with.
    @pytest.mark.filterwarnings("ignore::RuntimeWarning")
    def test_an_evaluation_by_workers(self, tiny):
        frames = Dataset(np.random.default_rng(2).normal(size=(150, 4, 2)) * 2.0, tiny.target.fingerprint, tiny.target.units)
        with concurrent.futures.ThreadPoolExecutor(2) as executor:
            found, local = (evaluate(tiny, 150, seed=1, frames=frames, executor=some, progress=False) for some in (executor, None))
            weighed = densities(tiny, frames, executor=executor, checked=0, progress=False)
        for figures in (found, local):
            for name in ("seconds_per_1000", "seconds_compile"):
                figures.pop(name)
        assert str(found) == str(local)
        np.testing.assert_array_equal(weighed.log_q, log_importance_ratios(tiny.flow, frames.positions, seed=0)[:, 0])

    @pytest.mark.parametrize("word", ["dask", "dask://host", "mpi", "dask-slurm:x"])
    def test_words_that_name_no_executor(self, word):
        with pytest.raises(ConfigError, match="an executor is named"):
            farm.of(word)
        with pytest.raises(ConfigError, match="is no executor"):
            farm.of(3)

    def test_a_scheduler_that_does_not_answer(self, monkeypatch, capsys):
        monkeypatch.setattr(farm, "CONNECT_SECONDS", 1)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert main(["sample", "dw4", "-n", "10", "-o", "never.h5", "--executor", f"dask://127.0.0.1:{port}"]) == 2
        assert f"the Dask scheduler at 127.0.0.1:{port} does not answer, asked from {socket.gethostname()}" in capsys.readouterr().err
        assert not Path("never.h5").exists()

    def test_what_does_not_apply(self, tiny, tmp_path, capsys):
        out = str(tmp_path / "s.h5")
        assert main(["sample", "dw4", "-o", out, "--executor", "dask-slurm", "--temperature", "2"]) == 2
        assert "at the target's temperature" in capsys.readouterr().err
        assert main(["sample", "dw4", "-o", out, "--executor", "dask-slurm", "--correct", "smc"]) == 2
        assert "--executor is of plain samples" in capsys.readouterr().err
        assert main(["sample", "dw4", "-o", out, "--executor", "dask-slurm"]) == 2
        assert "dask-slurm needs the package dask-jobqueue" in capsys.readouterr().err
        with pytest.raises(ConfigError, match="does not apply"):
            tiny.sample(10, seed=0, executor="dask-slurm", devices=2)
