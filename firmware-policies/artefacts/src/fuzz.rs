//! What a fuzzer calls: any bytes, no panic, bounded work. The corpora are real images, initrds and packages.

use touchstone_verifier::tpm::HashAlg;

use crate::pe::Image;
use crate::uki::Uki;

/// A PE image, a unified kernel image and a GRUB image.
pub fn image(bytes: &[u8]) {
    if let Ok(image) = Image::parse(bytes) {
        for algorithm in HashAlg::ALL {
            image.authenticode(algorithm);
        }
        let _ = crate::grub::Start::of(&image, "hd0,gpt1");
        crate::pe::shim_version(&image);
    }
    if let Ok(uki) = Uki::parse(bytes) {
        uki.describe();
        let _ = crate::boot::uki_events(&[HashAlg::Sha256], &uki, "x.efi", false);
    }
}

/// An initrd and a Debian package.
pub fn archive(bytes: &[u8]) {
    let _ = crate::cpio::initrd_files(bytes, HashAlg::Sha256);
    let _ = crate::deb::deb_files(bytes, HashAlg::Sha256);
}

/// A GRUB configuration.
pub fn grub_config(bytes: &[u8]) {
    if let Ok(script) = crate::grub::Script::parse(bytes) {
        let files = crate::grub::GrubFiles {
            config: ("/grub.cfg", bytes),
            kernel: b"kernel",
            initrds: &[b"initrd"],
        };
        let _ = script.events(&[HashAlg::Sha256], files);
    }
}

/// An OVMF image, and what an SEV-SNP guest with it is launched from; an ID block with its authentication.
pub fn snp_launch(bytes: &[u8]) {
    use crate::snp_launch::id_block::{ID_BLOCK_LEN, IdBlock, verify};
    use crate::snp_launch::{Kernel, Launch, VcpuType, launch_digest};

    if let Ok(vcpu_type) = VcpuType::parse("EPYC") {
        let kernel = Kernel {
            image: b"kernel",
            initrd: None,
            command_line: "",
        };
        let launch = Launch {
            ovmf: bytes,
            kernel: Some(kernel),
            vcpus: 2,
            vcpu_type,
            guest_features: 1,
        };
        let _ = launch_digest(&launch);
        let _ = launch_digest(&Launch { kernel: None, ..launch });
    }
    if let Some((block, auth)) = bytes.split_at_checked(ID_BLOCK_LEN)
        && let Ok(block) = IdBlock::parse(block)
    {
        let _ = verify(&block, auth);
    }
}
