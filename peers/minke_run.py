"""Runs `minke logits` and reads what it writes. Shared by the scripts that compare it with somebody."""

import subprocess
import tempfile
from pathlib import Path

from checkpoint import read_tensors

DEFAULT_BINARY = Path(__file__).resolve().parent.parent / "target" / "release" / "minke"


def run_command(command):
    """Runs Minke; its error is ours."""
    done = subprocess.run([str(part) for part in command], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"minke ends with {done.returncode}:\n{done.stderr}")


def run_logits(binary, model, ids, n_greedy=0, extra=()):
    """Tensors of `minke logits`: `logits` [T, vocab], and with n_greedy > 0 `greedy_ids` [T + n_greedy]."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.safetensors"
        command = [binary, "logits", "-m", model, "--tokens", ",".join(str(i) for i in ids), "--out", out, *extra]
        if n_greedy:
            command += ["--greedy", str(n_greedy)]
        run_command(command)
        return read_tensors(out)
