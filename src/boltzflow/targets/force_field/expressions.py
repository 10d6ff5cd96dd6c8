"""The algebraic expressions of OpenMM's custom forces as JAX functions."""

import ast
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf, erfc

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
    "pow": lambda x, y: _power(x, y),
}
_NAME = re.compile(r"(?<![\w.])[A-Za-z_]\w*")


def _power(base: Any, exponent: Any) -> Any:
    """Powers with whole exponents as products, whose derivatives exist for negative bases too."""
    if isinstance(exponent, int | float) and float(exponent).is_integer():
        return base ** int(exponent)
    return base**exponent


_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.Pow: _power,
}


class Expression:
    """An expression such as "scale*a^2; a=r-r0", to be evaluated on values of its variables.

    Attributes:
        text: the expression.
    """

    def __init__(self, text: str, tables: Mapping[str, Callable[..., Any]] | None = None) -> None:
        """Reads an expression.

        Args:
            text: a value and definitions of what it uses, separated by semicolons.
            tables: functions beside OpenMM's own, by name.

        Raises:
            TargetError: if it cannot be read.
        """
        self.text = text
        self._functions = {**_FUNCTIONS, **(tables or {})}
        value, *definitions = [part.strip() for part in text.split(";") if part.strip()] or [""]
        self._value = self._parsed(value)
        self._definitions: dict[str, ast.expr] = {}
        for definition in definitions:
            name, _, right = definition.partition("=")
            self._definitions[name.strip()] = self._parsed(right)
        parts = [node for part in (self._value, *self._definitions.values()) for node in ast.walk(part)]
        marked = {node.id[1:] for node in parts if isinstance(node, ast.Name)}
        self._names, self._branches = marked - set(self._definitions), "select" in marked

    def __call__(self, variables: Mapping[str, Any]) -> Any:
        """The value; definitions shadow variables of the same name.

        Raises:
            TargetError: if it uses a name that is not given.
        """
        if not self._branches:
            return self._evaluate(self._value, variables, {})
        active = {name: value for name, value in variables.items() if isinstance(value, jax.Array) and name in self._names}
        if not active:
            return self._evaluate(self._value, variables, {})
        shape = np.broadcast_shapes(*(value.shape for value in active.values()))

        def value(*values: Any) -> Any:
            return self._evaluate(self._value, {**variables, **dict(zip(active, values, strict=True))}, {})

        return _by_partial_derivatives(value)(*(jnp.broadcast_to(value, shape) for value in active.values()))

    def _parsed(self, text: str) -> ast.expr:
        # Marked, so that names such as `lambda` are not words of Python.
        python = _NAME.sub(lambda found: "_" + found[0], text).replace("^", "**")
        try:
            return ast.parse(python.strip(), mode="eval").body
        except SyntaxError as error:
            raise TargetError(f"the expression {self.text!r} of a custom force cannot be read at {text.strip()!r}.") from error

    def _evaluate(self, node: ast.expr, variables: Mapping[str, Any], known: dict[str, Any]) -> Any:
        def value(part: ast.expr) -> Any:
            return self._evaluate(part, variables, known)

        match node:
            case ast.Constant(value=int() | float() as number):
                return float(number)
            case ast.Name(id=marked):
                name = marked[1:]
                if name not in known:
                    if name in self._definitions:
                        known[name] = self._evaluate(self._definitions[name], variables, known)
                    elif name in variables:
                        known[name] = variables[name]
                    else:
                        raise TargetError(f"the expression {self.text!r} of a custom force uses {name!r}, which the force does not define.")
                return known[name]
            case ast.BinOp(left=left, op=operation, right=right) if type(operation) in _BINARY:
                return _BINARY[type(operation)](*_alike(value(left), value(right)))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -value(operand)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return value(operand)
            case ast.Call(func=ast.Name(id=marked), args=arguments) if marked[1:] in self._functions:
                return self._functions[marked[1:]](*_alike(*map(value, arguments)))
        raise TargetError(f"the expression {self.text!r} of a custom force has a part that cannot be compiled: {ast.unparse(node)[:60]!r}.")


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
