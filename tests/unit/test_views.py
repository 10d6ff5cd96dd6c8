"""Samples in three dimensions: what is drawn, and that a page needs nothing from elsewhere."""

import dataclasses
import html
import json
import re

import numpy as np
import pytest

import boltzflow as bf
from boltzflow.errors import DataError
from boltzflow.sampling import views


def samples(positions: np.ndarray, weight=None, **meta) -> bf.Samples:
    n = len(positions)
    log_w = np.zeros(n) if weight is None else np.log(np.maximum(weight, 1e-300))
    log_w = np.where(log_w < -600, -np.inf, log_w)
    return bf.Samples(positions, np.zeros(n), np.arange(n) + 0.5, np.zeros(n, int), np.ones(n, int), np.ones(n), meta, log_weight=log_w)


@pytest.fixture(scope="module")
def cluster() -> bf.Samples:
    return samples(np.random.default_rng(0).normal(size=(12, 5, 3)), units="reduced")


def test_configurations_are_those_of_the_samples(cluster):
    shown = cluster.view(3)
    particles = [trace for trace in shown.figure["data"] if trace["mode"] == "markers"]
    assert len(particles) == 3
    # One is seen, the slider shows the others with their bonds.
    assert [trace["visible"] for trace in shown.figure["data"]] == [True, True, False, False, False, False]
    (slider,) = shown.figure["layout"]["sliders"]
    assert [step["args"][0]["visible"].index(True) for step in slider["steps"]] == [0, 2, 4]
    for trace in particles:
        there = np.stack([trace["x"], trace["y"], trace["z"]], axis=1)
        assert np.abs(cluster.positions - there).max(axis=(1, 2)).min() < 1e-4


def test_samples_are_drawn_with_their_weights():
    weight = np.zeros(12)
    weight[[3, 7]] = 1.0
    shown = samples(np.random.default_rng(0).normal(size=(12, 5, 3)), weight).view()
    titles = {step["args"][1]["title.text"].split(":")[1].split(",")[0].strip() for step in shown.figure["layout"]["sliders"][0]["steps"]}
    assert titles == {"u = 3.5 kT", "u = 7.5 kT"}


def test_samples_in_the_plane_lie_flat():
    shown = samples(np.random.default_rng(0).normal(size=(4, 3, 2))).view(1)
    assert set(shown.figure["data"][1]["z"]) == {0.0}


def test_atoms_have_the_colours_of_elements_and_lines_along_bonds():
    from boltzflow.targets import description

    target = dataclasses.replace(
        bf.targets.from_function(lambda x: ((x[0] - x[1]) ** 2).sum() + ((x[1] - x[2]) ** 2).sum(), 3, 3, name="water"),
        bonds=((0, 1), (1, 2)),
    )
    known = description.of(target).to_json().replace('"elements":[]', '"elements":["H","O","H"]')
    shown = samples(np.random.default_rng(0).normal(size=(4, 3, 3)), units="nm", molecule=known).view(1)
    bonds, atoms = shown.figure["data"]
    assert atoms["marker"]["color"] == [views.ELEMENTS["H"], views.ELEMENTS["O"], views.ELEMENTS["H"]]
    assert [symbol for symbol, _ in shown.legend] == ["H", "O"]
    assert bonds["x"].count(None) == 2


def test_a_page_needs_nothing_from_elsewhere(cluster, tmp_path):
    shown = cluster.view(2)
    page = shown.save(tmp_path / "view.html").read_text()
    assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=", page)
    figure = re.search(r"figure = (\{.*?\});\n", page)
    assert figure is not None
    assert json.loads(figure[1]) == json.loads(json.dumps(shown.figure))
    framed = re.fullmatch(r'<iframe [^>]*srcdoc="([^"]*)"></iframe>', shown._repr_html_())
    assert framed is not None
    assert html.unescape(framed[1]) == page


def test_what_cannot_be_shown_is_refused(cluster):
    with pytest.raises(DataError, match="at least 1, got 0"):
        cluster.view(0)
    with pytest.raises(DataError, match="nothing to show"):
        samples(np.full((3, 4, 3), np.nan)).view()
    with pytest.raises(DataError, match="in 4 dimensions"):
        samples(np.zeros((3, 4, 4))).view()
