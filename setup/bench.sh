#!/usr/bin/env bash
# Every figure of docs/src/benchmarks.md, as ratios against the physical limit measured in the same run.
set -euo pipefail
cd "$(dirname "$0")/.."
. setup/env.sh
export TSS2_LOG=all+none
cargo bench --locked -p touchstone-verifier --bench appraisal
cargo bench --locked -p touchstone-verifier --bench references
cargo bench --locked -p touchstone-verifier --bench ima
cargo bench --locked -p touchstone-verifier --bench snp
cargo bench --locked -p touchstone-policies --bench cedar
cargo bench --locked -p touchstone-authorization --bench decide
cargo bench --locked -p touchstone --bench reattestation
cargo bench --locked -p touchstone --bench key_release
