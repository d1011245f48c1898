"""Reads a safetensors file of BF16, F16, F32 or block-scaled FP8 weights into F32 arrays (numpy has neither BF16 nor FP8)."""

import json
import struct

import numpy as np

FP8_BLOCK = 128


def e4m3_table():
    """Value of each of the 256 codes of E4M3 (no infinities; 0x7f and 0xff are NaN)."""
    code = np.arange(256)
    sign = np.where(code & 0x80, -1.0, 1.0)
    exponent, mantissa = (code >> 3) & 15, code & 7
    normal = (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    subnormal = mantissa / 8 * 2.0**-6
    value = sign * np.where(exponent == 0, subnormal, normal)
    value[(code & 0x7F) == 0x7F] = np.nan
    return value.astype(np.float32)


def decode(raw, dtype):
    if dtype == "BF16":
        return (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
    if dtype == "F8_E4M3":
        return e4m3_table()[np.frombuffer(raw, np.uint8)]
    return np.frombuffer(raw, {"F32": np.float32, "F16": np.float16, "I32": np.int32, "I64": np.int64}[dtype])


def read_tensors(path):
    """Name → array as stored (BF16 and FP8 widened to F32), without applying scales."""
    data = path.read_bytes()
    (header_len,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + header_len])
    header.pop("__metadata__", None)
    base = 8 + header_len
    tensors = {}
    for name, entry in header.items():
        begin, end = (base + offset for offset in entry["data_offsets"])
        tensors[name] = decode(data[begin:end], entry["dtype"]).reshape(entry["shape"])
    return tensors


def apply_scales(tensors):
    """Multiplies every weight that has a `weight_scale_inv` by it (one scale per 128×128 block) and drops the scales."""
    weights = {}
    for name, tensor in tensors.items():
        if name.endswith(".weight_scale_inv"):
            continue
        scale = tensors.get(f"{name}_scale_inv")
        if scale is not None:
            rows, columns = tensor.shape
            scale = scale.repeat(FP8_BLOCK, axis=0)[:rows].repeat(FP8_BLOCK, axis=1)[:, :columns]
            tensor = tensor * scale
        weights[name] = tensor.astype(np.float32, copy=False)
    return weights


def read_model(folder):
    """config.json and the dequantised weights of a folder with one model.safetensors."""
    config = json.loads((folder / "config.json").read_text())
    return config, apply_scales(read_tensors(folder / "model.safetensors"))
