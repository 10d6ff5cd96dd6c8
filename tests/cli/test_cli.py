"""The command line up to the point where work begins: help, names, types, presets, overrides, exit codes."""

import dataclasses
import errno
import importlib
import inspect
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

from boltzflow import cli, runtime
from boltzflow.cli import arguments
from boltzflow.config import ECNF, FlowMatching, GaussLegendre, RunConfig
from boltzflow.config import io as config_io
from boltzflow.errors import ConfigError, RunError

HEAVY = ("jax", "numpy", "pydantic", "diffrax", "equinox", "matplotlib", "h5py", "typeguard")


def refused(capsys, *words):
    """Runs a command that must be refused, and returns its sentence."""
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("boltzflow: error: ")
    assert err.count("\n") == 1, f"more than one line: {err}"
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_of_each_verb(verb, capsys):
    assert cli.main([verb, "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert cli.VERBS[verb] in out
    assert f"usage: boltzflow {verb}" in out
    assert max(map(len, out.splitlines())) <= 120


@pytest.mark.parametrize("verb", cli.VERBS)
def test_each_option_is_explained_and_the_summary_is_the_docstrings(verb):
    run = importlib.import_module(f"boltzflow.cli.{verb.replace('-', '_')}").run
    doc = inspect.getdoc(run)
    assert doc is not None
    assert doc.splitlines()[0] == cli.VERBS[verb]
    for name in inspect.signature(run).parameters:
        assert f"    {name}: " in doc


def test_overview_lists_every_verb(capsys):
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {verb} " in out for verb in cli.VERBS)


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["sample", "--help"], ["evaluate", "-h"], ["trian"]])
def test_help_and_refusals_import_nothing_heavy(words):
    # A clock would fail on a busy machine; what makes help slow is what it imports.
    code = f"import sys; from boltzflow.cli import main; main({words!r}); print('HEAVY', [m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_import_is_light():
    code = f"import sys, boltzflow; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_public_names_resolve():
    import boltzflow

    for name in boltzflow.__all__:
        assert getattr(boltzflow, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        boltzflow.no_such_name  # noqa: B018


def test_public_functions_are_not_shadowed_by_modules():
    import boltzflow

    for name in ("fit", "train", "load_model"):
        assert callable(getattr(boltzflow, name))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--help"),
        (["trian", "dw4"], "did you mean 'train'?"),
        (["--verbose"], "'--verbose'"),
        (["train", "dw5"], "did you mean 'dw4'?"),
        (["train", "dw4", "--otu", "x"], "did you mean '--out'"),
        (["train"], "PRESET is missing"),
        (["train", "dw4", "-o"], "-o/--out needs a value"),
        (["train", "dw4", "--seed", "x"], "--seed must be a whole number, got 'x'"),
        (["train", "dw4", "--seed", "-1"], "--seed must be a whole number from 0 to 18446744073709551615, got -1"),
        (["train", "dw4", "--set"], "--set needs what to set"),
        (["train", "dw4", "--set", "flow.network.hiden=3"], "did you mean 'flow.network.hidden'?"),
        (["train", "dw4", "--set", "flow.network.hidden=wide"], "flow.network.hidden must be a whole number, got the text 'wide'"),
        (["train", "missing.yaml"], "there is no configuration file missing.yaml"),
        (["presets", "dw5"], "did you mean 'dw4'?"),
        (["sample", "dw4", "-n", "0"], "-n must be at least 1, got 0"),
        (["sample", "dw4", "-n", "-3"], "-n must be at least 1, got -3"),
        (["sample", "dw4", "-n", "1e5"], "must be a whole number, got '1e5'"),
        (["sample", "dw4", "--chunk", "0"], "--chunk must be at least 1, got 0"),
        (["sample", "dw4", "--precision", "doubl"], "must be one of double, single, got 'doubl'"),
        (["sample", "dw4", "lj13"], "there are too many arguments: lj13"),
        (["evaluate", "dw4", "-n", "0"], "-n must be at least 1, got 0"),
        (["evaluate", "dw4", "--jsn"], "did you mean '--json'"),
        (["reference", "dw4", "-n", "0"], "-n must be at least 1, got 0"),
        (["reference", "dw4", "--method", "md"], "must be one of tempering, molecular-dynamics, got 'md'"),
        (["reference", "dw4", "--interval", "2"], "--interval is for --method molecular-dynamics"),
        (["demo", "-n", "0"], "-n must be at least 1, got 0"),
        (["export", "s.h5", "s.xyz", "-n", "0"], "-n must be at least 1, got 0"),
        (["export", "s.h5"], "TRAJECTORY is missing"),
        (["resume", "no-such-run"], "there is no run in no-such-run"),
        (["report", "no-such-run"], "there is no run in no-such-run"),
    ],
)
def test_wrong_input_gets_one_sentence(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said in refused(capsys, *words)
    assert list(tmp_path.iterdir()) == []


def test_unknown_target_and_model_name_the_nearest(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runtime, "configure", lambda *_, **__: None)
    assert "did you mean 'lj13'" in refused(capsys, "reference", "lj14", "-n", "10")
    assert "no-such-model" in refused(capsys, "sample", "no-such-model", "-n", "10")
    assert "no-such-model" in refused(capsys, "evaluate", "no-such-model")


def test_resume_names_the_runs_beside(capsys, tmp_path):
    (tmp_path / "lj13").mkdir()
    config_io.save_config(config_io.load_preset("lj13"), tmp_path / "lj13" / "config.yaml")
    assert f"did you mean '{tmp_path / 'lj13'}'?" in refused(capsys, "resume", str(tmp_path / "lj31"))


def test_a_disk_that_lacks_some_room_is_told_of_and_one_that_lacks_most_is_refused(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=64_000))
    arguments.room(1000, 8, tmp_path / "new" / "s.h5")
    assert capsys.readouterr().err == ""
    arguments.room(1001, 8, tmp_path / "new" / "s.h5")
    assert "make room before it is full" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="lower -n"):
        arguments.room(10_001, 8, tmp_path / "new" / "s.h5")


