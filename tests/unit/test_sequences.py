"""Samples and data sets as sequences, on disk, and as they show themselves in notebooks."""

import base64
import dataclasses
import io
import re
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import boltzflow as bf
from boltzflow.analysis import estimate
from boltzflow.errors import DataError, RunError

N = 7


def frames() -> np.ndarray:
    x = np.random.default_rng(0).normal(size=(N, 4, 2)).astype(np.float32)
    return x - x.mean(axis=1, keepdims=True)


def dataset(**options: Any) -> bf.Dataset:
    return bf.Dataset(frames(), "<b>target</b>", "reduced", {"ess_energy": 5.0, "sampler": "<i>"}, energies=np.arange(N) - 3.0, **options)


def samples() -> bf.Samples:
    u = np.arange(N) - 3.0
    meta = {"target": "<b>", "model": "a & b"}
    return bf.Samples(frames(), -u - 0.1 * np.arange(N), u, np.zeros(N, int), np.full(N, 4), np.ones(N), meta)


KINDS = pytest.mark.parametrize("make", [dataset, samples])


@KINDS
class TestBoth:
    @pytest.mark.parametrize(
        "index",
        [
            slice(2, 5),
            slice(None, None, -2),
            slice(0, 0),
            [0, 3, 3],
            np.array([-1, 2]),
            np.arange(N) % 2 == 0,
            [True] + [False] * (N - 1),
            [],
        ],
    )
    def test_indices_pick_frames_with_all_that_belongs_to_them(self, make, index):
        whole = make()
        part = whole[index]
        chosen = np.arange(N)[np.asarray(index, int) if isinstance(index, list) and not index else index]
        assert type(part) is type(whole)
        assert len(part) == part.n == len(chosen)
        np.testing.assert_array_equal(part.positions, frames()[chosen])
        columns = ("energies",) if isinstance(whole, bf.Dataset) else ("u", "log_q", "log_weight", "status", "nfe", "path_length")
        for name in columns:
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[chosen])

    @pytest.mark.parametrize("index", [0, 3, N - 1, -1, -N, np.int32(2)])
    def test_a_number_gives_one(self, make, index):
        part = make()[index]
        assert len(part) == 1
        np.testing.assert_array_equal(part.positions, frames()[index][None])

    def test_iteration_gives_all_in_order(self, make):
        parts = list(make())
        assert [len(part) for part in parts] == [1] * N
        np.testing.assert_array_equal(np.concatenate([part.positions for part in parts]), frames())

    @pytest.mark.parametrize("index", [N, -N - 1, [0, N], [True, False], 1.5, "a", (0, 1, 2.0), np.zeros((2, 2), int), None])
    def test_what_is_no_index(self, make, index):
        with pytest.raises(IndexError):
            make()[index]

    def test_as_an_array_it_is_the_positions(self, make):
        np.testing.assert_array_equal(np.asarray(make()), frames())
        assert jnp.asarray(make()).shape == (N, 4, 2)

    def test_no_file_is_overwritten_unless_it_may(self, make, tmp_path):
        path = tmp_path / "x.h5"
        make().save(path)
        before = path.read_bytes()
        with pytest.raises((DataError, RunError), match="exists already; choose another file, or pass overwrite=True"):
            make()[:2].save(path)
        assert path.read_bytes() == before
        make()[:2].save(path, overwrite=True)
        assert (bf.datasets.read(path) if isinstance(make(), bf.Dataset) else bf.Samples.load(path)).n == 2


def test_parts_are_not_worth_more_than_they_hold():
    assert dataset().n_effective == 5.0
    assert dataset()[:].n_effective == 5.0
    assert dataset()[:3].n_effective == 3.0
    assert dataset()[[0] * N].provenance["spread_of"] == N


def picture(page: str) -> np.ndarray:
    """The thumbnail in a page, as numbers."""
    import matplotlib.image

    found = re.search(r'<img [^>]*src="data:image/png;base64,([^"]+)"', page)
    assert found is not None
    return matplotlib.image.imread(io.BytesIO(base64.b64decode(found[1])))


