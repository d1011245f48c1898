"""The mean of checkpoints' weights, as a model folder of its own.

    python peers/average.py OUT CHECKPOINT CHECKPOINT ...

Where a run's last stages circle around the same solution, their mean is nearer to it than each of them. Needs torch and
safetensors; OUT gets what `minke` needs of the last checkpoint: config, tokenizer and the mean of all weights.
"""

import argparse
import pathlib
import shutil

from safetensors.torch import load_file, save_file


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("checkpoints", type=pathlib.Path, nargs="+")
    asked = parser.parse_args()
    models = [load_file(folder / "model.safetensors") for folder in asked.checkpoints]
    shapes = [{name: value.shape for name, value in model.items()} for model in models]
    for folder, found in zip(asked.checkpoints, shapes):
        if found != shapes[0]:
            raise SystemExit(f"{folder}: expected the tensors of {asked.checkpoints[0]}, found others")
    asked.out.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(asked.checkpoints[-1] / name, asked.out / name)
    mean = {name: (sum(model[name].double() for model in models) / len(models)).to(value.dtype).contiguous()
            for name, value in models[0].items()}
    save_file(mean, asked.out / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
