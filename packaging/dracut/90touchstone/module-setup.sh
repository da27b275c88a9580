#!/bin/bash
# dracut module: touchstone opens the encrypted root (dracut.modules(7)).
# Install as /usr/lib/dracut/modules.d/90touchstone; then: dracut --force --add touchstone
# On the kernel's command line: rd.neednet=1 ip=dhcp rd.shell=0 rd.emergency=reboot

check() {
  require_binaries touchstone touchstone-bootstrap cryptsetup || return 1
  # Only where it is asked for by name.
  return 255
}

depends() {
  echo systemd network dm
}

installkernel() {
  hostonly='' instmods =drivers/char/tpm dm_crypt xts ecb aes algif_skcipher
}

install() {
  inst_multiple touchstone touchstone-bootstrap cryptsetup mount mkdir sleep
  # libtss2 loads it by name.
  inst_libdir_file 'libtss2-tcti-device.so*'
  inst_multiple -o /etc/touchstone/agent.toml /etc/touchstone/bootstrap.conf /etc/touchstone/root.json
  # shellcheck disable=SC2154
  inst_simple "$moddir/touchstone-bootstrap.service" "$systemdsystemunitdir/touchstone-bootstrap.service"
  $SYSTEMCTL -q --root "$initdir" add-requires initrd-root-device.target touchstone-bootstrap.service
}
