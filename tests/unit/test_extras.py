"""What a shipped model needs to be sampled, and the sentence where an extra of the installation is missing."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from boltzflow import extras
from boltzflow.errors import MissingExtraError

ROOT = Path(__file__).parents[2]
# Packages whose modules have other names.
PACKAGES = {"ot": "pot", "orbax.checkpoint": "orbax-checkpoint"}

# What a core installation can do, and how it tells what it cannot; one process, because it takes seconds to start one.
CORE = """
import contextlib, importlib.abc, io, json, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in set(sys.argv[1].split()):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
import numpy as np
from boltzflow import cli

def told(*words):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(words)
    return code, out.getvalue(), err.getvalue()

found = {"sample": told("sample", "dw4-eacf", "-n", "32", "-o", "samples.h5"), "export": told("export", "samples.h5", "samples.xyz")}
for verb in ("models", "presets", "targets"):
    found[verb] = told(verb)
for words in ("evaluate dw4", "train dw4 -o run", "report run", "demo -o demo", "log-prob dw4 samples.h5 -n 8"):
    found[words.split()[0]] = told(*words.split())
import boltzflow as bf
samples = bf.Samples.load("samples.h5")
model = bf.load_model("dw4-eacf")
found["python"] = [samples.n, bool(np.isfinite(samples.ess().value)), "<td" in samples._repr_html_(), model.target.name]
found["errors"] = {}
for name, call in {
    "plot": samples.plot_energy, "view": lambda: samples.view().html, "report": lambda: bf.report.write("x", "x.html"),
    "evaluate": lambda: bf.evaluation.scorecard, "pairs": lambda: bf.objectives.pair,
    "molecule": lambda: bf.targets.alanine_dipeptide("ff99"),
}.items():
    try:
        call()
    except bf.BoltzflowError as error:
        found["errors"][name] = str(error)
json.dump(found, open("found.json", "w"))
"""


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("core")
    (folder / "run").mkdir()
    (folder / "run" / "config.yaml").write_text("target: dw4\n")
    tops = {module.partition(".")[0] for modules in extras.MODULES.values() for module in modules}
    # What comes with them.
    blocked = sorted(tops | {"llvmlite", "tensorstore", "sklearn", "PIL", "numexpr", "narwhals"})
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", CORE, " ".join(blocked)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "found.json").read_text()) | {"there": sorted(path.name for path in folder.iterdir())}


def test_a_shipped_model_is_sampled_and_saved_without_any_extra(core):
    code, out, err = core["sample"]
    assert code == 0, err
    assert out.strip().endswith("samples.h5")
    assert core["export"][0] == 0
    assert {"samples.h5", "samples.xyz"} <= set(core["there"])
    assert core["python"] == [32, True, True, "double_well"]
    for verb in ("models", "presets", "targets"):
        assert core[verb][0] == 0, core[verb]


@pytest.mark.parametrize(
    ("verb", "extra"), [("evaluate", "evaluate"), ("train", "train"), ("report", "report"), ("demo", "train"), ("log-prob", "evaluate")]
)
def test_a_verb_that_needs_an_extra_says_which(core, verb, extra):
    code, out, err = core[verb]
    assert (code, out) == (2, "")
    assert re.fullmatch(rf"boltzflow: error: .* needs \S+, which is not installed; .* pip install 'boltzflow\[{extra}\]'\.\n", err), err
    # Told before any work.
    assert "demo" not in core["there"]


def test_in_python_errors_say_the_same(core):
    named = {"plot": "report", "view": "report", "report": "report", "pairs": "train", "molecule": "molecules"}
    assert {name: re.findall(r"boltzflow\[(\w+)\]", text) for name, text in core["errors"].items()} == {
        name: [extra] for name, extra in named.items()
    }


def test_extras_bring_the_modules_that_are_named():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = project["optional-dependencies"]
    needed = {re.split(r"[<>=\[]", line)[0] for line in project["dependencies"]}
    for extra, modules in extras.MODULES.items():
        packages = {re.split(r"[<>=\[]", line)[0] for line in declared[extra]}
        assert {PACKAGES.get(module, module) for module in modules} == packages, extra
        assert not packages & needed
    (everything,) = declared["all"]
    assert set(extras.MODULES) <= set(re.findall(r"\w+", everything))


def test_what_is_there_is_imported_and_other_errors_stay():
    with extras.of("report", "a plot"):
        import matplotlib as matplotlib
    with pytest.raises(ModuleNotFoundError, match="nothing_of_that_name"), extras.of("report", "a plot"):
        import nothing_of_that_name as nothing_of_that_name  # pyright: ignore[reportMissingImports]
    with pytest.raises(MissingExtraError, match=r"a plot needs plotly\.missing, .*'boltzflow\[report\]'"), extras.of("report", "a plot"):
        import plotly.missing as missing  # noqa: F401  # pyright: ignore[reportMissingImports]


def test_extras_are_looked_for_without_importing_them(monkeypatch):
    monkeypatch.setitem(extras.MODULES, "report", ("matplotlib", "nothing_of_that_name"))
    assert not extras.installed("report")
    with pytest.raises(MissingExtraError, match="a page needs nothing_of_that_name"):
        extras.require("report", "a page")
    monkeypatch.setitem(extras.MODULES, "report", ("matplotlib", "nothing_of_that_name.inside"))
    assert not extras.installed("report")
    monkeypatch.setitem(extras.MODULES, "report", ("json",))
    extras.require("report", "a page")
