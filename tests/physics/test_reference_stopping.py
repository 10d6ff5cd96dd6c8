"""When the reference sampler stops: at an effective number, by Ctrl-C, on a full disk; and what it judges chains by."""

import errno
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boltzflow import datasets, files, reference, targets
from boltzflow.errors import ConfigError, DataError, RunError, RunInterrupted
from boltzflow.progress import Silent
from boltzflow.reference import effort, journal
from boltzflow.reference.observables import observables, torsions_of
from boltzflow.reference.sampler import partial_of

sys.path.insert(0, str(Path(__file__).parents[1]))

import killing
from recording import Recorder

LADDER: dict[str, Any] = {"seed": 3, "temperatures": (1.0, 2.0), "chains": 8}


@pytest.fixture(scope="module")
def spring() -> targets.Target:
    """Two particles on a line, as one normal variable."""
    return targets.from_function(
        lambda x: 0.25 * (x[0, 0] - x[1, 0]) ** 2,
        2,
        1,
        name="spring",
        classes=[0, 1],
        reflections=False,
        start=lambda key: jax.random.uniform(key, (), minval=-1.0, maxval=1.0) * jnp.array([[1.0], [-1.0]]),
    )


class _Interrupting(Silent):
    """Raises after so many reports of sampling."""

    def __init__(self, allowed: int, error: type[BaseException] = KeyboardInterrupt, word: str = "sampling") -> None:
        self._left, self._error, self._word = allowed, error, word

    def update(self, done: int, **fields: object) -> None:
        self._left -= str(fields["now"]).startswith(self._word)
        if self._left < 0:
            raise self._error


# An effective number.


def test_it_stops_at_the_effective_number(spring: targets.Target):
    told = Recorder()
    result = reference.sample(spring, effective=300, **LADDER, progress=told)
    found = result.diagnostics
    assert min(found["ess"].values()) >= 300
    assert max(found["r_hat"].values()) <= 1.05
    assert found["effective_wanted"] == 300
    # Not long after it was reached: the last but one of the chunks of 16 draws was not enough.
    assert result.dataset.n % (16 * 8) == 0
    assert 300 <= result.dataset.n <= 2_000
    assert "WARNING" not in result.sentence()
    said = [str(fields["now"]) for fields in told.fields if str(fields["now"]).startswith("sampling")]
    assert any("of 300, R-hat 1." in words for words in said)
    assert told.done == sorted(told.done)


def test_the_most_frames_are_a_limit(spring: targets.Target):
    result = reference.sample(spring, 200, effective=10_000, **LADDER)
    assert result.dataset.n == 200
    assert "WARNING: the effective sample size of" in result.sentence()
    assert "where 10000 were asked for; raise the most frames" in result.sentence()


def test_chains_that_disagree_are_not_enough():
    """Two wells that no chain leaves, at distances 1 and 3: each is worth many frames by itself, and they never agree."""

    def energy(x: Any) -> Any:
        return 50.0 * ((jnp.abs(x[0, 0] - x[1, 0]) - 2.0) ** 2 - 1.0) ** 2

    def start(key: Any) -> Any:
        return jnp.where(jax.random.bernoulli(key), 0.5, 1.5) * jnp.array([[1.0], [-1.0]])

    wells = targets.from_function(energy, 2, 1, name="wells", start=start)
    result = reference.sample(wells, 256, effective=20, **LADDER)
    assert result.dataset.n == 256
    assert result.diagnostics["r_hat"]["radius_of_gyration"] > 1.2
    assert "WARNING: the chains have not converged" in result.sentence()


def test_an_effective_number_is_reached_again_after_kills(spring: targets.Target, tmp_path: Path):
    whole = reference.sample(spring, effective=400, **LADDER, out=tmp_path / "whole.h5")
    path, kills = tmp_path / "killed.h5", 0

    class Killed(Exception):
        pass

    for allowed in (0, 1, 1, 100):
        try:
            result = reference.sample(spring, effective=400, **LADDER, out=path, resume=True, progress=_Interrupting(allowed, Killed))
            break
        except Killed:
            kills += 1
            with pytest.raises(RunError, match="was begun with effective number of frames 400, not 500"):
                reference.sample(spring, 400 * 50, effective=500, **LADDER, out=path, resume=True)
    assert kills >= 2
    np.testing.assert_array_equal(result.dataset.positions, whole.dataset.positions)


# Ctrl-C and a full disk.


def test_an_interrupt_keeps_the_frames_and_the_way_on(spring: targets.Target, tmp_path: Path):
    whole = reference.sample(spring, 700, **LADDER)
    path = tmp_path / "frames.h5"
    with pytest.raises(RunInterrupted, match="interrupted in the warm-up, of which nothing is kept; begin again with resume") as early:
        reference.sample(spring, 700, **LADDER, out=path, progress=_Interrupting(0, word="warm-up"))
    assert early.value.signal == signal.SIGINT
    with pytest.raises(RunInterrupted, match=r"the \d+ frames that there are, not yet judged, are in .*frames\.partial\.h5; continue with"):
        reference.sample(spring, 700, **LADDER, out=path, resume=True, progress=_Interrupting(2))
    assert not path.exists()
    partial = datasets.load(partial_of(path), spring)
    assert partial.n == 2 * 15 * 8  # six chunks of 15 draws
    assert partial.provenance["interrupted"]
    assert partial.energies is not None
    np.testing.assert_allclose(partial.energies, np.asarray(spring.energies(jnp.asarray(partial.positions))), rtol=1e-4, atol=1e-5)
    result = reference.sample(spring, 700, **LADDER, out=path, resume=True)
    np.testing.assert_array_equal(result.dataset.positions, whole.dataset.positions)
    assert not partial_of(path).exists()
    assert not journal.folder_of(path).exists()
    # Without a file there is nothing to keep them in.
    with pytest.raises(KeyboardInterrupt):
        reference.sample(spring, 700, **LADDER, progress=_Interrupting(2))


