"""The algebraic expressions of OpenMM's custom forces as JAX functions."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf, erfc

from boltzflow.chemistry.force_field.parser import NEGATIVE, Node, parse
from boltzflow.errors import TargetError


def _select(condition: Any, if_nonzero: Any, if_zero: Any) -> Any:
    return jnp.where(condition != 0, if_nonzero, if_zero)


# After OpenMM's list; `step` is 0 below 0 and else 1.
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sqrt": jnp.sqrt,
    "exp": jnp.exp,
    "log": jnp.log,
    "sin": jnp.sin,
    "cos": jnp.cos,
    "tan": jnp.tan,
    "sec": lambda x: 1.0 / jnp.cos(x),
    "csc": lambda x: 1.0 / jnp.sin(x),
    "cot": lambda x: 1.0 / jnp.tan(x),
    "asin": jnp.arcsin,
    "acos": jnp.arccos,
    "atan": jnp.arctan,
    "atan2": jnp.arctan2,
    "sinh": jnp.sinh,
    "cosh": jnp.cosh,
    "tanh": jnp.tanh,
    "erf": erf,
    "erfc": erfc,
    "step": lambda x: jnp.where(x >= 0, 1.0, 0.0).astype(jnp.result_type(x)),
    "delta": lambda x: jnp.where(x == 0, 1.0, 0.0).astype(jnp.result_type(x)),
    "square": lambda x: x * x,
    "cube": lambda x: x * x * x,
    "recip": lambda x: 1.0 / x,
    "min": jnp.minimum,
    "max": jnp.maximum,
    "abs": jnp.abs,
    "floor": jnp.floor,
    "ceil": jnp.ceil,
    "select": _select,
}


def _power(base: Any, exponent: Any) -> Any:
    """Powers with whole exponents as products, whose derivatives exist for negative bases too."""
    if isinstance(exponent, int | float) and float(exponent).is_integer():
        return base ** int(exponent)
    return base**exponent


def _times(a: Any, b: Any) -> Any:
    # OpenMM drops what is multiplied by a constant 0, be it a number or not.
    return 0.0 if _is_zero(a) or _is_zero(b) else a * b


def _divided(a: Any, b: Any) -> Any:
    return 0.0 if _is_zero(a) and not _is_zero(b) else a / b


def _is_zero(value: Any) -> bool:
    return isinstance(value, float) and bool(value == 0.0)


_OPERATORS: dict[str, Callable[..., Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": _times,
    "/": _divided,
    "^": _power,
    NEGATIVE: lambda a: -a,
}


class Expression:
    """An expression such as "scale*a^2; a=r-r0", to be evaluated on values of its variables.

    Attributes:
        text: the expression.
    """

    def __init__(self, text: str, tables: Mapping[str, Callable[..., Any]] | None = None) -> None:
        """Reads an expression.

        Args:
            text: a value and definitions of what it uses, separated by semicolons; `parser` says how it is read.
            tables: functions beside OpenMM's own, by name.

        Raises:
            TargetError: if it cannot be read.
        """
        self.text = text
        self._functions = {**_FUNCTIONS, **(tables or {})}
        self._nodes = list(_in_order(parse(text, tables or {})))
        self._names = {str(node.value) for node in self._nodes if node.kind == "name"}
        self._branches = any(node.kind == "call" and node.value == "select" for node in self._nodes)

    def __call__(self, variables: Mapping[str, Any]) -> Any:
        """The value.

        Raises:
            TargetError: if it uses a name that is not given.
        """
        missing = sorted(self._names - set(variables))
        if missing:
            raise TargetError(f"the expression {self.text!r} of a custom force uses {missing[0]!r}, which the force does not define.")
        if not self._branches:
            return self._evaluate(variables)
        active = {name: value for name, value in variables.items() if isinstance(value, jax.Array) and name in self._names}
        if not active:
            return self._evaluate(variables)
        shape = np.broadcast_shapes(*(value.shape for value in active.values()))

        def value(*values: Any) -> Any:
            return self._evaluate({**variables, **dict(zip(active, values, strict=True))})

        return _by_partial_derivatives(value)(*(jnp.broadcast_to(value, shape) for value in active.values()))

    def _evaluate(self, variables: Mapping[str, Any]) -> Any:
        values: dict[Node, Any] = {}
        # What is not a number may be on a branch that is not taken.
        with np.errstate(all="ignore"):
            for node in self._nodes:
                if node.kind == "name":
                    values[node] = variables[str(node.value)]
                elif node.kind == "number":
                    values[node] = node.value
                else:
                    values[node] = self._called(str(node.value), [values[part] for part in node.arguments])
        return values[self._nodes[-1]]

    def _called(self, name: str, arguments: list[Any]) -> Any:
        if name not in _OPERATORS:
            return self._functions[name](*_alike(*arguments))
        if all(isinstance(argument, float) for argument in arguments):
            # NumPy's numbers divide by zero as OpenMM's do.
            return float(_OPERATORS[name](*map(np.float64, arguments)))
        return _OPERATORS[name](*_alike(*arguments))


def _in_order(root: Node) -> Iterator[Node]:
    """Every part once, arguments before what uses them."""
    seen: set[Node] = set()
    todo: list[tuple[Node, bool]] = [(root, False)]
    while todo:
        node, ready = todo.pop()
        if ready:
            yield node
        elif node not in seen:
            seen.add(node)
            todo.append((node, True))
            todo.extend((part, False) for part in node.arguments)


def _by_partial_derivatives(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that acts on each element by itself, with its derivatives taken forwards.

    Backwards, the branch that `select` does not choose gets a zero, and a zero times the derivative of, say, the logarithm of a negative
    number is not a number. Forwards, `select` chooses between the derivatives.
    """
    elementwise = jax.custom_jvp(function)

    @elementwise.defjvp
    def _(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
        ones = [jnp.ones_like(primal) for primal in primals]
        zeros = [jnp.zeros_like(primal) for primal in primals]
        partial = [jax.jvp(function, primals, (*zeros[:i], ones[i], *zeros[i + 1 :]))[1] for i in range(len(primals))]
        return function(*primals), sum(derivative * tangent for derivative, tangent in zip(partial, tangents, strict=True))

    return elementwise


def _alike(*values: Any) -> tuple[Any, ...]:
    """Constants in the precision of what they meet; else a constant in double precision would change that of the energy."""
    dtypes = [value.dtype for value in values if isinstance(value, jax.Array)]
    if not dtypes:
        return values
    return tuple(jnp.asarray(value, dtypes[0]) if isinstance(value, np.ndarray) else value for value in values)
