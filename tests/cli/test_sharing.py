"""Several processes of one job sample and make reference frames: each a shard, which the first one joins."""

import json
import signal
import socket
import threading
from pathlib import Path

import jax
import numpy as np
import pytest

from boltzflow import cluster, datasets, targets
from boltzflow.cli import main, sharing
from boltzflow.config import ECNF, EGNN, GaussLegendre, RunConfig
from boltzflow.errors import DataError, RunError
from boltzflow.evaluation import shares
from boltzflow.evaluation.figures import chosen_frames
from boltzflow.flows.build import build_flow
from boltzflow.models import load_model
from boltzflow.models.storage import save_model
from boltzflow.sampling import Samples
from boltzflow.sampling.generate import generate, log_importance_ratios
from pairs import Pair

N, CHUNK = 300, 64


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that compiles in no time."""
    config, target = RunConfig("dw4", flow=ECNF(EGNN(layers=1, hidden=4), GaussLegendre(2))), targets.get("dw4")
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_model(path, build_flow(config.flow, target, 1.0, key=jax.random.key(0)), config, target, {})
    return path


def words(model: Path, out: Path, n: int = N) -> list[object]:
    return ["sample", model, "-n", n, "--seed", 3, "--chunk", CHUNK, "-o", out]


def test_two_processes_draw_what_one_draws(tiny, tmp_path):
    out = tmp_path / "all.h5"
    # One shard is there already, as after a kill of the other process.
    part = tmp_path / "all.shard2of2.h5"
    assert main([str(word) for word in [*words(tiny, part), "--shard", "2/2"]]) == 0
    codes, said = Pair(*words(tiny, out), "--resume").wait()
    assert codes == [0, 0], said
    loaded = load_model(tiny)
    whole, found = generate(loaded.flow, loaded.target, N, seed=3, chunk=CHUNK), Samples.load(out, loaded.target)
    for name in ("positions", "log_q", "u", "log_weight", "status"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
    assert [path.name for path in tmp_path.iterdir()] == ["all.h5"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGKILL])
def test_one_of_two_goes_and_both_go_on(tiny, tmp_path, number):
    out, n = tmp_path / "all.h5", 100_000
    pair = Pair(*words(tiny, out, n))
    pair.until(lambda: (tmp_path / ".all.shard2of2.h5.lock").exists())
    pair.processes[1].send_signal(number)
    codes, said = pair.wait()
    assert not out.exists()
    if number == signal.SIGUSR1:
        assert codes == [75, 128 + number], said
        assert f"process 1 on {socket.gethostname()} was interrupted by SIGUSR1; what is drawn is kept" in said[0]
    else:
        assert codes[0] in (75, 134, -signal.SIGABRT), said
        assert "boltzflow: error: process " in said[0]
    codes, said = Pair(*words(tiny, out, n), "--resume").wait()
    assert codes == [0, 0], said
    loaded = load_model(tiny)
    whole, found = generate(loaded.flow, loaded.target, n, seed=3, chunk=CHUNK), Samples.load(out, loaded.target)
    np.testing.assert_array_equal(found.log_weight, whole.log_weight)


@pytest.mark.slow
def test_reference_frames_of_two_processes(tmp_path):
    out = tmp_path / "data.h5"
    codes, said = Pair("reference", "dw4", "-n", 256, "--chains", 8, "--seed", 2, "-o", out).wait()
    assert codes == [0, 0], said
    found = datasets.load(out, targets.get("dw4"))
    assert found.n == 256
    assert found.provenance["joined_shards"] == 2
    assert found.provenance["chains"] == 16
    assert [path.name for path in tmp_path.iterdir()] == ["data.h5"]


def test_a_folder_that_a_host_does_not_share_or_may_not_write(monkeypatch, tmp_path):
    monkeypatch.setattr(sharing, "SEEN_SECONDS", 0.1)
    monkeypatch.setattr(cluster, "first", lambda work: ".a-note-on-another-disk")
    with pytest.raises(RunError, match=f"is not the same folder on {socket.gethostname()} as on the host of process 0"):
        sharing.require_shared(tmp_path)
    monkeypatch.setattr(cluster, "first", lambda work: work())

    def read_only(path: Path) -> None:
        raise RunError(f"cannot write {path} (read-only file system); choose another place.")

    monkeypatch.setattr(sharing.files, "require_writable", read_only)
    with pytest.raises(RunError, match=rf"read-only file system\); choose another place, on {socket.gethostname()}"):
        sharing.require_shared(tmp_path)


def test_a_slow_folder_is_waited_for(monkeypatch, tmp_path):
    note = tmp_path / ".note"
    monkeypatch.setattr(cluster, "first", lambda work: note.name)
    threading.Timer(0.5, note.touch).start()
    sharing.require_shared(tmp_path)


@pytest.mark.parametrize(
    "more", [("--shard", "1/2"), ("--executor", "dask-slurm"), ("--correct", "smc", "--energies", "1e4")], ids=lambda more: more[0]
)
def test_what_does_not_apply(more, tmp_path, capsys):
    assert main(["sample", "dw4", "-o", str(tmp_path / "s.h5"), "--distributed", *more]) == 2
    assert f"{more[0]} does not apply with --distributed: each process draws a shard of plain samples" in capsys.readouterr().err


def test_reference_that_is_not_divided(tmp_path, capsys):
    out = str(tmp_path / "d.h5")
    assert main(["reference", "dw4", "-o", out, "--distributed", "--effective", "10"]) == 2
    assert "--effective does not apply with --distributed" in capsys.readouterr().err
    assert main(["reference", "dw4", "-o", out, "--distributed", "--method", "molecular-dynamics"]) == 2
    assert "--distributed is for --method tempering" in capsys.readouterr().err


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames of the tiny model's target; a few chunks."""
    path = tmp_path_factory.mktemp("frames") / "frames.h5"
    target = targets.get("dw4")
    positions = np.random.default_rng(2).normal(size=(200, 4, 2)) * 2.0
    datasets.Dataset(positions, target.fingerprint, target.units).save(path)
    return path


