"""Perplexity of a model on a text, by `minke logits`, for several ways to store the cache.

usage: perplexity.py MINKE MODEL TEXT [--tokens 512] [--chunks 4] [--cache bf16,q8] [--activations int8]

The text is cut into chunks of as many tokens; each chunk is one sequence, of which the first token is given. Prints the
perplexity per way and its distance from the first one's. Needs numpy.
"""

import argparse
import json
import struct
import subprocess
import tempfile

import numpy


def tensors(path):
    """The tensors of a safetensors file, by name."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        start = 8 + length
    types = {"F32": numpy.float32, "I32": numpy.int32}
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            first = start + entry["data_offsets"][0]
            found[name] = numpy.memmap(path, types[entry["dtype"]], "r", first, tuple(entry["shape"]))
    return found


def logits(minke, model, options, out):
    subprocess.run([minke, "logits", "-m", model, *options, "--out", out], check=True, stdout=subprocess.DEVNULL)
    return tensors(out)


def loss(found):
    """Summed loss of the tokens behind the first, and their number."""
    ids, total = found["token_ids"], 0.0
    for row, target in zip(found["logits"], ids[1:]):
        row = row.astype(numpy.float64)
        top = row.max()
        total += top + numpy.log(numpy.exp(row - top).sum()) - row[target]
    return total, len(ids) - 1


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("minke")
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--chunks", type=int, default=4)
    parser.add_argument("--cache", default="bf16,q8")
    parser.add_argument("--activations", default="int8")
    args = parser.parse_args()
    text = open(args.text, encoding="utf-8").read()
    # About four characters make a token; what is too much is cut off.
    size = 6 * args.tokens
    pieces = [text[i * size : (i + 1) * size] for i in range(args.chunks)]
    with tempfile.TemporaryDirectory() as folder:
        first = None
        for cache in args.cache.split(","):
            total, count = 0.0, 0
            for piece in pieces:
                options = ["--text", piece, "--cache", cache, "--activations", args.activations]
                piece_loss, n = loss(logits(args.minke, args.model, options, f"{folder}/logits.safetensors"))
                total, count = total + piece_loss, count + n
            value = float(numpy.exp(total / count))
            first = first or value
            print(f"{cache:5} perplexity {value:.4f} over {count} tokens, {100 * (value / first - 1):+.4f} %")


main()
