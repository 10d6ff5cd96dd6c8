"""Reads, checks and writes run configurations: presets, YAML files and `a.b=c` overrides.

The types are the dataclasses of `boltzflow.config`; pydantic checks them strictly. What is wrong is said with the dotted name of the
option, the value given and what was expected.
"""

import contextlib
import dataclasses
import difflib
import json
import os
import re
import textwrap
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from boltzflow import files
from boltzflow.config import RunConfig
from boltzflow.config_check import check, effective, refuse_without_effect
from boltzflow.errors import ConfigError, nearest

_BASE = "base"
_WIDTH = 80
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", types.NoneType: "null"}


def preset_names() -> dict[str, str]:
    """Name and one-line description of every preset that ships with the package."""
    return {name: load_preset(name).description for name in sorted(_preset_files())}


def load_preset(name: str) -> RunConfig:
    """The preset of that name, or the configuration in the YAML file of that path.

    A file may start from a preset with `base: NAME` and give only what differs.

    Raises:
        ConfigError: if there is neither, or the configuration is wrong, or it sets an option that would have no effect.
    """
    if name in _preset_files():
        text, source = _preset_files()[name].read_text(encoding="utf-8"), f"preset {name}"
    elif name.endswith((".yaml", ".yml")) or os.sep in name:
        text, source = _text(Path(name)), name
    else:
        raise ConfigError(f"there is no preset {name!r}; {nearest(name, _preset_files())}")
    own = _parse(text, source)
    data = _with_base(own, source)
    # The options of a refinement stand by for the day when its steps are set.
    given = {option for option in _leaves(own) if not option.startswith("refinement.")}
    return _settled(data, _validate(data, source), given, source)


def load_config(path: str | os.PathLike[str]) -> RunConfig:
    """The configuration in a YAML file, such as a run's; options without effect are taken as they are.

    Raises:
        ConfigError: if the file cannot be read or the configuration is wrong.
    """
    path = Path(path)
    return loads(_text(path), str(path))


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
    return _validate(_with_base(_parse(text, source), source), source)


def save_config(config: RunConfig, path: str | os.PathLike[str]) -> None:
    """Writes a configuration as YAML that `load_config` reads back; all at once, so that no half file is ever there."""
    files.replace(Path(path), dump(config))


def dump(config: RunConfig) -> str:
    """The configuration as YAML, every option in it."""
    import yaml

    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True, width=120)


def explain(config: RunConfig) -> str:
    """The configuration as YAML with what each option means above it, in lines for narrow terminals; `load_config` reads it back."""
    return "\n".join(_explained(config, 0)) + "\n"


