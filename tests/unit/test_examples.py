"""The examples in the docstrings of what is public: each class and verb has one, and all of them run."""

import ast
import doctest
import importlib.util
import inspect
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import boltzflow as bf

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "api" / "index.md"
# Examples that take several seconds.
SLOW = {"train", "evaluation.Densities"}
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def site_module(name: str) -> Any:
    """A module of the site, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "site" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


public = site_module("public")
SHOWN = {path: public.found(path) for path in public.shown()}
VERBS = re.findall(r"autofunction:: boltzflow\.(\w+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)


def raises(node: ast.ClassDef) -> bool:
    """Whether a class is an exception, which has no example."""
    return any(ast.unparse(base).endswith(("Error", "Exception")) for base in node.bases)


WITH = {path for path, found in SHOWN.items() if found.node is not None and ">>>" in (ast.get_docstring(found.node) or "")}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The names that docs/api/index.md gives to what examples share."""
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8").partition("## Examples")[2], flags=re.M | re.S)
    names: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    assert {"bf", "jax", "jnp", "np", "model", "samples", "target", "data", "flow"} <= set(names)
    return names


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("examples")


@pytest.fixture(autouse=True)
def as_for_people(folder, monkeypatch):
    """In a folder of their own, and with broadcasting of ranks, which tests of ours may not do."""
    monkeypatch.chdir(folder)
    before = getattr(jax.config, "jax_numpy_rank_promotion")  # noqa: B009 (unknown to type checkers)
    jax.config.update("jax_numpy_rank_promotion", "allow")
    yield
    jax.config.update("jax_numpy_rank_promotion", before)


def test_every_public_class_and_verb_has_an_example():
    assert len(VERBS) >= 5
    classes = {path for path, found in SHOWN.items() if isinstance(found.node, ast.ClassDef) and not raises(found.node)}
    assert len(classes) > 80
    assert sorted((classes | set(VERBS)) - WITH) == []


def wrong(path: str, shared: dict[str, Any]) -> str:
    """What is wrong with an example; nothing if it does what it shows."""
    found = SHOWN[path]
    assert found.node is not None
    text = inspect.cleandoc(ast.get_docstring(found.node) or "")
    test = doctest.DocTestParser().get_doctest(text, dict(shared), path, str(found.file), found.node.lineno)
    assert test.examples
    # An example that is told not to run is none.
    assert "+SKIP" not in text
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=OPTIONS, verbose=False)
    runner.run(test, out=said.append)
    return "".join(said) if runner.failures else ""


@pytest.mark.parametrize("path", [pytest.param(path, marks=[pytest.mark.slow] * (path in SLOW)) for path in sorted(WITH)])
def test_example_runs(path, shared):
    # `fit` makes the run that others open, which may be tested in another process.
    if path == "fit":
        shutil.rmtree("runs/mine", ignore_errors=True)
    elif not Path("runs/mine").exists() and "runs/mine" in (ast.get_docstring(SHOWN[path].node) or ""):
        assert not wrong("fit", shared)
    assert not (fault := wrong(path, shared)), fault


def test_a_wrong_example_would_be_found(shared):
    test = doctest.DocTestParser().get_doctest(">>> bf.Adam().ema_decay\n0.5\n", dict(shared), "wrong", None, None)
    runner = doctest.DocTestRunner(optionflags=OPTIONS, verbose=False)
    runner.run(test, out=lambda text: None)
    assert runner.failures == 1


def test_names_are_what_they_are_said_to_be(shared):
    assert shared["samples"].n == shared["data"].n == 64
    assert shared["target"].name == "double_well"
    assert (shared["np"], shared["jnp"], shared["jax"], shared["bf"]) == (np, jnp, jax, bf)
