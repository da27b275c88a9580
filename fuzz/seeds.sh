#!/usr/bin/env bash
# seeds.sh TARGET CORPUS: puts genuine inputs of that parser into the corpus folder (each once).
set -euo pipefail
target=$1 corpus=$2
here=$(cd "$(dirname "$0")/.." && pwd)
boots=$here/swtpm-tests/boots
vectors=$here/../shared/vectors
mkdir -p "$corpus"
take() { for file in "$@"; do if [ -f "$file" ] && [ "$(stat -c %s "$file")" -le 262144 ]; then cp -n "$file" "$corpus/$(sha256sum <"$file" | cut -c1-16)"; fi; done; }
case $target in
  event_log) take "$boots"/*/eventlog.bin "$vectors"/tpm-eventlogs/*.bin "$vectors"/tpm-eventlogs/*.log "$vectors"/tpm-evidence/*.bin "$vectors"/ccel/*.bin ;;
  ima_list) take "$boots"/*/ima.bin "$boots"/*/ima.txt "$vectors"/ima/*.bin "$vectors"/ima/*.txt "$vectors"/ima/*.ascii "$vectors"/ima/fedora-* ;;
  certificate) take "$boots"/*/*-cert.der "$vectors"/ek-certs/*.der "$vectors"/ek-certs/*.bin ;;
  tpm_structures) take "$boots"/*/*.pub "$boots"/*/quote-*/quote.msg "$boots"/*/quote-*/quote.sig "$vectors"/tpm-quotes/*.msg "$vectors"/tpm-quotes/*.sig ;;
  snp_launch)
    for firmware in /usr/share/ovmf/OVMF.fd; do
      [ ! -f "$firmware" ] || tail -c 8192 "$firmware" >"$corpus/ovmf-tail"
    done
    ;;
  snp_report) take "$vectors"/snp/*.report.bin ;;
  vek_certificate) take "$vectors"/snp/*.der "$vectors"/snp/ca/*.der ;;
  tdx_quote) take "$vectors"/tdx/tdx_v*.bin ;;
  tdx_collateral) take "$vectors"/tdx/collateral/*.json ;;
  svsm_manifest) take "$boots"/*/ek-*.pub ;;
  spdm)
    for file in "$vectors"/nvidia/*.report.hex; do
      [ ! -f "$file" ] || xxd -r -p "$file" "$corpus/$(basename "$file" .report.hex)"
    done
    ;;
  hcl_report) take "$vectors"/azure/hcl-*.bin ;;
  corim) take "$vectors"/corim/*/*/*.cbor "$vectors"/corim/*/*/*.corim "$vectors"/corim/*/*.cbor ;;
  authorization | chain | reports)
    for file in "$here"/fuzz/seeds/"$target"-*.hex; do
      xxd -r -p "$file" "$corpus/$(basename "$file" .hex)"
    done
    ;;
  policy_files) take "$here"/fuzz/seeds/policy_files-* "$here"/firmware-policies/sets/*/*.toml "$here"/firmware-policies/sets/*/*/*.toml ;;
  policy_cedar) take "$here"/fuzz/seeds/policy_cedar-* "$here"/firmware-policies/sets/*/*.cedar "$here"/firmware-policies/sets/*/*/*.cedar ;;
  policy_* | security_event | witness) take "$here"/fuzz/seeds/"$target"-* ;;
  grub_config) take "$boots"/*/grub.cfg ;;
  pe_image) take /usr/lib/shim/*.efi /usr/lib/shim/*.efi.signed /usr/lib/systemd/boot/efi/*.stub ;;
  cbor | cose_sign1) take "$vectors"/cose/*/*.cbor "$vectors"/cose/*.cbor "$vectors"/corim/*/*/*.cbor ;;
  cose_encrypt)
    for file in "$here"/verifier/cose/src/encrypt/golden.hex "$here"/verifier/cose/tests/encrypt_foreign.hex; do
      xxd -r -p "$file" "$corpus/$(basename "$file" .hex)"
    done
    ;;
  status_list | receipt | ear) take "$vectors/${target//_/-}"/* "$vectors"/merkle/* ;;
esac
[ -n "$(ls -A "$corpus")" ] || printf '\xa0' >"$corpus/empty-map"