def apply_overrides(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """A configuration with some options changed.

    Args:
        config: what to start from.
        overrides: `option=value` with the dotted name of the option and a YAML value, such as `flow.hidden=64`,
            `training.learning_rate=5e-4` or `flow.cutoff=null`.

    Raises:
        ConfigError: if an override has another form, names no option, has a value of a wrong type or outside its range, or would have no
            effect.
    """
    data = dataclasses.asdict(config)
    given = set()
    for override in overrides:
        name, separator, text = override.partition("=")
        name = name.strip()
        if not separator or not name:
            raise ConfigError(f"an override has the form option=value, such as training.steps=2000; got {override!r}.")
        section: dict[str, Any] = data
        *parents, last = name.split(".")
        for parent in parents:
            if not isinstance(section.get(parent), dict):
                raise _unknown(name)
            section = section[parent]
        if last not in section:
            raise _unknown(name)
        if isinstance(section[last], dict):
            inside = next(iter(section[last]))
            raise ConfigError(f"{name} is a section, not an option; set one of its options, such as {name}.{inside}=...")
        section[last] = _parse_value(text, name)
        given.add(name)
    return _settled(data, _validate(data, ""), given, "")


def _settled(data: Mapping[str, Any], config: RunConfig, given: Collection[str], source: str) -> RunConfig:
    """The configuration without what would have no effect: refused where it was asked for, else left behind with the preset it is from."""
    with _in(source):
        refuse_without_effect(config, given=given)
    return _validate(effective(data, config), source)


def _leaves(data: Mapping[str, Any], prefix: str = "") -> set[str]:
    """Dotted names of all options in a mapping."""
    found: set[str] = set()
    for name, value in data.items():
        found |= _leaves(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}"}
    return found


@contextlib.contextmanager
def _in(source: str) -> Iterator[None]:
    """Puts the source before the sentence of an error."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}" if source else str(error)) from None


def checked(config: RunConfig, *, strict: bool = True) -> RunConfig:
    """A configuration made in Python, checked as one that was read: types, words, ranges, and what would have no effect.

    Args:
        config: the configuration; NumPy's numbers become Python's.
        strict: refuse options without effect. A run that goes on may have been begun when they were ignored.

    Raises:
        ConfigError: names the option, its value and what is allowed.
    """
    sound = _validate(dataclasses.asdict(config), "")
    if strict:
        refuse_without_effect(sound)
    return sound


def _preset_files() -> dict[str, Traversable]:
    folder = resources.files("boltzflow.cli") / "presets"
    return {file.name.removesuffix(".yaml"): file for file in folder.iterdir() if file.name.endswith(".yaml")}


def _read_preset(name: str) -> dict[str, Any]:
    return _with_base(_parse(_preset_files()[name].read_text(encoding="utf-8"), f"preset {name}"), f"preset {name}")


def _with_base(data: dict[str, Any], source: str) -> dict[str, Any]:
    """What a file says, laid over the preset it starts from."""
    base, data = data.get(_BASE), {name: value for name, value in data.items() if name != _BASE}
    if base is None:
        return data
    if base not in _preset_files():
        raise ConfigError(f"{source} starts from the preset {base!r}, which is not there; {nearest(str(base), _preset_files())}")
    return _merge(_read_preset(base), data)


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for name, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = _merge(merged[name], value) if both else value
    return merged


def _load_yaml(text: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """YAML 1.2's floats: PyYAML takes `5e-4` for text."""

    resolvers = {first: list(pairs) for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()}
    Loader.yaml_implicit_resolvers = resolvers
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789"))
    return yaml.load(text, Loader)  # noqa: S506 (a SafeLoader)


def _parse(text: str, source: str) -> dict[str, Any]:
    import yaml

    try:
        data = _load_yaml(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{source} is not valid YAML{where}: {getattr(error, 'problem', None) or 'it cannot be parsed'}.") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{source} must be a YAML mapping such as `target: dw4`, but holds {_shown(data)}.")
    return data


def _parse_value(text: str, name: str) -> Any:
    import yaml

    try:
        return _load_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} cannot be set to {text!r}: this is not a valid YAML value.") from error


def _validate(data: Mapping[str, Any], source: str) -> RunConfig:
    """Checks types, names and ranges; `source` is put before the sentence of an error."""
    import pydantic

    # Through JSON, because strict validation of Python objects wants instances of the dataclasses instead of mappings.
    text = json.dumps(data, default=_plain)
    prefix = f"{source}: " if source else ""
    try:
        config = pydantic.TypeAdapter(RunConfig).validate_json(text)
    except pydantic.ValidationError as error:
        # With several errors an unknown name comes first: it often is the cause of the others.
        first = min(error.errors(), key=lambda found: found["type"] != "unexpected_keyword_argument")
        name = ".".join(str(part) for part in first["loc"] if str(part) in _known_parts())
        raise _sentence(first["type"], name or ".".join(map(str, first["loc"])), first["loc"], first["input"], prefix) from error
    with _in(source):
        check(config)
    return config


def _plain(value: Any) -> Any:
    """What JSON has no word for: NumPy's numbers, paths, and all that will be refused."""
    item = getattr(value, "item", None)
    return item() if callable(item) and getattr(value, "shape", None) == () else str(value)


