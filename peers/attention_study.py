"""What attention costs in cache and what it gains in loss: MHA, GQA, MQA and MLA at equal parameters and data.

    python peers/attention_study.py MINKE [--skip-training] [--out docs]

Trains recipes/attention-study/*.toml one after the other (a run that is there is taken as it is), reads their logs, and
writes OUT/attention-study.svg and a table for OUT/attention-study.md to stdout. Needs nothing but Python and the program.
"""

import argparse
import json
import pathlib
import subprocess
import time

from plot_run import COLOURS, label, ticks

ROOT = pathlib.Path(__file__).resolve().parent.parent
NAMES = ["mha", "gqa", "mqa", "mla"]
BYTES = 2  # of a cached value, as bf16


def cache_bytes(config):
    """Bytes of cache per token in all layers."""
    if "kv_lora_rank" in config:
        values = config["kv_lora_rank"] + config["qk_rope_head_dim"]
    else:
        values = 2 * config["num_key_value_heads"] * config["head_dim"]
    return values * config["num_hidden_layers"] * BYTES


def study(minke, name, skip):
    recipe = ROOT / "recipes/attention-study" / f"{name}.toml"
    plan = json.loads(subprocess.run([minke, "train", recipe, "--dry-run", "--json"], check=True, capture_output=True).stdout)
    start = time.monotonic()
    if not skip:
        subprocess.run([minke, "train", recipe], check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - start
    folder = ROOT / "target/attention-study" / name
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    config = json.loads((max(folder.glob("step-*")) / "config.json").read_text())
    curve = [(line["step"], sum(line["held_out"].values()) / len(line["held_out"])) for line in lines if "held_out" in line]
    return dict(
        name=name.upper(), parameters=plan["parameters"], bytes=cache_bytes(config), held_out=lines[-1]["held_out"],
        loss=curve[-1][1], curve=curve, tokens=lines[-1]["tokens"], seconds=seconds,
        rate=sorted(line["tokens_per_s"] for line in lines)[len(lines) // 2],
    )


def table(found):
    sources = list(found[0]["held_out"])
    rows = [["attention", "parameters", "cache bytes/token", "loss held out", *sources, "tokens/s"]]
    rows += [[
        one["name"], f"{one['parameters']:,}", f"{one['bytes']:,}", f"**{one['loss']:.4f}**",
        *(f"{one['held_out'][source]:.3f}" for source in sources), f"{one['rate']:,.0f}",
    ] for one in found]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---" + "|--:" * (len(rows[0]) - 1) + "|")
    return "\n".join(lines)


def panel(at, title, x_title, points, x_of, x_ticks, y_ticks):
    """A frame with its axes; `points` is what is drawn inside, given the two scales."""
    width, height, left, top, inner_w, inner_h = 420, 280, 56, 34, 340, 190
    low, high = y_ticks[0], y_ticks[-1]
    y = lambda value: top + (1 - (value - low) / (high - low)) * inner_h
    out = [f'<g transform="translate({at * width},0)">', f'<text class="t" x="{left}" y="18">{title}</text>']
    for value in y_ticks:
        out.append(f'<path class="g" d="M{left} {y(value):.1f}h{inner_w}"/><text class="e" x="{left - 6}" y="{y(value) + 4:.1f}">{label(round(value, 6))}</text>')
    for value in x_ticks:
        out.append(f'<text class="m" x="{left + x_of(value) * inner_w:.1f}" y="{top + inner_h + 16}">{value:,}</text>')
    out.append(f'<text class="m" x="{left + inner_w / 2}" y="{height - 18}">{x_title}</text>')
    return out + points(lambda value: left + x_of(value) * inner_w, y) + ["</g>"]


def svg(found):
    most = max(one["bytes"] for one in found) * 1.1
    losses = [one["loss"] for one in found]
    room = (max(losses) - min(losses)) * 0.3 or 0.1
    y_ticks = ticks(min(losses) - room, max(losses) + room)

    def dots(x, y):
        out = []
        for one, colour in zip(found, COLOURS):
            out.append(f'<circle cx="{x(one["bytes"]):.1f}" cy="{y(one["loss"]):.1f}" r="5" fill="{colour}"/>')
            out.append(f'<text x="{x(one["bytes"]) + 9:.1f}" y="{y(one["loss"]) - 6:.1f}" fill="{colour}">{one["name"]} {one["loss"]:.3f}</text>')
        return out

    late = [point for one in found for point in one["curve"]]
    last = max(step for step, _ in late)
    curve_ticks = ticks(min(value for _, value in late) * 0.95, max(value for _, value in late))

    def lines(x, y):
        clip = lambda value: min(max(value, curve_ticks[0]), curve_ticks[-1])
        return [
            f'<polyline stroke="{colour}" points="{" ".join(f"{x(step):.1f},{y(clip(value)):.1f}" for step, value in one["curve"])}"/>'
            for one, colour in zip(found, COLOURS)
        ]

    out = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 840 280" width="840" height="280">',
        "<style>text{font:12px system-ui,sans-serif}.t{font-weight:600}.e{text-anchor:end;fill:#374151}"
        ".m{text-anchor:middle;fill:#374151}.g{stroke:#e5e7eb}polyline{fill:none;stroke-width:1.6}</style>",
        '<rect width="840" height="280" fill="#fff"/>',
    ]
    bytes_ticks = [round(value) for value in ticks(0, most)]
    out += panel(0, "loss held out against cache", "bytes of cache per token (bf16, all layers)", dots, lambda v: v / most, bytes_ticks, y_ticks)
    steps = [round(value) for value in ticks(0, last)]
    out += panel(1, "loss held out over the steps", "steps", lines, lambda v: v / last, steps, curve_ticks)
    return "\n".join(out + ["</svg>", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("minke", type=pathlib.Path)
    parser.add_argument("--skip-training", action="store_true")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs")
    args = parser.parse_args()
    found = [study(args.minke.resolve(), name, args.skip_training) for name in NAMES]
    (args.out / "attention-study.svg").write_text(svg(found))
    print(table(found))
    print(f"\nTraining took {sum(one['seconds'] for one in found) / 60:.1f} minutes; {found[0]['tokens']:,} tokens each.")


if __name__ == "__main__":
    main()
