"""Progress: what is shown where stderr is no terminal, rates, times in words."""

import io

import pytest

from boltzflow import progress


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
