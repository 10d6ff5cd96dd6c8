"""Nested mappings of options laid over one another, and single options set by their dotted names.

The mappings are those of `options.plain`: variants as `{name: {...}}`. What is wrong with values is found when they are read.
"""

from collections.abc import Mapping
from typing import Any

from boltzflow.config.options import Options, defaults, fields_of, items_in, plain, section_in, union_in
from boltzflow.config.reading import chosen, joined, shown, unknown
from boltzflow.errors import ConfigError


def merged(section: type[Options], under: Mapping[str, Any], over: Mapping[str, Any], name: str = "") -> dict[str, Any]:
    """The options of `under` with those of `over`; sections, variants and the items of lists are merged one by one.

    Where another variant is chosen, options that both have are carried over. An item that is null is left out.
    """
    hints, result = fields_of(section), dict(under)
    for option, value in over.items():
        path = joined(name, option)
        result[option] = _merged_value(hints[option], result.get(option), value, path) if option in hints else value
    return result


def _merged_value(hint: Any, under: Any, over: Any, name: str) -> Any:
    union, items, section = union_in(hint), items_in(hint), section_in(hint)
    if union is not None and over is not None:
        return _merged_variant(union, under, over, name)
    if items is not None and isinstance(over, list):
        before = list(under or [])
        found = []
        for index in range(max(len(before), len(over))):
            value: Any = over[index] if index < len(over) else {}
            if value is None:
                continue
            there = before[index] if index < len(before) else {}
            found.append(merged(items, there, value, f"{name}.{index}") if isinstance(value, Mapping) else value)
        return found
    if section is not None and union is None and isinstance(over, Mapping) and isinstance(under, Mapping):
        return merged(section, under, over, name)
    return over


def _merged_variant(union: type[Options], under: Any, over: Any, name: str) -> dict[str, Any]:
    variant, options = chosen(union, over, name)
    carried = carried_over(union, under, variant, name)
    if not isinstance(options, Mapping):
        raise ConfigError(f"{name}.{variant} must be a section of options, got {shown(options)}.")
    return {variant: merged(union.named(variant), carried, options, name)}


def carried_over(union: type[Options], under: Any, variant: str, name: str) -> dict[str, Any]:
    """Options of the variant that stands there for another variant: all if it is the same, else those of the same name and type."""
    if under is None:
        return defaults(union.named(variant))
    before, options = chosen(union, under, name)
    if before == variant:
        return dict(options)
    old, new = fields_of(union.named(before)), fields_of(union.named(variant))
    carried = {option: value for option, value in options.items() if option in new and new[option] == old[option]}
    return {**defaults(union.named(variant)), **carried}


def set_option(section: type[Options], data: dict[str, Any], name: str, value: Any) -> str:
    """Sets one option in place.

    Args:
        section: the section that the mapping describes.
        data: a mapping as `plain` makes it.
        name: dotted name of the option, in which names of variants may be left out.
        value: its value; the name of a variant where one may be chosen, null for an item of a list that is to be left out.

    Returns:
        The dotted name without the names of variants.

    Raises:
        ConfigError: if there is no such option.
    """
    return _set(section, data, name.split("."), value, name, "")


def _set(section: type[Options], data: dict[str, Any], parts: list[str], value: Any, name: str, path: str) -> str:
    option, rest = parts[0], parts[1:]
    hints = fields_of(section)
    if option not in hints:
        raise unknown(name, section)
    path, hint = joined(path, option), hints[option]
    union, items, inner = union_in(hint), items_in(hint), section_in(hint)
    if items is not None:
        return _set_in_list(items, data, option, rest, value, name, path)
    if union is not None:
        return _set_in_union(union, hint, data, option, rest, value, name, path)
    if inner is not None:
        if rest:
            return _set(inner, data[option], rest, value, name, path)
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"{name} is a section, not an option; set one of its options, such as {name}.{next(iter(fields_of(inner)))}=..."
            )
        data[option] = merged(inner, data[option], value, path)
        return path
    if rest:
        raise unknown(name)
    data[option] = value
    return path


def _set_in_union(
    union: type[Options], hint: Any, data: dict[str, Any], option: str, rest: list[str], value: Any, name: str, path: str
) -> str:
    if not rest:
        data[option] = _merged_value(hint, data[option], value, path)
        return path
    if data[option] is None:
        raise ConfigError(f"{name} cannot be set, because {path} is null; choose it first, such as {path}={next(iter(union.variants))}.")
    variant, options = chosen(union, data[option], path)
    there = union.named(variant)
    if rest[0] in union.variants and rest[0] not in fields_of(there):
        # The name of a variant on the way: of that which is there it says nothing, another one is chosen.
        if rest[0] != variant:
            data[option] = _merged_variant(union, data[option], rest[0], path)
            variant, options = chosen(union, data[option], path)
            there = union.named(variant)
        rest = rest[1:]
        if not rest:
            data[option] = _merged_value(hint, data[option], {variant: value}, path)
            return path
    data[option] = {variant: dict(options)}
    return _set(there, data[option][variant], rest, value, name, path)


def _set_in_list(items: type[Options], data: dict[str, Any], option: str, rest: list[str], value: Any, name: str, path: str) -> str:
    there = data[option] = list(data[option])
    if not rest:
        data[option] = _merged_value(tuple[items, ...], [], value, path)
        return path
    if not rest[0].isdecimal() or int(rest[0]) > len(there):
        raise ConfigError(
            f"{name}: the {path} are numbered from 0, and there are {len(there)}; set an option of one, such as "
            f"{path}.0.{next(iter(fields_of(items)))}=..., or add the next, {path}.{len(there)}."
        )
    index = int(rest[0])
    if len(rest) == 1 and value is None:
        del there[index : index + 1]
        return path
    if index == len(there):
        there.append(plain(items()))
    if len(rest) == 1:
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"{name} is a section, not an option; set one of its options, such as {name}.{next(iter(fields_of(items)))}=..."
            )
        there[index] = merged(items, there[index], value, f"{path}.{index}")
        return f"{path}.{index}"
    there[index] = dict(there[index])
    return _set(items, there[index], rest[1:], value, name, f"{path}.{index}")


def leaves(section: type[Options], data: Mapping[str, Any], name: str = "") -> set[str]:
    """Dotted names of all options that a mapping gives, without the names of variants."""
    found: set[str] = set()
    for option, value in data.items():
        path, hint = joined(name, str(option)), fields_of(section).get(option)
        union, inner = union_in(hint), section_in(hint)
        if union is not None and isinstance(value, Mapping) and len(value) == 1 and next(iter(value)) in union.variants:
            variant, options = chosen(union, value, path)
            found |= {path} | (leaves(union.named(variant), options, path) if isinstance(options, Mapping) else set())
        elif inner is not None and isinstance(value, Mapping):
            found |= leaves(inner, value, path)
        else:
            found.add(path)
    return found
