"""Samples of shipped models on the page of a run: the last part of `boltzflow demo`."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from boltzflow import report, targets
from boltzflow.analysis.estimate import Estimate
from boltzflow.cli import demo
from boltzflow.report import contents, molecules
from boltzflow.sampling.samples import Samples


def drawn(folder: Path, name: str, n: int) -> Path:
    """A folder of samples, with the card of their model; any positions, energies and densities."""
    rng, target = np.random.default_rng(0), targets.get(name)
    folder.mkdir()
    positions = rng.normal(size=(n, target.n_particles, target.dimension)).astype(np.float32)
    u = rng.normal(size=n)
    meta = {"target": name, "fingerprint": target.fingerprint, "units": target.units}
    Samples(positions, -u + 0.2 * rng.normal(size=n), u, np.zeros(n, int), np.ones(n, int), np.ones(n), meta).save(folder / "samples.h5")
    (folder / "model.json").write_text(json.dumps({"target": name, "description": "a small flow; the shipped one"}))
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("chapters")
    run, other = drawn(place / "run", "dw4", 200), drawn(place / "other", "lj13", 300)
    return report.write(run, place / "page.html", also=[other]).read_text()


def test_the_samples_have_a_part_of_their_own(page):
    titles = re.findall(r"<h1[^>]*>([^<]*)</h1>", page)
    assert titles == ["dw4: what the flow draws", "lj13: 300 samples of the shipped model", "dw4: how the flow was made"]
    parts = re.split(r"<h1[^>]*>", page)
    assert "The model: a small flow." in parts[2]
    headings = re.findall(r"<h2>([^<]*)</h2>", parts[2])
    assert headings == ["Energies", "Samples", "Weights"]
    assert '<a href="#lj13">' in parts[1]
    assert 'id="lj13"' in page


def test_one_3d_view_and_no_complaint_about_what_samples_lack(page):
    assert page.count('id="view"') == 1
    missing = page.partition("What is not here")[2]
    # The run itself was not trained, which is said once.
    assert missing.count("has not been evaluated") == 1
    assert missing.count("no training history") == 1


def test_a_known_free_energy_stands_beside_that_of_the_samples(monkeypatch, tmp_path):
    known = Estimate(3.86, 3.79, 3.93, 100_000)
    bare = contents.read(drawn(tmp_path / "other", "dw4", 20))
    run = dataclasses.replace(bare, card={"reference": {"phi_difference": known.as_dict()}})
    monkeypatch.setattr(molecules, "_residues", lambda run: ["one"])
    assert molecules._known(run) == ["of 100\u202f000 reference frames: 3.86 kT [3.79, 3.93]"]
    assert molecules._known(bare) == []
    # With frames at hand theirs is shown; of two residues nobody knows whose it is.
    assert molecules._known(dataclasses.replace(run, data=np.zeros((5, 4, 2)))) == []
    monkeypatch.setattr(molecules, "_residues", lambda run: ["one", "two"])
    assert molecules._known(run) == []


def test_the_shipped_molecule_has_a_reference():
    from boltzflow.cli.models import cards

    entry = cards()[demo.MOLECULE]["reference"]["phi_difference"]
    assert entry["low"] < entry["value"] < entry["high"]
    assert entry["n"] == 100_000
