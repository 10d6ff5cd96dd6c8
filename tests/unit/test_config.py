"""Options: their ranges, those that belong to other variants, and what presets leave behind."""

import dataclasses
import typing
from typing import Any

import numpy as np
import pytest

from boltzflow import config
from boltzflow.config import ECNF, EGNN, DataConfig, FlowMatching, Options, RunConfig, RunOptions, Stage, plain
from boltzflow.config import io as config_io
from boltzflow.config.options import fields_of, items_in, members, section_in, union_in
from boltzflow.config.ranges import Range
from boltzflow.errors import ConfigError

PLAIN = RunConfig(target="dw4").completed()


def numbers(section: type[Options] = RunConfig, name: str = "", above: tuple = ()) -> typing.Iterator[tuple[tuple[str, ...], str, Any]]:
    """Every option that is a number, of all variants: overrides that choose the variants on the way, its dotted name, and its type."""
    above = (*above, section)
    for option, hint in fields_of(section).items():
        path, union, inner = f"{name}.{option}".lstrip("."), union_in(hint), section_in(hint)
        items = items_in(hint)
        if items is not None:
            yield from numbers(items, f"{path}.0", above)
        elif union is not None:
            for variant, cls in union.variants.items():
                # An objective that leaves learning to another does not leave it to itself.
                for choices, inside, kind in numbers(cls, path, above) if cls not in above else ():
                    yield (f"{path}={variant}", *choices), inside, kind
        elif inner is not None:
            yield from numbers(inner, path, above)
        elif {part.__origin__ if hasattr(part, "__metadata__") else part for part in members(hint)} & {int, float}:
            yield (), path, hint


NUMBERS = list(numbers())
FLOWS: dict[str, str] = dict.fromkeys(("augmented-likelihood", "augmented-path-gradient", "augmented-reverse-kl", "fab"), "eacf")


def test_there_are_numbers_in_every_variant():
    names = {name for _, name, _ in NUMBERS}
    assert {"flow.solver.divergence.probes", "flow.projection.extent", "stages.0.optimiser.learning_rate", "data.seed"} <= names


@pytest.mark.parametrize(("choices", "name", "hint"), NUMBERS, ids=[" ".join([*choices, name]) for choices, name, _ in NUMBERS])
def test_every_number_has_a_range_and_a_sentence(choices, name, hint):
    ranges = [part.__metadata__ for part in members(hint) if hasattr(part, "__metadata__")]
    assert any(isinstance(part, Range) for part in ranges[0])
    objective = next((choice.partition("=")[2] for choice in choices if "objective=" in choice), None)
    flow = next((choice.partition("=")[2] for choice in choices if choice.startswith("flow=")), FLOWS.get(objective or "", "ecnf"))
    chosen = [f"flow={flow}", f"stages.0.objective={objective or config.Flow.named(flow).natural_objective}"]
    chosen += [choice for choice in choices if not choice.startswith("flow=") and "objective=" not in choice]
    integer = any(getattr(part, "__origin__", None) is int for part in members(hint))
    for text in ("-1", "9" * 30 if integer else "1e300"):
        with pytest.raises(ConfigError, match=f"{name} must be .*got"):
            config_io.apply_overrides(PLAIN, [*chosen, f"{name}={text}"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("flow.network.softening=0.5", "softening belongs to the network two-interaction; the network here is egnn"),
        ("flow.network=two-interaction flow.network.attention=false", "attention belongs to the network egnn"),
        ("flow.network.reach=3", "flow.network.reach would have no effect: it is the reach of radial functions, and radial is 0"),
        ("flow.blocks=3", "blocks belongs to the flow eacf; the flow here is ecnf"),
        ("flow=eacf stages.0.objective=augmented-likelihood flow.network=egnn", "network belongs to the flow ecnf; the flow here is eacf"),
        ("flow.solver.grading=1.5", "grading belongs to the solver gauss-legendre; the solver here is dopri5"),
        ("flow.solver=rk4 flow.solver.rtol=1e-9", "rtol belongs to the solver dopri5 or tsit5; the solver here is rk4"),
        ("flow.solver.divergence.probes=2", "probes belongs to the divergence hutchinson; the divergence here is exact"),
        ("stages.0.objective.pairing=independent stages.0.objective.pairing.full_cost=true", "belongs to the pairing equivariant-optimal"),
        ("stages.0.objective=maximum-likelihood stages.0.objective.sigma=3.0", "sigma belongs to the objective flow-matching"),
        ("stages.0.objective.nodes=4", "nodes belongs to the objective maximum-likelihood or path-gradient"),
        ("stages.0.objective.collinearity=1", "collinearity belongs to the objective augmented-likelihood"),
        ("flow=eacf", "stages.0.objective=augmented-likelihood"),
        ("stages.1.objective=augmented-path-gradient", "is made for the flow eacf"),
        ("data.path=x.npy data.n=70000", "data.n=70000 would have no effect"),
        ("run.evaluate_n=64", "run.evaluate_n=64 would have no effect"),
    ],
)
def test_options_that_do_not_apply_say_where_they_belong(words, said):
    with pytest.raises(ConfigError) as caught:
        config_io.apply_overrides(PLAIN, words.split())
    assert said in str(caught.value)


