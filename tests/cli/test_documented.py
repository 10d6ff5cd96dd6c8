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
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.md"))
FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Pages whose examples take seconds.
SHORT = ["README.md", "docs/index.md", "docs/which.md"]
# Where the examples of other pages run, or why they do not. Notebooks are executed when the site is built.
EXAMPLES = {
    "docs/api/index.md": "tests/unit/test_examples.py",
    "docs/energies.md": "continues a run of half an hour; tests/unit/test_cooling.py asks flows for other temperatures",
    "docs/extending.md": "tests/extension/test_plugin.py",
    "docs/molecule.md": "tests/cli/test_tutorial.py",
    "docs/potentials.md": "tests/unit/test_from_jax.py",
    "docs/scale.md": "needs a cluster; tests/unit/test_farm.py runs one of processes",
    "docs/results.md": "joins the samples of two machines; tests/unit/test_samples.py joins samples",
}
# Verbs that are run as they are written, and why the others are only parsed; `test_the_commands_of_the_readme_run` runs more of them.
QUICK = ("models", "presets", "targets")
PARSED = {
    "average": "takes many passes for each sample; tests/cli/test_runs.py averages",
    "demo": "takes minutes; `make demo` runs it",
    "join": "needs shards; tests/unit/test_shards.py joins them",
    "evaluate": "draws samples and makes frames for a minute and more; tests/unit/test_evaluate.py measures",
    "export": "needs files that other commands make; tests/unit/test_export.py writes each format",
    "log-prob": "needs frames of the reader; tests/unit/test_densities.py weighs frames",
    "reference": "makes frames for minutes; tests/physics/test_reference.py makes them",
    "report": "needs a run; tests/cli/test_report.py makes reports",
    "resume": "needs a run; tests/cli/test_runs.py continues runs",
    "sample": "draws up to a million samples, or from a run; tests/cli/test_runs.py samples",
    "train": "takes minutes to days; tests/cli/test_runs.py trains",
}


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


def test_every_command_is_run_or_its_reason_stands():
    """Reasons name tests that are there; a verb that is new on a page needs one."""
    verbs = {words[0] for _, words in OURS if not words[0].startswith("-")}
    assert sorted(verbs - set(QUICK) - set(PARSED)) == []
    for reason in PARSED.values():
        for name in re.findall(r"tests/[\w/]+\.py", reason):
            assert (ROOT / name).is_file(), reason


def test_every_example_is_run_or_its_reason_stands():
    pages = [*PAGES, *(ROOT / "docs" / "theory").glob("*.md"), *(ROOT / "docs" / "api").glob("*.md")]
    with_examples = {str(page.relative_to(ROOT)) for page in pages if blocks(page, "python")}
    assert with_examples == set(SHORT) | set(EXAMPLES)
    for page, where in EXAMPLES.items():
        (name,) = re.findall(r"tests/[\w/]+\.py", where)
        file = ROOT / name
        assert file.is_file(), where
        # A test that runs a page reads it.
        assert where != name or Path(page).name in file.read_text(encoding="utf-8"), where


@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda page: page.stem)
def test_notebooks_are_executed_and_their_code_compiles(page):
    text = page.read_text(encoding="utf-8")
    assert text.startswith("---\nfile_format: mystnb\nkernelspec:\n")
    cells = re.findall(r"^```\{code-cell\}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    assert len(cells) >= 3
    for cell in cells:
        compile(cell, str(page), "exec")
    assert f"notebooks/{page.stem}\n" in (ROOT / "docs" / "index.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("words", sorted({tuple(words) for _, words in OURS if words[0] in QUICK}), ids=" ".join)
def test_quick_commands_run(words, capsys):
    assert cli.main(words) == 0
    assert capsys.readouterr().out.strip()


@pytest.mark.slow
def test_the_commands_of_the_readme_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    body = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Three commands")[2]
    lines = [shlex.split(line, comments=True)[1:] for line in FENCE.findall(body)[0][1].splitlines()]
    assert [words[0] for words in lines] == ["sample", "evaluate", "export"]
    for words in lines:
        few = ["64" if word == "10000" else word for word in words]
        few += ["-n", "64"] if words[0] == "evaluate" else []
        assert cli.main(few) == 0, capsys.readouterr().err
    assert {"samples.h5", "samples.xyz"} <= {file.name for file in tmp_path.iterdir()}


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
