"""Files and folders are written whole or not at all, and a failure names the path and the reason."""

import errno
import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

from headstart.files import WriteError, whole_folder, write_atomically


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    write_atomically(tmp_path / "a.txt", b"old")
    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(WriteError, match=r"a\.txt: cannot be written: No space left on device"):
        write_atomically(tmp_path / "a.txt", b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.txt": b"old"}


def fail_in(folder, error):
    with whole_folder(folder) as fresh:
        (fresh / "new").touch()
        raise error


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("No space left on device")])
def test_a_folder_that_cannot_be_written_leaves_the_old_one(tmp_path, error):
    with whole_folder(tmp_path / "a") as fresh:
        (fresh / "old").touch()
    with pytest.raises(WriteError, match="/a: cannot be written: No space left on device"):
        fail_in(tmp_path / "a", error)
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["a", "a/old"]


def test_a_folder_is_replaced_only_when_complete(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(ZeroDivisionError), whole_folder(folder) as fresh:
        1 / len(list(fresh.iterdir()))
    assert [each.name for each in folder.iterdir()] == ["old"]
    with whole_folder(folder) as fresh:
        (fresh / "new").touch()
    assert [each.name for each in folder.iterdir()] == ["new"]
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]


def test_a_path_below_a_file_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="file/a: cannot be written"):
        write_atomically(tmp_path / "file" / "a", b"")


def test_an_interrupt_between_the_renames_keeps_the_old_folder(tmp_path, monkeypatch):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "weights").write_text("old")
    rename = Path.rename

    def stop(self, target):
        if self.name == "new":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stop)
    with pytest.raises(KeyboardInterrupt), whole_folder(folder) as fresh:
        (fresh / "weights").write_text("new")
    assert (folder / "weights").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
