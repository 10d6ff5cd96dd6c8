"""Progress: what is shown where stderr is no terminal, rates, times in words."""

import inspect
import io
import sys
import types

import pytest

import boltzflow as bf
from boltzflow import progress
from boltzflow.sampling.generate import generate


def test_plain_progress_shows_the_last_state_once():
    stream = io.StringIO()
    shown = progress.PlainProgress(stream, interval=1e9)
    shown.start(100, "training")
    for done in range(0, 101, 10):
        shown.update(done, loss=8.123456, skipped=0)
    shown.stop()
    shown.stop()
    first, last = stream.getvalue().splitlines()
    assert first == "training ..."
    assert last.startswith("training: 100/100  loss 8.123  skipped 0")


def test_plain_progress_prints_each_update_if_asked_to():
    stream = io.StringIO()
    shown = progress.PlainProgress(stream, interval=0.0)
    shown.start(2, "sampling")
    shown.update(1)
    shown.update(2)
    shown.stop()
    assert len(stream.getvalue().splitlines()) == 3


def test_pace_leaves_out_what_an_earlier_process_did():
    pace = progress.Pace(1000)
    pace.update(500, 60.0)
    assert pace.rate is None
    assert pace.text() == ""
    pace.update(600, 65.0)
    assert pace.rate == pytest.approx(20.0)
    assert pace.text() == "20/s, 20 s left"


def test_the_pace_is_that_of_the_present_part():
    pace = progress.Pace(100)
    assert pace.update(0, 0.0, "warm-up")
    assert not pace.update(5, 50.0, "warm-up")
    assert pace.text() == "10.0 s each, 15:50 left"
    assert pace.update(10, 100.0, "sampling")
    assert pace.text() == ""
    pace.update(40, 103.0, "sampling")
    assert pace.text() == "10/s, 6 s left"


def test_another_part_is_shown_at_once():
    stream = io.StringIO()
    fraction = progress.FractionOf(progress.PlainProgress(stream, interval=1e9), "reference data")
    for done, part in ((0.0, "warm-up"), (0.05, "warm-up"), (0.1, "sampling"), (0.2, "sampling")):
        fraction(done, part)
    assert stream.getvalue().splitlines()[1:] == ["reference data: 0/100  now warm-up", "reference data: 10/100  now sampling"]


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "0 s"), (59.6, "1:00"), (245.0, "4:05"), (7445.0, "2:04:05")])
def test_duration(seconds, words):
    assert progress.duration(seconds) == words


def test_fractions_are_percent():
    stream = io.StringIO()
    fraction = progress.FractionOf(progress.PlainProgress(stream, interval=0.0), "reference data")
    fraction(0.256, "warm-up")
    assert "reference data: 26/100  now warm-up" in stream.getvalue()


@pytest.mark.parametrize("kind", [progress.Silent, progress.RichProgress])
def test_pieces_of_work_follow_each_other(kind, capsys):
    shown = kind()
    for piece in ("one", "two"):
        shown.start(3, piece)
        shown.update(3, loss=1.0)
        shown.message("[a] message")
    shown.stop()
    shown.stop()
    out, err = capsys.readouterr()
    assert out == ""
    assert ("[a] message" in err) == (kind is progress.RichProgress)


def test_the_terminal_is_given_back_after_an_error(monkeypatch):
    stopped = []
    monkeypatch.setattr(progress.PlainProgress, "stop", lambda self: stopped.append(True))
    with pytest.raises(ValueError, match="broken"), progress.shown():
        raise ValueError("broken")
    assert stopped


class Terminal(io.StringIO):
    """A stderr that somebody looks at."""

    def isatty(self) -> bool:
        return True


def test_progress_is_shown_where_somebody_looks_on(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(progress.chosen(None), progress.Silent)
    assert isinstance(progress.chosen(True), progress.PlainProgress)
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert isinstance(progress.chosen(None), progress.RichProgress)
    assert isinstance(progress.chosen(False), progress.Silent)
    mine = progress.Silent()
    assert progress.chosen(mine) is mine


class Notebook:
    """IPython as far as a notebook's kernel shows it."""

    def __init__(self) -> None:
        self.kernel, self.shown = object(), []

    def install(self, monkeypatch) -> None:
        package, display = types.ModuleType("IPython"), types.ModuleType("IPython.display")
        vars(package).update(get_ipython=lambda: self, display=display)
        vars(display).update(HTML=str, display=self.show)
        monkeypatch.setitem(sys.modules, "IPython", package)
        monkeypatch.setitem(sys.modules, "IPython.display", display)

    def show(self, html: str, display_id: bool) -> "Notebook":
        assert display_id
        return self.update(html)

    def update(self, html: str) -> "Notebook":
        self.shown.append(html)
        return self


def test_a_notebook_shows_a_bar_that_is_updated_in_place(monkeypatch):
    notebook = Notebook()
    notebook.install(monkeypatch)
    shown = progress.chosen(None)
    assert isinstance(shown, progress.NotebookProgress)
    shown.start(10, "<training>")
    for done in range(11):
        shown.update(done, loss=0.5)
    shown.stop()
    shown.stop()
    assert len(notebook.shown) < 5
    assert 'value="0" max="10"' in notebook.shown[0]
    assert 'value="10" max="10"' in notebook.shown[-1]
    assert "&lt;training&gt; 10/10  loss 0.5" in notebook.shown[-1]
    # IPython in a terminal is one.
    del notebook.kernel
    assert not progress.in_notebook()


def test_functions_show_progress_by_themselves_but_building_blocks_do_not(monkeypatch):
    model = bf.load_model("dw4")
    began = []
    monkeypatch.setattr(progress.RichProgress, "start", lambda self, total, description: began.append(description))
    monkeypatch.setattr(sys, "stderr", Terminal())
    model.sample(4, seed=0)
    assert began == ["sampling"]
    model.sample(4, seed=0, progress=False)
    generate(model.flow, model.target, 4, seed=0)
    assert began == ["sampling"]
    model.log_prob(model.sample(4, seed=0, progress=False).positions)
    assert began == ["sampling", "log density of data"]
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    model.sample(4, seed=0)
    assert len(began) == 2


@pytest.mark.parametrize(
    "function",
    [bf.fit, bf.train, bf.reference.sample, bf.reference.molecular_dynamics, bf.reference.relax, bf.evaluation.evaluate]
    + [
        getattr(cls, name)
        for cls, names in ((bf.Model, ("sample", "log_prob", "evaluate")), (bf.Run, ("sample", "evaluate", "resume")))
        for name in names
    ],
)
def test_all_that_takes_long_takes_the_same_progress(function):
    parameter = inspect.signature(function).parameters["progress"]
    assert (parameter.default, parameter.kind) == (None, inspect.Parameter.KEYWORD_ONLY)
    assert parameter.annotation in (progress.Wanted, "Wanted")
