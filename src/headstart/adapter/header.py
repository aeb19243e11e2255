"""A safetensors file's header, read and checked before any tensor of the file is allocated.

The format (github.com/huggingface/safetensors): eight bytes with the header's length, little-endian; the header, a JSON object
of name -> `dtype`, `shape`, `data_offsets`; then the tensors' bytes, without holes and to the end of the file.
"""

import json
import math
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from headstart.errors import HeadstartError

LONGEST = 16 * 2**20
"""Bytes of the longest header believed: a LoRA of ten thousand tensors has about one megabyte."""

LARGEST = 2**48
"""More than any dimension: a larger number is not multiplied, which takes long for one of a million digits."""

BYTES = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8}
"""Types that an adapter's tensors may have, and the bytes of one element."""

_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_AGAIN = "download or save it again"


class AdapterError(HeadstartError):
    """An adapter folder cannot be used; the message says which file, why, and how to mend it."""


@dataclass(frozen=True)
class Entry:
    """One tensor as the header tells of it; its bytes are `[start, stop)` of the data."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_header(path: Path) -> dict[str, Entry]:
    """The tensors that a file says it holds, its size being what they need, byte for byte.

    Raises:
        AdapterError: no such file, another format, a length or entry that cannot be, or a file that is too short or too long.
    """
    try:
        require_file(path)
        size = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(8)
            length = int.from_bytes(first, "little")
            if len(first) < 8 or length > min(LONGEST, size - 8):
                # a pickle's first bytes, read as a length, are never one that the file could have
                if first.startswith(_PICKLES):
                    raise AdapterError(f"{path}: a pickle under another name; headstart reads safetensors only, {_AGAIN} in that format")
                raise AdapterError(
                    f"{path}: not a safetensors file, or cut off: its header would take {length} of the file's {size} bytes; {_AGAIN}"
                )
            content = json.loads(file.read(length).decode("utf-8"))
    except AdapterError:
        raise
    except FileNotFoundError:
        raise AdapterError(f"{path}: no such file; headstart reads safetensors only") from None
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(f"{path}: not a readable safetensors file ({error}); {_AGAIN}") from error
    if not isinstance(content, dict):
        raise AdapterError(f"{path}: not a safetensors file: its header is no JSON object; {_AGAIN}")
    header = {name: _entry(name, entry, path) for name, entry in content.items() if name != "__metadata__"}
    _require_filled(header, size - 8 - length, path)
    return header


def require_file(path: Path, largest: float = math.inf) -> None:
    """See that a path is a file, no device or pipe whose reading might never end, and of no more bytes than the largest.

    Raises:
        AdapterError: it is not.
        FileNotFoundError: there is nothing.
    """
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise AdapterError(f"{path}: no regular file; {_AGAIN}")
    if about.st_size > largest:
        raise AdapterError(f"{path}: has {about.st_size} bytes, more than any such file; {_AGAIN}")


def _entry(name: str, content: Any, path: Path) -> Entry:
    fields = content if isinstance(content, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    if not (_naturals(shape) and _naturals(offsets) and len(offsets) == 2 and max(shape, default=0) < LARGEST):
        raise AdapterError(f"{path}: the header's entry of {name!r} has no shape or no place in the file; {_AGAIN}")
    if not isinstance(dtype, str) or dtype not in BYTES:
        raise AdapterError(f"{path}: {name!r} is of type {dtype!r}; an adapter's tensors are {', '.join(BYTES)}, so {_AGAIN} as floats")
    if offsets[1] - offsets[0] != math.prod(shape) * BYTES[dtype]:
        raise AdapterError(f"{path}: {name!r} has shape {tuple(shape)} but {offsets[1] - offsets[0]} bytes; {_AGAIN}")
    return Entry(dtype, tuple(shape), offsets[0], offsets[1])


def _naturals(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(each) is int and each >= 0 for each in value)


def _require_filled(header: dict[str, Entry], size: int, path: Path) -> None:
    """See that the tensors lie end to end and fill the file."""
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1].start):
        if entry.start != end:
            raise AdapterError(
                f"{path}: {name!r} begins at byte {entry.start} of the data, not at {end}, where the last one ends; {_AGAIN}"
            )
        end = entry.stop
    if end != size:
        raise AdapterError(f"{path}: {'cut off' if size < end else 'too long'}: {size} bytes of data, its header tells of {end}; {_AGAIN}")
