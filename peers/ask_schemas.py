"""Asks a served model for JSON after every schema of some folders, and has jsonschema judge what it writes.

usage: python peers/ask_schemas.py URL FOLDER… [--samples 2] [--max-tokens 400]

  python crates/text/tests/peer/fetch_schemas.py DIR
  minke serve -m RANDOM                                         (any model; one of random weights knows no JSON)
  python peers/ask_schemas.py http://127.0.0.1:8080/v1 DIR/suite/draft2020-12 DIR/store

Needs jsonschema 4.26.0. Temperature is 1. A schema that the server refuses (400) is counted and not judged; so is an answer
that met the limit of its tokens, since it is no whole text. Everything else must be JSON, and valid. Times of masks are the
server's own, from /metrics.
"""

import argparse
import json
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import jsonschema


def schemas(folders):
    for path in sorted(path for folder in folders for path in Path(folder).glob("*.json")):
        document = json.loads(path.read_text())
        groups = [group["schema"] for group in document] if isinstance(document, list) else [document]
        yield from ((path.name, schema) for schema in groups)


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=600) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def judge(schema, text):
    """What is wrong with it, or nothing."""
    try:
        value = json.loads(text)
    except ValueError as error:
        return f"no JSON: {error}"
    try:
        jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)(schema).validate(value)
    except jsonschema.ValidationError as error:
        # The validator divides in binary; the text has decimals.
        numbers = [Decimal(str(number)) for number in (error.instance, error.validator_value)] if error.validator == "multipleOf" else []
        if numbers and numbers[0] % numbers[1] == 0:
            return "unjudged: division"
        return f"invalid: {error.message[:200]}"
    except Exception as error:  # The validator itself fails: references to other documents, patterns of another dialect.
        return f"unjudged: {type(error).__name__}"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=400)
    args = parser.parse_args()
    model = json.load(urllib.request.urlopen(f"{args.url}/models"))["data"][0]["id"]

    def ask(job):
        (name, schema), seed = job
        body = {
            "model": model, "seed": seed, "temperature": 1, "max_tokens": args.max_tokens,
            "messages": [{"role": "user", "content": "Write JSON."}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
        }
        status, reply = post(f"{args.url}/chat/completions", body)
        if status != 200:
            return name, "refused" if status == 400 else f"status {status}: {reply}"
        choice = reply["choices"][0]
        if choice["finish_reason"] == "length":
            return name, "cut"
        return name, judge(schema, choice["message"]["content"] or "") or "valid"

    counts = {}
    jobs = [(schema, seed) for schema in schemas(args.folders) for seed in range(args.samples)]
    with ThreadPoolExecutor(16) as pool:
        for name, verdict in pool.map(ask, jobs):
            kind = verdict.split(":")[0]
            counts[kind] = counts.get(kind, 0) + 1
            if kind not in ("refused", "cut", "valid", "unjudged"):
                print(f"{name}: {verdict}")
    print(f"{len(jobs)} requests: " + ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items())))
    metrics = urllib.request.urlopen(args.url.removesuffix("/v1") + "/metrics").read().decode()
    print("\n".join(line for line in metrics.splitlines() if "mask" in line and not line.startswith("#")))
    sys.exit(any(kind not in ("refused", "cut", "valid", "unjudged") for kind in counts))


if __name__ == "__main__":
    main()
