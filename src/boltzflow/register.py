"""Adds what is a user's own, so that it can be used from Python, from YAML and from the command line, as what is built in.

Each function is a decorator that takes the name:

    import boltzflow as bf

    @bf.register.target("springs")
    def springs():
        return bf.targets.from_function(energy, 3, 2, name="springs")

A module that does so is a plug-in: `boltzflow train preset.yaml --plugin my_module` imports it first, as does `plugins: [my_module]` in
the YAML file. See docs/extending.md.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from boltzflow import config
from boltzflow.errors import ConfigError

if TYPE_CHECKING:
    from boltzflow.targets import Target

C = TypeVar("C", bound=type)
F = TypeVar("F", bound=Callable[..., Any])

_samplers: dict[str, Callable[..., Any]] = {}
_observables: dict[str, Callable[..., Any]] = {}


def target(name: str, description: str = "") -> Callable[[F], F]:
    """Registers a function without arguments that makes a `Target`.

    Args:
        name: by which it is asked for, as in `boltzflow train preset.yaml --set target=NAME`.
        description: one line for `boltzflow targets`.
    """

    def decorate(make: "Callable[[], Target]") -> Any:
        from boltzflow.targets import registry

        registry.add(name, make, description)
        return make

    return decorate


def network(name: str) -> Callable[[C], C]:
    """Registers the options of a vector field: a frozen dataclass derived from `boltzflow.config.Network`.

    It has a method `build(classes, scale, *, key)` that makes the `boltzflow.nets.AbstractVectorField`.

    Args:
        name: of the variant in configurations.
    """
    return _entered(config.Network, name)


def objective(name: str) -> Callable[[C], C]:
    """Registers an objective: a frozen dataclass derived from `boltzflow.AbstractObjective`.

    Args:
        name: of the variant in configurations.
    """
    return _entered(config.Objective, name)


def _entered(union: type[config.Options], name: str) -> Callable[[C], C]:
    def decorate(cls: C) -> C:
        import dataclasses

        if not (issubclass(cls, union) and dataclasses.is_dataclass(cls)):
            raise ConfigError(f"the {union.kind} {name!r} must be a frozen dataclass derived from {union.__name__}.")
        cls.enter(name)
        return cls

    return decorate


def sampler(name: str) -> Callable[[F], F]:
    """Registers a sampler of reference data, for `boltzflow reference TARGET --method NAME`.

    It is called as `make(target, n, *, seed, progress)`, with a `boltzflow.progress.Progress` to tell how far it is, and gives a
    `boltzflow.Dataset`, or what `reference.sample` gives.

    Args:
        name: by which `--method` asks for it.
    """
    return _kept(_samplers, name)


def observable(name: str) -> Callable[[F], F]:
    """Registers an observable: a function of positions (..., N, D) in the target's units that gives one number for each configuration.

    Args:
        name: by which `observables` lists it.
    """
    return _kept(_observables, name)


def _kept(table: dict[str, Callable[..., Any]], name: str) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        there = table.get(name)
        if there is not None and (there.__module__, there.__qualname__) != (function.__module__, function.__qualname__):
            raise ConfigError(f"{name!r} is registered already ({there.__module__}.{there.__qualname__}); choose another name.")
        table[name] = function
        return function

    return decorate


def samplers() -> dict[str, Callable[..., Any]]:
    """Samplers of plug-ins, by name."""
    return dict(_samplers)


def observables() -> dict[str, Callable[..., Any]]:
    """Observables of plug-ins, by name."""
    return dict(_observables)
