"""Training speed of Minke beside PyTorch with transformers' DeepseekV3ForCausalLM: same shape, batch and optimiser.

    python peers/train_speed.py MINKE [--sizes 4,12,30] [--rounds 3] [--steps 6] [--threads 2]

Prints, per size and round, tokens per second of both and their ratio; the programs take turns, so that a machine that gets
slower does so for both. Minke's time is that of whole steps (data, forward, backward, clipping, AdamW); PyTorch's too, with
the data already there. PyTorch runs eagerly, in f32, once with experts one by one and once as grouped products; its best counts.
"""

import argparse
import json
import pathlib
import random
import statistics
import subprocess
import tempfile
import time

# Millions of parameters (about): hidden, layers, heads, intermediate, expert's, experts.
SHAPES = {
    4: dict(hidden_size=192, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512,
            moe_intermediate_size=128, n_routed_experts=8),
    12: dict(hidden_size=256, num_hidden_layers=6, num_attention_heads=4, intermediate_size=768,
             moe_intermediate_size=192, n_routed_experts=12),
    30: dict(hidden_size=384, num_hidden_layers=8, num_attention_heads=6, intermediate_size=1024,
             moe_intermediate_size=256, n_routed_experts=12),
}
VOCAB, LENGTH, BATCH = 2048, 256, 4096


def config(shape):
    return dict(
        model_type="deepseek_v3", architectures=["DeepseekV3ForCausalLM"], vocab_size=VOCAB, **shape,
        num_key_value_heads=shape["num_attention_heads"], n_shared_experts=1, num_experts_per_tok=2, n_group=1,
        topk_group=1, first_k_dense_replace=1, moe_layer_freq=1, norm_topk_prob=True, routed_scaling_factor=1.0,
        scoring_func="sigmoid", topk_method="noaux_tc", q_lora_rank=None, kv_lora_rank=64, qk_nope_head_dim=32,
        qk_rope_head_dim=16, v_head_dim=32, max_position_embeddings=LENGTH, rope_theta=10000.0, rms_norm_eps=1e-6,
        hidden_act="silu", tie_word_embeddings=False, attention_bias=False, num_nextn_predict_layers=0,
        bos_token_id=0, eos_token_id=1, initializer_range=0.02, torch_dtype="float32",
    )


def text(folder):
    draw = random.Random(1)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(4000)]
    (folder / "text.txt").write_text("\n\n".join(" ".join(draw.choices(words, k=20000)) for _ in range(20)))


def recipe(folder, shape, steps):
    (folder / "config.json").write_text(json.dumps(config(shape)))
    (folder / "recipe.toml").write_text(f"""
output = "out"
model = {{ config = "config.json" }}
[tokenizer]
vocab_size = {VOCAB}
bytes_per_source = 300000
[data.text]
text = ["text.txt"]
[[stage]]
type = "pretrain"
steps = {steps + 2}
batch_tokens = {BATCH}
sequence_length = {LENGTH}
balance_weight = 0.0
evaluate_every = 0
checkpoint_every = 1000
optimizer = {{ type = "adamw", lr = 0.0003 }}
""")


def minke(program, folder):
    import shutil
    shutil.rmtree(folder / "out", ignore_errors=True)
    run = subprocess.run([program, "train", folder / "recipe.toml", "--json"], capture_output=True, text=True, check=True)
    speeds = [json.loads(line)["tokens_per_s"] for line in run.stdout.splitlines()]
    return statistics.median(speeds[2:])


def torch_speed(shape, steps, experts):
    import torch
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    torch.manual_seed(0)
    made = DeepseekV3Config(**{k: v for k, v in config(shape).items() if k not in ("model_type", "torch_dtype")})
    made._experts_implementation = experts
    model = DeepseekV3ForCausalLM(made).float().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    speeds = []
    for _ in range(steps + 2):
        ids = torch.randint(2, VOCAB, (BATCH // LENGTH, LENGTH + 1))
        start = time.perf_counter()
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, VOCAB), ids[:, 1:].reshape(-1))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        speeds.append(ids[:, 1:].numel() / (time.perf_counter() - start))
    return statistics.median(speeds[2:]), sum(p.numel() for p in model.parameters())


def main():
    args = argparse.ArgumentParser()
    args.add_argument("minke")
    args.add_argument("--sizes", default="4,12,30")
    args.add_argument("--rounds", type=int, default=3)
    args.add_argument("--steps", type=int, default=6)
    args.add_argument("--threads", type=int, default=2)
    args = args.parse_args()
    import torch

    torch.set_num_threads(args.threads)
    for size in map(int, args.sizes.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            text(folder)
            recipe(folder, SHAPES[size], args.steps)
            plan = subprocess.run([args.minke, "train", folder / "recipe.toml", "--dry-run", "--json"],
                                  capture_output=True, text=True, check=True)
            plan = json.loads(plan.stdout)
            flops = plan["flops"] / plan["tokens"]
            for turn in range(args.rounds):
                ours = minke(args.minke, folder)
                theirs = {}
                for experts in ("eager", "grouped_mm"):
                    try:
                        theirs[experts], n = torch_speed(SHAPES[size], args.steps, experts)
                    except Exception as problem:  # a way that this version does not have
                        theirs[experts] = 0.0
                        print(f"# {experts}: {problem}"[:200])
                best = max(theirs, key=theirs.get)
                print(f"{size:3} M ({plan['parameters']:,}; PyTorch's {n:,}) round {turn}: Minke {ours:7.0f} tokens/s, "
                      f"{ours * flops / 1e9:5.1f} GFLOP/s; PyTorch "
                      + ", ".join(f"{name} {speed:.0f}" for name, speed in theirs.items())
                      + f"; ratio to {best} {ours / theirs[best]:.2f}", flush=True)


main()
