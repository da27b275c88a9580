#!/usr/bin/env bash
# Every property test over hostile bytes with many more cases than `make test` gives it. Coverage-guided targets land
# with the part of the plan that deepens each parser.
set -euo pipefail
cd "$(dirname "$0")/.."
. setup/env.sh
export PROPTEST_CASES="${PROPTEST_CASES:-20000}"
cargo test --locked --release -p touchstone-cose -p touchstone-evidence -p touchstone-verifier \
  -p touchstone-authorization -p touchstone-ledger
