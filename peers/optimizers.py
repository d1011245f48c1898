"""Steps of PyTorch's optimisers, as fixtures for crates/train/tests/optimizers.rs.

usage: python peers/optimizers.py crates/train/tests/fixtures/optimizers.json

Weights and gradients come from a formula that the test repeats, so the file holds results alone. torch.optim.Muon
orthogonalises in bfloat16; here it is made to do so in the weights' own type, float64, since rounding is not the subject.
Schedules of the learning rate stay outside: every step has its own.
"""

import json
import math
import sys
from unittest import mock

import torch

SHAPES = {"wide": (4, 6), "tall": (7, 3), "square": (5, 5)}
STEPS = 5
LR = [0.02, 0.05, 0.05, 0.03, 0.01]


def values(n, phase):
    return [round(math.sin(0.7 * i + 0.13 * i * i + phase) * 4096) / 4096 for i in range(n)]


def run(make, shape):
    n = shape[0] * shape[1]
    weight = torch.nn.Parameter(torch.tensor(values(n, 1.0), dtype=torch.float64).reshape(shape))
    optimizer = make([weight])
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = LR[step]
        weight.grad = torch.tensor(values(n, 2.0 + 3.1 * step), dtype=torch.float64).reshape(shape)
        optimizer.step()
    return weight.detach().flatten().tolist()


def main():
    makers = {
        "adamw": lambda p: torch.optim.AdamW(p, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1),
        "muon_original": lambda p: torch.optim.Muon(p, weight_decay=0.1, momentum=0.95),
        "muon_rms": lambda p: torch.optim.Muon(p, weight_decay=0.2, momentum=0.9, adjust_lr_fn="match_rms_adamw"),
    }
    out = {"torch": torch.__version__, "lr": LR}
    with mock.patch.object(torch, "bfloat16", torch.float64):
        for name, make in makers.items():
            out[name] = {shape: {"shape": SHAPES[shape], "weights": run(make, SHAPES[shape])} for shape in SHAPES}
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump(out, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
