# What an answer is worth: 1 for the right word alone, a little if it stands among others, else nothing.
import json
import sys

for line in sys.stdin:
    sample = json.loads(line)
    said = sample["answer"].strip().strip(".!").lower()
    right = sample["data"]["answer"].lower()
    reward = 1.0 if said == right else 0.3 if right in said.split() else 0.0
    print(json.dumps({"reward": reward}), flush=True)
