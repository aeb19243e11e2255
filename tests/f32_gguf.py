"""A GGUF with every tensor dequantised, so that engines are compared on the same numbers. `python tests/f32_gguf.py FROM TO` writes one."""

import sys
from pathlib import Path

import gguf
from gguf.quants import dequantize

OWN = ("general.architecture", "general.file_type")
"""What the writer puts in itself, or what is no longer true."""


def write_f32(source, target):
    """Copy a GGUF, its tensors as float32."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        content = field.contents()
        if name.startswith("GGUF.") or name in OWN or content == []:
            continue
        kind = field.types[0]
        writer.add_key_value(name, content, kind, sub_type=field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, dequantize(tensor.data, tensor.tensor_type).astype("float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


if __name__ == "__main__":
    write_f32(*map(Path, sys.argv[1:3]))
