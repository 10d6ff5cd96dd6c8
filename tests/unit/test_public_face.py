"""What people meet first: the package's names, the seeds of its functions, models and runs as objects."""

import ast
import dataclasses
import importlib
import json
import math
import pkgutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import boltzflow as bf
from boltzflow import config, datasets
from boltzflow.chemistry.chirality import ChiralCentre
from boltzflow.config import ECNF, EGNN, Adam, GaussLegendre, RunOptions, Spherical, Stage
from boltzflow.errors import CheckpointError, DataError, RunError, TargetError
from boltzflow.flows.build import build_flow
from boltzflow.sampling.generate import log_importance_ratios

SOURCE = Path(bf.__file__).parent
# The front door, and what only the package itself uses.
INTERNAL = {"cli", "__main__", "command", "display", "extras", "files", "selection"}
FLOW = ECNF(EGNN(layers=1, hidden=4), GaussLegendre(2))
STAGE = Stage(
    objective=bf.FlowMatching(pairing="independent"),  # pyright: ignore[reportArgumentType]
    optimiser=Adam(warmup_steps=0),
    steps=3,
    batch_size=8,
    microbatch=8,
)
LOOP = RunOptions(log_every=1, checkpoint_every=1)


class TestNames:
    def test_every_public_submodule_is_an_attribute_in_a_fresh_process(self):
        rooms = sorted({module.name for module in pkgutil.iter_modules([str(SOURCE)])} - INTERNAL)
        looked = "assert getattr(bf, name).__name__ == 'boltzflow.' + name and name in dir(bf), name"
        code = f"import boltzflow as bf\nfor name in {rooms}: {looked}"
        subprocess.run([sys.executable, "-c", code], check=True, timeout=120)

    def test_every_name_leads_somewhere_and_type_checkers_know_it(self):
        known = {
            alias.asname
            for node in ast.walk(ast.parse((SOURCE / "__init__.py").read_text()))
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        assert set(bf.__all__) == (known | {"__version__"}) - {None, "TYPE_CHECKING"}
        assert dir(bf) == sorted(bf.__all__)
        for name in dir(bf):
            assert getattr(bf, name) is not None

    def test_every_variant_of_the_configuration_is_exported(self):
        variants = {name: cls for name, cls in vars(config).items() if isinstance(cls, type) and dataclasses.is_dataclass(cls)}
        unions = {
            "Adaptive",
            "Base",
            "Divergence",
            "Flow",
            "Network",
            "Objective",
            "Optimiser",
            "Options",
            "Pairing",
            "Projection",
            "Solver",
        }
        for name in set(variants) - unions:
            assert getattr(bf, name) is variants[name]

    @pytest.mark.parametrize("room", ["objectives", "training"])
    def test_lazy_packages_list_their_names(self, room):
        package = importlib.import_module(f"boltzflow.{room}")
        for name in package._HOMES:
            assert name in dir(package)
            assert getattr(package, name) is not None


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    """Public functions of a module and public methods, and constructors, of its classes; not those inside of functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name == "__init__"):
            yield node
        elif isinstance(node, ast.ClassDef):
            yield from functions(node)


def test_seeds_and_keys_are_keyword_only():
    positional, checked = [], 0
    for file in SOURCE.rglob("*.py"):
        module = ".".join(file.relative_to(SOURCE).with_suffix("").parts)
        # Of `seeds` a seed is what it is about; verbs of the command line are called by its parser.
        if module == "seeds" or module.startswith("cli."):
            continue
        for function in functions(ast.parse(file.read_text())):
            for arguments, wrong in (((*function.args.posonlyargs, *function.args.args), True), (function.args.kwonlyargs, False)):
                for argument in arguments:
                    kind = ast.unparse(argument.annotation) if argument.annotation else ""
                    is_seed = argument.arg == "seed" or argument.arg.endswith("_seed")
                    if is_seed or (argument.arg == "key" and "PRNGKey" in kind):
                        checked += 1
                        if wrong:
                            positional.append(f"{module}.{function.name}({argument.arg})")
    assert checked > 50
    assert not positional


@pytest.fixture(scope="module")
def small() -> bf.Model:
    """A small flow that nobody has trained, of DW4."""
    target, options = bf.targets.double_well(), ECNF(EGNN(layers=1, hidden=4), GaussLegendre(12))
    flow = build_flow(options, target, 1.5, key=jax.random.key(0))
    return bf.Model("small", flow, config.RunConfig(target="dw4", flow=options, stages=(STAGE,)), target, {})


def squares(n: int) -> np.ndarray:
    x = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]) * 1.5
    return x + 0.1 * np.random.default_rng(0).normal(size=(n, 4, 2))


class TestLogProb:
    def test_any_leading_shape_gives_the_same(self, small):
        x = squares(6)
        flat = small.log_prob(x)
        assert (flat.shape, flat.dtype) == ((6,), np.float64)
        assert np.ptp(flat) > 0.1
        np.testing.assert_array_equal(small.log_prob(x.reshape(2, 3, 4, 2)), flat.reshape(2, 3))
        np.testing.assert_array_equal(small.log_prob(jnp.asarray(x, jnp.float32)), flat)
        alone = small.log_prob(x[4])
        assert alone.shape == ()
        assert float(alone) == pytest.approx(flat[4], abs=1e-4)
        assert small.log_prob(np.empty((0, 5, 4, 2))).shape == (0, 5)
        # On the zero-CoM subspace.
        np.testing.assert_allclose(small.log_prob(x + 3.0), flat, atol=1e-4)

    @pytest.mark.parametrize("shape", [(4,), (3, 5), (7, 2, 4), (4, 3), (2, 5, 2)])
    def test_wrong_shapes_are_named_beside_the_right_one(self, small, shape):
        with pytest.raises(DataError) as caught:
            small.log_prob(np.zeros(shape))
        assert "(..., 4, 2)" in str(caught.value)
        assert str(shape) in str(caught.value)

    def test_words_are_no_positions(self, small):
        with pytest.raises(DataError, match="must be numbers of shape"):
            small.log_prob([["a", "b"]] * 4)

    def test_failures_are_nan_and_told(self, small):
        x = squares(3)
        x[1, 0, 0] = np.inf
        with pytest.warns(UserWarning, match="log q of 1 of 3 configurations is NaN"):
            found = small.log_prob(x)
        np.testing.assert_array_equal(np.isnan(found), [False, True, False])

    def test_samples_have_the_log_q_that_they_were_drawn_with(self, small):
        samples = small.sample(8, seed=3)
        np.testing.assert_allclose(small.log_prob(samples.positions), samples.log_q, atol=2e-3)
        assert samples.meta["model"] == "small"

    def test_mirror_images_are_folded(self):
        """Of two enantiomers that the flow draws alike one counts, with twice the density; other stereoisomers have the plain one."""
        centres = (ChiralCentre(0, (1, 2, 3, 4), 1), ChiralCentre(0, (1, 2, 3, 5), 1))
        target = bf.Target(
            "chiral",
            6,
            3,
            lambda x: 0.5 * jnp.sum((x - jnp.mean(x, axis=0, keepdims=True)) ** 2),
            tuple(range(6)),
            chiral_centres=centres,
            reflections=False,
        )
        run = config.RunConfig(target="chiral", flow=FLOW, stages=(STAGE,))
        flow = build_flow(FLOW, target, 1.0, key=jax.random.key(0))
        model = bf.Model("x", flow, run, target, {})
        x = np.random.default_rng(1).normal(size=(40, 6, 3))
        x -= x.mean(axis=1, keepdims=True)
        plain = np.asarray(jax.jit(jax.vmap(lambda one: flow.log_prob(one).log_q))(jnp.asarray(x, jnp.float32)))
        signs = np.asarray(bf.targets.chirality_signs(x, centres))
        alike = (signs > 0).all(axis=1) | (signs < 0).all(axis=1)
        assert 5 < alike.sum() < 35
        np.testing.assert_allclose(model.log_prob(x) - plain, np.where(alike, math.log(2.0), 0.0), atol=1e-3)
        np.testing.assert_allclose(model.log_prob(-x), model.log_prob(x), atol=1e-3)

    def test_of_an_augmented_flow_it_is_the_mean_of_importance_ratios(self):
        target = bf.targets.double_well()
        options = bf.EACF(Spherical(width=4), blocks=1, features=4, marginal_draws=5)
        flow = build_flow(options, target, 1.0, key=jax.random.key(0))
        model = bf.Model("x", flow, config.RunConfig(target="dw4", flow=options, stages=(STAGE,)), target, {})
        x = squares(3).astype(np.float32)
        draws = log_importance_ratios(flow, x, seed=7)  # pyright: ignore[reportArgumentType]
        assert draws.shape == (3, 5)
        np.testing.assert_allclose(model.log_prob(x, seed=7), np.log(np.mean(np.exp(draws), axis=1)), rtol=1e-5)
        assert not np.array_equal(model.log_prob(x, seed=8), model.log_prob(x, seed=7))


def test_summary_is_plain_and_complete():
    dw4 = bf.load_model("dw4")
    facts = json.loads(json.dumps(dw4.summary(), allow_nan=False))
    assert (facts["target"], facts["n_particles"], facts["dimension"], facts["flow"]) == ("dw4", 4, 2, "ecnf")
    assert facts["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(dw4.flow.network) if hasattr(leaf, "size"))
    assert facts["figures"]["ess_reverse"]["value"] > 0.9


def well(x: Any) -> Any:
    return 0.5 * jnp.sum((x - jnp.mean(x, axis=0, keepdims=True)) ** 2)


@pytest.fixture(scope="module")
def target() -> bf.Target:
    return bf.targets.from_function(well, 3, 2, name="well")


@pytest.fixture(scope="module")
def run(target: bf.Target, tmp_path_factory: pytest.TempPathFactory) -> bf.Run:
    x = np.random.default_rng(0).normal(size=(60, 3, 2))
    folder = tmp_path_factory.mktemp("runs") / "<well>"
    return bf.fit(target, x - x.mean(axis=1, keepdims=True), flow=FLOW, stages=[STAGE], options=LOOP, out=folder, precision="double")


class TestRun:
    def test_opened_it_is_the_same(self, run, target):
        again = bf.open_run(str(run.folder), target=target)
        assert again.config == run.config
        assert again.finished
        assert again.metrics["step"].tolist() == [1.0, 2.0, 3.0]
        assert np.isfinite(again.metrics["loss"]).all()
        assert again.data is not None
        assert again.data.n == 60
        assert again.samples is None
        assert again.evaluation is None
        # In double precision, as it was trained, whatever this process computes in.
        assert (again.model.precision, again.sample(4, seed=1).meta["precision"]) == ("double", "float64")
        np.testing.assert_array_equal(again.sample(4, seed=1).log_q, run.sample(4, seed=1).log_q)
        np.testing.assert_allclose(again.model.log_prob(run.sample(4, seed=1).positions), run.sample(4, seed=1).log_q, atol=1e-9)
        assert not jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]

    def test_what_is_drawn_and_measured_is_found_in_the_folder(self, run, target):
        drawn = run.sample(6, seed=0, out=run.folder / "samples.h5")
        again = bf.open_run(run.folder, target=target)
        assert again.samples is not None
        np.testing.assert_array_equal(again.samples.positions, drawn.positions)
        with pytest.raises(RunError):
            run.sample(6, seed=0, out=run.folder / "samples.h5")
        frames = run.sample(8, seed=5).positions
        figures = run.evaluate(16, seed=1, frames=datasets.Dataset(frames, target.fingerprint, target.units))
        assert figures["n"] == 16
        assert again.evaluation is None
        figures = run.evaluate(16, seed=1)
        assert again.evaluation == json.loads(json.dumps(figures))

    def test_a_target_that_is_not_registered_is_asked_for(self, run):
        with pytest.raises(TargetError, match="pass target="):
            bf.open_run(run.folder).model  # noqa: B018
        with pytest.raises(TargetError, match="pass target="):
            bf.open_run(run.folder).target  # noqa: B018

    def test_an_unfinished_run_says_so_and_goes_on(self, run, target, tmp_path):
        import shutil

        folder = tmp_path / "run"
        shutil.copytree(run.folder, folder)
        for name in ("model.safetensors", "model.json"):
            (folder / name).unlink()
        begun = bf.open_run(folder, target=target)
        assert not begun.finished
        assert "3 of 3 steps" in repr(begun)
        with pytest.raises(CheckpointError, match="no trained model yet; finish it with"):
            begun.sample(3, seed=0)
        done = begun.resume()
        assert done.finished
        assert (folder / "model.safetensors").read_bytes() == (run.folder / "model.safetensors").read_bytes()
        longer = done.resume(stages=[STAGE, dataclasses.replace(STAGE, steps=2)])
        assert longer.finished
        assert longer.total_steps == 5

    def test_where_there_is_no_run_it_says_what_there_is(self, run):
        with pytest.raises(RunError, match="there is no run in .*did you mean.*well"):
            bf.open_run(str(run.folder) + "x")
        with pytest.raises(RunError, match="begin one with"):
            bf.open_run(run.folder / "nothing")

    def test_torn_lines_and_intervals_of_the_log(self, tmp_path):
        from boltzflow.training.logging import columns

        path = tmp_path / "metrics.jsonl"
        path.write_text(
            '{"step": 1, "loss": 2.0}\n{"step": 2, "loss": null}\n'
            '{"step": 2, "validation_nll": {"value": 3.0, "low": 2.5, "high": null, "n": 4}}\n{"step": 3, "lo'
        )
        found = columns(path)
        assert found["step"].tolist() == [1.0, 2.0]
        np.testing.assert_array_equal(found["loss"], [2.0, np.nan])
        np.testing.assert_array_equal(found["validation_nll_low"], [np.nan, 2.5])
        assert "validation_nll_high" not in found
        assert columns(tmp_path / "none") == {}


def test_reference_frames_do_not_go_onto_a_file(target, tmp_path):
    (tmp_path / "frames.h5").write_text("mine")
    with pytest.raises(RunError, match="exists already"):
        bf.reference.sample(target, 8, out=tmp_path / "frames.h5")
    assert (tmp_path / "frames.h5").read_text() == "mine"


def test_nothing_is_drawn_by_pyplot(run):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run._repr_html_()
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
