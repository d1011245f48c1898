"""Compares ids written by the example encode_file with those of Hugging Face's tokenizers (0.23).

python compare.py tokenizer.json corpus.txt ids.bin
"""
import array
import sys
import time

from tokenizers import Tokenizer


def main(tokenizer_json: str, corpus: str, ids_bin: str) -> int:
    tokenizer = Tokenizer.from_file(tokenizer_json)
    tokenizer.no_truncation()
    text = open(corpus, "rb").read().decode("utf-8", "replace")
    n_bytes = len(text.encode())
    start = time.time()
    theirs = tokenizer.encode(text, add_special_tokens=False).ids
    seconds = time.time() - start
    print(f"peer encode {n_bytes / 1e6:.1f} MB in {seconds:.1f} s: {n_bytes / 1e6 / seconds:.2f} MB/s, {len(theirs)} ids")
    ours = array.array("I")
    ours.frombytes(open(ids_bin, "rb").read())
    if list(ours) == theirs:
        print("ids equal")
        return 0
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
    print(f"first difference at id {at}: ours {ours[at:at + 8].tolist()}, theirs {theirs[at:at + 8]}")
    print("context:", repr(tokenizer.decode(theirs[max(0, at - 10):at + 10], skip_special_tokens=False)))
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
