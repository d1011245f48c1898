# Sourced by ./minke, ./test and .ci/run: makes sure that a recent cargo and a linker are there, installing what is missing.
# Says what it installs, on stderr; does nothing and says nothing where all is there.

say() { echo "minke: $*" >&2; }

fetch() { # URL: to stdout
  if command -v curl >/dev/null 2>&1; then
    curl --proto '=https' --tlsv1.2 -sSf "$1"
  elif command -v wget >/dev/null 2>&1; then
    wget -qO- "$1"
  else
    say "neither curl nor wget is here; install Rust by hand: https://rustup.rs"
    return 1
  fi
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null 2>&1; then
    sudo "$@"
  else
    say "needs root: $*"
    return 1
  fi
}

ensure_linker() {
  if command -v cc >/dev/null 2>&1; then return 0; fi
  say "no C linker (cc); installing one"
  if command -v apt-get >/dev/null 2>&1; then
    as_root apt-get update -qq >&2
    as_root apt-get install -y -qq gcc libc6-dev >&2
  elif command -v dnf >/dev/null 2>&1; then
    as_root dnf install -y -q gcc >&2
  elif command -v apk >/dev/null 2>&1; then
    as_root apk add -q gcc musl-dev >&2
  else
    say "install a C compiler (macOS: xcode-select --install), then run this again"
    return 1
  fi
}

# Whether version $1 is at least version $2, both as MAJOR.MINOR[.PATCH].
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

ensure_cargo() {
  rust_min=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
  PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
  export PATH
  if ! command -v cargo >/dev/null 2>&1; then
    say "no cargo; installing Rust with rustup"
    fetch https://sh.rustup.rs | sh -s -- -y --quiet --profile minimal --no-modify-path >&2
  fi
  rust_here=$(rustc --version | cut -d ' ' -f 2)
  if at_least "$rust_here" "$rust_min"; then return 0; fi
  if ! command -v rustup >/dev/null 2>&1; then
    say "rustc is $rust_here, Minke needs $rust_min or newer, and there is no rustup to install it"
    return 1
  fi
  say "rustc is $rust_here; installing the stable toolchain (Minke needs $rust_min)"
  rustup toolchain install stable --profile minimal >&2
  RUSTUP_TOOLCHAIN=stable
  export RUSTUP_TOOLCHAIN
}

ensure_linker
ensure_cargo
