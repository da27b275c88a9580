# Sourced by the Makefile's recipes: rustup's cargo wins where there is one (rust-toolchain.toml pins it),
# otherwise whatever is on the PATH, such as Debian's rustc-web.
if [ -x "$HOME/.cargo/bin/cargo" ]; then export PATH="$HOME/.cargo/bin:$PATH"; fi
