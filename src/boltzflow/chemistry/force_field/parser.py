"""Reads the expressions of custom forces as OpenMM's parser Lepton does.

An expression is a value and, after semicolons, definitions of names. Lepton reads the definitions from the last one to the first: each
knows those that stand behind it, so that `x*y; x=y+1; y=2` is 6, while in `x; x=x+1` the second x is a variable of the force. Names are
whatever holds no operator, bracket, comma or ASCII white space, and does not begin like a number: Greek letters and primes too.
"""

import dataclasses
import re
from collections.abc import Collection, Mapping

from boltzflow.errors import TargetError

ARITY: Mapping[str, int] = {
    **dict.fromkeys(("sqrt", "exp", "log", "sin", "cos", "tan", "sec", "csc", "cot", "asin", "acos", "atan", "sinh", "cosh", "tanh"), 1),
    **dict.fromkeys(("erf", "erfc", "step", "delta", "square", "cube", "recip", "abs", "floor", "ceil"), 1),
    **dict.fromkeys(("atan2", "min", "max"), 2),
    "select": 3,
}
"""OpenMM's functions and how many arguments they take."""

NEGATIVE = "negative"
"""The sign in front of a value, beside the operators + - * / ^ of two."""

_SPACE = " \t\n\r\v\f"
_TOKEN = re.compile(
    rf"(?P<number>[0-9.](?:[0-9.]|[eE][+-]?(?=[0-9]))*)|(?P<sign>[-+*/^(),])|(?P<name>[^-+*/^(),{_SPACE}]+)|(?P<space>[{_SPACE}]+)"
)
_NUMBER = re.compile(r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
# How strongly operators bind; a sign binds less than a power, and a power to its right.
_BINDING = {"+": 0, "-": 0, "*": 1, "/": 1, "^": 3}
_SIGN_BINDING = 2


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """A part of an expression; one that stands for a definition is shared by all that use it.

    Attributes:
        kind: "number", "name" or "call".
        value: the number, the name, or the function or operator.
        arguments: of a call.
    """

    kind: str
    value: float | str
    arguments: tuple["Node", ...] = ()


def parse(text: str, functions: Collection[str] = ()) -> Node:
    """The tree of an expression.

    Args:
        text: the expression.
        functions: names of tabulated functions.

    Raises:
        TargetError: says what cannot be read.
    """
    value, *definitions = text.split(";")
    known: dict[str, Node] = {}
    try:
        for definition in reversed(definitions):
            if not definition.strip(_SPACE):
                continue
            name, equals, right = definition.partition("=")
            name = name.strip(_SPACE)
            if not equals or not name:
                raise _problem(text, f"{definition.strip()!r} after a semicolon must be a definition, such as a=2")
            known[name] = _Reader(text, right, known, functions).whole()
        return _Reader(text, value, known, functions).whole()
    except RecursionError as error:
        raise _problem(text[:60] + "...", "it is nested too deeply") from error


def _problem(text: str, what: str) -> TargetError:
    return TargetError(f"the expression {text!r} of a custom force cannot be read: {what}.")


class _Reader:
    """Reads one value by operator precedence."""

    def __init__(self, text: str, part: str, known: Mapping[str, Node], functions: Collection[str]) -> None:
        self._text, self._known, self._functions = text, known, functions
        self._tokens = list(self._tokenised(part))
        self._at = 0

    def whole(self) -> Node:
        node = self._value(0)
        if self._at < len(self._tokens):
            raise _problem(self._text, f"there is no operator before {self._tokens[self._at][1]!r}")
        return node

    def _tokenised(self, part: str) -> list[tuple[str, str]]:
        tokens, at = [], 0
        while at < len(part):
            found = _TOKEN.match(part, at)
            if found is None:  # a lone ".", say
                raise _problem(self._text, f"{part[at]!r} is no number, name or operator")
            kind, at = str(found.lastgroup), found.end()
            if kind == "number" and not _NUMBER.fullmatch(found[0]):
                raise _problem(self._text, f"{found[0]!r} is no number")
            if kind == "name" and part[at : at + 1] == "(":
                kind, at = "function", at + 1
            if kind != "space":
                tokens.append((kind, found[0]))
        return tokens

    def _next(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "")

    def _value(self, binding: int) -> Node:
        left = self._operand()
        while True:
            kind, sign = self._next()
            if kind != "sign" or sign not in _BINDING or _BINDING[sign] < binding:
                return left
            self._at += 1
            left = Node("call", sign, (left, self._value(_BINDING[sign] + (sign != "^"))))

    def _operand(self) -> Node:
        kind, token = self._next()
        self._at += 1
        if kind == "number":
            return Node("number", float(token))
        if kind == "name":
            return self._known.get(token) or Node("name", token)
        if kind == "function":
            return self._call(token)
        if token == "(":
            node = self._value(0)
            self._close()
            return node
        if token == "-":
            return Node("call", NEGATIVE, (self._value(_SIGN_BINDING),))
        raise _problem(self._text, "it ends where a value is missing" if kind == "end" else f"there is {token!r} where a value is missing")

    def _call(self, name: str) -> Node:
        arguments = [self._value(0)]
        while self._next() == ("sign", ","):
            self._at += 1
            arguments.append(self._value(0))
        self._close()
        if name not in self._functions:
            if name not in ARITY:
                raise _problem(self._text, f"there is no function {name!r}")
            if len(arguments) != ARITY[name]:
                raise _problem(self._text, f"{name!r} takes {ARITY[name]} argument{'s' * (ARITY[name] > 1)}, not {len(arguments)}")
        return Node("call", name, tuple(arguments))

    def _close(self) -> None:
        if self._next() != ("sign", ")"):
            raise _problem(self._text, "brackets do not match")
        self._at += 1
