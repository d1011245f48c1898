"""Has reasoning-gym's own verifiers judge Minke's procedural tasks, in that package's wordings.

usage: python peers/judge_tasks.py QUESTIONS_BINARY [COUNT]     (cargo build --example questions -p train; reasoning-gym 0.1.25)

For each task that the package has: every worked answer must score 1.0, every answer with a 1 put after it must not, and
the wording must be the package's: a question with its numbers masked is compared with a masked one of its generator.
"""

import json
import re
import subprocess
import sys

import reasoning_gym

TASKS = ["chain_sum", "basic_arithmetic", "products", "gcd", "number_sorting", "letter_counting", "base_conversion", "countdown"]
STYLES = {"basic_arithmetic": [{"format_style": "simple"}, {"format_style": "natural"}]}


def metadata(question):
    """What the package's verifiers look at beside the answer."""
    check = question["check"]
    if check["kind"] == "countdown":
        return {"numbers": check["numbers"], "target": check["target"]}
    if check["kind"] == "list":
        return {"direction": question["key"].split()[1]}
    return {}


def mask(text):
    """The sentence without what differs from question to question."""
    text = re.sub(r'"[^"]*"', '"#"', text)
    text = text.replace("ascending", "@").replace("descending", "@")
    text = re.sub(r"\b(hexadecimal|binary|base-\d+)( number [0-9a-z]+)?", "BASE", text)
    return re.sub(r"[-(]?[ ]?[-(]*\d[\d ,.()*/+-]*", "#", text)


def main():
    binary, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 500
    for task in TASKS:
        parameters = 'wording = "reasoning_gym"'
        lines = subprocess.run([binary, task, str(count), parameters], capture_output=True, check=True, text=True).stdout
        questions = [json.loads(line) for line in lines.splitlines()]
        known = set()
        for style in STYLES.get(task, [{}]):
            dataset = reasoning_gym.create_dataset(task, size=count, seed=1, **style)
            known |= {mask(entry["question"]) for entry in dataset}
        right = wrong = 0
        for question in questions:
            entry = {"question": question["question"], "answer": question["answer"], "metadata": metadata(question)}
            right += dataset.score_answer(question["answer"], entry) == 1.0
            spoiled = question["answer"].replace("]", ", '1']") if task == "number_sorting" else question["answer"] + "1"
            wrong += dataset.score_answer(spoiled, entry) == 1.0
        strange = {mask(q["question"]) for q in questions} - known
        print(f"{task:18} right {right}/{len(questions)}  spoiled accepted {wrong}  wordings not in the package {len(strange)}")
        for sentence in sorted(strange)[:3]:
            print("   ", repr(sentence))


if __name__ == "__main__":
    main()
