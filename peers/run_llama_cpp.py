#!/usr/bin/env python3
"""Greedy continuations by llama.cpp: run_llama_cpp.py MODEL.gguf PROMPTS.txt OUT.json [--tokens 32]

One prompt a line (`\\n` in a line stands for a line break). OUT.json holds each prompt's ids, the greedy ids after it and
the margin with which each won; --logits FILE.safetensors also keeps the logits of every prompt position (logits.N).
"""

import argparse
import json
from pathlib import Path

from llama_peer import VERSION, Peer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokens", type=int, default=32, help="greedy tokens after each prompt")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--logits", type=Path, help="a safetensors file for the logits of every prompt position")
    parser.add_argument("--stock", action="store_true", help="llama.cpp's defaults: F16 cache, flash attention if it likes")
    parser.add_argument("--verbose", action="store_true", help="let llama.cpp log")
    args = parser.parse_args()

    peer = Peer(args.model, n_threads=args.threads, exact=not args.stock, verbose=args.verbose)
    prompts, logits = [], {}
    for n, line in enumerate(args.prompts.read_text().splitlines()):
        text = line.replace("\\n", "\n")
        ids = peer.tokenize(text)
        prompt_logits, greedy_ids, margins = peer.greedy(ids, args.tokens)
        logits[f"logits.{n}"] = prompt_logits
        prompts.append({"text": text, "prompt_ids": ids, "greedy_ids": greedy_ids, "margins": margins})
        print(f"{n:3} {len(ids):4} ids, smallest margin {min(margins):.3f}: {text[:60]!r}")
    report = {"peer": f"llama-cpp-python {VERSION}", "stock": args.stock, "model": args.model.name, "prompts": prompts}
    args.out.write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n")
    if args.logits:
        from safetensors.numpy import save_file

        save_file(logits, args.logits)


if __name__ == "__main__":
    main()
