"""What the report says of a run: whose samples, units, temperature, atoms and bonds, in numbers that can be read; and what is damaged."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boltzflow import report
from boltzflow.analysis import Estimate
from boltzflow.datasets import Dataset
from boltzflow.report import contents, figures, molecules
from boltzflow.report.page import numbers, percent
from boltzflow.report.system import System, rotatable_torsions
from boltzflow.sampling import plots
from boltzflow.sampling.samples import Samples


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are put together but not laid out, which takes most of the time."""
    monkeypatch.setattr("boltzflow.report.figures.svg", lambda _: "<svg/>")
    monkeypatch.setattr("boltzflow.report.molecule_figures.svg", lambda _: "<svg/>")


ETHANOL = {
    "C": [(-0.0748, 0.0015, 0.0024), (0.0558, -0.0420, -0.0278)],
    "O": [(0.1716, 0.0380, 0.0170)],
    "H": [(-0.1293, -0.0202, 0.0901), (-0.1263, 0.0754, -0.0600), (0.0526, -0.1478, -0.0030), (0.0623, -0.0406, -0.1382),
          (-0.0699, 0.0934, 0.0610), (0.1760, 0.0320, 0.1120)],
}  # fmt: skip


def headings(page: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page)


def calculator_run(folder: Path, *, structure: bool = False, n: int = 400, clash: bool = True) -> Path:
    """A run of a calculator of the user's, which cannot be made again: an ethanol-like molecule whose hydroxyl turns freely."""
    rng = np.random.default_rng(3)
    symbols = "".join(symbol * len(places) for symbol, places in ETHANOL.items())
    fingerprint = f"my_energy(charge=0, symbols='{symbols}') N=9 D=3 [nm, T=330.0 K]"
    pdb = "".join(
        f"HETATM{i:>5} {f'{s}{i}':<4} LIG A   1    {10 * x:8.3f}{10 * y:8.3f}{10 * z:8.3f}  1.00  0.00          {s:>2}\n"
        for i, (s, (x, y, z)) in enumerate(((s, p) for s, places in ETHANOL.items() for p in places), start=1)
    )
    pdb += "CONECT    1    2    4    5    8\nCONECT    2    3    6    7\nCONECT    3    9\nEND\n"
    base = np.array([place for places in ETHANOL.values() for place in places])
    positions = (base + 0.002 * rng.normal(size=(n, 9, 3))).astype(np.float32)
    positions -= positions.mean(axis=1, keepdims=True)
    u = -40.0 + rng.gamma(10.0, size=n)
    log_q = -u + 9.0 + 0.3 * rng.normal(size=n)
    if clash:
        u[: n // 5] = 1e9 * (1 + np.arange(n // 5))
        log_q[: n // 5] = -30.0
    folder.mkdir()
    (folder / "config.yaml").write_text("target: my_energy\n")
    (folder / "versions.json").write_text(
        json.dumps({"date": "2026-11-26T10:30:00+00:00", "command": "boltzflow train <x>", "openmm": "8.3", "tblite": "0.4"})
    )
    Dataset(positions, fingerprint, "nm", {"seed": 0}, pdb if structure else "").save(folder / "data.h5")
    meta = {"target": "my_energy", "fingerprint": fingerprint, "units": "nm", "seed": 0}
    Samples(positions[::-1], log_q, u, np.zeros(n, int), np.ones(n, int), np.ones(n), meta).save(folder / "samples.h5")
    return folder


class TestTargetThatCannotBeMadeAgain:
    """What the run folder holds is used: unit, temperature, elements and bonds stand in data and samples."""

    @pytest.mark.parametrize("structure", [False, True])
    def test_system_from_files(self, tmp_path: Path, structure: bool) -> None:
        if structure:
            pytest.importorskip("openmm")
        system = contents.read(calculator_run(tmp_path / "run", structure=structure)).system
        assert system is not None
        assert (system.n_particles, system.dimension, system.units, system.temperature) == (9, 3, "nm", 330.0)
        assert "".join(system.elements) == "CCOHHHHHH"
        # Those of ethanol, whether they are named or guessed from the distances.
        assert {tuple(sorted(bond)) for bond in system.bonds} == {(0, 1), (0, 3), (0, 4), (0, 7), (1, 2), (1, 5), (1, 6), (2, 8)}
        assert len(set(system.names)) == 9

    def test_page(self, tmp_path: Path, unrendered: None) -> None:
        page = report.write(calculator_run(tmp_path / "run"), tmp_path / "r.html").read_text()
        assert "could not be drawn" not in page
        assert "reduced units" not in page
        assert {"Free energy along rotatable bonds", "Bond lengths", "Bond angles"} <= set(headings(page))
        assert "330 K (1 kT = 2.744 kJ/mol = 0.656 kcal/mol)" in page
        assert "lines join bonded atoms" in page
        assert "2026-11-26 10:30" in page
        assert "<code>boltzflow train &lt;x&gt;</code>" in page
        assert "tblite" in page
        assert [symbol for symbol in "CHO" if f"</i>{symbol}</span>" in page] == ["C", "H", "O"]
        titles = [found.encode().decode("unicode_escape") for found in re.findall(r'"text": "(sample 1:[^"]*)"', page)]
        assert len(titles) == 1
        assert re.fullmatch(r"sample 1: u = \S+ kT, about \S+ nm across", titles[0])

    def test_energy_axis_shows_the_target_in_spite_of_clashes(self, tmp_path: Path) -> None:
        samples = Samples.load(calculator_run(tmp_path / "run") / "samples.h5")
        edges = plots.energy_edges({"flow": (samples.u, None), "reweighted flow": (samples.u, samples.log_weight)})
        inside = (samples.u > edges[0]) & (samples.u < edges[-1])
        assert inside[80:].mean() > 0.98
        assert not inside[:80].any()
        # The target fills a good part of the axis.
        assert np.ptp(samples.u[80:]) > 0.3 * (edges[-1] - edges[0])


@pytest.mark.parametrize(
    ("bonds", "elements", "expected"),
    [
        # Ethanol: C-C only turns a methyl, C-O turns the hydroxyl.
        ([(0, 1), (0, 3), (0, 4), (0, 7), (1, 2), (1, 5), (1, 6), (2, 8)], "CCOHHHHHH", [(0, 1, 2, 8)]),
        # Butane without hydrogens, numbered out of order.
        ([(3, 1), (1, 0), (0, 2)], "CCCC", [(2, 0, 1, 3)]),
        # A ring of four with a tail of two: the bond between ring and tail alone.
        ([(0, 1), (1, 2), (2, 3), (3, 0), (0, 4), (4, 5)], "CCCCCO", [(1, 0, 4, 5)]),
        ([(0, 1)], "OH", []),
        ([], "ArAr", []),
    ],
)
def test_rotatable_bonds(bonds, elements, expected) -> None:
    assert rotatable_torsions(re.findall("[A-Z][a-z]?", elements), bonds) == expected


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.0, "0"), (1e-9, "< 0.001"), (0.00524, "0.52"), (0.0974, "9.7"), (0.43, "43"), (0.994, "99.4"), (0.9999, "100"), (1.0, "100")],
)
def test_shares_in_percent(share: float, words: str) -> None:
    assert percent(share) == f"{words}\u202f%"


