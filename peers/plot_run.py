"""The curves of training runs, from their log.jsonl, as one SVG file that a page or README can show.

    python peers/plot_run.py OUT.svg LOG.jsonl[=NAME] ... [--all] [--title TEXT]

One run: a panel for its losses (training, and each source that is held out), and where it has stages of reinforcement
learning panels for reward, answers that are right (in training, and held out by source), length, entropy, KL and clipped
tokens. Several runs: the same panels, a line for each run. --all adds learning rate, gradient norm, load of the experts and
tokens per second. Dashed lines are where a stage begins. A curve of many steps is drawn as the means of neighbours, in a
band from their smallest to their largest. Needs nothing but Python.
"""

import argparse
import html
import json
import math
import pathlib

WIDTH, HEIGHT, MARGIN = 420, 206, dict(left=52, right=14, top=48, bottom=26)
POINTS = 130  # of a curve: more than anybody sees in 350 pixels
COLOURS = ["#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f", "#6b7280", "#92400e"]


def records(path):
    """The whole lines of a log; a run that is still writing may be in the middle of its last."""
    found = []
    for line in path.read_text().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    if not found:
        raise SystemExit(f"{path}: expected lines of JSON, one for each step, found none")
    return found


def series(lines, pick):
    """(step, value) wherever there is a finite one."""
    pairs = ((line["step"], pick(line)) for line in lines)
    return [(step, value) for step, value in pairs if value is not None and math.isfinite(value)]


def held_out(lines):
    """What was evaluated, by source."""
    names = dict.fromkeys(name for line in lines for name in line.get("held_out") or {})
    return {name: series(lines, lambda line, name=name: (line.get("held_out") or {}).get(name)) for name in names}


def mean_of(curves):
    """The mean over curves wherever all have a value."""
    tables = [dict(curve) for curve in curves]
    steps = set.intersection(*(set(table) for table in tables)) if tables else set()
    return [(step, sum(table[step] for table in tables) / len(tables)) for step in sorted(steps)]


def panels(runs, everything):
    """[(title, [(name, curve, is_sparse)])]: what is drawn, panels without a curve left out."""
    single = len(runs) == 1
    made = {}

    def add(title, name, curve, sparse=False):
        if curve:
            made.setdefault(title, []).append((name, curve, sparse))

    for run, lines in runs:
        taught = [line for line in lines if "rl" not in line]
        rewarded = [line for line in lines if "rl" in line]
        name = "training" if single else run
        add("loss (nats per token)", name, series(taught, lambda line: line["loss"]))
        losses, rights = held_out(taught), held_out(rewarded)
        if single:
            for source, curve in losses.items():
                add("loss held out, by source", source, curve, True)
            for source, curve in rights.items():
                add("held-out answers that are right", source, curve, True)
        if len(losses) > 1 or not single:
            add("loss (nats per token)", f"{'held out' if single else run + ', held out'}", mean_of(losses.values()), True)
        if not single:
            add("held-out answers that are right", run, mean_of(rights.values()), True)
        for title, key in [
            ("reward", "reward"), ("answers that are right, in training", "accuracy"), ("tokens of an answer", "length"),
            ("entropy (nats per token)", "entropy"), ("KL (nats per token)", "kl"), ("clipped tokens", "clip_fraction"),
            ("answers cut off", "cut_off"), ("groups of equal rewards", "flat_groups"),
        ]:
            curve = series(rewarded, lambda line, key=key: line["rl"].get(key))
            if key in ("kl", "clip_fraction", "cut_off") and not any(value for _, value in curve):
                continue
            add(title, name, curve)
        if everything:
            add("learning rate", name, series(lines, lambda line: line["lr"]))
            add("norm of the gradient", name, series(lines, lambda line: line["grad_norm"]))
            load = lambda key: series(lines, lambda line: (line.get("expert_load") or {}).get(key))
            add("load of the busiest expert / mean", name, load("max_over_mean"))
            add("tokens per second", name, series(lines, lambda line: line["tokens_per_s"]))
    return list(made.items())


