"""Text files, line by line: UTF-8 and nothing else, gzip or not, in little memory."""

import errno
import gzip
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from headstart.tasks.problems import DataError, Place, Problem, Report, refuse

MAX_LINE = 16 * 2**20
"""Bytes; a longer line is no row of a task."""
PIECE = 2**16
"""Bytes of a line that is too long, which are passed over at once."""
BOM = b"\xef\xbb\xbf"
UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
GZIP_ENDS_EARLY = "the gzip ends early, so rows are missing; fetch or write the file again"


def read_lines(path: Path, report: Report = refuse) -> Iterator[tuple[int, str]]:
    """The lines of a text file with their numbers from 1, each with its line end, if it has one; a byte order mark is dropped.

    Args:
        path: the file, perhaps a gzip.
        report: is told of every line that is no UTF-8, holds NUL bytes or is longer than 16 MiB, which is left out then.

    Raises:
        DataError: the file cannot be opened, is UTF-16, or a gzip that is not whole; or by the report.
    """
    with opened(path) as file:
        number = 0
        while line := _next_line(file, Place(str(path), number + 1)):
            number += 1
            text = _line(file, line.removeprefix(BOM) if number == 1 else line, Place(str(path), number), report)
            if text is not None:
                yield number, text


def read_text(path: Path) -> str:
    """A whole text file.

    Raises:
        DataError: as `read_lines`; the file may be one long line.
    """
    with opened(path) as file:
        try:
            raw = file.read()
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(Problem(f"{_gzip_fault(error)}", Place(str(path)))) from error
        except OSError as error:
            raise DataError(Problem(f"{why_not(error)}", Place(str(path)))) from error
    _require_no_utf16(raw, Place(str(path)))
    return _decoded(raw.removeprefix(BOM), Place(str(path), 1))


def opened(path: Path, plain: bool = False) -> IO[bytes]:
    """Open a regular file for reading; a gzip as what is in it, or `plain` as it lies.

    Raises:
        DataError: it is not there, not a file, or not to be read by us.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise DataError(Problem(f"{'is a folder' if path.is_dir() else 'is no regular file'}; give a file", Place(str(path))))
        return cast(IO[bytes], gzip.open(path, "rb") if path.suffix == ".gz" and not plain else path.open("rb"))
    except OSError as error:
        raise DataError(Problem(f"{why_not(error)}", Place(str(path)))) from error


def listing(folder: Path) -> list[Path]:
    """What a folder holds, in the order of names.

    Raises:
        DataError: it is not there, no folder, or not to be read by us.
    """
    try:
        return sorted(Path(entry.path) for entry in os.scandir(folder))
    except OSError as error:
        raise DataError(Problem(f"{why_not(error)}", Place(str(folder)))) from error


def why_not(error: OSError) -> str:
    """What a user should know of the system's error."""
    told = {
        errno.ENOENT: "no such file",
        errno.EACCES: "no permission to read it; change its mode or its owner (chmod, chown)",
        errno.EPERM: "no permission to read it; change its mode or its owner (chmod, chown)",
        errno.ELOOP: "a symbolic link that leads back to itself; remove it, or point it to the data",
        errno.ENOTDIR: "no folder; give a folder",
        errno.EISDIR: "is a folder; give a file",
    }
    return told.get(error.errno or 0, f"cannot be read ({error.strerror or error})")


def _next_line(file: IO[bytes], place: Place, most: int = MAX_LINE + 1) -> bytes:
    try:
        return file.readline(most)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(Problem(f"{_gzip_fault(error)}", place)) from error
    except OSError as error:
        raise DataError(Problem(f"{why_not(error)}", place)) from error


def _line(file: IO[bytes], line: bytes, place: Place, report: Report) -> str | None:
    """A line's text, or None where it is told."""
    if place.row == 1:
        _require_no_utf16(line, Place(place.file))
    if len(line) > MAX_LINE:
        told = f"the line is longer than {MAX_LINE // 2**20} MiB, which is no row"
        report(Problem(f"{told}; where the file is one JSON list, give it the ending .json, else break it into lines", place))
        while line and not line.endswith(b"\n"):
            line = _next_line(file, place, PIECE)
        return None
    try:
        return _decoded(line, place)
    except DataError as error:
        report(error.problem)
        return None


def _require_no_utf16(raw: bytes, place: Place) -> None:
    if raw.startswith(UTF16_BOMS):
        raise DataError(Problem("is UTF-16, not UTF-8 text; save the file as UTF-8", place))


def _gzip_fault(error: Exception) -> str:
    return GZIP_ENDS_EARLY if isinstance(error, EOFError) else f"is no whole gzip ({error}); fetch or write the file again"


def _decoded(raw: bytes, place: Place) -> str:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        where = place._replace(row=(place.row or 1) + raw.count(b"\n", 0, error.start))
        raise DataError(Problem(f"not UTF-8 text (byte 0x{raw[error.start]:02x}); save the file as UTF-8", where)) from error
    if "\0" in text:
        where = place._replace(row=(place.row or 1) + text.count("\n", 0, text.index("\0")))
        raise DataError(Problem("holds a NUL byte, as binary files do and files that were cut off by a crash; write the file again", where))
    return text