def test_infinite_and_missing_numbers_are_typeset() -> None:
    assert numbers(Estimate(-math.inf, -math.inf, math.inf, 5))[0] == "−∞"
    assert numbers(Estimate(math.nan, math.nan, math.nan, 0))[0] == "–"


def test_a_side_without_weight_is_said_in_words() -> None:
    system = System(2, 3, "nm", 300.0)
    phi = np.array([-1.0, -0.5, 0.5])
    assert molecules._side_difference(system, "data", phi[:2], np.zeros(2)) == "data has nothing at φ > 0"
    assert molecules._side_difference(system, "flow", phi, np.array([0.0, 0.0, -np.inf])) == "flow has nothing at φ > 0"
    # ln 2 above, as one of three is there.
    words = molecules._side_difference(system, "data", phi, np.zeros(3))
    assert words.startswith("F(φ > 0) − F(φ < 0) of data: 0.693 kT ")
    assert "1.73 kJ/mol, 0.413 kcal/mol" in words


def test_learning_rate_has_a_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("boltzflow.report.figures.svg", lambda figure: drawn.append(figure) or "<svg/>")
    lines = [{"step": step, "loss": 3.0 + 1.0 / step, "learning_rate": 1e-3 / step} for step in range(1, 60)]
    figures.training(lines, [{"step": 30, "validation_nll": {"value": 1.0, "low": 0.9, "high": 1.1}}])
    axes = {axes.get_title(loc="left"): axes for axes in drawn[0].axes}
    assert set(axes) == {"training loss", "validation NLL / nats", "learning rate"}
    assert axes["learning rate"].get_lines()[0].get_ydata()[1] == 5e-4
