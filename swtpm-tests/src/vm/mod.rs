//! A virtual machine that really boots: OVMF with Secure Boot, shim, GRUB, Debian's kernel, IMA, a TPM, and in it the
//! command under test (`docs/src/genuine-boot.md`).

pub mod cpio;
pub mod disk;
pub mod files;
pub mod guest;
pub mod initrd;
pub mod machine;
pub mod variables;