class TestVariants:
    def test_one_is_chosen_by_its_name_and_takes_along_what_both_have(self):
        muon = config_io.apply_overrides(PLAIN, ["stages.0.optimiser.learning_rate=0.25", "stages.0.optimiser=muon"]).stages[0].optimiser
        assert muon == config.Muon(learning_rate=0.25)
        tsit = config_io.apply_overrides(PLAIN, ["flow.solver.rtol=1e-7", "flow.solver=tsit5"]).flow
        assert tsit == ECNF(solver=config.Tsit5(rtol=1e-7))
        # Radial functions may be none in the one and must be some in the other: no option of the same meaning.
        network = config_io.apply_overrides(PLAIN, ["flow.network.hidden=7", "flow.network=two-interaction"]).flow
        assert network == ECNF(config.TwoInteraction(hidden=7))

    def test_its_name_may_stand_on_the_way_or_not(self):
        for name in ("flow.network.hidden", "flow.ecnf.network.hidden", "flow.ecnf.network.egnn.hidden"):
            assert config_io.apply_overrides(PLAIN, [f"{name}=7"]).flow == ECNF(EGNN(hidden=7))
        assert config_io.apply_overrides(PLAIN, ["flow.network={egnn: {hidden: 7}}"]).flow == ECNF(EGNN(hidden=7))

    def test_python_takes_it_by_its_name(self):
        assert FlowMatching(pairing=typing.cast(Any, "independent")).pairing == config.Independent()
        with pytest.raises(ConfigError, match="there is no pairing 'independant'; did you mean 'independent'"):
            FlowMatching(pairing=typing.cast(Any, "independant"))

    def test_a_name_is_given_once(self):
        with pytest.raises(ConfigError, match="there is a network 'egnn' already"):

            @dataclasses.dataclass(frozen=True)
            class Mine(config.Network, name="egnn"):
                pass

        assert config.Network.variants["egnn"] is EGNN


class TestStages:
    def test_they_are_added_changed_and_left_out_by_number(self):
        dw4 = config_io.load_preset("dw4")
        assert [stage.steps for stage in dw4.stages] == [30_000, 800]
        assert len(config_io.apply_overrides(dw4, ["stages.1=null"]).stages) == 1
        added = config_io.apply_overrides(dw4, ["stages.2={objective: {path-gradient: {direction: forward}}, steps: 7}"]).stages
        assert added[:2] == dw4.stages
        assert (added[2].objective, added[2].steps) == (config.PathGradient(direction="forward"), 7)
        with pytest.raises(ConfigError, match="numbered from 0, and there are 2.*stages.2"):
            config_io.apply_overrides(dw4, ["stages.3.steps=7"])
        with pytest.raises(ConfigError, match="stages.1.steps must be at least 1, got 0. To leave the stage out, set stages.1=null"):
            config_io.apply_overrides(dw4, ["stages.1.steps=0"])

    def test_those_of_a_preset_and_of_what_is_based_on_it_are_merged_by_number(self, tmp_path):
        (tmp_path / "mine.yaml").write_text("base: dw4\nstages:\n  - {steps: 3}\n  - null\n")
        mine, dw4 = config_io.load_preset(str(tmp_path / "mine.yaml")), config_io.load_preset("dw4")
        assert mine.stages == (dataclasses.replace(dw4.stages[0], steps=3),)


def test_what_an_option_makes_meaningless_goes_back_to_its_default():
    lj55 = config_io.load_preset("lj55")
    assert lj55.data.n == 24_000
    changed = config_io.apply_overrides(lj55, ["data.path=x.npy"])
    assert changed.data.n == DataConfig().n
    assert config_io.checked(changed) == changed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("training: {steps: 3}", "there is no option 'training': a run is a list of stages now"),
        ("flow: {hidden: 3}", "flow must be one of ecnf, eacf, got the text 'hidden'"),
        ("flow: {ecnf: {}, eacf: {}}", "flow must be one of ecnf, eacf, such as"),
        ("stages: 3", "stages must be a list of sections, got 3"),
        ("stages: [3]", "stages.0 must be a section of options such as stages.0.objective, got 3"),
    ],
)
def test_files_of_another_form(text, said, tmp_path):
    (tmp_path / "mine.yaml").write_text(f"target: dw4\n{text}\n")
    with pytest.raises(ConfigError) as caught:
        config_io.load_config(tmp_path / "mine.yaml")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"stages": (Stage(steps=typing.cast(Any, 10.5)),)}, "stages.0.steps must be a whole number, got 10.5"),
        ({"precision": "half"}, "precision must be one of single, double"),
        ({"flow": config.EACF(), "stages": (Stage(objective=FlowMatching()),)}, "made for the flow ecnf"),
        ({"data": DataConfig(path="x.npy", seed=3)}, "data.seed=3 would have no effect"),
        ({"run": RunOptions(devices=3)}, "stages.0.batch_size must be a multiple of run.devices"),
        ({"stages": (Stage(batch_size=100),)}, "stages.0.microbatch must divide batch_size"),
    ],
)
def test_configurations_from_python_are_checked_as_files_are(changed, said):
    with pytest.raises(ConfigError) as caught:
        config_io.checked(dataclasses.replace(PLAIN, **changed))
    assert said in str(caught.value)


def test_numpy_s_numbers_become_python_s():
    found = config_io.checked(dataclasses.replace(PLAIN, stages=(Stage(steps=typing.cast(int, np.int64(7))),)))
    assert type(found.stages[0].steps) is int
    assert found.stages[0].steps == 7
    assert found.stages[0].objective == FlowMatching()


@pytest.mark.parametrize("name", config_io.preset_names())
def test_presets_survive_being_written_and_explained(name):
    preset = config_io.load_preset(name)
    for text in (config_io.dump(preset), config_io.explain(preset)):
        assert config_io.loads(text, name) == preset
    assert plain(config_io.checked(preset)) == plain(preset)
