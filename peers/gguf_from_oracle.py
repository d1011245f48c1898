#!/usr/bin/env python3
"""A GGUF from a tiny model folder: gguf_from_oracle.py DIR OUT.gguf [--ftype F32] [--legacy-kvb] [--mtp]

Lays the model out as llama.cpp's own converter does: `deepseek2` (attn_k_b and attn_v_b, or with --legacy-kvb the older
single attn_kv_b), `qwen2`, `qwen3`, `llama` (rows of q and k reordered for its rope). Written for the layout, with PyPI
`gguf`; check_gguf.py holds the result against the stored logits, by way of llama.cpp.
"""

import argparse
import json
import math
from pathlib import Path

import gguf
import numpy as np
from checkpoint import read_model
from gguf import GGMLQuantizationType as Quant

ARCHS = {"deepseek_v2": "deepseek2", "deepseek_v3": "deepseek2", "qwen2": "qwen2", "qwen3": "qwen3", "llama": "llama"}
PRE_TOKENIZERS = {"deepseek2": "deepseek-v3", "qwen2": "deepseek-r1-qwen", "qwen3": "deepseek-r1-qwen", "llama": "llama-bpe"}
FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7, "Q4_0": 2, "Q4_1": 3, "Q5_0": 8, "Q5_1": 9}