def test_existing_files_are_not_overwritten(capsys, tmp_path):
    there = tmp_path / "there.h5"
    there.write_text("precious")
    assert "exists already" in refused(capsys, "sample", "dw4", "-n", "10", "-o", str(there))
    assert "exists already" in refused(capsys, "export", "s.h5", str(there))
    assert there.read_text() == "precious"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RunError("the folder holds another run."), 2, "boltzflow: error: the folder holds another run.\n"),
        (KeyboardInterrupt(), 130, "boltzflow: interrupted.\n"),
        (MemoryError(), 2, "not enough memory"),
        (OSError(errno.ENOSPC, "no space", "data.h5"), 2, "data.h5: there is no space left"),
        (PermissionError(errno.EACCES, "denied", "data.h5"), 2, "data.h5: permission denied"),
        (OSError(errno.EROFS, "read-only"), 2, "read-only"),
    ],
)
def test_failures_of_the_machine_get_a_sentence(error, code, said, capsys, monkeypatch):
    def fail():
        raise error

    monkeypatch.setattr("boltzflow.cli.models.run", fail)
    assert cli.main(["models"]) == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError("a bug"), FileNotFoundError(errno.ENOENT, "gone")])
def test_a_bug_keeps_its_traceback(error, monkeypatch):
    def fail():
        raise error

    monkeypatch.setattr("boltzflow.cli.models.run", fail)
    with pytest.raises(type(error)):
        cli.main(["models"])


