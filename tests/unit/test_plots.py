"""Plots of samples: what is on the axes, and what is refused."""

import math

import numpy as np
import pytest
from matplotlib.figure import Figure

import boltzflow as bf
from boltzflow.errors import DataError
from boltzflow.sampling import plots

N = 2_000


def samples(u: np.ndarray, log_q: np.ndarray, **columns) -> bf.Samples:
    n = u.size
    return bf.Samples(np.zeros((n, 4, 2)), log_q, u, np.zeros(n, int), np.ones(n, int), np.full(n, np.nan), **columns)


@pytest.fixture(scope="module")
def drawn() -> bf.Samples:
    rng = np.random.default_rng(0)
    u = rng.normal(3.0, 1.0, N)
    return samples(u, -u - 0.5 * rng.normal(size=N))


def axes():
    return Figure().subplots()


def test_energies_of_flow_target_and_frames_are_densities(drawn):
    shown = drawn.plot_energy(axes(), frames=np.random.default_rng(1).normal(3.0, 1.0, N))
    labels = [text.get_text() for text in shown.get_legend().get_texts()]
    assert labels == ["data (n = 2\u202f000)", "flow (n = 2\u202f000)", "reweighted flow (n = 2\u202f000)"]
    lines = [patch for patch in shown.patches if not patch.get_fill()]
    assert len(lines) == 3
    for patch in lines:
        values, edges, _ = patch.get_data()
        assert np.sum(values * np.diff(edges)) == pytest.approx(1.0, abs=0.06)
    assert shown.get_xlabel() == "reduced energy u = U / kT"


def test_frames_may_be_a_data_set(drawn):
    target = bf.targets.double_well()
    data = bf.Dataset(np.zeros((5, 4, 2)), target.fingerprint, target.units, energies=np.linspace(2.0, 4.0, 5))
    assert len(drawn.plot_energy(axes(), frames=data).get_legend().get_texts()) == 3
    with pytest.raises(DataError, match="without energies"):
        drawn.plot_energy(axes(), frames=bf.Dataset(np.zeros((5, 4, 2)), target.fingerprint, target.units))


def test_the_tail_is_that_of_the_weights(drawn):
    shown = drawn.plot_weights(axes())
    assert (shown.get_xscale(), shown.get_yscale()) == ("log", "log")
    body = shown.lines[0]
    x, y = np.asarray(body.get_xdata()), np.asarray(body.get_ydata())
    w = np.exp(drawn.log_weight)
    w = np.sort(w / w.mean())[::-1]
    np.testing.assert_allclose(x[0], w[0], rtol=1e-6)
    np.testing.assert_allclose(y[:2], [1 / N, 2 / N])
    assert shown.get_legend().get_texts()[-1].get_text().startswith("Pareto tail, k = ")


def test_without_axes_there_is_a_new_figure(drawn):
    from matplotlib import pyplot

    pyplot.switch_backend("agg")
    before = pyplot.get_fignums()
    shown = drawn.plot_energy()
    assert len(pyplot.get_fignums()) == len(before) + 1
    pyplot.close(shown.figure)


def test_what_cannot_be_drawn_is_refused(drawn):
    nothing = samples(np.full(30, math.nan), np.zeros(30))
    for draw in (nothing.plot_energy, nothing.plot_weights):
        with pytest.raises(DataError):
            draw(axes())
    with pytest.raises(DataError, match="in groups"):
        samples(drawn.u, drawn.log_q, group=np.repeat([1, 2], N // 2)).plot_weights(axes())
    with pytest.raises(DataError, match="no molecule"):
        drawn.plot_ramachandran(axes())


def test_torsions_of_a_peptide_lie_where_they_are():
    pytest.importorskip("openmm")
    from boltzflow.analysis import internal_coordinates
    from boltzflow.targets import molecule_folder

    target = bf.targets.alanine_dipeptide("ff99")
    assert target.structure is not None
    texts = {name: text for name, text in molecule_folder.texts(target).items() if text}
    x = np.repeat(np.asarray(target.structure, float)[None], 30, axis=0)
    one = bf.Samples(x, np.zeros(30), np.zeros(30), np.zeros(30, int), np.ones(30, int), np.full(30, np.nan), meta=texts)
    shown = one.plot_ramachandran(axes())
    residue = internal_coordinates.backbones(target.topology)[0]
    phi, psi = np.degrees(internal_coordinates.torsions(x[0], np.array([residue.phi, residue.psi])))
    image = shown.images[0].get_array()
    assert image is not None
    row, column = np.argwhere(~np.ma.getmaskarray(image))[0]
    width = 360 / plots.ramachandran.BINS
    assert abs((column + 0.5) * width - 180 - phi) <= width / 2 + 1e-6
    assert abs((row + 0.5) * width - 180 - psi) <= width / 2 + 1e-6
    with pytest.raises(DataError, match="there is no residue 1"):
        one.plot_ramachandran(axes(), residue=1)
