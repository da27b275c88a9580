#!/usr/bin/env bash
# Installs what is missing on Debian 12, as root or with sudo; elsewhere it prints the command and stops.
set -euo pipefail
cd "$(dirname "$0")/.."
. setup/env.sh

pinned=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml | head -1)

rust_is_new_enough() {
  command -v cargo >/dev/null && command -v rustc >/dev/null || return 1
  local have
  have=$(rustc --version 2>/dev/null | awk '{print $2}') || return 1
  [ -n "$have" ] && [ "$(printf '%s\n%s\n' "$pinned" "$have" | sort -V | head -1)" = "$pinned" ]
}

missing=()
need() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'install ok installed' || missing+=("$1"); }
if command -v dpkg-query >/dev/null; then
  for package in gcc g++ libc6-dev make pkg-config ca-certificates git libtss2-dev swtpm swtpm-tools tpm2-tools cryptsetup-bin softhsm2 runc containerd nftables iproute2 nginx-light xxd python3 procps; do need "$package"; done
  rust_is_new_enough || for package in rustc-web cargo-web; do need "$package"; done
elif rust_is_new_enough && command -v swtpm >/dev/null && pkg-config --exists tss2-esys 2>/dev/null; then
  exit 0
else
  echo "This is not a Debian machine. Needed: Rust $pinned or newer, a C compiler, pkg-config, libtss2 (development files), swtpm with swtpm_setup, tpm2-tools, softhsm2."
  exit 1
fi
[ ${#missing[@]} -eq 0 ] && exit 0

command="apt-get install -y --no-install-recommends ${missing[*]}"
release=$(. /etc/os-release && echo "${ID:-}${VERSION_ID:-}")
if [ "$release" != debian12 ]; then
  echo "Made for Debian 12, this is $release. Install these by hand and run again:"
  echo "  $command"
  exit 1
fi
if [ "$(id -u)" = 0 ]; then run=(); elif command -v sudo >/dev/null; then run=(sudo); else
  echo "Not root and no sudo. As root, run this, then try again:"
  echo "  apt-get update && $command"
  exit 1
fi
echo "Installing with apt: ${missing[*]}"
echo "The first build of everything takes about 10 minutes on two cores."
"${run[@]}" apt-get update -qq
"${run[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
. setup/env.sh
# Besides those that are asked for by name above: what tests start, from packages that Debian marks as always there.
for program in xxd python3 kill openssl script unshare setpriv nsenter; do
  type -P "$program" >/dev/null || { echo "$program is still missing after the install"; exit 1; }
done
rust_is_new_enough || { echo "Rust is still older than $pinned after the install: $(rustc --version 2>&1)"; exit 1; }