def test_a_closed_pipe_is_no_error():
    process = subprocess.Popen(
        [sys.executable, "-m", "boltzflow", "presets", "dw4"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == cli.BROKEN_PIPE


@pytest.mark.parametrize("words", [["presets"], ["presets", "lj13"], ["train", "--help"], ["sample", "dw4", "-n", "x"]])
def test_a_terminal_without_unicode_is_served(words):
    environment = {"PATH": "", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-m", "boltzflow", *words], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == (2 if "x" in words else 0)
    assert "Traceback" not in done.stderr


def test_a_terminal_gets_the_same_sentence_without_colours_in_it():
    # tyro colours what it writes where stdout is a terminal.
    pty = pytest.importorskip("pty")
    code = "import sys; from boltzflow.cli import main; sys.exit(main(['sample', 'dw4', '-n', 'x']))"
    outer, inner = pty.openpty()
    done = subprocess.run([sys.executable, "-c", code], stdout=inner, stderr=subprocess.PIPE, text=True, check=False)
    os.close(inner)
    os.close(outer)
    assert done.returncode == 2
    assert done.stderr == "boltzflow: error: -n/--n must be a whole number, got 'x'; see `boltzflow sample --help`.\n"


def test_listings(capsys):
    for verb, name in (("targets", "lj13-once"), ("presets", "lj13-egnn")):
        assert cli.main([verb]) == 0
        assert name in capsys.readouterr().out


def test_models_are_listed_with_their_figures(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert cli.main(["models"]) == 0
    told = capsys.readouterr()
    (line,) = (line for line in told.out.splitlines() if line.startswith(" dw4-eacf "))
    card = json.loads((Path(cli.__file__).parents[1] / "pretrained" / "dw4-eacf.json").read_text())["figures"]
    for figure in (f"{100 * card['ess_reverse']['value']:.1f} at most", str(card["ess_reverse"]["n"]), f"{card['seconds_per_1000']:.3g}"):
        assert f" {figure} " in line
    assert "augmented coupling flow" in line
    assert "lj55 on H200" in told.err
    assert "Licence: MIT" in told.err
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["models"]) == 0
    assert " alanine-dipeptide-eacf " in capsys.readouterr().out


class Recorded(Exception):
    """Carries what a verb hands to the training."""


@pytest.mark.parametrize(
    "words",
    [
        ["dw4", "--set", "flow.network.hidden=16", "stages.0.optimiser.learning_rate=5e-4", "--seed", "3"],
        ["--set", "flow.network.hidden=16", "stages.0.optimiser.learning_rate=5e-4", "dw4", "--seed=3"],
        ["--set=flow.network.hidden=16", "--set", "stages.0.optimiser.learning_rate=5e-4", "--seed", "3", "dw4"],
        ["dw4", "--set", "flow.network.hidden=16", "--seed", "3", "--set", "stages.0.optimiser.learning_rate=5e-4"],
    ],
)
def test_set_forms(words, monkeypatch, tmp_path):
    def train(config, folder, bar, *, resume, target=None, given=False):
        raise Recorded(config, folder, resume)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("boltzflow.cli.train.train", train)
    with pytest.raises(Recorded) as caught:
        cli.main(["train", *words])
    config, folder, resume = caught.value.args
    assert (config.flow.network.hidden, config.stages[0].optimiser.learning_rate, config.run.seed) == (16, 5e-4, 3)
    assert (str(folder), resume) == ("runs/dw4", False)


def test_devices_are_set_up_before_a_molecule_uses_them(monkeypatch):
    # Not even the target can be made before, for its energy is computed by JAX.
    def made(*_):
        raise Recorded(configured)

    configured: list = []
    monkeypatch.setattr("boltzflow.runtime.configure", lambda *settings: configured.append(settings))
    monkeypatch.setattr("boltzflow.cli.molecules.made", made)
    described = ["--force-field", "amber14-all.xml", "--temperature", "300"]
    with pytest.raises(Recorded) as caught:
        cli.main(["train", "molecule.pdb", *described, "--set", "run.devices=4", "precision=double"])
    assert caught.value.args == ([("double", 4)],)


def test_training_again_continues_the_same_run_only(monkeypatch, tmp_path):
    def train(config, folder, bar, *, resume, target=None, given=False):
        raise Recorded(resume)

    monkeypatch.setattr("boltzflow.cli.train.train", train)
    config_io.save_config(dataclasses.replace(config_io.load_preset("dw4"), description="another"), tmp_path / "config.yaml")
    for words, resumes in (([], True), (["--set", "flow.network.hidden=16"], False)):
        with pytest.raises(Recorded) as caught:
            cli.main(["train", "dw4", "-o", str(tmp_path), *words])
        assert caught.value.args == (resumes,)


@pytest.mark.parametrize("name", config_io.preset_names())
def test_presets_are_valid_and_survive_a_file(name, tmp_path, capsys):
    config = config_io.load_preset(name)
    assert config.description
    config_io.save_config(config, tmp_path / "saved.yaml")
    assert config_io.load_config(tmp_path / "saved.yaml") == config
    assert cli.main(["presets", name]) == 0
    (tmp_path / "explained.yaml").write_text(capsys.readouterr().out, encoding="utf-8")
    assert config_io.load_preset(str(tmp_path / "explained.yaml")) == config


def test_presets_name_registered_targets():
    from boltzflow import targets

    for name in config_io.preset_names():
        assert config_io.load_preset(name).target in targets.names()


def test_comparison_presets_differ_in_pairing_and_refinement_alone():
    lj13 = config_io.load_preset("lj13")
    for name, pairing in (("lj13-ot", "optimal-transport"), ("lj13-independent", "independent")):
        other = config_io.load_preset(name)
        # Path lengths are compared after flow matching alone.
        (stage,) = other.stages
        of_lj13 = lj13.stages[0].objective
        assert isinstance(stage.objective, FlowMatching)
        assert isinstance(of_lj13, FlowMatching)
        assert stage.objective.pairing.variant == pairing
        first = dataclasses.replace(stage, objective=dataclasses.replace(stage.objective, pairing=of_lj13.pairing))
        assert dataclasses.replace(other, stages=(first, *lj13.stages[1:]), description=lj13.description) == lj13


def test_a_file_may_start_from_a_preset(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: lj13\nflow:\n  ecnf: {solver: {gauss-legendre: {grading: 1e0, nodes: 16}}}\n")
    mine, lj13 = config_io.load_preset(str(tmp_path / "mine.yaml")), config_io.load_preset("lj13")
    assert isinstance(mine.flow, ECNF)
    assert isinstance(mine.flow.solver, GaussLegendre)
    assert (mine.flow.solver.nodes, mine.flow.solver.grading) == (16, 1.0)
    assert dataclasses.replace(mine, flow=lj13.flow) == lj13


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flow.network.hidden=64", 64),
        ("flow.network.attention=false", False),
        ("flow.network.cutoff=2", 2.0),
        ("flow.network.cutoff=null", None),
        ("stages.0.optimiser.learning_rate=5e-4", 5e-4),
        ("stages.0.optimiser.learning_rate=1E-3", 1e-3),
        ("flow.solver.rtol=.00001", 1e-5),
        ("stages.0.objective.path=diffusion", "diffusion"),
        ("data.path=frames=1.npz", "frames=1.npz"),
    ],
)
def test_overrides(text, expected):
    config: object = config_io.apply_overrides(RunConfig(target="dw4").completed(), [text])
    for part in text.partition("=")[0].split("."):
        config = config[int(part)] if isinstance(config, tuple) else getattr(config, part)
    assert config == expected
    assert type(config) is type(expected)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hidden=64", "did you mean 'flow.network.hidden'?"),
        ("flow.network.hiden=64", "did you mean 'flow.network.hidden'?"),
        ("flow.network.hidden.more=64", "there is no option 'flow.network.hidden.more'"),
        ("fow.hidden=64", "did you mean 'flow.network.hidden'?"),
        ("flow=64", "flow must be one of ecnf, eacf"),
        ("data=64", "data is a section"),
        ("flow.network.hidden", "option=value"),
        ("flow.network.hidden=", "flow.network.hidden must be a whole number, got nothing"),
        ("flow.network.hidden=[", "not a valid YAML value"),
        ("flow.network.hidden=3.5", "flow.network.hidden must be a whole number, got 3.5"),
        ("flow.network.hidden=true", "flow.network.hidden must be a whole number, got true"),
        ("flow.network.typed_pairs=1", "flow.network.typed_pairs must be true or false, got 1"),
        ("flow.network=egn", "one of egnn, two-interaction, got the text 'egn'. Did you mean 'egnn'?"),
        ("flow.network.cutoff=near", "flow.network.cutoff must be a number or null, got the text 'near'"),
        ("flow.network.cutoff=.inf", "flow.network.cutoff must be greater than 0, got inf"),
        ("stages.0.objective.sigma=-0.1", "stages.0.objective.sigma must be 0 or more, got -0.1"),
        ("stages.0.objective.late_time=2", "stages.0.objective.late_time must be between 0 and 1, got 2.0"),
        ("stages.0.steps=0", "stages.0.steps must be at least 1, got 0"),
        ("stages.1.objective.nodes=0", "stages.1.objective.nodes must be at least 1, got 0"),
        (
            "stages.0.objective.path=difusion",
            "stages.0.objective.path must be one of linear, diffusion, got the text 'difusion'. Did you mean 'diffusion'?",
        ),
        ("stages.0.batch_size=100", "stages.0.microbatch must divide batch_size"),
        ("stages.0.optimiser.ema_decay=1", "stages.0.optimiser.ema_decay must be at least 0 and below 1, got 1.0"),
        ("data.n=500", "larger than data.validation"),
    ],
)
def test_wrong_overrides_name_the_option(text, said):
    with pytest.raises(ConfigError) as caught:
        config_io.apply_overrides(config_io.load_preset("dw4"), [text])
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must be a YAML mapping"),
        ("- dw4", "must be a YAML mapping"),
        ("target: [", "not valid YAML in line 1"),
        ("flow: ecnf", "target is missing"),
        ("target: dw4\nflow: 3", "flow must be one of ecnf, eacf"),
        ("target: dw4\ndata: 3", "data must be a section of options such as data.path, got 3"),
        ("target: dw4\nfow: {ecnf: {}}", "there is no option 'fow'; did you mean 'flow'"),
        ("target: dw4\nflow: {ecnf: {solver: {dopri5: {rtoll: 3}}}}", "did you mean 'flow.solver.rtol'"),
        ("base: lj14", "did you mean 'lj13'"),
    ],
)
def test_wrong_files_are_named_with_their_error(text, said, tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        config_io.load_config(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_every_option_has_a_meaning():
    from boltzflow.config import Flow, Objective, Options, fields_of
    from boltzflow.config.options import items_in, meanings, section_in, union_in

    seen: set[type[Options]] = set()

    def check(section: type[Options]) -> None:
        # An objective may leave learning to another of its kind.
        if section in seen:
            return
        seen.add(section)
        for name, hint in fields_of(section).items():
            assert meanings(section).get(name), f"{section.__name__} does not explain {name}"
            union, inner = union_in(hint), items_in(hint) or section_in(hint)
            for part in union.variants.values() if union is not None else [inner] if inner is not None else []:
                check(part)

    check(RunConfig)
    assert {"ecnf", "eacf"} <= set(Flow.variants)
    assert "path-gradient" in Objective.variants
    explained = config_io.explain(config_io.load_preset("lj13")).splitlines()
    for above, line in itertools.pairwise(explained):
        if re.match(r" *(- )?\w+:", line) and not line.endswith(":"):
            assert above.lstrip().startswith("#"), f"not explained: {line}"
    assert max(map(len, explained)) <= 80


@pytest.mark.parametrize("name", ["dw4", "alanine-dipeptide"])
def test_explained_presets_fit_a_narrow_terminal(name, capsys):
    assert cli.main(["presets", name]) == 0
    assert max(len(line) for line in capsys.readouterr().out.splitlines()) <= 80


def test_targets_name_molecules_from_files(capsys):
    assert cli.main(["targets", "--help"]) == 0
    assert "molecule.pdb" in capsys.readouterr().out


def test_objects_are_shown_in_one_line(tmp_path):
    import numpy as np

    import boltzflow as bf

    target = bf.targets.get("lj13")
    x = np.zeros((2000, 13, 3), np.float32)
    dataset = bf.Dataset(x, target.fingerprint, "reduced", structure="ATOM\n" * 5000)
    ones, solved = np.ones(2000), np.zeros(2000, int)
    samples = bf.Samples(x, ones, ones, solved, solved, ones, {"target": "lj13", "model": "m", "seed": 3, "structure": "ATOM\n" * 5000})
    for shown in map(repr, (target, dataset, samples)):
        assert "13" in shown
        assert "\n" not in shown
        assert len(shown) < 200
    assert "2000" in repr(dataset)
    assert "2000" in repr(samples)


def test_the_second_process_compiles_nothing(tmp_path):
    code = (
        "from boltzflow import runtime; runtime.configure('double', 3); import jax, jax.numpy as jnp\n"
        "from jax._src import monitoring; seen = []\n"
        "monitoring.register_event_listener(lambda event, **_: seen.append(event))\n"
        "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)\n"
        "x = jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((3, 3)))\n"
        "print(x.dtype, len(jax.devices()), any('cache_hits' in event for event in seen))"
    )
    environment = {"BOLTZFLOW_CACHE": str(tmp_path), "PATH": "", "JAX_PLATFORMS": "cpu"}
    runs = [
        subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True, env=environment)
        for _ in range(2)
    ]
    assert [done.stdout for done in runs] == ["float64 3 False\n", "float64 3 True\n"]
    assert [done.stderr for done in runs] == ["", ""]


def test_a_compile_cache_that_cannot_be_made_is_done_without(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(runtime.CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    assert runtime.compile_cache() is None


def test_evaluation_table(capsys):
    from boltzflow.cli import output

    estimate = {"value": 0.94123, "low": 0.9312, "high": 0.9501, "n": 10000}
    figures = {"target": "dw4", "model": "runs/x", "ess_reverse": estimate, "ess_forward": None, "pareto_k": 0.31234, "failed": 0}
    output.evaluation(json.loads(json.dumps(figures)))
    out = capsys.readouterr().out
    assert "94.1 %" in out
    assert "93.1 to 95.0 %" in out
    assert "0.3123" in out
    assert "10000" in out
