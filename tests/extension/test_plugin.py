"""A target, a vector field and an objective with a buffer, all of a user's own file: trained, killed, resumed, sampled."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

DOCUMENT = Path(__file__).parents[2] / "docs" / "extending.md"
STEPS = "stages.0.steps=10 stages.0.microbatch=32 stages.1.steps=150 data.validation=20 run.log_every=1 run.checkpoint_every=5".split()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with the plug-in and the configuration of the document, and frames."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "theirs").mkdir()
    (folder / "theirs" / "my_plugin.py").write_text(blocks("python")[0])
    (folder / "springs.yaml").write_text(blocks("yaml")[0])
    x = 0.5 * np.random.default_rng(0).normal(size=(400, 3, 2))
    np.save(folder / "frames.npy", x - x.mean(axis=1, keepdims=True))
    return folder


def words(place: Path, run: str) -> list[str]:
    data = f"data.path={place / 'frames.npy'}"
    return ["train", str(place / "springs.yaml"), "-o", str(place / run), "--set", data, *STEPS, "--plugin", plugin(place)]


def plugin(place: Path) -> str:
    return str(place / "theirs" / "my_plugin.py")


def boltzflow(place: Path, *words: str, until: Callable[[], bool] | None = None) -> tuple[int, str]:
    """A process of the command line, killed when `until` says so."""
    with subprocess.Popen(
        [sys.executable, "-m", "boltzflow", *words], cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ
    ) as process:
        while until is not None and process.poll() is None and not until():
            time.sleep(0.005)
        if until is not None:
            process.send_signal(signal.SIGKILL)
        said = process.communicate(timeout=600)[1]
    return process.returncode, said


def lines(folder: Path) -> list[dict]:
    path = folder / "metrics.jsonl"
    whole = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")] if path.is_file() else []
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in whole]


@pytest.fixture(scope="module")
def finished(place) -> Path:
    code, said = boltzflow(place, *words(place, "whole"))
    assert code == 0, said
    return place / "whole"


def test_the_example_is_short():
    assert len([line for line in blocks("python")[0].splitlines() if line.strip()]) <= 55
    objective = blocks("python")[0].partition("class Replay")[2]
    assert len([line for line in objective.splitlines() if line.strip()]) <= 30


def test_it_trains_and_its_buffer_learns_from_energies(finished):
    seen = lines(finished)
    assert [line["step"] for line in seen] == [*range(1, 161)]
    weights = [line["mean_log_weight"] for line in seen if "mean_log_weight" in line]
    assert len(weights) == 150
    # The mean of the log-weights is below log Z, and rises towards it as the flow comes nearer.
    assert np.mean(weights[-20:]) > np.mean(weights[:20])
    assert "plugins:\n- my_plugin\n" in (finished / "config.yaml").read_text()


def test_killed_and_resumed_it_ends_bit_identical(place, finished):
    folder = place / "killed"
    code, _ = boltzflow(place, *words(place, "killed"), until=lambda: len(lines(folder)) >= 50)
    assert code == -signal.SIGKILL
    assert not (folder / "model.safetensors").exists()
    code, said = boltzflow(place, "resume", str(folder), "--plugin", plugin(place))
    assert code == 0, said
    assert (folder / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()
    assert lines(folder) == lines(finished)


def test_a_missing_plugin_is_told(place, finished):
    code, said = boltzflow(place, "sample", str(finished), "-n", "5", "-o", str(place / "none.h5"))
    assert code == 2
    assert "the plug-in my_plugin is missing; install it, start where my_plugin.py lies, or name its file" in said
    assert "Traceback" not in said
    # Where the file lies, its name is enough.
    code, said = boltzflow(place / "theirs", "sample", str(finished), "-n", "5", "-o", str(place / "five.h5"))
    assert code == 0, said
    assert (place / "five.h5").is_file()


def test_a_plugin_that_fails_is_told_in_a_sentence(place):
    (place / "broken.py").write_text("import boltzflow as bf\nraise ValueError('no such luck')\n")
    code, said = boltzflow(place, "train", "dw4", "--plugin", "broken.py", "-o", str(place / "broken"))
    assert code == 2
    assert "the plug-in broken.py cannot be imported (ValueError: no such luck)" in said
    code, said = boltzflow(place, "train", "dw4", "--plugin", "no_such_module", "-o", str(place / "broken"))
    assert code == 2
    assert "the plug-in no_such_module is missing" in said
    assert not (place / "broken").exists()
