# Sourced by ./minke, ./test and .ci/run: makes sure that a recent cargo and a linker are there, installing what is missing.
# Says what it installs, on stderr; does nothing and says nothing where all is there.

say() { echo "minke: $*" >&2; }

fetch() { # URL FILE
  if command -v curl >/dev/null 2>&1; then
    curl --proto '=https' --tlsv1.2 -sSfL -o "$2" "$1"
  elif command -v wget >/dev/null 2>&1; then
    wget -qO "$2" "$1"
  else
    say "neither curl nor wget is here"
    return 1
  fi
}

install_rustup() {
  say "installing Rust with rustup"
  installer=$(mktemp)
  if ! fetch https://sh.rustup.rs "$installer"; then
    rm -f "$installer"
    say "could not fetch rustup; install Rust $rust_min or newer by hand (https://rustup.rs), then run this again"
    return 1
  fi
  sh "$installer" -y --quiet --profile minimal --no-modify-path >&2 </dev/null
  rm -f "$installer"
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
    as_root apt-get update -qq >&2 &&
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
  PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
  export PATH
  if command -v cargo >/dev/null 2>&1 && command -v rustc >/dev/null 2>&1; then
    rust_here=$(rustc --version | cut -d ' ' -f 2)
    if at_least "$rust_here" "$rust_min"; then return 0; fi
    say "rustc is $rust_here and Minke needs $rust_min or newer"
  else
    say "no cargo"
  fi
  if command -v rustup >/dev/null 2>&1; then
    say "installing the stable toolchain"
    rustup toolchain install stable --profile minimal >&2 || return 1
    RUSTUP_TOOLCHAIN=stable
    export RUSTUP_TOOLCHAIN
  else
    install_rustup || return 1
  fi
  hash -r # the shell remembers where it found the old ones
}

ensure_linker || exit 1
ensure_cargo || exit 1
