#!/usr/bin/env bash
# Brings what a genuine boot needs and prints the folder it lies in: QEMU is installed with apt where it is missing;
# firmware, boot loaders, kernel and tools are Debian packages that are downloaded and unpacked, not installed.
# Ends with 3, and the reason as the last line of standard error, where they cannot be had here.
set -euo pipefail
cd "$(dirname "$0")/.."

cannot() {
  echo "$1" >&2
  exit 3
}

[ "$(uname -m)" = x86_64 ] || cannot "made for x86-64 machines, this is $(uname -m)"
release=$( (. /etc/os-release && echo "${ID:-}${VERSION_ID:-}") 2>/dev/null || true)
[ "$release" = debian12 ] || cannot "made for Debian 12, this is ${release:-something else}"
if [ "$(id -u)" = 0 ]; then root=(); elif command -v sudo >/dev/null; then root=(sudo -n); else root=(false); fi

# Package lists that are missing or out of date (they name files that are gone) are renewed, and all begins anew, once.
or_with_new_lists() {
  if [ -z "${BOOT_FILES_NEW_LISTS:-}" ] && "${root[@]}" apt-get update -qq >&2; then
    BOOT_FILES_NEW_LISTS=1 setup/boot-files.sh
    exit
  fi
  cannot "$1"
}

image=$(apt-cache depends --important linux-image-cloud-amd64 2>/dev/null | awk '/Depends: linux-image-/ { print $2; exit }')
[ -n "$image" ] || or_with_new_lists "no package linux-image-cloud-amd64 in the package lists"
packages=("$image" busybox-static grub-efi-amd64-signed libwrap0 mtools ovmf shim-signed socat)
# An encrypted root: cryptsetup for the guest and, with mkfs.ext4, for making its disk.
packages+=(cryptsetup-bin e2fsprogs libargon2-1 libcom-err2 libcryptsetup12 libdevmapper1.02.1 libext2fs2 libjson-c5 libpopt0)

if ! command -v qemu-system-x86_64 >/dev/null; then
  echo "Installing with apt: qemu-system-x86" >&2
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends --no-remove qemu-system-x86 >/dev/null ||
    or_with_new_lists "qemu-system-x86 is not installed and cannot be installed here"
fi

# One folder for one set of package contents: the digests are those of the signed package lists.
list=$(apt-get download --print-uris "${packages[@]}" 2>/dev/null | sed "s/^'[^']*' //" | LC_ALL=C sort) || list=
[ "$(wc -l <<<"$list")" = ${#packages[@]} ] || or_with_new_lists "not in the package lists: one of ${packages[*]}"
cache=${CARGO_TARGET_DIR:-target}/boot
folder=$cache/$(sha256sum <<<"$list" | cut -c1-16)
if ! [ -d "$folder" ]; then
  mkdir -p "$cache"
  unpacked=$(mktemp -d "$cache/unpacking.XXXXXX")
  trap 'rm -rf "$unpacked"' EXIT
  mkdir "$unpacked/packages" "$unpacked/root"
  echo "Downloading the packages of a genuine boot, about 40 MB: ${packages[*]}" >&2
  (cd "$unpacked/packages" && apt-get download -qq -o APT::Sandbox::User=root "${packages[@]}" >/dev/null) ||
    or_with_new_lists "the packages cannot be downloaded here: ${packages[*]}"
  for package in "$unpacked"/packages/*.deb; do dpkg-deb -x "$package" "$unpacked/root"; done
  # What was really unpacked, for people who look into a failure.
  (cd "$unpacked/packages" && printf '%s\n' *.deb) >"$unpacked/root/packages.txt"
  mv -T "$unpacked/root" "$folder" 2>/dev/null || [ -d "$folder" ]
fi
(cd "$folder" && pwd)
