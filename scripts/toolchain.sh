# Sourced by the entries beside it: makes sure that xtask itself can be compiled.
if ! command -v cargo >/dev/null 2>&1 && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
    PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
    export PATH
fi
if ! command -v cargo >/dev/null 2>&1; then
    echo "cargo is missing: install Rust 1.95 or later with rustup, then start this again." >&2
    exit 1
fi
if ! command -v cc >/dev/null 2>&1; then
    echo "Installing gcc and libc6-dev: Rust programs are linked with them." >&2
    if [ "$(id -u)" = 0 ]; then sudo=; else sudo=sudo; fi
    $sudo apt-get -q update >&2
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qy install --no-install-recommends gcc libc6-dev >&2
fi
