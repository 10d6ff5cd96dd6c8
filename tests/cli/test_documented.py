"""What README and docs show can be typed: commands parse, tools and their options are there, and the short examples in Python run."""

import importlib
import re
import shlex
from pathlib import Path

import jax
import pytest

from boltzflow import cli
from boltzflow.cli.parsing import parse

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Pages whose examples take seconds; those of others are run by tests of their own.
SHORT = ["README.md", "docs/index.md", "docs/which.md"]


def blocks(page: Path, *languages: str) -> list[str]:
    return [body for language, body in FENCE.findall(page.read_text(encoding="utf-8")) if language in languages]


def commands(page: Path) -> list[list[str]]:
    """Lines of the shell on a page as words, lines that go on joined, and those within a sentence."""
    text = page.read_text(encoding="utf-8")
    lines = [line for body in blocks(page, "", "sh") for line in body.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`((?:boltzflow|python) [^`\n]+)`", FENCE.sub("", text))
    found = [shlex.split(line, comments=True) for line in lines if line.startswith(("boltzflow ", "python "))]
    return [words for words in found if words]


def described(words: list[str]) -> bool:
    """Whether the words stand for others, as in `boltzflow train PRESET`."""
    return any(word == "..." or re.fullmatch(r"[A-Z_]+", word) for word in words)


OURS = [(page, words[1:]) for page in PAGES for words in commands(page) if words[0] == "boltzflow" and not described(words)]
TOOLS = [(page, words[1:]) for page in PAGES for words in commands(page) if words[0] == "python"]


def test_there_are_commands():
    assert len(OURS) > 80
    assert len(TOOLS) > 20


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_understood(page, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for where, words in OURS:
        if where != page or words[0].startswith("-"):
            continue
        # Numbers that the shell puts in.
        typed = [re.sub(r"\$\w+", "100" if word.startswith("$") and word != "$TRAINING" else "a=1", word) for word in words]
        assert typed[0] in cli.VERBS, words
        # A verb that is only named needs no arguments.
        if len(typed) > 1:
            module = importlib.import_module(f"boltzflow.cli.{typed[0].replace('-', '_')}")
            assert parse(module.run, typed[0], typed[1:]) is not None, words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tools_and_their_options_are_there(page):
    for where, words in TOOLS:
        if where != page:
            continue
        file = ROOT / words[0]
        assert file.is_file(), words
        text = file.read_text(encoding="utf-8")
        unknown = [word for word in words[1:] if word.startswith("--") and f'"{word.partition("=")[0]}"' not in text]
        assert not unknown, (words, unknown)


@pytest.fixture
def as_for_people():
    """Examples may broadcast ranks, in whichever thread; tests of ours may not."""
    before = getattr(jax.config, "jax_numpy_rank_promotion")  # noqa: B009 (unknown to type checkers)
    jax.config.update("jax_numpy_rank_promotion", "allow")
    yield
    jax.config.update("jax_numpy_rank_promotion", before)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
def test_examples_run(name, tmp_path, monkeypatch, capsys, as_for_people):
    monkeypatch.chdir(tmp_path)
    found = blocks(ROOT / name, "python")
    assert found
    for body in found:
        few = re.sub(r"\b(1_000|2_000|100)\b", "32", body)
        exec(compile(few, name, "exec"), {})
    capsys.readouterr()
