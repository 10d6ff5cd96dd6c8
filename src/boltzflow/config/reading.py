"""From nested mappings to options, with errors for people: the dotted name of the option, what was given and what was expected.

Dotted names may leave out the names of variants, because only one stands in each place: `flow.network.hidden`.
"""

import difflib
import functools
import inspect
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from boltzflow.config.options import Options, default_of, fields_of, items_in, members, section_in, union_in
from boltzflow.config.ranges import Range
from boltzflow.config.run import RunConfig
from boltzflow.errors import ConfigError, nearest

T = TypeVar("T", bound=Options)
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", types.NoneType: "null"}


def read(section: type[T], data: Any, name: str = "") -> T:
    """The options in a mapping.

    Args:
        section: what they are options of.
        data: a mapping; an option that is not given takes its default.
        name: dotted name of the section.

    Raises:
        ConfigError: if an option is unknown or missing, or a value has a wrong type or does not fit.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{name} must be a section of options such as {joined(name, next(iter(fields_of(section))))}, got {shown(data)}.")
    hints = fields_of(section)
    for given in data:
        if given not in hints:
            raise unknown(joined(name, str(given)), section)
    missing = [option for option in hints if option not in data and not _has_default(section, option)]
    if missing:
        raise ConfigError(f"{joined(name, missing[0])} is missing; add it, such as `{missing[0]}: dw4`.")
    found = {option: _value(hints[option], value, joined(name, option)) for option, value in data.items()}
    made = section(**found)
    for option, problem in made.problems():
        raise ConfigError(f"{joined(name, option)} {problem}.")
    return made


def _has_default(section: type[Options], option: str) -> bool:
    import dataclasses

    return default_of(section, option) is not dataclasses.MISSING


def _value(hint: Any, data: Any, name: str) -> Any:
    if data is None and types.NoneType in members(hint):
        return None
    union = union_in(hint)
    if union is not None:
        variant, options = chosen(union, data, name)
        return read(union.named(variant), options, name)
    items = items_in(hint)
    if items is not None:
        if not isinstance(data, list | tuple):
            raise ConfigError(f"{name} must be a list of sections, got {shown(data)}.")
        return tuple(read(items, item, f"{name}.{index}") for index, item in enumerate(data))
    section = section_in(hint)
    return read(section, data, name) if section is not None else _leaf(hint, data, name)


def chosen(union: type[Options], data: Any, name: str) -> tuple[str, Any]:
    """Which variant a value names, and its options: a name alone, or a mapping with one key.

    Raises:
        ConfigError: if it names none.
    """
    if isinstance(data, str):
        variant, options = data, {}
    elif isinstance(data, Mapping) and len(data) == 1:
        variant, options = next(iter(data.items()))
        options = {} if options is None else options
    else:
        raise ConfigError(
            f"{name} must be one of {', '.join(union.variants)}, such as "
            f"`{name.rpartition('.')[2]}: {{{next(iter(union.variants))}: {{...}}}}`, got {shown(data)}."
        )
    if variant not in union.variants:
        hint = nearest(str(variant), union.variants)
        said = f" {hint[0].upper()}{hint[1:]}" if hint.startswith("did") else ""
        raise ConfigError(f"{name} must be one of {', '.join(union.variants)}, got the text {str(variant)!r}.{said}")
    return str(variant), options


@functools.cache
def _adapter(hint: Any) -> Any:
    import pydantic

    return pydantic.TypeAdapter(hint)


def _leaf(hint: Any, data: Any, name: str) -> Any:
    """A plain value, its type checked by pydantic without conversions, and its range."""
    import pydantic

    if typing.get_origin(hint) is tuple:
        data = tuple(data) if isinstance(data, list) else (data,) if isinstance(data, str) else data
    item = getattr(data, "item", None)
    if callable(item) and getattr(data, "shape", None) == ():
        data = item()  # NumPy's numbers
    try:
        value = _adapter(hint).validate_python(data, strict=True)
    except pydantic.ValidationError as error:
        raise ConfigError(f"{name} must be {_expected(hint)}, got {shown(data)}.{_near_choice(hint, data)}") from error
    for part in members(hint):
        for allowed in getattr(part, "__metadata__", ()):
            if value is not None and isinstance(allowed, Range) and (problem := allowed.problem(value)):
                raise ConfigError(f"{name} {problem}.{_advice(name)}")
    return value


def _advice(name: str) -> str:
    parts = name.split(".")
    return f" To leave the stage out, set stages.{parts[1]}=null." if parts[0] == "stages" and parts[2:] == ["steps"] else ""


def _expected(hint: Any) -> str:
    words = []
    for part in members(hint):
        plain = typing.get_args(part)[0] if hasattr(part, "__metadata__") else part
        if typing.get_origin(plain) is typing.Literal:
            choices = [str(choice) for choice in typing.get_args(plain)]
            words.append(f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0])
        elif typing.get_origin(plain) is tuple:
            words.append("a list of texts")
        else:
            words.append(_WORDS.get(plain, getattr(plain, "__name__", str(plain))))
    return " or ".join(words)


def _near_choice(hint: Any, given: object) -> str:
    literals = [part for part in members(hint) if typing.get_origin(part) is typing.Literal]
    choices = [str(choice) for literal in literals for choice in typing.get_args(literal)]
    said = nearest(str(given), choices) if choices and isinstance(given, str) else ""
    return f" {said[0].upper()}{said[1:]}" if said.startswith("did") else ""


def shown(value: object) -> str:
    """A value in an error."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return f"the text {value!r}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def joined(name: str, option: str) -> str:
    """Dotted name of an option of a section."""
    return f"{name}.{option}" if name else option


