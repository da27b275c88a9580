#!/usr/bin/env bash
# Coverage-guided fuzzing of every parser (libFuzzer, on the stable compiler: our code has no unsafe, so what counts is
# panics, hangs and memory, and no sanitizer is needed).
#   setup/fuzz.sh                 every target for 60 seconds
#   setup/fuzz.sh SECONDS         every target for that long
#   setup/fuzz.sh SECONDS TARGET… these targets
# Seeds come from fuzz/seeds.sh: the recorded boots and, where it lies beside the checkout, ../shared/vectors.
set -euo pipefail
cd "$(dirname "$0")/.."
. setup/env.sh
seconds=${1:-60}
[ $# -gt 0 ] && shift
if [ $# -gt 0 ]; then targets=("$@"); else mapfile -t targets < <(basename -s .rs fuzz/fuzz_targets/*.rs); fi
out=${CARGO_TARGET_DIR:-$PWD/target}/fuzz
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table -Ccodegen-units=1"
bins=()
for target in "${targets[@]}"; do bins+=(--bin "$target"); done
# A target triple keeps build scripts and procedural macros free of the instrumentation.
triple=$(rustc -vV | sed -n 's/^host: //p')
CARGO_TARGET_DIR=$out cargo build --quiet --release --locked --manifest-path fuzz/Cargo.toml --target "$triple" "${bins[@]}"
failed=0
for target in "${targets[@]}"; do
  corpus=$out/corpus/$target
  fuzz/seeds.sh "$target" "$corpus"
  if "$out/$triple/release/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=262144 \
      -artifact_prefix="$out/$target-" -print_final_stats=1 "$corpus" >"$out/$target.log" 2>&1; then
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$out/$target.log")
    echo "test fuzz $target ... ok ($runs inputs, $(find "$corpus" -type f | wc -l) kept)"
  else
    echo "test fuzz $target ... FAILED"
    tail -20 "$out/$target.log"
    failed=$((failed + 1))
  fi
done
echo "test result: $([ $failed = 0 ] && echo ok || echo FAILED). $(( ${#targets[@]} - failed )) passed; $failed failed; 0 ignored"
[ "$failed" = 0 ]