def _sentence(kind: str, name: str, location: tuple[int | str, ...], given: object, prefix: str) -> ConfigError:
    if kind == "unexpected_keyword_argument":
        return ConfigError(f"{prefix}{_unknown('.'.join(map(str, location)))}")
    if kind == "missing":
        return ConfigError(f"{prefix}{name} is missing; add it, such as `{name}: dw4`.")
    expected = _expected(_options()[name]) if name in _options() else f"a section of options such as {_options_below(name)[0]}"
    return ConfigError(f"{prefix}{name} must be {expected}, got {_shown(given)}.{_near_choice(name, given)}")


def _near_choice(name: str, given: object) -> str:
    literals = [member for member in _members(_options().get(name)) if typing.get_origin(member) is typing.Literal]
    choices = [str(choice) for literal in literals for choice in typing.get_args(literal)]
    hint = nearest(str(given), choices) if choices and isinstance(given, str) else ""
    return f" {hint[0].upper()}{hint[1:]}" if hint.startswith("did") else ""


def _unknown(name: str) -> ConfigError:
    """The error for an option that is not there.

    Names of the same section are compared first, then the last part of the name in any section, as in `hidden` for `flow.hidden`.
    """
    parent, _, last = name.rpartition(".")
    known = {**_options(), **dict.fromkeys(field.name for field in dataclasses.fields(RunConfig))}
    siblings = [option for option in known if option.rpartition(".")[0] == parent]
    for options in (siblings, list(known)):
        lasts = {option.rpartition(".")[2] for option in options}
        close = [last] if last in lasts else difflib.get_close_matches(last, lasts, n=3, cutoff=0.6)
        near = [option for part in close for option in options if option.rpartition(".")[2] == part]
        if near:
            return ConfigError(f"there is no option {name!r}; did you mean {' or '.join(repr(option) for option in near)}?")
    return ConfigError(f"there is no option {name!r}; `boltzflow presets NAME` lists all options.")


def _options() -> dict[str, Any]:
    """Dotted name and type of every option."""
    found: dict[str, Any] = {}

    def walk(section: type, prefix: str) -> None:
        for name, hint in typing.get_type_hints(section).items():
            if name.startswith("__"):
                continue
            if dataclasses.is_dataclass(hint) and isinstance(hint, type):
                walk(hint, f"{prefix}{name}.")
            else:
                found[prefix + name] = hint

    walk(RunConfig, "")
    return found


def _known_parts() -> set[str]:
    return {part for option in _options() for part in option.split(".")}


def _options_below(section: str) -> list[str]:
    return [option for option in _options() if option.startswith(f"{section}.")]


def _members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def _expected(hint: Any) -> str:
    words = []
    for member in _members(hint):
        if typing.get_origin(member) is typing.Literal:
            choices = [str(choice) for choice in typing.get_args(member)]
            words.append(f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0])
        else:
            words.append(_WORDS.get(member, getattr(member, "__name__", str(member))))
    return " or ".join(words)


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return f"the text {value!r}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _explained(section: Any, depth: int) -> list[str]:
    import yaml

    indent = "  " * depth
    meanings = _meanings(type(section))
    lines = []
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            lines += ["", f"{indent}{field.name}:", *_explained(value, depth + 1)]
        else:
            start = f"{indent}# "
            lines += textwrap.wrap(
                meanings.get(field.name, ""), _WIDTH, initial_indent=start, subsequent_indent=start, break_on_hyphens=False
            )
            entry = yaml.safe_dump({field.name: value}, width=_WIDTH - 16 - len(indent), allow_unicode=True)
            lines += [indent + line for line in entry.splitlines()]
    return lines


def _meanings(section: type) -> dict[str, str]:
    """What each option means, from the `Attributes:` of the dataclass."""
    _, _, attributes = (section.__doc__ or "").partition("Attributes:")
    entries = re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", attributes, flags=re.MULTILINE)
    return {name: re.sub(r"\s+", " ", meaning) for name, meaning in entries}
