#!/usr/bin/env bash
# Genuine boots: a virtual machine with Secure Boot, a TPM and IMA attests to a broker (docs/src/genuine-boot.md).
set -euo pipefail
cd "$(dirname "$0")/.."
. setup/env.sh
export TSS2_LOG=all+none
TOUCHSTONE_BOOT_FILES=$(setup/boot-files.sh)
export TOUCHSTONE_BOOT_FILES
# The command that runs in the guest.
cargo build --locked --workspace --bin touchstone
cargo test --locked --workspace --test tests vm_boot -- --nocapture
