"""Asks a served model reasoning-gym's own questions through the API, and has the package judge the answers.

usage: python peers/ask_reasoning_gym.py URL [--count 200] [--seed 4242] [--only TASK] [--out FILE]

  minke serve                                                   (tiny, at http://127.0.0.1:8080)
  python peers/ask_reasoning_gym.py http://127.0.0.1:8080/v1

Needs openai 3.54.0 and reasoning-gym 0.1.25. Right is a score of 1.0 for the message's content alone; reasoning is apart
from it, and a think tag in it, or an empty reasoning, is counted. The package's questions and seeds are not those of
training.
"""

import argparse
import json
import math
from concurrent.futures import ThreadPoolExecutor

import openai
import reasoning_gym

# What models/tiny was trained for. The package's own defaults are larger: brackets of 4 digits, products of 5,
# countdown of 6 numbers.
SIZES = [
    ("chain_sum", {}),
    ("basic_arithmetic", {"max_digits": 2}),
    ("basic_arithmetic", {}),
    ("products", {"max_digits": 4}),
    ("gcd", {}),
    ("countdown", {"min_numbers": 3, "max_numbers": 3}),
    ("countdown", {"min_numbers": 4, "max_numbers": 4}),
]


def interval(right, n):
    """Wilson's interval at 95 %."""
    z, p = 1.959964, right / n
    middle, over = p + z * z / (2 * n), 1 + z * z / n
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / over, (middle + half) / over


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("url")
    arguments.add_argument("--count", type=int, default=200)
    arguments.add_argument("--seed", type=int, default=4242)
    arguments.add_argument("--only")
    arguments.add_argument("--out")
    args = arguments.parse_args()
    client = openai.OpenAI(base_url=args.url, api_key="none")
    model = client.models.list().data[0].id
    out = open(args.out, "w") if args.out else None

    def ask(entry):
        reply = client.chat.completions.create(model=model, messages=[{"role": "user", "content": entry["question"]}], temperature=0)
        return entry, reply

    print(f"{'task':<34} {'right':>9} {'share':>7}  95 %            leaks  no reasoning")
    for name, sizes in SIZES:
        if args.only and name != args.only:
            continue
        dataset = reasoning_gym.create_dataset(name, size=args.count, seed=args.seed, **sizes)
        right = leaks = silent = 0
        with ThreadPoolExecutor(16) as pool:
            for entry, reply in pool.map(ask, list(dataset)):
                message = reply.choices[0].message
                content = message.content or ""
                reasoning = getattr(message, "reasoning_content", None) or ""
                score = dataset.score_answer(answer=content.strip(), entry=entry)
                right += score >= 1.0
                leaks += any(tag in content or tag in reasoning for tag in ("<think>", "</think>"))
                silent += not reasoning.strip()
                if out:
                    line = {"task": name, "question": entry["question"], "reasoning": reasoning, "answer": content}
                    out.write(json.dumps({**line, "score": score}) + "\n")
        low, high = interval(right, args.count)
        sized = name + "".join(f" {key}={value}" for key, value in sizes.items())
        if "numbers" in sized:
            sized = f"{name}, {sizes['max_numbers']} numbers"
        print(f"{sized:<34} {right:>4}/{args.count} {right / args.count:>7.1%}  {low:.1%} to {high:.1%}  {leaks:>5}  {silent:>5}", flush=True)


if __name__ == "__main__":
    main()
