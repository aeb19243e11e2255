"""A safetensors header is believed only as far as the file bears it out."""

import json
import struct
import tracemalloc

import pytest
import torch
from safetensors.torch import load_file, save_file

from headstart.adapter.header import LONGEST, AdapterError, Entry, read_header

DATA = bytes(48)
HEADER = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
    "b": {"dtype": "BF16", "shape": [8], "data_offsets": [32, 48]},
}


def write(path, header=HEADER, data=DATA, length=None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.safetensors"


def test_what_the_library_writes_is_read(path):
    tensors = {"x": torch.zeros(3, 5), "y": torch.zeros(2, dtype=torch.float16), "empty": torch.zeros(0, 4), "scalar": torch.tensor(1.0)}
    save_file(tensors, path, metadata={"format": "pt"})
    header = read_header(path)
    assert {name: entry.shape for name, entry in header.items()} == {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def test_what_is_believed_here_the_library_reads(path):
    assert read_header(write(path)) == {"a": Entry("F32", (2, 4), 0, 32), "b": Entry("BF16", (8,), 32, 48)}
    assert load_file(path).keys() == {"a", "b"}


@pytest.mark.parametrize("length", [0x280, 0x380, 0x480])
def test_a_length_that_begins_as_a_pickle_does_is_a_length(path, length):
    raw = json.dumps(HEADER).encode()
    assert read_header(write(path, raw + b" " * (length - len(raw)))).keys() == {"a", "b"}


def changed(**fields):
    return {**HEADER, "b": {**HEADER["b"], **fields}}


FAULTS = {
    "empty": (lambda path: path.write_bytes(b""), "not a safetensors file, or cut off"),
    "seven bytes": (lambda path: path.write_bytes(bytes(7)), "not a safetensors file, or cut off"),
    "text": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"), "not a safetensors file, or cut off"),
    "zipped pickle": (lambda path: torch.save({"a": torch.zeros(2)}, path), "a pickle under another name"),
    "bare pickle": (lambda path: path.write_bytes(b"\x80\x04\x95" + bytes(20)), "a pickle under another name"),
    "header of gigabytes": (lambda path: write(path, length=2**40), f"header would take {2**40} of the file's"),
    "header cut off": (lambda path: path.write_bytes(write(path).read_bytes()[:50]), "cut off"),
    "header no JSON": (lambda path: write(path, b"x" * 20), "not a readable safetensors file"),
    "header no text": (lambda path: write(path, b"\xff" * 20), "not a readable safetensors file"),
    "header nested without end": (lambda path: write(path, b"[" * 100_000), "not a readable safetensors file"),
    "header a list": (lambda path: write(path, b"[]"), "no JSON object"),
    "data cut off": (lambda path: write(path, data=DATA[:-1]), "cut off: 47 bytes of data, its header tells of 48"),
    "data too long": (lambda path: write(path, data=DATA + b"x"), "too long: 49 bytes of data"),
    "entry no object": (lambda path: write(path, {**HEADER, "b": 3}), "entry of 'b' has no shape"),
    "no offsets": (lambda path: write(path, changed(data_offsets=None)), "entry of 'b' has no shape or no place"),
    "negative shape": (lambda path: write(path, changed(shape=[-8])), "entry of 'b' has no shape"),
    "true for a size": (lambda path: write(path, changed(shape=[True, 8])), "entry of 'b' has no shape"),
    "whole numbers": (lambda path: write(path, changed(dtype="I64")), "'b' is of type 'I64'"),
    "unknown type": (lambda path: write(path, changed(dtype=["F32"])), "'b' is of type"),
    "shape too large": (lambda path: write(path, changed(shape=[2**40])), r"'b' has shape \(1099511627776,\) but 16 bytes"),
    "overlap": (lambda path: write(path, changed(data_offsets=[16, 32])), "'b' begins at byte 16 of the data, not at 32"),
    "hole": (lambda path: write(path, changed(data_offsets=[40, 56]), data=bytes(56)), "'b' begins at byte 40 of the data, not at 32"),
    "folder": (lambda path: path.mkdir(), "no regular file"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_is_refused_by_file(path, fault):
    spoil, words = FAULTS[fault]
    spoil(path)
    with pytest.raises(AdapterError, match=words) as caught:
        read_header(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(path):
    with pytest.raises(AdapterError, match=r"a\.safetensors: no such file"):
        read_header(path)


def test_a_long_header_is_not_read(path):
    """A sparse file as long as the header it claims."""
    write(path, length=LONGEST + 1)
    with path.open("r+b") as file:
        file.truncate(LONGEST * 4)
    tracemalloc.start()
    with pytest.raises(AdapterError, match="not a safetensors file, or cut off"):
        read_header(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
