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
    "flow.network=egnn flow.layers=1 flow.hidden=8 flow.radial=0 data.validation=20 objective.pairing=independent "
    "training.warmup_steps=5 training.batch_size=16 training.microbatch=16 training.steps=60 training.log_every=7 "
    "training.checkpoint_every=10 flow.solver.steps=4"
).split()
REFINED = "refinement.steps=20 refinement.batch_size=8 refinement.microbatch=8 refinement.nodes=2 refinement.warmup_steps=2".split()

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
        lambda place: train(frames, place, "refinement.steps=0"),
        # The same command: whatever it had done, it goes on.
        lambda place: train(frames, place, "refinement.steps=0"),
        result,
        tmp_path,
        times=TIMES,
        started=lambda place: (place / "run").exists(),
    )
    assert hit >= TIMES // 2


def test_refine(frames, tmp_path):
    trained = tmp_path / "trained"
    trained.mkdir()
    killing.run(train(frames, trained, "refinement.steps=0"))
    hit = killing.resumes_alike(
        lambda place: train(frames, place, *REFINED),
        lambda place: train(frames, place, *REFINED),
        result,
        tmp_path / "refined",
        times=TIMES,
        prepare=lambda place: shutil.copytree(trained / "run", place / "run") and None,
    )
    assert hit >= TIMES // 2


def test_sample(tmp_path):
    def words(place: Path) -> list[object]:
        return ["sample", "dw4", "-n", "3000", "--seed", "5", "--chunk", "50", "-o", place / "samples.h5", "--resume"]

    def samples(place: Path) -> bytes:
        found = bf.Samples.load(place / "samples.h5")
        return b"".join(np.asarray(getattr(found, name)).tobytes() for name in ("positions", "log_q", "u", "status"))

    assert killing.resumes_alike(words, words, samples, tmp_path, times=TIMES) >= TIMES // 2