def test_a_full_disk_keeps_what_there_was_room_for(spring: targets.Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = reference.sample(spring, 700, **LADDER)
    path, written, replace = tmp_path / "frames.h5", [], files.replace

    def full(to: Path, content: Any) -> None:
        if to.suffix == ".npz":
            written.append(to)
            if len(written) > 18:
                raise OSError(errno.ENOSPC, "No space left on device", str(to))
        replace(to, content)

    with monkeypatch.context() as patched:
        patched.setattr(files, "replace", full)
        with pytest.raises(RunError, match=r"cannot be written: .*space.*; what is done is kept there, make room and continue with resume"):
            reference.sample(spring, 700, **LADDER, out=path)
    assert len(list(journal.folder_of(path).glob("*.npz"))) == 18
    result = reference.sample(spring, 700, **LADDER, out=path, resume=True)
    np.testing.assert_array_equal(result.dataset.positions, whole.dataset.positions)


@pytest.mark.slow
def test_ctrl_c_on_the_command_line(tmp_path: Path):
    path = tmp_path / "frames.h5"
    words = ["reference", "dw4", "-n", "400000", "--chains", "64", "-o", path]
    process = subprocess.Popen(killing.command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (journal.folder_of(path) / "000030.npz").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in told
    assert "boltzflow: error: interrupted; the " in told
    assert datasets.load(partial_of(path), targets.get("dw4")).n > 1_000


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--effective", "0"], "--effective must be at least 1, got 0"),
        (["--effective", "5", "--method", "molecular-dynamics"], "--effective is for --method tempering"),
        (["-n", "0"], "-n must be at least 1, got 0"),
    ],
)
def test_what_is_wrong_on_the_command_line(words: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    from boltzflow.cli import main

    monkeypatch.chdir(tmp_path)
    assert main(["reference", "dw4", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_a_density_without_energy_has_no_effective_number():
    frames = np.random.default_rng(0).normal(size=(5, 3, 2)).astype(np.float32)
    target = targets.Target("frames", 3, 2, None, (0, 1, 2), frames=lambda: frames)
    with pytest.raises((DataError, ConfigError), match="give their number n"):
        reference.sample(target, effective=3)


# Torsions.


def graph(text: str) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    """Elements and bonds of `C C-0 H-0 ...`: each word is an element and the atoms before it that it is bonded to."""
    elements, bonds = [], []
    for i, word in enumerate(text.split()):
        element, *others = word.split("-")
        elements.append(element)
        bonds += [(int(j), i) for j in others]
    return tuple(elements), tuple(bonds)


@pytest.mark.parametrize(
    ("molecule", "expected"),
    [
        # Butane: about its middle bond; methyl groups cannot be told from themselves turned by a third.
        ("C C-0 C-1 C-2 H-0 H-0 H-0 H-1 H-1 H-2 H-2 H-3 H-3 H-3", [(0, 1, 2, 3)]),
        # Ethanol: the hydroxyl.
        ("C C-0 O-1 H-0 H-0 H-0 H-1 H-1 H-2", [(0, 1, 2, 8)]),
        # N-methylacetamide: its amide bond is left to a check of its own.
        ("C C-0 O-1 N-1 C-3 H-0 H-0 H-0 H-3 H-4 H-4 H-4", []),
        # Cyclobutane: a ring.
        ("C C-0 C-1 C-2-0 H-0 H-0 H-1 H-1 H-2 H-2 H-3 H-3", []),
        # Hydrogen peroxide.
        ("H O-0 O-1 H-2", [(0, 1, 2, 3)]),
        # Phenol: the two sides of the ring are alike.
        ("C C-0 C-1 C-2 C-3 C-4-0 O-0 H-1 H-2 H-3 H-4 H-5 H-6", []),
    ],
)
def test_torsions_about_bonds_that_turn(molecule: str, expected: list[tuple[int, ...]]):
    elements, bonds = graph(molecule)
    target = targets.Target("molecule", len(elements), 3, None, tuple(range(len(elements))), bonds=bonds, elements=elements)
    assert list(torsions_of(target).values()) == expected


def test_a_peptide_is_judged_by_phi_and_psi():
    pytest.importorskip("openmm")
    target = targets.get("alanine-dipeptide")
    found = torsions_of(target)
    assert list(found)[:2] == ["phi_ALA2", "psi_ALA2"]
    x = np.asarray(target.structure)[None, None] + np.zeros((2, 3, 1, 1))
    names = set(observables(np.zeros((2, 3)), x, target))
    assert {"energy", "radius_of_gyration", "sin_phi_ALA2", "cos_psi_ALA2"} <= names
    # phi of the minimum, about -80 to -150 degrees.
    assert observables(np.zeros((2, 3)), x, target)["sin_phi_ALA2"][0, 0] < -0.3


# Energies that are expensive.


def test_the_effort_is_fitted_to_the_cost(monkeypatch: pytest.MonkeyPatch):
    target = targets.get("dw4")
    assert effort.fitting(target, 4).name == "compiled"
    monkeypatch.setattr(effort, "is_expensive", lambda target: True)
    for seconds, name in ((0.001, "outside JAX"), (1.0, "expensive")):
        monkeypatch.setattr(effort, "seconds_of_batch", lambda target, size, seconds=seconds: seconds)
        spent = effort.fitting(target, 4)
        assert spent.name == name
        assert spent == effort.of_name(name, target)
    # At one second for all chains and temperatures together: some two minutes to the warm-up's end, where it was 16.
    assert sum(sweeps for sweeps, _ in spent.warm_up) * spent.leapfrog_steps < 200
