"""kill -9 at 20 random moments of each verb that can be continued: 20 times the same result. Slow."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import boltzflow as bf

sys.path.insert(0, str(Path(__file__).parents[1]))

import killing

TIMES = 20
TINY = (
    "flow.network=egnn flow.network.layers=1 flow.network.hidden=8 data.validation=20 stages.0.objective.pairing=independent "
    "stages.0.optimiser.warmup_steps=5 stages.0.batch_size=16 stages.0.microbatch=16 stages.0.steps=60 run.log_every=7 "
    "run.checkpoint_every=10 flow.solver.nodes=4"
).split()
ALONE = "stages.1=null"
REFINED = "stages.1.objective=path-gradient stages.1.steps=20 stages.1.batch_size=8 stages.1.microbatch=8".split()
REFINED += "stages.1.objective.nodes=2 stages.1.optimiser.warmup_steps=2".split()

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "frames.h5"
    bf.reference.sample(bf.targets.get("dw4"), 300, seed=0).dataset.save(path)
    return path


def result(place: Path) -> str:
    log = [line.partition(', "seconds"')[0] for line in (place / "run" / "metrics.jsonl").read_text().splitlines()]
    return killing.digest(place / "run" / "model.safetensors") + "\n".join(log)


def train(frames: Path, place: Path, *options: str) -> list[object]:
    return ["train", "dw4", "-o", place / "run", "--set", f"data.path={frames}", *TINY, *options]


def test_train(frames, tmp_path):
    hit = killing.resumes_alike(
        lambda place: train(frames, place, ALONE),
        # The same command: whatever it had done, it goes on.
        lambda place: train(frames, place, ALONE),
        result,
        tmp_path,
        times=TIMES,
        started=lambda place: (place / "run").exists(),
    )
    assert hit >= TIMES // 2


def test_refine(frames, tmp_path):
    trained = tmp_path / "trained"
    trained.mkdir()
    killing.run(train(frames, trained, ALONE))
    hit = killing.resumes_alike(
        lambda place: train(frames, place, *REFINED),
        lambda place: train(frames, place, *REFINED),
        result,
        tmp_path / "refined",
        times=TIMES,
        prepare=lambda place: shutil.copytree(trained / "run", place / "run") and None,
    )
    assert hit >= TIMES // 2


def test_cool(tmp_path):
    """Rungs last 15 steps, checkpoints are made every 10: killed in the middle of rungs and of their making."""
    learning = "stages.0.objective.learn.pairing=independent stages.0.objective.frames=64 stages.0.objective.rung_steps=15".split()
    fast = "stages.0.objective.chains=4 stages.0.objective.moves=2".split()
    rest = [word for word in TINY if "data." not in word and "objective.pairing" not in word]

    def words(place: Path) -> list[object]:
        return ["train", "dw4-cooling", "-o", place / "run", "--set", *rest, *learning, *fast, ALONE]

    hit = killing.resumes_alike(words, words, result, tmp_path, times=TIMES, started=lambda place: (place / "run").exists())
    assert hit >= TIMES // 2


def test_fab(tmp_path):
    """A pass comes every third step, checkpoints every 5: killed in the middle of a draw from the buffer."""
    tiny = "flow.projection=none flow.blocks=1 flow.layers=1 flow.features=8 run.log_every=7 run.checkpoint_every=5 run.evaluate_every=0"
    stage = "steps=60 batch_size=16 microbatch=16 optimiser.warmup_steps=5 objective.updates=3 objective.least=4 objective.capacity=6"
    options = [*tiny.split(), *(f"stages.0.{word}" for word in stage.split())]

    def words(place: Path) -> list[object]:
        return ["train", "dw4-fab", "-o", place / "run", "--set", *options]

    hit = killing.resumes_alike(words, words, result, tmp_path, times=TIMES, started=lambda place: (place / "run").exists())
    assert hit >= TIMES // 2


def test_sample(tmp_path):
    def words(place: Path) -> list[object]:
        return ["sample", "dw4", "-n", "3000", "--seed", "5", "--chunk", "50", "-o", place / "samples.h5", "--resume"]

    def samples(place: Path) -> bytes:
        found = bf.Samples.load(place / "samples.h5")
        return b"".join(np.asarray(getattr(found, name)).tobytes() for name in ("positions", "log_q", "u", "status"))

    assert killing.resumes_alike(words, words, samples, tmp_path, times=TIMES) >= TIMES // 2


def test_reference(tmp_path):
    def words(place: Path) -> list[object]:
        return ["reference", "dw4", "-n", "20000", "--chains", "64", "--seed", "2", "-o", place / "frames.h5", "--resume"]

    def found(place: Path) -> bytes:
        data = bf.datasets.read(place / "frames.h5")
        assert not (place / "frames.h5.parts").exists()
        return np.asarray(data.positions).tobytes()

    # Once there, the file is not made again: the kill may come after the end.
    def again(place: Path) -> list[object]:
        return ["targets"] if (place / "frames.h5").exists() else words(place)

    assert killing.resumes_alike(words, again, found, tmp_path, times=TIMES) >= TIMES // 2


def test_average(tmp_path):
    drawn = tmp_path / "drawn.h5"
    killing.run(["sample", "dw4-eacf", "-n", "6000", "--seed", "1", "-o", drawn])

    def words(place: Path) -> list[object]:
        return ["average", "dw4-eacf", drawn, "-o", place / "averaged.h5", "--resume"]

    def found(place: Path) -> bytes:
        samples = bf.Samples.load(place / "averaged.h5")
        assert samples.n == 6000
        return np.asarray(samples.log_weight).tobytes() + np.asarray(samples.positions).tobytes()

    assert killing.resumes_alike(words, words, found, tmp_path, times=TIMES) >= TIMES // 2


@pytest.mark.parametrize("correction", ["smc", "metropolis"])
def test_correct(tmp_path, correction):
    def words(place: Path) -> list[object]:
        asked = ["-n", "1024", "--seed", "5", "--correct", correction]
        return ["sample", "dw4-eacf", *asked, "-o", place / "samples.h5", "--resume"]

    def samples(place: Path) -> bytes:
        found = bf.Samples.load(place / "samples.h5")
        return b"".join(np.asarray(getattr(found, name)).tobytes() for name in ("positions", "log_weight", "u", "group", "stay"))

    assert killing.resumes_alike(words, words, samples, tmp_path, times=TIMES) >= TIMES // 2
