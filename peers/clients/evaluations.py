"""lm-eval's way to a server: prompts as token ids, given back with their log-probabilities.

    python peers/clients/evaluations.py URL TOKENIZER

URL is that of `cargo run -p server --example scripted`, whose model goes on with the alphabet; TOKENIZER is the folder of
its tokenizer, crates/testkit/fixtures/oracles/dsv3. The questions are made here, nothing is fetched.
"""

import json
import os
import sys
import tempfile

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TRANSFORMERS_OFFLINE="1", OPENAI_API_KEY="none")

import lm_eval
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer

url, tokenizer = sys.argv[1:]
CHOICE = """
task: letters_choice
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{text}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
target_delimiter: ""
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
WRITE = """
task: letters_write
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: generate_until
doc_to_text: "{{text}}"
doc_to_target: "{{next}}"
target_delimiter: ""
generation_kwargs: {until: ["STOP"], max_gen_toks: 1, do_sample: false, temperature: 0.0}
metric_list: [{metric: exact_match}]
"""
LIKELY = """
task: letters_likely
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: loglikelihood
doc_to_text: "{{text}}"
doc_to_target: "{{next}}"
target_delimiter: ""
metric_list: [{metric: acc}, {metric: perplexity}]
"""

with tempfile.TemporaryDirectory() as folder:
    letters = "abcdefghijklmnopqrstuvwxyz"
    path = os.path.join(folder, "letters.jsonl")
    encode = AutoTokenizer.from_pretrained(tokenizer).encode
    docs = []
    for text, right in [(letters[i : i + n], letters[i + n]) for n in range(1, 5) for i in range(25 - n)]:
        wrong = letters[(letters.index(right) + 5) % 24]
        # The model writes letter by letter, so what the tokenizer would join is left out.
        if all(len(encode(text + end)) == len(encode(text)) + 1 for end in [right, wrong]):
            turn = 1 - 2 * (len(docs) % 2)
            docs.append({"text": text, "next": right, "choices": [wrong, right][::turn], "answer": 1 - len(docs) % 2})
    assert len(docs) >= 10, docs
    with open(path, "w") as file:
        file.writelines(json.dumps(doc) + "\n" for doc in docs)
    for task in [CHOICE, WRITE, LIKELY]:
        name = task.split()[1]
        with open(os.path.join(folder, name + ".yaml"), "w") as file:
            file.write(task.replace("FILE", path))
    tasks = ["letters_choice", "letters_write", "letters_likely"]
    for batch_size, concurrent in [(1, 1), (7, 3)]:
        args = dict(model="any", base_url=url + "/v1/completions", tokenizer=tokenizer, tokenizer_backend="huggingface",
                    tokenized_requests=True, num_concurrent=concurrent, max_length=1024)
        manager = TaskManager(include_path=folder, include_defaults=False)
        found = lm_eval.simple_evaluate(model="local-completions", model_args=args, tasks=tasks, task_manager=manager,
                                        batch_size=batch_size, bootstrap_iters=0)
        results = found["results"]
        print(json.dumps(results, indent=1, default=str))
        assert results["letters_choice"]["acc,none"] == 1.0 and results["letters_choice"]["acc_norm,none"] == 1.0
        assert results["letters_write"]["exact_match,none"] == 1.0
        assert results["letters_likely"]["acc,none"] == 1.0 and results["letters_likely"]["perplexity,none"] < 1.01
print("lm_eval", lm_eval.__version__, "ok")