def unknown(name: str, section: type[Options] | None = None) -> ConfigError:
    """The error for an option that is not there.

    It says to which other variant an option belongs; else names of the same section are compared first, then the last part of the name
    in any section, as in `hidden` for `flow.network.hidden`.

    Args:
        name: dotted name.
        section: where it was looked for.
    """
    parent, _, last = name.rpartition(".")
    if section is not None and section.variant:
        homes = [variant for variant, other in section.variants.items() if last in fields_of(other)]
        if homes:
            return ConfigError(
                f"there is no option {name!r} here: {last} belongs to the {section.kind} {' or '.join(homes)}; the {section.kind} here is "
                f"{section.variant}."
            )
    siblings = [joined(parent, option) for option in fields_of(section)] if section is not None else []
    everywhere = list(dict.fromkeys(all_options()))
    sections = list(dict.fromkeys(option.rpartition(".")[0] for option in everywhere if "." in option))
    for options in (siblings, [*everywhere, *sections]):
        lasts = {option.rpartition(".")[2] for option in options}
        close = [last] if last in lasts else difflib.get_close_matches(last, lasts, n=3, cutoff=0.6)
        near = list(dict.fromkeys(option for part in close for option in options if option.rpartition(".")[2] == part))
        if near:
            return ConfigError(f"there is no option {name!r}; did you mean {' or '.join(repr(option) for option in near[:3])}?")
    return ConfigError(f"there is no option {name!r}; `boltzflow presets NAME` lists all options.")


def all_options(section: type[Options] = RunConfig, name: str = "", above: tuple[type[Options], ...] = ()) -> Iterator[str]:
    """Dotted names of all options of all variants, without the variants' names.

    Of a variant that may stand within itself, as an objective that leaves learning to another, those within are told once.
    """
    above = (*above, section)
    for option, hint in fields_of(section).items():
        path, union, inner = joined(name, option), union_in(hint), section_in(hint)
        if items_in(hint) is not None:
            yield from all_options(typing.cast(type[Options], items_in(hint)), f"{path}.0", above)
        elif union is not None:
            yield path
            for variant in union.variants.values():
                if variant not in above:
                    yield from all_options(variant, path, above)
        elif inner is not None and inspect.isclass(inner):
            yield from all_options(inner, path, above)
        else:
            yield path
