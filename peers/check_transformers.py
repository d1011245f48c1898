#!/usr/bin/env python3
"""A folder that Minke wrote, through transformers: check_transformers.py FOLDER PROMPTS.txt [--tokens 32]

Loads it with AutoModelForCausalLM and AutoTokenizer in f32, and compares, prompt by prompt: the ids (the folder's
tokenizer against what Minke makes of the text), the logits of every position, and greedy continuations. Ends with 1 where
ids differ, logits are further apart than --tolerance, or fewer prompts than --at-least continue alike. Needs torch and
transformers beside requirements.txt.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from checkpoint import read_tensors
from minke_run import DEFAULT_BINARY, run_command
from transformers import AutoModelForCausalLM, AutoTokenizer


def minke_logits(binary, model, text, n_greedy):
    """Tensors of `minke logits` for a text, which Minke's own tokenizer reads."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.safetensors"
        run_command([binary, "logits", "-m", model, "--text", text, "--greedy", n_greedy, "--out", out])
        return read_tensors(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--minke", type=Path, default=DEFAULT_BINARY)
    parser.add_argument("--tokens", type=int, default=32, help="greedy tokens to compare")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="largest |Δlogit| that is accepted")
    parser.add_argument("--at-least", type=int, default=18, help="prompts that must continue alike")
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.folder)
    model = AutoModelForCausalLM.from_pretrained(args.folder, dtype=torch.float32).eval()
    print(f"{type(model).__name__}, {sum(p.numel() for p in model.parameters())} parameters")
    lines = args.prompts.read_text().splitlines()
    n_equal, worst, same_ids = 0, 0.0, True
    for n, line in enumerate(lines):
        text = line.replace("\\n", "\n")
        ours = minke_logits(args.minke, args.folder, text, args.tokens)
        ids = ours["token_ids"].tolist()
        plain = tokenizer.encode(text, add_special_tokens=False)
        same_ids &= ids[len(ids) - len(plain) :] == plain
        with torch.no_grad():
            row = torch.tensor([ids])
            logits = model(row).logits[0].numpy()
            continued = row
            for _ in range(args.tokens):
                continued = torch.cat([continued, model(continued).logits[:, -1:].argmax(-1)], 1)
        delta = float(np.abs(logits - ours["logits"]).max())
        worst = max(worst, delta)
        alike = continued[0].tolist() == ours["greedy_ids"].tolist()
        n_equal += alike
        print(f"{n:3} {len(ids):4} ids, max |Δlogit| {delta:.1e}, {'equal' if alike else 'DIFFERS'}: {text[:40]!r}", flush=True)
    print(f"{n_equal} of {len(lines)} continuations equal, max |Δlogit| {worst:.1e}, ids {'equal' if same_ids else 'DIFFER'}")
    raise SystemExit(0 if same_ids and worst <= args.tolerance and n_equal >= args.at_least else 1)


if __name__ == "__main__":
    main()
