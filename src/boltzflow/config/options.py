"""Options: frozen dataclasses, some of which come in variants.

A section is a dataclass. Where one of several sections may stand, their common base class is a union: it is written as a mapping with one
key, the name of the variant, whose value holds the options of that variant alone. Plug-ins add variants while the program runs, which
is why the unions are tables here and not unions of types; the values of options are checked by pydantic.
"""

import dataclasses
import functools
import inspect
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

from boltzflow.errors import ConfigError, nearest


@dataclasses.dataclass(frozen=True)
class Options:
    """A section of options; subclasses are frozen dataclasses that explain each under `Attributes:`.

    A direct subclass with a `kind` is a union, and its subclasses with a `name` are the variants.

    Example:
        >>> bf.config.differences(bf.Stage(steps=500))
        {'steps': 500}
    """

    kind: ClassVar[str] = ""
    variants: ClassVar[dict[str, type["Options"]]]
    variant: ClassVar[str] = ""

    def __init_subclass__(cls, *, kind: str = "", name: str = "", **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if kind:
            cls.kind, cls.variants = kind, {}
        if name:
            cls.enter(name)

    @classmethod
    def enter(cls, name: str) -> None:
        """Makes this class the variant of that name in its union.

        Args:
            name: of the variant.

        Raises:
            ConfigError: if it belongs to no union, or another class has the name.
        """
        if not cls.kind:
            raise ConfigError(f"{cls.__name__} belongs to no union of options; derive it from one of boltzflow's base classes.")
        there = cls.variants.get(name)
        if there is not None and (there.__module__, there.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ConfigError(f"there is a {cls.kind} {name!r} already ({there.__module__}.{there.__qualname__}); choose another name.")
        cls.variant = name
        cls.variants[name] = cls

    def __post_init__(self) -> None:
        """A variant may be given by its name, as in `FlowMatching(pairing="independent")`."""
        for name, hint in fields_of(type(self)).items():
            value, union = getattr(self, name), union_in(hint)
            if union is not None and isinstance(value, str):
                object.__setattr__(self, name, union.named(value)())

    @classmethod
    def named(cls, name: str) -> type[Self]:
        """The variant of that name.

        Args:
            name: of the variant.

        Raises:
            ConfigError: if there is none.
        """
        if name not in cls.variants:
            raise ConfigError(f"there is no {cls.kind} {name!r}; {nearest(name, cls.variants)}")
        return typing.cast(type[Self], cls.variants[name])

    def problems(self) -> Iterator[tuple[str, str]]:
        """Options that do not fit one another: the name of one, and what stands after it in the sentence that refuses it."""
        return iter(())


@functools.cache
def fields_of(section: type) -> dict[str, Any]:
    """Name and annotated type of each option of a section."""
    hints = typing.get_type_hints(section, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(section) if field.metadata.get("option", True)}


def default_of(section: type, name: str) -> Any:
    """Default of an option; `dataclasses.MISSING` where it must be given."""
    field = section.__dataclass_fields__[name]
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def members(hint: Any) -> tuple[Any, ...]:
    """The types of which a value may be."""
    import types

    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def section_in(hint: Any) -> type[Options] | None:
    """The section that stands there, None for a plain value."""
    return next((part for part in members(hint) if inspect.isclass(part) and issubclass(part, Options)), None)


def union_in(hint: Any) -> type[Options] | None:
    """The union one variant of which stands there, None for all else."""
    section = section_in(hint)
    return section if section is not None and section.kind and not section.variant else None


def items_in(hint: Any) -> type[Options] | None:
    """The section of which a list stands there, None for all else."""
    return section_in(typing.get_args(hint)[0]) if typing.get_origin(hint) is tuple else None


def plain(section: Options) -> dict[str, Any]:
    """Options as nested mappings; variants as `{name: {...}}`."""
    return {name: _plain_value(hint, getattr(section, name)) for name, hint in fields_of(type(section)).items()}


def _plain_value(hint: Any, value: Any) -> Any:
    if isinstance(value, Options):
        return {value.variant: plain(value)} if value.kind else plain(value)
    if items_in(hint) is not None:
        return [plain(item) for item in value]
    return list(value) if isinstance(value, tuple) else value


def differences(section: Options) -> dict[str, Any]:
    """As `plain`, but only what differs from the defaults; the names of variants stay."""
    found = {}
    for name, hint in fields_of(type(section)).items():
        value, default = getattr(section, name), default_of(type(section), name)
        if isinstance(value, Options):
            inside = differences(value)
            if value.kind:
                inside = {value.variant: inside}
            if inside and not (isinstance(default, Options) and type(default).variant == value.variant and value == default):
                found[name] = inside
        elif items_in(hint) is not None:
            found[name] = [differences(item) for item in value]
        elif value != default:
            found[name] = list(value) if isinstance(value, tuple) else value
    return found


def defaults(section: type[Options]) -> dict[str, Any]:
    """The options of a section that have defaults, at these, as `plain` gives them."""
    found = {name: (hint, default_of(section, name)) for name, hint in fields_of(section).items()}
    return {name: _plain_value(hint, value) for name, (hint, value) in found.items() if value is not dataclasses.MISSING}


@functools.cache
def meanings(section: type) -> Mapping[str, str]:
    """What each option means, from the `Attributes:` of the dataclass and of those that it is derived from."""
    found: dict[str, str] = {}
    for base in reversed(section.__mro__):
        _, _, attributes = (inspect.cleandoc(base.__dict__.get("__doc__") or "")).partition("Attributes:")
        entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", attributes, flags=re.MULTILINE)
        found |= {name: re.sub(r"\s+", " ", meaning) for name, meaning in entries}
    return found