def test_shares_hold_what_one_process_makes(tiny, frames, tmp_path, monkeypatch):
    model = load_model(tiny)
    monkeypatch.setattr(type(model.flow), "chunk_size", 32)
    data = datasets.load(frames, model.target, allow_virial_mismatch=True)

    def share(number: int, seed: int = 5) -> None:
        shares.make(model, tmp_path, 150, (number, 3), seed=seed, frames=data, progress=False)

    share(1)
    share(3)
    with pytest.raises(DataError, match=r"1 of 3 shards is missing: 2/3; make .* `boltzflow evaluate MODEL -n 150 --shard 2/3"):
        shares.joined(model, tmp_path)
    share(2)
    samples, n, ratios = shares.joined(model, tmp_path)
    assert n == 150
    np.testing.assert_array_equal(Samples.load(samples).log_weight, generate(model.flow, model.target, n, seed=5).log_weight)
    positions = chosen_frames(data, n, seed=5)[0].positions
    np.testing.assert_array_equal(ratios(positions, seed=5), log_importance_ratios(model.flow, positions, seed=5))
    with pytest.raises(DataError, match="are of other frames, or of another seed"):
        ratios(positions, seed=6)
    # A share that is there is not made again, and another evaluation's is not replaced.
    share(2)
    with pytest.raises(RunError, match="seed"):
        share(2, seed=6)
    (tmp_path / "frames.shard2of3.npz").write_bytes(b"torn")
    with pytest.raises(DataError, match=r"frames.shard2of3.npz is damaged .* delete it, and make that share again"):
        shares.joined(model, tmp_path)


def test_shares_that_cannot_be(tiny, tmp_path, capsys):
    out = str(tmp_path / "none")
    assert main(["evaluate", str(tiny), "--shard", "1/2", "-o", out]) == 2
    assert "shares need frames that are the same for all" in capsys.readouterr().err
    assert main(["evaluate", str(tiny), "--shard", "1/2"]) == 2
    assert "-o is the folder of shares" in capsys.readouterr().err
    assert main(["evaluate", str(tiny), "--shard", "1/2", "-o", out, "--executor", "dask-slurm"]) == 2
    assert "--shard makes samples and densities alone" in capsys.readouterr().err


@pytest.mark.slow
# An untrained flow has weights that no bootstrap can deal with.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_an_evaluation_of_shares_is_that_of_the_whole(tiny, frames, tmp_path, capsys):
    told = ["evaluate", str(tiny), "--allow-virial-mismatch", "--data", str(frames), "--seed", "5"]
    found = []
    assert main([*told, "-n", "250", "--json"]) == 0
    found.append(json.loads(capsys.readouterr().out))
    for name in ("1/2", "2/2"):
        assert main([*told, "-n", "250", "--shard", name, "-o", str(tmp_path)]) == 0
    capsys.readouterr()
    assert main([*told, "--samples", str(tmp_path), "--json"]) == 0
    found.append(json.loads(capsys.readouterr().out))
    for figures in found:
        for name in ("seconds_per_1000", "seconds_compile"):
            figures.pop(name)
    assert found[0] == found[1]


@pytest.mark.slow
def test_two_processes_evaluate(tiny, frames, tmp_path):
    codes, said = Pair("evaluate", tiny, "-n", 300, "--data", frames, "--allow-virial-mismatch", "--json", "-o", tmp_path / "shares").wait()
    assert codes == [0, 0], said
    assert {path.name for path in (tmp_path / "shares").iterdir()} == {
        "samples.h5",
        *(f"{what}.shard{number}of2.{ending}" for number in (1, 2) for what, ending in (("samples", "h5"), ("frames", "npz"))),
    }
