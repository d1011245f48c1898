#!/usr/bin/env python3
"""The same GGUF with every tensor in F32: dequantise.py MODEL.gguf OUT.gguf

llama.cpp rounds activations to 8 bits before it multiplies them with quantised weights, so its logits on a quantised file
are off by some hundredths, enough to flip a greedy choice. On the F32 copy it computes what the weights say.
"""

import argparse
from pathlib import Path

import gguf
import numpy as np

COPIED_BY_THE_WRITER = {"GGUF.version", "GGUF.tensor_count", "GGUF.kv_count", "general.architecture"}


def copy_metadata(reader, writer):
    for name, field in reader.fields.items():
        if name in COPIED_BY_THE_WRITER:
            continue
        if name == "general.file_type":
            writer.add_file_type(gguf.LlamaFileType.ALL_F32)
            continue
        item_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=item_type)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()

    reader = gguf.GGUFReader(args.model)
    writer = gguf.GGUFWriter(args.out, reader.get_field("general.architecture").contents())
    copy_metadata(reader, writer)
    for tensor in reader.tensors:
        shape = [int(n) for n in reversed(tensor.shape)]
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), 4 * int(tensor.n_elements))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in reader.tensors:
        writer.write_tensor_data(gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False))
    writer.close()
    print(f"{args.out}: {len(reader.tensors)} tensors, {args.out.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
