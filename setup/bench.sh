#!/usr/bin/env bash
# Every figure of docs/src/benchmarks.md, as ratios against the physical limit measured in the same run.
set -euo pipefail
cd "$(dirname "$0")/.."
. setup/env.sh
export TSS2_LOG=all+none

# Some end with an error where a bound is missed: the others are run all the same.
missed=0
bench() {
  cargo bench --locked -p "$@" || { echo "bench.sh: $*: failed" >&2; missed=1; }
}

bench touchstone-verifier --bench appraisal
bench touchstone-verifier --bench references
bench touchstone-verifier --bench ima
bench touchstone-verifier --bench snp
bench touchstone-policies --bench cedar
bench touchstone-policies --bench activation
bench touchstone-authorization --bench decide
bench touchstone --bench reattestation
bench touchstone --bench key_release
bench touchstone --bench federation
# Part 5: enforcers, cascades, what runs. The first takes minutes and raises its limit of open files; the last takes root
# and a cgroup of version 2.
bench touchstone-keybroker --bench fan_out
bench touchstone-keybroker --bench cascade
bench touchstone --bench exec_stop
exit "$missed"
