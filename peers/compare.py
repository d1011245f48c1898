#!/usr/bin/env python3
"""Minke's greedy continuations beside llama.cpp's: compare.py MODEL.gguf PEER.json [--at-least 18]

PEER.json comes from run_llama_cpp.py; Minke gets the same prompt ids. Where the two part, the script shows the first
differing token and by how much each program preferred its own: a real error shows as large margins, rounding as tiny
ones. Ends with 1 if fewer prompts than --at-least are equal throughout.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from checkpoint import read_tensors
from minke_run import DEFAULT_BINARY, run_logits


def first_difference(ours, theirs):
    """Index of the first pair that differs, or None."""
    return next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), None)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("peer", type=Path)
    parser.add_argument("--minke", type=Path, default=DEFAULT_BINARY)
    parser.add_argument("--tokens", type=int, default=32, help="greedy tokens to compare")
    parser.add_argument("--peer-logits", type=Path, help="the --logits file of run_llama_cpp.py: also report max |Δlogit|")
    parser.add_argument("--at-least", type=int, default=18, help="prompts that must be equal")
    parser.add_argument("--extra", nargs="*", default=[], help="more arguments for minke logits, last on the line")
    args = parser.parse_args()

    peer = json.loads(args.peer.read_text())
    peer_logits = read_tensors(args.peer_logits) if args.peer_logits else {}
    n_equal = 0
    print(f"{args.model.name} against {peer['peer']} on {peer['model']}, first {args.tokens} greedy tokens")
    for n, prompt in enumerate(peer["prompts"]):
        ids, theirs = prompt["prompt_ids"], prompt["greedy_ids"][: args.tokens]
        tensors = run_logits(args.minke, args.model, ids, args.tokens, args.extra)
        ours = tensors["greedy_ids"].tolist()[len(ids) :]
        delta = ""
        if f"logits.{n}" in peer_logits:
            delta = f", max |Δlogit| on the prompt {np.abs(tensors['logits'] - peer_logits[f'logits.{n}']).max():.1e}"
        at = first_difference(ours, theirs)
        if at is None and len(ours) == len(theirs):
            n_equal += 1
            verdict = f"equal (smallest margin there {min(prompt['margins'][: args.tokens]):.3f})"
        elif at is None:
            verdict = f"DIFFERS in length: {len(ours)} against {len(theirs)} tokens"
        else:
            row = run_logits(args.minke, args.model, ids + theirs[:at], 0, args.extra)["logits"][-1]
            margin = row[ours[at]] - row[theirs[at]]
            verdict = (
                f"differs at token {at}: ours {ours[at]} by {margin:.4f}, "
                f"theirs {theirs[at]} by {prompt['margins'][at]:.4f}"
            )
        print(f"{n:3} {len(ids):4} ids  {verdict}{delta}  {prompt['text'][:40]!r}", flush=True)
    print(f"{n_equal} of {len(peer['prompts'])} prompts equal")
    raise SystemExit(0 if n_equal >= args.at_least else 1)


if __name__ == "__main__":
    main()
