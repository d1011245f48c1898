#!/usr/bin/env python3
"""Is this GGUF the model it claims to be? check_gguf.py DIR FILE.gguf: llama.cpp's logits against DIR's stored ones

For each stored prompt: max |Δ| over all positions against ref.safetensors, and whether the stored greedy tokens come out.
Also the tokenizer: ids of llama.cpp against tokenizer_cases.json.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from checkpoint import read_tensors
from llama_peer import Peer


def overrides(config):
    """llama.cpp finds out whether queries are compressed from the number of layers; tiny models must say it."""
    if config["model_type"].startswith("deepseek") and not config.get("q_lora_rank"):
        return {"deepseek2.attention.q_lora_rank": 0}
    return {}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()

    config = json.loads((args.folder / "config.json").read_text())
    ref = read_tensors(args.folder / "ref.safetensors")
    peer = Peer(args.gguf, overrides=overrides(config), verbose=args.verbose)
    parts = []
    for x in "abc":
        ids = ref[f"prompt_ids.{x}"].tolist()
        greedy = ref[f"greedy_ids.{x}"].tolist()
        prompt_logits, new_ids, _ = peer.greedy(ids, len(greedy) - len(ids))
        delta = np.abs(prompt_logits[ref[f"logit_pos.{x}"]] - ref[f"logits.{x}"]).max()
        equal = new_ids == greedy[len(ids) :]
        parts.append(f"{x}: max |Δ| {delta:.2e}, greedy {'equal' if equal else 'DIFFERS'}")
    cases = json.loads((args.folder / "tokenizer_cases.json").read_text())["cases"]
    n_equal = sum(peer.tokenize(case["text"], add_special=False) == case["ids"] for case in cases)
    print(f"{args.gguf.name}: {'; '.join(parts)}; tokenizer {n_equal} of {len(cases)}")


if __name__ == "__main__":
    main()
