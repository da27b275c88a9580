//! The launch digest of an SEV-SNP guest, computed from what QEMU launches it with: the measurement in its reports.
//!
//! Firmware chains one PAGE_INFO structure a page (AMD 56860, SEV Secure Nested Paging Firmware ABI, 8.17.2): the pages
//! of the OVMF image, then those its SEV metadata ask for, then the save area of each virtual processor. Where the
//! guest's kernel is loaded by the hypervisor, a page of hashes binds kernel, initrd and command line.
//!
//! In scope: QEMU with KVM, as its machine types `q35` with `confidential-guest-support=…,kernel-hashes=on` launch. Out of
//! scope, and so not computed: other hypervisors (their initial registers differ, and published tools disagree about
//! them), an SVSM below the firmware, IGVM files.

mod chain;
mod hashes;
pub mod id_block;
pub mod ovmf;
mod vmsa;

use touchstone_verifier::tpm::HashAlg;

use crate::error::ArtefactError;
use chain::Chain;
use hashes::KernelHashes;
use ovmf::{Ovmf, SectionType};

/// Length of a launch digest, in bytes: SHA-384.
pub const DIGEST_LEN: usize = 48;
/// Length of a page, in bytes.
pub const PAGE: usize = 4096;
/// Most virtual processors of a guest: more than KVM runs.
pub const MAX_VCPUS: u32 = 4096;
/// The feature bit that each SNP guest has (SEV_FEATURES, SNPActive).
pub const SNP_ACTIVE: u64 = 1;

/// A launch digest.
pub type LaunchDigest = [u8; DIGEST_LEN];

/// A type of virtual processor, as QEMU names it. Only family, model and stepping count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VcpuType {
    name: &'static str,
    family: u8,
    model: u8,
    stepping: u8,
}

/// QEMU's types: name, highest version, family, model, stepping. `EPYC-IBPB` is a second name of `EPYC-v2`.
const TYPES: [(&str, u8, [u8; 3]); 5] = [
    ("EPYC", 5, [23, 1, 2]),
    ("EPYC-Rome", 5, [23, 49, 0]),
    ("EPYC-Milan", 3, [25, 1, 1]),
    ("EPYC-Genoa", 2, [25, 17, 0]),
    ("EPYC-Turin", 2, [26, 0, 0]),
];

impl VcpuType {
    /// The type of this name, with or without a version (`EPYC-Milan`, `EPYC-Milan-v2`).
    ///
    /// # Errors
    /// [`ArtefactError::NotComputable`] for a type whose signature is not known.
    pub fn parse(name: &str) -> Result<Self, ArtefactError> {
        let known = TYPES.iter().find(|(known, versions, _)| {
            let version = name.strip_prefix(known).and_then(|rest| rest.strip_prefix("-v"));
            let version = version.and_then(|version| version.parse::<u8>().ok());
            name == *known
                || version.is_some_and(|version| {
                    (1..=*versions).contains(&version) && name.ends_with(&format!("-v{version}"))
                })
                || (*known == "EPYC" && name == "EPYC-IBPB")
        });
        known
            .map(|(name, _, [family, model, stepping])| Self {
                name,
                family: *family,
                model: *model,
                stepping: *stepping,
            })
            .ok_or_else(|| {
                let names: Vec<&str> = TYPES.iter().map(|(name, ..)| *name).collect();
                ArtefactError::not_computable(name, format!("known types are {}", names.join(", ")))
            })
    }

    /// Its name, without a version.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// CPUID Fn0000_0001_EAX (AMD 25481).
    fn signature(self) -> u32 {
        let (family, model) = (u32::from(self.family), u32::from(self.model));
        let (base, extended) = (family.min(0xF), family.saturating_sub(0xF));
        extended << 20 | (model >> 4) << 16 | base << 8 | (model & 0xF) << 4 | u32::from(self.stepping)
    }
}

/// A kernel that the hypervisor loads.
#[derive(Debug, Clone, Copy)]
pub struct Kernel<'a> {
    /// The kernel's image, as given to `-kernel`.
    pub image: &'a [u8],
    /// The initrd, as given to `-initrd`.
    pub initrd: Option<&'a [u8]>,
    /// The command line, the very bytes given to `-append`.
    pub command_line: &'a str,
}

/// What a guest is launched with.
#[derive(Debug, Clone, Copy)]
pub struct Launch<'a> {
    /// The firmware: an OVMF image with SEV metadata.
    pub ovmf: &'a [u8],
    /// The kernel, where the hypervisor loads one.
    pub kernel: Option<Kernel<'a>>,
    /// How many virtual processors.
    pub vcpus: u32,
    /// Of which type.
    pub vcpu_type: VcpuType,
    /// SEV_FEATURES: [`SNP_ACTIVE`], and what the host's kernel adds (0x21 with debug swap).
    pub guest_features: u64,
}

/// Computes the launch digest.
///
/// # Errors
/// [`ArtefactError`]: an image without SEV metadata or with sections that are not known, a kernel where the image has no
/// page for its hashes, no or too many processors, features without SNP.
pub fn launch_digest(launch: &Launch<'_>) -> Result<LaunchDigest, ArtefactError> {
    if launch.vcpus == 0 || launch.vcpus > MAX_VCPUS {
        return Err(ArtefactError::malformed(
            "virtual processors",
            format!("1 to {MAX_VCPUS}"),
            launch.vcpus,
        ));
    }
    if launch.guest_features & SNP_ACTIVE == 0 {
        let found = format!("{:#x}", launch.guest_features);
        return Err(ArtefactError::malformed("guest features", "bit 0 (SNP active)", found));
    }
    let ovmf = Ovmf::parse(launch.ovmf)?;
    let hashes = launch.kernel.map(|kernel| KernelHashes::new(&kernel));
    let mut chain = Chain::default();
    chain.image(ovmf.address(), launch.ovmf);
    let mut bound = false;
    for section in ovmf.sections() {
        match (section.kind, &hashes) {
            (SectionType::SecMemory | SectionType::SvsmCaa, _) | (SectionType::KernelHashes, None) => {
                chain.zeros(section.address, section.pages);
            }
            (SectionType::Secrets, _) => chain.secrets(section.address),
            (SectionType::Cpuid, _) => chain.cpuid(section.address),
            (SectionType::KernelHashes, Some(hashes)) => {
                chain.normal(section.address, &hashes.page(ovmf.hash_table(section)?));
                bound = true;
            }
        }
    }
    if hashes.is_some() && !bound {
        return Err(ArtefactError::not_computable(
            "kernel",
            "the firmware has no page for hashes, so nothing binds the kernel: use an image built for SEV kernel hashes",
        ));
    }
    let first = vmsa::page(vmsa::RESET_VECTOR, launch.vcpu_type.signature(), launch.guest_features);
    chain.vmsa(&first);
    if launch.vcpus > 1 {
        let reset = ovmf.reset_vector()?;
        let others = vmsa::page(reset, launch.vcpu_type.signature(), launch.guest_features);
        // Each has the same page: its digest is needed once.
        let digest = sha384(&[&others]);
        (1..launch.vcpus).for_each(|_| chain.vmsa_digest(&digest));
    }
    Ok(chain.finish())
}

fn sha384(parts: &[&[u8]]) -> LaunchDigest {
    let digest = HashAlg::Sha384.digest(parts.iter().copied());
    digest.as_ref().try_into().unwrap_or([0; DIGEST_LEN])
}

#[cfg(test)]
mod tests;
