"""Files written whole or not at all, and names that are refused before there is anything to write."""

import json
import os
from pathlib import Path

import pytest

from boltzflow import command, files
from boltzflow.errors import ConfigError, RunError
from boltzflow.training.folder import _begun


def test_content_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced = tmp_path / "a.json", []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (synced.append((os.fstat(number).st_size, path.exists())), sync(number)))
    files.replace_json(path, {"n": 1})
    size = path.stat().st_size
    # The file before it is renamed, then the folder that has the new name.
    assert synced[0] == (size, False)
    assert synced[1][1]
    assert json.loads(path.read_text()) == {"n": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    path = tmp_path / "a.txt"
    files.replace(path, "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if fails == "fsync" else (Path, "replace")), full)
    with pytest.raises(OSError, match="No space"):
        files.replace(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_a_lock_keeps_others_out_and_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / ".lock"
    with files.Lock(file, "it is taken.") as lock:
        with pytest.raises(RunError, match=r"^it is taken\.$"):
            files.Lock(file, "it is taken.")
        # The one that was refused has not taken the file away from the one that holds it.
        assert lock.held
        assert file.exists()
    assert not lock.held
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_is_refused_changes_nothing(tmp_path: Path) -> None:
    left = tmp_path / ".lock"
    left.touch()
    with pytest.raises(ZeroDivisionError), files.Lock(left, "it is taken."):
        raise ZeroDivisionError
    assert left.exists()
    with files.Lock(left, "it is taken."):
        pass
    assert not left.exists()


@pytest.mark.parametrize(
    ("name", "said"), [("", "empty"), ("\t ", "empty"), ("a\0b", "null"), ("x/" + 256 * "a", "256 bytes"), (128 * "ü", "256 bytes")]
)
def test_names_that_no_file_has(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        files.named(name)


def test_names_that_a_file_may_have() -> None:
    for name in ("a.h5", ".", "../a b/c", 255 * "a", "ü.h5"):
        assert files.named(name) == Path(name)


def test_whether_a_place_can_be_written(tmp_path: Path) -> None:
    files.require_writable(tmp_path / "new" / "folders" / "a.h5")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="is a file, not a folder"):
        files.require_writable(tmp_path / "file" / "below" / "a.h5")
    with pytest.raises(RunError, match="240 bytes, at most 230"):
        files.require_writable(tmp_path / (237 * "a" + ".h5"))


def test_a_run_keeps_the_date_and_command_that_it_was_begun_with(tmp_path: Path) -> None:
    path = tmp_path / "versions.json"
    command.note(["train", "dw4", "-o", "my run"])
    try:
        begun = _begun(path)
        assert begun["command"] == "boltzflow train dw4 -o 'my run'"
        path.write_text(json.dumps({**begun, "jax": "1"}))
        command.note(["resume", "my run"])
        assert _begun(path) == begun
    finally:
        command.note([])
    assert set(_begun(tmp_path / "other.json")) == {"date"}
