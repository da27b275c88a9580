#!/usr/bin/env bash
# Licences, bans and sources with cargo-deny; advisories too where their database can be reached.
set -euo pipefail
cd "$(dirname "$0")/.."
. setup/env.sh
if ! command -v cargo-deny >/dev/null && ! [ -x target/tools/bin/cargo-deny ]; then
  echo "Building cargo-deny once, into target/tools (a few minutes on two cores)."
  cargo install --quiet --locked --root target/tools cargo-deny
fi
PATH="$PWD/target/tools/bin:$PATH"
cargo deny --all-features check licenses bans sources
cargo deny --all-features check advisories || echo "advisories: not checked here (database not reachable) or findings above"