def thinned(curve):
    """[(step, mean, smallest, largest)] of neighbours, at most POINTS of them."""
    size = math.ceil(len(curve) / POINTS)
    found = []
    for first in range(0, len(curve), size):
        part = curve[first:first + size]
        values = [value for _, value in part]
        found.append((part[len(part) // 2][0], sum(values) / len(values), min(values), max(values)))
    return found


def ticks(low, high, n=4):
    """Round numbers from low to high."""
    raw = (high - low) / n
    step = 10 ** math.floor(math.log10(raw))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def label(value):
    if value == 0:
        return "0"
    if abs(value) >= 1e5 or abs(value) < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.4g}"


def bounds(drawn):
    """Smallest and largest of the means, with room; a curve's few wild steps may leave the panel."""
    values = [mean for points in drawn for _, mean, _, _ in points]
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return (0.0 if 0 <= low < (high - low) * 0.5 else low - room), high + room


def panel(title, curves, stages, at):
    inner_w = WIDTH - MARGIN["left"] - MARGIN["right"]
    inner_h = HEIGHT - MARGIN["top"] - MARGIN["bottom"]
    drawn = [thinned(curve) for _, curve, _ in curves]
    low, high = bounds(drawn)
    first = min(points[0][0] for points in drawn)
    last = max(max(points[-1][0] for points in drawn), first + 1)
    x = lambda step: MARGIN["left"] + (step - first) / (last - first) * inner_w
    y = lambda value: MARGIN["top"] + (1 - (min(max(value, low), high) - low) / (high - low)) * inner_h
    point = lambda step, value: f"{x(step):.1f},{y(value):.1f}"
    out = [f'<g transform="translate({at[0]},{at[1]})">', f'<text class="t" x="{MARGIN["left"]}" y="14">{html.escape(title)}</text>']
    for value in ticks(low, high):
        out.append(f'<path class="g" d="M{MARGIN["left"]} {y(value):.1f}h{inner_w}"/>')
        out.append(f'<text class="e" x="{MARGIN["left"] - 5}" y="{y(value) + 3:.1f}">{label(value)}</text>')
    for value in ticks(first, last, 6):
        out.append(f'<text class="m" x="{x(value):.1f}" y="{HEIGHT - 10}">{label(value)}</text>')
    for stage in stages:
        if first < stage < last:
            out.append(f'<path class="s" d="M{x(stage):.1f} {MARGIN["top"]}v{inner_h}"/>')
    left, row = MARGIN["left"], 27
    for i, ((name, curve, sparse), points) in enumerate(zip(curves, drawn)):
        colour = COLOURS[i % len(COLOURS)]
        if not sparse and len(curve) > len(points):
            band = [point(step, most) for step, _, _, most in points] + [point(step, least) for step, _, least, _ in reversed(points)]
            out.append(f'<polygon points="{" ".join(band)}" fill="{colour}" opacity="0.15"/>')
        line = " ".join(point(step, mean) for step, mean, _, _ in points)
        out.append(f'<polyline points="{line}" stroke="{colour}"/>')
        if sparse and len(points) <= 40:
            out += [f'<circle cx="{x(step):.1f}" cy="{y(mean):.1f}" r="1.8" fill="{colour}"/>' for step, mean, _, _ in points]
        if len(curves) > 1 or name != "training":
            width = 5.4 * len(name) + 18
            if left + width > WIDTH:
                left, row = MARGIN["left"], row + 12
            out.append(f'<path d="M{left} {row - 3}h8" stroke="{colour}" stroke-width="2"/>')
            out.append(f'<text class="n" x="{left + 11}" y="{row}">{html.escape(name)}</text>')
            left += width
    return out + ["</g>"]


def svg(runs, everything, title):
    found = panels(runs, everything)
    lines = runs[0][1]
    stages = [b["step"] for a, b in zip(lines, lines[1:]) if a["stage"] != b["stage"]] if len(runs) == 1 else []
    columns, top = min(2, len(found)), 26 if title else 4
    width, height = columns * WIDTH, math.ceil(len(found) / columns) * HEIGHT + top
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        "<style>text{font:11px system-ui,sans-serif;fill:#374151}.t{font-weight:600;font-size:12px}.e{text-anchor:end}"
        ".m{text-anchor:middle}.n{font-size:10px}.g{stroke:#e5e7eb}.s{stroke:#9ca3af;stroke-dasharray:3 3}"
        "polyline{fill:none;stroke-width:1.4;stroke-linejoin:round}</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    if title:
        out.append(f'<text class="t" x="{MARGIN["left"]}" y="17">{html.escape(title)}</text>')
    for i, (name, curves) in enumerate(found):
        out += panel(name, curves, stages, (i % columns * WIDTH, i // columns * HEIGHT + top))
    return "\n".join(out + ["</svg>", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("logs", nargs="+", metavar="LOG.jsonl[=NAME]")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--title", default="")
    args = parser.parse_args()
    runs = []
    for log in args.logs:
        path, _, name = log.partition("=")
        runs.append((name or pathlib.Path(path).resolve().parent.name, records(pathlib.Path(path))))
    args.out.write_text(svg(runs, args.all, args.title))
    print(f"{args.out}: {args.out.stat().st_size} bytes, {sum(len(lines) for _, lines in runs)} steps")


if __name__ == "__main__":
    main()
