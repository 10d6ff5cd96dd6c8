"""From command-line words to the arguments of a verb's function, by tyro; what is wrong is said in one sentence.

Why what tyro prints is read, and no parser taken whose errors are objects: cyclopts takes twice as long to import (0.3 s of processor time
against 0.17 s; help must come within half a second); click is lighter, but knows no option of several words (`--set a=1 b=2`) and makes no
help of docstrings, which would have to be written around it; tyro's own error objects are private.
"""

import contextlib
import functools
import inspect
import io
import re
import shutil
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from boltzflow.errors import ConfigError, nearest

_CONFIG = (tyro.conf.FlagCreatePairsOff, tyro.conf.HelptextFromCommentsOff)
_NUMBERS = {"int": "a whole number", "INT": "a whole number", "float": "a number", "FLOAT": "a number"}


def parse(function: Callable[..., None], verb: str, words: Sequence[str]) -> dict[str, Any] | None:
    """Parses the words that follow a verb.

    Args:
        function: the verb's function; its signature and docstring define options and help.
        verb: the verb's name.
        words: what follows it on the command line.

    Returns:
        Keyword arguments for the function; None if help was asked for and printed.

    Raises:
        ConfigError: if an option is unknown or missing, or a value has a wrong type.
    """

    # tyro calls what it parses for. The call is left to the caller, because stdout and stderr are redirected in here.
    @functools.wraps(function)
    def collect(**arguments: Any) -> dict[str, Any]:
        return arguments

    words = _gather_overrides(words)
    helping = "--help" in words or "-h" in words
    if helping:
        print(_description(function) + "\n")
    complaint = io.StringIO()
    # tyro draws in colour and with lines if stdout is a terminal that can show them, whatever stderr is.
    stdout = contextlib.nullcontext() if helping else contextlib.redirect_stdout(io.StringIO())
    try:
        with stdout, contextlib.redirect_stderr(complaint):
            parsed: Any = tyro.cli(collect, prog=f"boltzflow {verb}", args=words, config=_CONFIG, description="")
    except SystemExit as error:
        if not error.code:
            return None
        raise ConfigError(_sentence(function, verb, words, complaint.getvalue())) from None
    return parsed


def _description(function: Callable[..., None]) -> str:
    """The docstring above its `Args:`, wrapped for the terminal; tyro would print each paragraph as one long line."""
    text = (inspect.getdoc(function) or "").partition("\nArgs:\n")[0].strip()
    width = min(shutil.get_terminal_size().columns, 88)
    return "\n\n".join(textwrap.fill(paragraph, width, break_on_hyphens=False) for paragraph in text.split("\n\n"))


def _gather_overrides(words: Sequence[str]) -> list[str]:
    """Brings `--set a=1 b=2 ... --set c=3` into one group at the end, so that no positional argument is taken for an override."""
    others: list[str] = []
    overrides: list[str] = []
    awaiting = inside = False
    for word in words:
        if word == "--set":
            awaiting = inside = True
        elif word.startswith("--set="):
            overrides.append(word.removeprefix("--set="))
            awaiting = inside = False
        elif inside and not word.startswith("-") and (awaiting or "=" in word):
            overrides.append(word)
            awaiting = False
        else:
            others.append(word)
            inside = False
    if awaiting and not {"-h", "--help"} & set(words):
        raise ConfigError("--set needs what to set, such as `--set stages.0.steps=2000`.")
    return [*others, "--set", *overrides] if overrides else others


def _sentence(function: Callable[..., None], verb: str, words: Sequence[str], complaint: str) -> str:
    """One sentence for why tyro refused the words.

    Args:
        function: the verb's function.
        verb: the verb's name.
        words: the words that were refused.
        complaint: what tyro has printed: a title over a rule, a message down to the next rule, and help.
    """
    options = _options(function)
    given = [word.partition("=")[0].replace("_", "-") for word in words if re.match(r"--?[a-zA-Z]", word)]
    unknown = next((option for option in given if option not in options), None)
    if unknown is not None:
        return f"unknown option {unknown!r} of `boltzflow {verb}`; {nearest(unknown, options)}"
    parts = re.split(r"^ *-{8,} *$", complaint, flags=re.MULTILINE)
    text = " ".join((parts[1] if len(parts) > 1 else complaint).split())
    return f"{_reworded(text).rstrip('.')}; see `boltzflow {verb} --help`."


def _reworded(text: str) -> str:
    """A message of tyro in our words; one that is not known here stays as it is."""
    if found := re.match(r"Missing from [^:]*: (\S+) (.*?) \(required\)", text):
        return f"{found[1]} is missing: {found[2][0].lower()}{found[2][1:]}"
    if found := re.match(r"Missing value for argument '(.*?)'", text):
        return f"{found[1]} needs a value"
    if found := re.match(r"Unrecognized options: (.*)", text):
        return f"there are too many arguments: {found[1]}"
    if found := re.match(r"invalid choice '(.*)' for argument '(.*)'\. Expected one of \((.*)\)", text):
        # "None" stands for an option that is not given.
        choices = sorted(choice for choice in found[3].replace("'", "").split(", ") if choice != "None")
        return f"{found[2]} must be one of {', '.join(choices)}, got {found[1]!r}"
    if found := re.match(r"Error parsing (\S+): invalid literal for (\w+)\(\) with base 10: (.*)", text):
        return f"{found[1]} must be {_NUMBERS[found[2]]}, got {found[3]}"
    if found := re.match(r"Error parsing (\S+): no type matching \{None\}\|(INT|FLOAT) could be instantiated from \[(.*?)\]", text):
        return f"{found[1]} must be {_NUMBERS[found[2]]}, got {found[3]}"
    return text


def _options(function: Callable[..., None]) -> list[str]:
    """Every option of a verb, long and short."""
    options = ["--help", "-h"]
    for name, parameter in inspect.signature(function).parameters.items():
        metadata = getattr(parameter.annotation, "__metadata__", ())
        if tyro.conf.Positional in metadata:
            continue
        options.append(f"--{name.replace('_', '-')}")
        for entry in metadata:
            options += list(getattr(entry, "aliases", None) or ())
    return options
