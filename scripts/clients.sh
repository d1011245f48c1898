#!/usr/bin/env bash
# The `openai` package, as its users install it, against the server: chat, streams, tools, parsing, responses, errors.
# The model behind the server says what it is told (crates/server/tests/common/scripted.rs). Prints one line per test.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/toolchain.sh

target=${CARGO_TARGET_DIR:-target}
venv=$target/clients
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check openai==3.54.0
cargo build --quiet --locked -p server --example scripted

coproc server { "$target/debug/examples/scripted" 127.0.0.1:0; }
pid=$server_PID
trap 'kill "$pid" 2>/dev/null || true' EXIT
read -r url <&"${server[0]}"
"$venv/bin/python" peers/clients/openai_sdk.py "$url"
