"""Options that have a range, and options that would have no effect."""

import dataclasses
import typing

import pytest

from boltzflow import config_io
from boltzflow.config import (
    CouplingConfig,
    DataConfig,
    FlowConfig,
    ObjectiveConfig,
    RefinementConfig,
    RunConfig,
    SolverConfig,
    TrainingConfig,
)
from boltzflow.config_check import _RANGES, refuse_without_effect, without_effect
from boltzflow.errors import ConfigError
from boltzflow.objectives import FlowMatching, MaximumLikelihood

PLAIN = RunConfig(target="dw4")


def numeric_options() -> set[str]:
    return {
        name
        for name, hint in config_io._options().items()
        if {int, float} & set(config_io._members(hint)) and bool not in config_io._members(hint)
    }


def test_every_number_has_a_range():
    ranged = [name for names, _, _ in _RANGES for name in names.split()]
    assert len(ranged) == len(set(ranged))
    assert set(ranged) == numeric_options()


@pytest.mark.parametrize("name", sorted(numeric_options()))
def test_numbers_out_of_their_range_get_a_sentence(name):
    integer = int in config_io._members(config_io._options()[name])
    for text in ("-1", "9" * 30 if integer else "1e300"):
        if text == "1e300" and name.endswith("ema_decay"):
            text = "1.0"
        with pytest.raises(ConfigError, match=f"{name} must be .*got"):
            config_io.apply_overrides(PLAIN, [f"{name}={text}"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("flow.network=egnn flow.softening=0.5", "flow.softening=0.5 would have no effect: it belongs to flow.network=two-interaction"),
        ("flow.network=egnn flow.channels=7", "flow.channels"),
        ("flow.network=egnn flow.typed_pairs=true", "flow.typed_pairs"),
        ("flow.network=egnn flow.fine_time=both", "flow.fine_time"),
        ("flow.network=egnn flow.radial=0 flow.reach=3", "flow.reach"),
        ("flow.network=two-interaction flow.radial=4 flow.attention=false", "flow.attention"),
        ("flow.family=eacf flow.hidden=999", "flow.hidden=999 would have no effect: it belongs to flow.family=ecnf"),
        ("flow.family=eacf flow.cutoff=0.1", "flow.cutoff"),
        ("flow.family=eacf flow.solver.rtol=1e-3", "flow.solver.rtol"),
        ("flow.coupling.blocks=3", "flow.coupling.blocks"),
        ("flow.family=eacf flow.coupling.projection=vector flow.coupling.mirror=true", "flow.coupling.mirror"),
        ("flow.family=eacf flow.coupling.projection=none flow.coupling.width=8", "flow.coupling.width"),
        ("flow.family=eacf flow.coupling.stiffness=2", "flow.coupling.stiffness"),
        ("flow.solver.method=rk4 flow.solver.rtol=1e-9", "flow.solver.rtol"),
        ("flow.solver.steps=7", "flow.solver.steps"),
        ("flow.solver.method=rk4 flow.solver.grading=1.5", "flow.solver.grading"),
        ("flow.solver.probes=2", "flow.solver.probes"),
        ("objective.pairing=independent objective.full_cost=true", "objective.full_cost"),
        ("objective.method=maximum-likelihood objective.sigma=3.0", "objective.sigma"),
        ("objective.method=maximum-likelihood objective.path=diffusion", "objective.path"),
        ("objective.nodes=4", "objective.nodes"),
        ("objective.collinearity=1", "objective.collinearity"),
        ("flow.family=eacf objective.pairing=independent", "objective.pairing"),
        ("refinement.nodes=4", "refinement.nodes"),
        ("flow.family=eacf refinement.steps=3 refinement.nodes=4", "refinement.nodes"),
        ("data.path=x.npy data.n=70000", "data.n"),
        ("training.evaluate_n=64", "training.evaluate_n"),
    ],
)
def test_options_without_effect_are_refused_by_name(words, said):
    with pytest.raises(ConfigError) as caught:
        config_io.apply_overrides(PLAIN, words.split())
    assert said in str(caught.value)
    assert "would have no effect" in str(caught.value)


def test_what_a_preset_leaves_behind_is_put_back_not_refused():
    changed = config_io.apply_overrides(config_io.load_preset("dw4"), ["flow.network=egnn", "objective.pairing=independent"])
    assert not without_effect(changed)
    assert (changed.flow.softening, changed.flow.radial, changed.objective.full_cost) == (0.0, 32, False)
    for name in config_io.preset_names():
        found = without_effect(config_io.load_preset(name))
        assert all(option.startswith("refinement.") for option in found), name


def test_a_run_of_before_is_read_as_it_is(tmp_path):
    old = dataclasses.replace(PLAIN, flow=FlowConfig(softening=0.3))
    config_io.save_config(old, tmp_path / "config.yaml")
    assert config_io.load_config(tmp_path / "config.yaml") == old
    with pytest.raises(ConfigError, match=r"config\.yaml: flow\.softening=0\.3 would have no effect"):
        config_io.load_preset(str(tmp_path / "config.yaml"))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (dataclasses.replace(PLAIN, flow=FlowConfig(family=typing.cast(typing.Any, "foo"))), "flow.family must be one of ecnf, eacf"),
        (dataclasses.replace(PLAIN, flow=FlowConfig(network=typing.cast(typing.Any, "foo"))), "flow.network must be one of egnn"),
        (
            dataclasses.replace(PLAIN, flow=FlowConfig(solver=SolverConfig(method=typing.cast(typing.Any, "foo")))),
            "flow.solver.method must",
        ),
        (
            dataclasses.replace(PLAIN, training=TrainingConfig(optimiser=typing.cast(typing.Any, "foo"))),
            "training.optimiser must be one of",
        ),
        (
            dataclasses.replace(PLAIN, training=TrainingConfig(steps=typing.cast(typing.Any, 10.5))),
            "training.steps must be a whole number, got 10.5",
        ),
        (dataclasses.replace(PLAIN, precision=typing.cast(typing.Any, "half")), "precision must be one of single, double"),
        (dataclasses.replace(PLAIN, flow=FlowConfig(family="eacf"), objective=FlowMatching()), "trained by maximum likelihood"),
        (dataclasses.replace(PLAIN, objective=MaximumLikelihood(sigma=3.0)), "objective.sigma=3.0 would have no effect"),
        (dataclasses.replace(PLAIN, flow=FlowConfig(coupling=CouplingConfig(blocks=2))), "flow.coupling.blocks=2 would have no effect"),
        (dataclasses.replace(PLAIN, data=DataConfig(path="x.npy", seed=3)), "data.seed=3 would have no effect"),
    ],
)
def test_configurations_from_python_are_checked_as_files_are(config, said):
    with pytest.raises(ConfigError) as caught:
        config_io.checked(config)
    assert said in str(caught.value)


def test_a_refinement_may_stand_by():
    config = dataclasses.replace(PLAIN, refinement=RefinementConfig(nodes=5))
    refuse_without_effect(config)
    assert config_io.checked(config).refinement.nodes == 5


def test_numpy_s_numbers_become_python_s():
    import numpy as np

    found = config_io.checked(dataclasses.replace(PLAIN, training=TrainingConfig(steps=typing.cast(int, np.int64(7)))))
    assert type(found.training.steps) is int
    assert found.training.steps == 7
    assert found.objective == ObjectiveConfig()
