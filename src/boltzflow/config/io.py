"""Reads, checks and writes run configurations: presets, YAML files and `a.b=c` overrides.

The types are the options of `boltzflow.config`. What is wrong is said with the dotted name of the option, the value given and what was
expected.
"""

import contextlib
import os
import re
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from boltzflow import files, plugins
from boltzflow.config import DataConfig, RunConfig, RunOptions
from boltzflow.config.changing import leaves, merged, set_option
from boltzflow.config.options import Options, fields_of, items_in, meanings, plain, union_in
from boltzflow.config.reading import read, shown
from boltzflow.errors import ConfigError, nearest

_BASE = "base"
_WIDTH = 80
# Sections that only configurations of before stages have.
_FORMER = ("objective", "training", "refinement")


def preset_names() -> dict[str, str]:
    """Name and one-line description of every preset that ships with the package."""
    return {name: load_preset(name).description for name in sorted(_preset_files())}


def load_preset(name: str) -> RunConfig:
    """The preset of that name, or the configuration in the YAML file of that path.

    A file may start from a preset with `base: NAME` and give only what differs; stages are merged by their numbers.

    Example:
        >>> bf.load_preset("lj13").target
        'lj13'

    Args:
        name: of a preset, or the path of a YAML file.

    Raises:
        ConfigError: if there is neither, or the configuration is wrong, or it sets an option that would have no effect.
    """
    if name in _preset_files():
        text, source = _preset_files()[name].read_text(encoding="utf-8"), f"preset {name}"
    elif name.endswith((".yaml", ".yml")) or os.sep in name:
        text, source = _text(Path(name)), name
    else:
        raise ConfigError(f"there is no preset {name!r}; {nearest(name, _preset_files())}")
    with _in(source):
        own = _parse(text)
        return _settled(_with_base(own), leaves(RunConfig, own))


def load_config(path: str | os.PathLike[str]) -> RunConfig:
    """The configuration in a YAML file, such as a run's.

    Raises:
        ConfigError: if the file cannot be read or the configuration is wrong.
    """
    return loads(_text(Path(path)), str(path))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"there is no configuration file {path}; `boltzflow presets` lists the presets.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}.") from error


def loads(text: str, source: str) -> RunConfig:
    """The configuration in a YAML text, such as `dump` gives; `source` names it in errors.

    Raises:
        ConfigError: if the configuration is wrong.
    """
    with _in(source):
        own = _parse(text)
        return _settled(_with_base(own), leaves(RunConfig, own))


def save_config(config: RunConfig, path: str | os.PathLike[str]) -> None:
    """Writes a configuration as YAML that `load_config` reads back; all at once, so that no half file is ever there."""
    files.replace(Path(path), dump(config))


def dump(config: RunConfig) -> str:
    """The configuration as YAML, every option in it."""
    import yaml

    return yaml.safe_dump(_short(plain(config)), sort_keys=False, allow_unicode=True, width=120)


def _short(value: Any) -> Any:
    """Variants without options by their names alone."""
    if isinstance(value, dict):
        return next(iter(value)) if len(value) == 1 and next(iter(value.values())) == {} else {k: _short(v) for k, v in value.items()}
    return [_short(item) for item in value] if isinstance(value, list) else value


def explain(config: RunConfig) -> str:
    """The configuration as YAML with what each option means above it, in lines for narrow terminals; `load_config` reads it back."""
    return "\n".join(_explained(config, 0)) + "\n"


