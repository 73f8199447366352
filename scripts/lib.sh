# Shared by the scripts beside it (source it, do not run it): the root folder, plain output, what a machine must have.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"

say() { printf '\n== %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# need_tools: a Rust toolchain and a C compiler. The compiler is installed from the distribution when we may.
need_tools() {
    [ -x "$HOME/.cargo/bin/cargo" ] && export PATH="$HOME/.cargo/bin:$PATH"
    command -v cargo >/dev/null ||
        die "no Rust toolchain found. Install one (https://rustup.rs), version $(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml) or later, and run this again"
    if ! command -v cc >/dev/null; then
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            say "installing a C compiler (one crate of the cryptography needs it): apt-get install gcc libc6-dev"
            apt-get update -qq && apt-get install -y -qq gcc libc6-dev
        else
            die "no C compiler found (one crate of the cryptography needs it). Install gcc or clang and run this again"
        fi
    fi
}

# target_dir: where cargo puts what it builds.
target_dir() { printf '%s\n' "${CARGO_TARGET_DIR:-$ROOT/target}"; }