# Published name → GGUF name, inside a layer and outside.
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.kv_b_proj": "attn_kv_b",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
    "eh_proj": "nextn.eh_proj",
    "embed_tokens": "nextn.embed_tokens",
    "enorm": "nextn.enorm",
    "hnorm": "nextn.hnorm",
    "shared_head.head": "nextn.shared_head_head",
    "shared_head.norm": "nextn.shared_head_norm",
}
OUTER_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def reorder_for_rope(weight, n_heads):
    """Rows of each head from halves (i, i + d/2) to neighbours (2i, 2i + 1), as llama.cpp's `llama` rope wants them."""
    rows = weight.shape[0]
    halves = weight.reshape(n_heads, 2, rows // n_heads // 2, *weight.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)


def split_kv_b(weight, config):
    """[H·(n+v), r] → k_b [H, r, n] (transposed per head) and v_b [H, v, r]."""
    n, v = config["qk_nope_head_dim"], config["v_head_dim"]
    per_head = weight.reshape(config["num_attention_heads"], n + v, weight.shape[-1])
    return np.ascontiguousarray(per_head[:, :n].swapaxes(1, 2)), np.ascontiguousarray(per_head[:, n:])


def layer_tensors(layer, parts, config, arch, legacy_kvb):
    """GGUF names and arrays of one layer, from its published names without the `model.layers.N.` in front."""
    prefix = f"blk.{layer}."
    for part, array in parts.items():
        stem, _, kind = part.rpartition(".")
        if part == "mlp.gate.e_score_correction_bias":
            yield prefix + "exp_probs_b.bias", array
        elif stem.startswith("mlp.experts."):
            continue
        elif stem == "self_attn.kv_b_proj" and not legacy_kvb:
            k_b, v_b = split_kv_b(array, config)
            yield prefix + "attn_k_b.weight", k_b
            yield prefix + "attn_v_b.weight", v_b
        else:
            if arch == "llama" and stem in ("self_attn.q_proj", "self_attn.k_proj"):
                heads = "num_attention_heads" if stem.endswith("q_proj") else "num_key_value_heads"
                array = reorder_for_rope(array, config[heads])
            yield f"{prefix}{LAYER_NAMES[stem]}.{kind}", array
    if "mlp.experts.0.gate_proj.weight" in parts:
        for name in ("gate", "up", "down"):
            experts = [parts[f"mlp.experts.{e}.{name}_proj.weight"] for e in range(config["n_routed_experts"])]
            yield f"{prefix}ffn_{name}_exps.weight", np.stack(experts)


def model_tensors(weights, config, arch, n_layers, legacy_kvb):
    layers = [{} for _ in range(n_layers)]
    for name, array in weights.items():
        if name.startswith("model.layers."):
            _, _, layer, part = name.split(".", 3)
            if int(layer) < n_layers:
                layers[int(layer)][part] = array
        else:
            stem, _, kind = name.rpartition(".")
            yield f"{OUTER_NAMES[stem]}.{kind}", array
    for layer, parts in enumerate(layers):
        yield from layer_tensors(layer, parts, config, arch, legacy_kvb)
    if (config.get("rope_scaling") or {}).get("rope_type") == "llama3":
        yield "rope_freqs.weight", llama3_factors(config)


def head_dim(config):
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def llama3_factors(config):
    """By what each rope frequency is divided: 1 for short waves, `factor` for long ones, a blend between."""
    scaling, dim = config["rope_scaling"], head_dim(config)
    context = scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    factors = []
    for i in range(0, dim, 2):
        turns = context * config["rope_theta"] ** (-i / dim) / (2 * math.pi)
        share = min(max((turns - low) / (high - low), 0.0), 1.0)
        factors.append(1 / ((1 - share) / scaling["factor"] + share))
    return np.array(factors, np.float32)


def write_common(writer, config, n_layers):
    writer.add_block_count(n_layers)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    scaling = config.get("rope_scaling") or {}
    if scaling.get("rope_type", scaling.get("type")) == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(scaling["factor"])
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
        if "beta_fast" in scaling:
            writer.add_rope_scaling_yarn_beta_fast(scaling["beta_fast"])
            writer.add_rope_scaling_yarn_beta_slow(scaling["beta_slow"])
        if "mscale_all_dim" in scaling:
            writer.add_rope_scaling_yarn_log_mul(0.1 * scaling["mscale_all_dim"])


def write_dense(writer, config, arch):
    writer.add_head_count_kv(config["num_key_value_heads"])
    if config.get("head_dim"):
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    if arch == "llama":
        writer.add_vocab_size(config["vocab_size"])
        writer.add_rope_dimension_count(head_dim(config))


def write_deepseek(writer, config, legacy_kvb, mtp):
    key_dim = config["qk_nope_head_dim"] + config["qk_rope_head_dim"]
    if legacy_kvb:
        writer.add_head_count_kv(config["num_attention_heads"])
        writer.add_key_length(key_dim)
        writer.add_value_length(config["v_head_dim"])
    else:
        writer.add_head_count_kv(1)
        writer.add_key_length(config["kv_lora_rank"] + config["qk_rope_head_dim"])
        writer.add_value_length(config["kv_lora_rank"])
        writer.add_key_length_mla(key_dim)
        writer.add_value_length_mla(config["v_head_dim"])
    if config.get("q_lora_rank"):
        writer.add_q_lora_rank(config["q_lora_rank"])
    writer.add_kv_lora_rank(config["kv_lora_rank"])
    writer.add_rope_dimension_count(config["qk_rope_head_dim"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_leading_dense_block_count(config["first_k_dense_replace"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_expert_count(config["n_routed_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_shared_count(config["n_shared_experts"])
    writer.add_expert_group_count(config["n_group"])
    writer.add_expert_group_used_count(config["topk_group"])
    writer.add_expert_weights_scale(config["routed_scaling_factor"])
    if config["norm_topk_prob"]:
        writer.add_expert_weights_norm(True)
    gating = {"softmax": gguf.ExpertGatingFuncType.SOFTMAX, "sigmoid": gguf.ExpertGatingFuncType.SIGMOID}
    writer.add_expert_gating_func(gating[config["scoring_func"]])
    if mtp:
        writer.add_nextn_predict_layers(config["num_nextn_predict_layers"])


def looks_special(token):
    return (token.startswith("<|") and token.endswith("|>")) or (token.startswith("<｜") and token.endswith("｜>"))


def write_tokenizer(writer, folder, config, arch):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    by_id = {i: (token, gguf.TokenType.NORMAL) for token, i in tokenizer["model"]["vocab"].items()}
    for added in tokenizer["added_tokens"]:
        control = added["special"] or looks_special(added["content"])
        kind = gguf.TokenType.CONTROL if control else gguf.TokenType.USER_DEFINED
        by_id[added["id"]] = (added["content"], kind)
    rows = [by_id.get(i, (f"[PAD{i}]", gguf.TokenType.UNUSED)) for i in range(config["vocab_size"])]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZERS[arch])
    writer.add_token_list([token for token, _ in rows])
    writer.add_token_types([kind for _, kind in rows])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    ids = {token: i for i, (token, _) in by_id.items()}
    if settings.get("pad_token") in ids:
        writer.add_pad_token_id(ids[settings["pad_token"]])
    writer.add_add_bos_token(bool(settings.get("add_bos_token")))
    if "chat_template" in settings:
        writer.add_chat_template(settings["chat_template"])


def storage_type(name, array, wanted):
    """Vectors and the router stay F32; a row that the block size does not divide falls back to F16."""
    if array.ndim == 1 or name.endswith("ffn_gate_inp.weight"):
        return Quant.F32
    if array.shape[-1] % gguf.GGML_QUANT_SIZES[wanted][0]:
        return Quant.F16
    return wanted


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--ftype", default="F32", choices=FILE_TYPES)
    parser.add_argument("--legacy-kvb", action="store_true", help="deepseek2 as before 2025: one attn_kv_b per layer")
    parser.add_argument("--mtp", action="store_true", help="keep the MTP layers (llama.cpp's converter drops them)")
    parser.add_argument("--split-max-tensors", type=int, default=0, help="write OUT-00001-of-0000N.gguf files")
    args = parser.parse_args()

    config, weights = read_model(args.folder)
    arch = ARCHS[config["model_type"]]
    n_mtp = config.get("num_nextn_predict_layers", 0) if args.mtp else 0
    n_layers = config["num_hidden_layers"] + n_mtp

    writer = gguf.GGUFWriter(args.out, arch, split_max_tensors=args.split_max_tensors)
    writer.add_type("model")
    writer.add_name(args.folder.resolve().name)
    writer.add_file_type(FILE_TYPES[args.ftype])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    write_common(writer, config, n_layers)
    if arch == "deepseek2":
        write_deepseek(writer, config, args.legacy_kvb, n_mtp > 0)
    else:
        write_dense(writer, config, arch)
    write_tokenizer(writer, args.folder, config, arch)
    for name, array in model_tensors(weights, config, arch, n_layers, args.legacy_kvb):
        kind = storage_type(name, array, Quant[args.ftype])
        data = array if kind == Quant.F32 else gguf.quantize(array, kind)
        writer.add_tensor(name, np.ascontiguousarray(data), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
