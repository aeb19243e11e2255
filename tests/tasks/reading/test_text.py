"""Text files: what is let through, and how each that is not is named."""

import errno
import gzip
import os
import tracemalloc

import pytest

from headstart.tasks.problems import DataError, refuse
from headstart.tasks.reading import text
from headstart.tasks.reading.text import MAX_LINE, listing, opened, read_lines, read_text, why_not

AS_ROOT = os.geteuid() == 0


def written(tmp_path, content, name="a.txt"):
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


def test_lines_come_numbered_with_their_ends(tmp_path):
    assert list(read_lines(written(tmp_path, b"a\r\n\nb"))) == [(1, "a\r\n"), (2, "\n"), (3, "b")]


def test_a_byte_order_mark_is_dropped_once(tmp_path):
    path = written(tmp_path, b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n")
    assert list(read_lines(path)) == [(1, "a\n"), (2, "\ufeffb\n")]
    assert read_text(path) == "a\n\ufeffb\n"


def test_separators_of_unicode_do_not_end_lines(tmp_path):
    assert list(read_lines(written(tmp_path, "a\u2028b\x85c\n".encode()))) == [(1, "a\u2028b\x85c\n")]


@pytest.mark.parametrize("whole", [True, False])
def test_a_gzip_is_read_as_what_is_in_it(tmp_path, whole):
    path = written(tmp_path, gzip.compress(b"a\nb\n"), "a.txt.gz")
    assert (read_text(path) if whole else "".join(line for _, line in read_lines(path))) == "a\nb\n"
    with opened(path, plain=True) as file:
        assert gzip.decompress(file.read()) == b"a\nb\n"


LATIN = "grün\nnaïve\nplain\n".encode("latin-1")


def test_every_line_of_another_encoding_is_told(tmp_path, both_ways):
    path = written(tmp_path, LATIN)
    good = both_ways(
        lambda report: read_lines(path, report),
        f"{path}, line 1: not UTF-8 text (byte 0xfc); save the file as UTF-8",
        f"{path}, line 2: not UTF-8 text (byte 0xef); save the file as UTF-8",
    )
    assert good == [(3, "plain\n")]


def test_lines_with_nul_bytes_are_told(tmp_path, both_ways):
    path = written(tmp_path, b"a\n\0\0\0\nb\n")
    good = both_ways(
        lambda report: read_lines(path, report), f"{path}, line 2: holds a NUL byte, as binary files do and files that were cut off"
    )
    assert good == [(1, "a\n"), (3, "b\n")]


@pytest.mark.parametrize(("content", "line"), [(b"a\nb\xff", 2), (b"a\n\n\0", 3)])
def test_faults_of_a_whole_text_are_named_by_line(tmp_path, content, line):
    with pytest.raises(DataError, match=rf"a\.txt, line {line}: "):
        read_text(written(tmp_path, content))


@pytest.mark.parametrize("read", [lambda path: list(read_lines(path)), read_text])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be-with-mark"])
def test_utf16_is_called_by_its_name(tmp_path, read, encoding):
    content = b"\xfe\xff" + "ab\n".encode("utf-16-be") if encoding.endswith("mark") else "ab\n".encode(encoding)
    with pytest.raises(DataError, match=r"a\.txt: is UTF-16, not UTF-8 text; save the file as UTF-8"):
        read(written(tmp_path, content))


def test_a_line_of_80_megabytes_is_told_and_passed_over_in_little_memory(tmp_path, both_ways):
    with (tmp_path / "a.txt").open("wb") as file:
        file.write(b"first\n")
        file.seek(80 * 2**20, os.SEEK_CUR)
        file.write(b"\nlast\n")
    told = "line 2: the line is longer than 16 MiB, which is no row; where the file is one JSON list, give it the ending .json"
    good = both_ways(lambda report: read_lines(tmp_path / "a.txt", report), told)
    assert good == [(1, "first\n"), (3, "last\n")]
    tracemalloc.start()
    try:
        assert len(list(read_lines(tmp_path / "a.txt", lambda problem: None))) == 2
        assert tracemalloc.get_traced_memory()[1] < 2.5 * MAX_LINE
    finally:
        tracemalloc.stop()


def test_a_line_may_be_as_long_as_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "PIECE", 3)
    path = written(tmp_path, b"a" * (MAX_LINE - 1) + b"\n" + b"b" * MAX_LINE + b"\nc\n" + b"d" * (MAX_LINE + 10))
    told = []
    assert [(number, len(line)) for number, line in read_lines(path, told.append)] == [(1, MAX_LINE), (3, 2)]
    assert [problem.place.row for problem in told] == [2, 4]


