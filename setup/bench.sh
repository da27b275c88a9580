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
cargo bench --locked -p touchstone-policies --bench activation
cargo bench --locked -p touchstone-authorization --bench decide
cargo bench --locked -p touchstone --bench reattestation
cargo bench --locked -p touchstone --bench key_release
cargo bench --locked -p touchstone --bench federation
# Part 5: enforcers, cascades, what runs. The first takes minutes and raises its limit of open files; the last takes root
# and a cgroup of version 2.
cargo bench --locked -p touchstone-keybroker --bench fan_out
cargo bench --locked -p touchstone-keybroker --bench cascade
cargo bench --locked -p touchstone --bench exec_stop
