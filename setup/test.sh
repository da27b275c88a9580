#!/usr/bin/env bash
# Runs every test and ends with one line: the sum of what the runners counted. Skips are named with their reason.
set -euo pipefail
cd "$(dirname "$0")/.."
. setup/env.sh
export TSS2_LOG=all+none
# One build from one state: what an incremental build keeps beside it would only fill the disk.
export CARGO_INCREMENTAL=${CARGO_INCREMENTAL:-0}
skips=$(mktemp) log=$(mktemp)
trap 'rm -f "$skips" "$log"' EXIT
export TOUCHSTONE_SKIPS=$skips
# Genuine boots, where what they need is there or can be had; otherwise they are skipped, with this reason.
if TOUCHSTONE_BOOT_FILES=$(setup/boot-files.sh 2>"$log"); then
  export TOUCHSTONE_BOOT_FILES
else
  unset TOUCHSTONE_BOOT_FILES
  TOUCHSTONE_NO_BOOT_FILES=$(tail -1 "$log")
  export TOUCHSTONE_NO_BOOT_FILES
fi
status=0
cargo test --locked --workspace --no-fail-fast 2>&1 | tee "$log" || status=$?
# A short run of every fuzz target; its last line has the form of the others and is counted with them.
setup/fuzz.sh "${FUZZ_SECONDS:-3}" 2>&1 | tee -a "$log" || status=$?
# Without the `tpm` feature the command must build and link no C TPM library.
cargo build --locked --no-default-features --bin touchstone 2>&1 | tail -3 || status=$?
if ! linked=$(ldd "${CARGO_TARGET_DIR:-target}/debug/touchstone"); then
  echo "the build without the tpm feature is not there to be looked at"
  status=1
elif grep -i tss2 <<<"$linked"; then
  echo "the build without the tpm feature links a C TPM library"
  status=1
fi
echo
if [ -s "$skips" ]; then
  echo "Skipped, with the reason:"
  sort -u "$skips" | sed 's/^/  /'
fi
skipped=$(sort -u "$skips" | wc -l)
awk -v skipped="$skipped" '/^test result:/ { passed += $4; failed += $6; ignored += $8 }
  END { printf "%d passed, %d failed, %d skipped\n", passed, failed, ignored + skipped }' "$log"
exit "$status"