@pytest.mark.parametrize("read", [lambda path: list(read_lines(path)), read_text])
def test_a_gzip_that_ends_early_is_named(tmp_path, read):
    whole = gzip.compress(os.urandom(100_000))
    with pytest.raises(DataError, match=r"a\.gz.*: the gzip ends early, so rows are missing; fetch or write the file again"):
        read(written(tmp_path, gzip.compress(b"a\n")[:-3], "a.gz"))
    with pytest.raises(DataError, match=r"a\.gz"):
        read(written(tmp_path, whole[:50_000], "a.gz"))


GZIP = gzip.compress(b"a\n" * 500)


@pytest.mark.parametrize("read", [lambda path: list(read_lines(path)), read_text])
@pytest.mark.parametrize("content", [b"plain text\n", GZIP[:-8] + bytes(8), GZIP[:10] + b"\xff" * 30], ids=["text", "sum", "blocks"])
def test_what_is_no_gzip_is_named(tmp_path, read, content):
    with pytest.raises(DataError, match=r"a\.gz.*: is no whole gzip \(.*\); fetch or write the file again"):
        read(written(tmp_path, content, "a.gz"))


def test_what_is_no_file_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, words in (
        (tmp_path / "none", "no such file"),
        (tmp_path, "is a folder; give a file"),
        (tmp_path / "pipe", "is no regular file; give a file"),
        (tmp_path / "loop", "a symbolic link that leads back to itself"),
    ):
        with pytest.raises(DataError, match=words) as raised:
            opened(path)
        assert raised.value.problem.place.file == str(path)


@pytest.mark.skipif(AS_ROOT, reason="root may read everything")
def test_permission_is_asked_for(tmp_path):
    path = written(tmp_path, b"a")
    path.chmod(0)
    with pytest.raises(DataError, match="no permission to read it"):
        opened(path)


def test_the_systems_errors_are_told_in_a_users_words(tmp_path, denied):
    path = written(tmp_path, b"a")
    denied(text.os, "stat", path, errno.EACCES)
    with pytest.raises(DataError, match=r"a\.txt: no permission to read it; change its mode or its owner"):
        opened(path)
    assert why_not(OSError(errno.EIO, "Input/output error")) == "cannot be read (Input/output error)"


class Failing:
    """A file on a disk that fails."""

    def __enter__(self):
        return self

    def __exit__(self, *rest):
        return None

    def readline(self, size=-1):
        raise OSError(errno.EIO, "Input/output error")

    def read(self):
        raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("read", [lambda path: list(read_lines(path, refuse)), read_text])
def test_a_failing_disk_is_named(tmp_path, monkeypatch, read):
    monkeypatch.setattr(text, "opened", lambda path: Failing())
    with pytest.raises(DataError, match=r"a\.txt.*: cannot be read \(Input/output error\)"):
        read(tmp_path / "a.txt")


def test_a_folder_is_listed_by_name(tmp_path):
    for name in ("b", "a", ".c"):
        written(tmp_path, b"", name)
    assert [path.name for path in listing(tmp_path)] == [".c", "a", "b"]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, denied):
    with pytest.raises(DataError, match="none: no such file"):
        listing(tmp_path / "none")
    with pytest.raises(DataError, match=r"a\.txt: no folder; give a folder"):
        listing(written(tmp_path, b""))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(DataError, match="loop: a symbolic link that leads back to itself"):
        listing(tmp_path / "loop")
    denied(text.os, "scandir", tmp_path, errno.EACCES)
    with pytest.raises(DataError, match="no permission to read it"):
        listing(tmp_path)
