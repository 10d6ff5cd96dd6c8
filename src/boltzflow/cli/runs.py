"""Run folders on the command line."""

from pathlib import Path

from boltzflow.cli import arguments
from boltzflow.errors import RunError, nearest


def folder_of(word: str) -> Path:
    """The folder of a run that a word names.

    Raises:
        ConfigError: if the word is empty.
        RunError: if there is no run; says what there is instead.
    """
    path = Path(arguments.given(word, "RUN"))
    if (path / "config.yaml").is_file():
        return path
    if not path.exists() and word in _models():
        raise RunError(
            f"{word} is a pretrained model, which has no run folder; `boltzflow evaluate {word}` gives its figures, and "
            f"`boltzflow train {word} -o runs/{word}` makes a run."
        )
    if path.is_file():
        raise RunError(f"{path} is a file; name the folder that `boltzflow train -o` wrote.")
    runs = [str(found.parent) for found in path.parent.glob("*/config.yaml")] if path.parent.is_dir() else []
    ending = nearest(str(path), runs) if runs else "begin one with `boltzflow train PRESET -o RUN`."
    raise RunError(f"there is no run in {path} (it has no config.yaml); {ending}")


def _models() -> list[str]:
    from boltzflow.cli.models import cards

    return list(cards())
