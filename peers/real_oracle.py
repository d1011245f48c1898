#!/usr/bin/env python3
"""A real model against stored log-probabilities: real_oracle.py MODEL.gguf ORACLE.npz [--max-delta 0.05]

ORACLE.npz holds, for each case NAME: NAME_ids (prompt), NAME_greedy (prompt and greedy tokens), NAME_top10_id and
NAME_top10_lp (the ten likeliest next tokens after every prompt position and their log-probabilities) and
NAME_last_logits (F16), all computed elsewhere from the weights dequantised to F32.
"""

import argparse
from pathlib import Path

import numpy as np
from minke_run import DEFAULT_BINARY, run_logits


def log_softmax(logits):
    x = logits.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("oracle", type=Path)
    parser.add_argument("--minke", type=Path, default=DEFAULT_BINARY)
    parser.add_argument("--max-delta", type=float, default=0.05)
    parser.add_argument("--extra", nargs="*", default=[], help="more arguments for minke logits, last on the line")
    args = parser.parse_args()

    oracle = np.load(args.oracle, allow_pickle=False)
    good = True
    for name in (key.removesuffix("_ids") for key in oracle.files if key.endswith("_ids")):
        ids, greedy = oracle[f"{name}_ids"].tolist(), oracle[f"{name}_greedy"].tolist()
        tensors = run_logits(args.minke, args.model, ids, len(greedy) - len(ids), args.extra)
        logps = log_softmax(tensors["logits"])
        delta_logp = np.abs(np.take_along_axis(logps, oracle[f"{name}_top10_id"], axis=1) - oracle[f"{name}_top10_lp"]).max()
        delta_logit = np.abs(tensors["logits"][-1] - oracle[f"{name}_last_logits"].astype(np.float32)).max()
        ours = tensors["greedy_ids"].tolist()
        at = next((i for i, (a, b) in enumerate(zip(ours, greedy)) if a != b), None)
        same = at is None and len(ours) == len(greedy)
        good = good and same and delta_logp <= args.max_delta
        print(
            f"{args.model.name} {name}: {len(ids)} positions, top-10 log-probabilities max |Δ| {delta_logp:.2e}, "
            f"last logits max |Δ| {delta_logit:.2e} (stored in F16), {len(greedy) - len(ids)} greedy tokens "
            + ("equal" if same else f"DIFFER at position {at}: {ours[at:][:4]} for {greedy[at:][:4]}")
        )
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