def apply_overrides(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """A configuration with some options changed.

    Args:
        config: what to start from.
        overrides: `option=value` with the dotted name of the option and a YAML value, such as `flow.network.hidden=64`,
            `stages.0.objective.late_time=0.1` or `flow.network.cutoff=null`. A variant is chosen by its name, `flow.network=egnn`;
            `stages.1=null` leaves a stage out.

    Raises:
        ConfigError: if an override has another form, names no option, has a value of a wrong type or outside its range, or would have no
            effect.
    """
    data = plain(config)
    given = set()
    for override in overrides:
        name, separator, text = override.partition("=")
        name = name.strip()
        if not separator or not name:
            raise ConfigError(f"an override has the form option=value, such as stages.0.steps=2000; got {override!r}.")
        if name.split(".")[0] in _FORMER:
            raise ConfigError(_former(name))
        given.add(set_option(RunConfig, data, name, _parse_value(text, name)))
    return _settled(data, given)


def _settled(data: Mapping[str, Any], given: Collection[str]) -> RunConfig:
    """The configuration in a mapping, in which `given` are the names of the options that were asked for.

    What an option makes meaningless goes back to its default, unless it was asked for, too.
    """
    data = dict(data)
    config = read(RunConfig, data)
    for name, _ in _without_effect(config):
        section, _, option = name.partition(".")
        if name not in given:
            data[section] = {key: value for key, value in data[section].items() if key != option}
    return checked(read(RunConfig, data))


def checked(config: RunConfig, *, strict: bool = True) -> RunConfig:
    """A configuration made in Python, checked as one that was read: types, words, ranges, and what would have no effect.

    Args:
        config: the configuration; NumPy's numbers become Python's.
        strict: refuse options without effect.

    Raises:
        ConfigError: names the option, its value and what is allowed.
    """
    sound = read(RunConfig, plain(config)).completed()
    for name, reason in _without_effect(sound) if strict else ():
        section, _, option = name.partition(".")
        value = getattr(getattr(sound, section), option)
        raise ConfigError(f"{name}={value} would have no effect: {reason}; leave it out.")
    return sound


def _without_effect(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Options that differ from their defaults and change nothing because of others, and why."""
    made = ("frames are read from data.path, not made", ("n", "seed")) if config.data.path is not None else ("", ())
    for name in made[1]:
        if getattr(config.data, name) != getattr(DataConfig(), name):
            yield f"data.{name}", made[0]
    if config.run.evaluate_every == 0 and config.run.evaluate_n != RunOptions().evaluate_n:
        yield "run.evaluate_n", "run.evaluate_every is 0, so that nothing is evaluated during training"


@contextlib.contextmanager
def _in(source: str) -> Iterator[None]:
    """Puts the source before the sentence of an error."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error.__cause__


def _preset_files() -> dict[str, Traversable]:
    folder = resources.files("boltzflow") / "presets"
    return {file.name.removesuffix(".yaml"): file for file in folder.iterdir() if file.name.endswith(".yaml")}


def _with_base(data: dict[str, Any]) -> dict[str, Any]:
    """What a file says, laid over the preset it starts from; its plug-ins are imported, for they bring variants along."""
    base = data.pop(_BASE, None)
    former = next((name for name in _FORMER if name in data), None)
    if former is not None:
        raise ConfigError(_former(former))
    named = data.get("plugins") or []
    if isinstance(named, str | list) and named:
        data["plugins"] = [plugins.load(str(name)) for name in ([named] if isinstance(named, str) else named)]
    if base is None:
        return data
    if base not in _preset_files():
        raise ConfigError(f"it starts from the preset {base!r}, which is not there; {nearest(str(base), _preset_files())}")
    under = _with_base(_parse(_preset_files()[base].read_text(encoding="utf-8")))
    return merged(RunConfig, under, data)


def _former(name: str) -> str:
    section, _, option = name.partition(".")
    if section == "training":
        new = f"run.{option}" if option in fields_of(RunOptions) else f"stages.0.{option}"
        if option in ("learning_rate", "final_learning_rate", "warmup_steps", "weight_decay", "ema_decay", "clip_norm", "clip_median"):
            new = f"stages.0.optimiser.{option}"
    else:
        new = f"stages.0.objective.{option}" if section == "objective" else f"stages.1.{option}"
    return (
        f"there is no option {name!r}: a run is a list of stages now, each with an objective and an optimiser; see {new.rstrip('.')} in "
        "`boltzflow presets NAME`."
    )


def _load_yaml(text: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """YAML 1.2's floats: PyYAML takes `5e-4` for text."""

    resolvers = {first: list(pairs) for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()}
    Loader.yaml_implicit_resolvers = resolvers
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789"))
    return yaml.load(text, Loader)  # noqa: S506 (a SafeLoader)


def _parse(text: str) -> dict[str, Any]:
    import yaml

    try:
        data = _load_yaml(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"not valid YAML{where}: {getattr(error, 'problem', None) or 'it cannot be parsed'}.") from error
    if not isinstance(data, dict):
        raise ConfigError(f"it must be a YAML mapping such as `target: dw4`, but holds {shown(data)}.")
    return data


def _parse_value(text: str, name: str) -> Any:
    import yaml

    try:
        return _load_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} cannot be set to {text!r}: this is not a valid YAML value.") from error


def _explained(section: Options, depth: int) -> list[str]:
    """Lines of a section, each option with its meaning above it."""
    lines = []
    for name, hint in fields_of(type(section)).items():
        value = getattr(section, name)
        indent = "  " * depth
        if isinstance(value, Options) and not value.kind:
            lines += ["", *_comment(meanings(type(section)).get(name, ""), indent), f"{indent}{name}:", *_explained(value, depth + 1)]
            continue
        lines += _comment(meanings(type(section)).get(name, ""), indent)
        union = union_in(hint)
        if union is not None and isinstance(value, Options):
            lines += _comment(f"One of: {', '.join(union.variants)}.", indent)
            inside = _explained(value, depth + 2)
            lines += [f"{indent}{name}:", f"{indent}  {value.variant}:", *inside] if inside else [f"{indent}{name}: {value.variant}"]
        elif items_in(hint) is not None and isinstance(value, tuple):
            lines.append(f"{indent}{name}:")
            for item in value:
                first, *rest = [line for line in _explained(item, depth + 1) if line]
                comments = [first] if first.lstrip().startswith("#") else []
                while comments and rest[0].lstrip().startswith("#"):
                    comments.append(rest.pop(0))
                head = rest.pop(0) if comments else first
                lines += [*comments, f"{indent}- {head.strip()}", *rest]
        else:
            lines += _entry(name, value, indent)
    return lines


def _comment(text: str, indent: str) -> list[str]:
    start = f"{indent}# "
    return textwrap.wrap(text, _WIDTH, initial_indent=start, subsequent_indent=start, break_on_hyphens=False)


def _entry(name: str, value: Any, indent: str) -> list[str]:
    import yaml

    shown_value = list(value) if isinstance(value, tuple) else value
    entry = yaml.safe_dump({name: shown_value}, width=_WIDTH - 24 - len(indent), allow_unicode=True)
    return [indent + line for line in entry.splitlines()]
