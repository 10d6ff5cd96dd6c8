"""The command line: one verb per module, imported when it is asked for.

`main` finds the verb, lets tyro parse that verb's arguments alone, and turns errors into sentences. Nothing heavy is imported before a
verb runs, so that help comes at once.
"""

import contextlib
import errno
import importlib
import io
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence

from boltzflow import __version__, cluster, command
from boltzflow.cli import interrupts
from boltzflow.errors import BoltzflowError, ConfigError, PeerLost, RunInterrupted, nearest

# Each module holds `run`, whose signature and docstring are the verb's arguments and help.
VERBS = {
    "targets": "List the targets that are known by name.",
    "presets": "List the presets, or print one with every option explained.",
    "models": "List the pretrained models.",
    "reference": "Make reference data of a target with a classical sampler.",
    "train": "Train a flow from a preset.",
    "resume": "Continue a run that was interrupted, or give it another stage.",
    "sample": "Draw samples with their exact probability from a run or a model.",
    "join": "Join shards of samples or of reference data into one file.",
    "average": "Average the copies of an augmented flow out of the weights of its samples.",
    "log-prob": "Weigh your own frames with a run or a model: log q, weights, NLL, distances.",
    "evaluate": "Measure a run or a model: NLL, ESS, log Z, distances, path length, times.",
    "report": "Write the HTML report of a run.",
    "export": "Write samples or reference data as a trajectory that other programs read.",
    "demo": "DW4 from nothing to the report, and a molecule, in a few minutes.",
}

USAGE_ERROR = 2
INTERRUPTED = interrupts.EXIT_CODE
SIGNALLED = 128
BROKEN_PIPE = 141
PEER_LOST = 75
"""What sysexits.h calls a temporary failure: the same command may well succeed when it is started again."""

_STORAGE = {
    errno.ENOSPC: "there is no space left on the disk; free some, or write elsewhere with -o",
    errno.EDQUOT: "the disk quota is used up; free some, or write elsewhere with -o",
    errno.EROFS: "the file system is read-only; write elsewhere with -o",
    errno.EACCES: "permission denied; choose another place, or change the permissions",
    errno.EPERM: "permission denied; choose another place, or change the permissions",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.ENOTDIR: "a part of this path is a file, not a folder; correct the path",
    errno.EISDIR: "this is a folder; name a file",
    errno.ELOOP: "this link leads to itself; name the file",
    errno.EIO: "the disk cannot be read or written; look after it",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code.

    0: done. 2: something that the user can mend, told in one sentence on stderr. 130: interrupted (143: by SIGTERM, 138: by SIGUSR1, where
    a run has saved its state). 75: another process of the same job has gone, so that the job can be started again as it is. 141: the
    reader of stdout has gone.
    An error that is a bug keeps its traceback.

    Args:
        arguments: what follows the program's name; None takes those of the process.
    """
    try:
        code, sentence = _outcome(arguments)
    except BaseException as error:
        if cluster.joined():
            # The others would wait for ever, and this process for them.
            traceback.print_exc()
            cluster.leave(1, f"{type(error).__name__}: {error}")
        cluster.farewell()
        raise
    cluster.leave(code, sentence)
    return code


def _outcome(arguments: Sequence[str] | None) -> tuple[int, str]:
    """Runs the command line: its exit code, and the sentence that was said where something was wrong."""
    # Its search for plugins reads the metadata of every installed package.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show every letter gets a question mark, not a traceback.
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower() != "utf-8":
            stream.reconfigure(errors="replace")
    try:
        with _warnings_as_sentences(), interrupts.second_ends_at_once(), cluster.watched():
            _dispatch(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except RunInterrupted as error:
        return _tell(str(error), SIGNALLED + error.signal)
    except PeerLost as error:
        return _tell(str(error), PEER_LOST)
    except BoltzflowError as error:
        return _tell(str(error))
    except KeyboardInterrupt:
        print("boltzflow: interrupted.", file=sys.stderr)
        return INTERRUPTED, "interrupted."
    except BrokenPipeError:
        # Python would complain when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE, "the reader of its output has gone."
    except MemoryError:
        return _tell("there is not enough memory; use smaller batches or chunks.")
    except OSError as error:
        if error.errno not in _STORAGE:
            raise
        return _tell(f"{f'{_short(error.filename)}: ' if error.filename else ''}{_STORAGE[error.errno]}.")
    except Exception as error:
        # JAX's own out-of-memory error, without importing JAX to name its class.
        if type(error).__name__ not in ("JaxRuntimeError", "XlaRuntimeError") or "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return _tell("the device has not enough memory; use smaller batches or chunks.")
    return 0, ""


def _dispatch(arguments: list[str]) -> None:
    if not arguments:
        raise ConfigError("name what to do, such as `boltzflow demo`; `boltzflow --help` lists the verbs.")
    verb, *rest = arguments
    if verb in ("-h", "--help"):
        print(overview())
    elif verb == "--version":
        print(f"boltzflow {__version__}")
    elif verb in VERBS:
        module = importlib.import_module(f"boltzflow.cli.{verb.replace('-', '_')}")
        from boltzflow.cli.parsing import parse

        parsed = parse(module.run, verb, rest)
        if parsed is not None:
            command.note(arguments)
            try:
                module.run(**parsed)
            finally:
                command.note([])
    elif verb.startswith("-"):
        raise ConfigError(f"unknown option {verb!r} before the verb; `boltzflow --help` lists the verbs.")
    else:
        raise ConfigError(f"unknown verb {verb!r}; {nearest(verb, VERBS)}")


def overview() -> str:
    """The help of the program as a whole."""
    verbs = "\n".join(f"  {verb:<10} {summary}" for verb, summary in VERBS.items())
    return f"""usage: boltzflow VERB [ARGUMENTS]

Boltzmann generators: flows that draw configurations with their exact probability,
reweighted to the Boltzmann distribution.

verbs:
{verbs}

`boltzflow VERB --help` explains one. A first tour:
  boltzflow demo
  boltzflow train dw4 -o runs/dw4
  boltzflow sample runs/dw4 -n 10000 -o samples.h5
  boltzflow evaluate runs/dw4"""


@contextlib.contextmanager
def _warnings_as_sentences() -> Iterator[None]:
    """Warnings for users without the line of code that they come from; all others keep it."""
    usual = warnings.formatwarning

    def sentence(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
        if category is UserWarning:
            return f"boltzflow: warning: {message}\n"
        return usual(message, category, filename, lineno, line)

    warnings.formatwarning = sentence
    try:
        yield
    finally:
        warnings.formatwarning = usual


def _short(name: object) -> str:
    text = os.fsdecode(name) if isinstance(name, str | bytes) else str(name)
    return text if len(text) <= 120 else f"{text[:60]}..."


def _tell(sentence: str, code: int = USAGE_ERROR) -> tuple[int, str]:
    # One line, whatever a library has put into its message.
    sentence = " ".join(sentence.split())
    print(f"boltzflow: error: {sentence}", file=sys.stderr)
    return code, sentence