OBJECTS = {
    "data": dataset,
    "data without energies": lambda: dataclasses.replace(dataset(), energies=None),
    "samples": samples,
    "samples without energy": lambda: dataclasses.replace(samples(), meta={"energy": False, "target": "<b>"}),
    "estimate": lambda: estimate.Estimate(1.0, 0.9, 1.2, 10, note="<b>"),
    "estimate from above": lambda: estimate.Estimate(1.0, -np.inf, 1.2, 10, estimate.AT_MOST, "<b>"),
    "estimate from below": lambda: estimate.Estimate(1.0, 0.7, np.inf, 10, estimate.AT_LEAST, "<b>"),
    "target": lambda: bf.targets.from_function(lambda x: jnp.sum((x - jnp.mean(x, axis=0, keepdims=True)) ** 2), 3, 2, name="<b>"),
    "model": lambda: dataclasses.replace(bf.load_model("dw4"), name="<b>"),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_what_objects_show(name):
    shown = OBJECTS[name]()
    assert "\n" not in repr(shown)
    assert len(repr(shown)) < 300
    assert "array(" not in repr(shown)
    page = shown._repr_html_()
    assert len(page) < 60_000
    assert "<table" in page
    # What users name is text, not markup.
    assert "<b>" not in page
    assert "<i>" not in page
    assert "&lt;b&gt;" in page
    pixels = picture(page)
    assert pixels.std() > 0.02
    assert pixels.shape[1] > 400


def test_figures_are_shown_with_their_intervals():
    model = bf.load_model("dw4")
    page = model._repr_html_()
    # The card is measured anew from time to time; how its figure is shown stays.
    value, low, high = (100 * model.card["figures"]["ess_reverse"][key] for key in ("value", "low", "high"))
    shown = re.search(r"reverse ESS.*?([\d.]+) %.*?\[([\d.]+), ([\d.]+)\] %", page)
    assert shown is not None
    np.testing.assert_allclose([float(figure) for figure in shown.groups()], [value, low, high], atol=0.051)
    assert repr(estimate.Estimate(29.667, 29.65, 29.8, 100)) == "<Estimate 29.67 [29.65, 29.80] (n = 100)>"


def test_nothing_to_draw_is_no_error():
    assert "<img" not in dataset()[:0]._repr_html_()
    empty = samples()[:0]
    assert "<img" not in empty._repr_html_()
    failed = dataclasses.replace(samples(), status=np.ones(N, int))
    assert "without weight" in failed._repr_html_()
    assert "<img" not in estimate.Estimate(np.nan, np.nan, np.nan, 0)._repr_html_()

    def broken(x: Any) -> Any:
        raise ValueError("not mine")

    mine = bf.Target("t", 3, 2, broken, (0, 0, 0))
    assert "<img" not in mine._repr_html_()


def test_a_molecule_shows_its_structure():
    target = bf.Target(
        "water", 3, 3, None, (0, 1, 1), structure=np.array([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [0.0, 0.1, 0.0]]), elements=("O", "H", "H"),
        bonds=((0, 1), (0, 2)), units="nm",
    )  # fmt: skip
    assert (np.abs(picture(target._repr_html_())[..., :3] - [0xE0 / 255, 0x30 / 255, 0x1E / 255]).sum(axis=-1) < 0.05).any()


def test_reweighted_energies_are_drawn_beside_those_of_the_flow():
    """Weights that single out one energy show as one high bar in blue, the drawn ones as a flat block in vermilion."""
    drawn: dict[str, np.ndarray] = {}

    class Axes:
        def hist(self, values: Any, edges: Any, weights: Any, **options: Any) -> None:
            drawn[options["label"]] = np.histogram(values, edges, weights=weights)[0] * np.diff(edges)

        def set(self, **_: Any) -> None: ...

        def legend(self) -> None: ...

    u = np.arange(100.0)
    zero = np.zeros(100, int)
    log_q = np.where(u == 7.0, -1000.0, 0.0)
    bf.Samples(np.zeros((100, 3, 2)), log_q, u, zero, zero, zero.astype(float))._energies(Axes())
    assert drawn["reweighted"].max() == pytest.approx(1.0)
    assert drawn["drawn"].max() < 0.05
