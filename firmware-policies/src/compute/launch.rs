//! The launch digest of an SEV-SNP guest, from what QEMU launches it with.

use touchstone_artefacts::snp_launch::id_block::{IdBlock, verify};
use touchstone_artefacts::snp_launch::{Kernel, Launch, VcpuType, launch_digest};
use touchstone_verifier::snp::{GuestPolicyBits, SnpReference};

use super::{Draft, refused};
use crate::error::{PolicyCode, PolicyError};

/// What an SEV-SNP guest is launched with.
#[derive(Debug, Clone)]
pub struct GuestLaunch {
    /// The firmware: an OVMF image with SEV metadata.
    pub ovmf: Vec<u8>,
    /// Kernel, initrd and command line, where QEMU loads them.
    pub kernel: Option<GuestKernel>,
    /// How many virtual processors.
    pub vcpus: u32,
    /// Of which type, as QEMU names it.
    pub vcpu_type: String,
    /// SEV_FEATURES.
    pub guest_features: u64,
    /// The ID block and its authentication, as AMD's firmware takes them.
    pub id_block: Option<(Vec<u8>, Vec<u8>)>,
}

/// A kernel that QEMU loads.
#[derive(Debug, Clone)]
pub struct GuestKernel {
    /// The kernel's image.
    pub image: Vec<u8>,
    /// The initrd.
    pub initrd: Option<Vec<u8>>,
    /// The command line, as it is given to QEMU.
    pub command_line: String,
}

/// Sets the guest of a reference. What the base states beside the measurement stays, its floors above all; an ID block
/// states what the guest's owner signed.
pub(super) fn apply(guest: &GuestLaunch, draft: &mut Draft) -> Result<(), PolicyError> {
    let fault = |error| refused("launch", &error);
    let vcpu_type = VcpuType::parse(&guest.vcpu_type).map_err(fault)?;
    let launch = Launch {
        ovmf: &guest.ovmf,
        kernel: guest.kernel.as_ref().map(|kernel| Kernel {
            image: &kernel.image,
            initrd: kernel.initrd.as_deref(),
            command_line: &kernel.command_line,
        }),
        vcpus: guest.vcpus,
        vcpu_type,
        guest_features: guest.guest_features,
    };
    let measurement = launch_digest(&launch).map_err(fault)?;
    let mut reference = match draft.reference.snp.take() {
        Some(base) => SnpReference { measurement, ..base },
        None => {
            draft.notes.push(
                "no base: the reference states no security versions of the platform, so any that the settings let in will do"
                    .into(),
            );
            SnpReference::of_measurement(measurement)
        }
    };
    if let Some((block, auth)) = &guest.id_block {
        let block = IdBlock::parse(block).map_err(fault)?;
        let signers = verify(&block, auth).map_err(fault)?;
        if block.launch_digest != measurement {
            let (expected, found) = (hex::encode(measurement), hex::encode(block.launch_digest));
            return Err(PolicyError::new(
                PolicyCode::ArtefactRefused,
                "ID block",
                expected,
                found,
            ));
        }
        reference.family_id = Some(block.family_id);
        reference.image_id = Some(block.image_id);
        reference.guest_svn = Some(block.guest_svn);
        reference.policy = Some(GuestPolicyBits {
            value: block.policy,
            mask: u64::MAX,
        });
        reference.id_key_digest = Some(signers.id_key_digest);
        reference.author_key_digest = signers.author_key_digest;
    }
    let kernel = if guest.kernel.is_some() {
        ", a kernel by hash"
    } else {
        ""
    };
    draft.words.push(format!(
        "SEV-SNP guest of {} {}{kernel}, features {:#x}: {}",
        guest.vcpus,
        vcpu_type.name(),
        guest.guest_features,
        hex::encode(measurement)
    ));
    draft.reference.snp = Some(reference);
    Ok(())
}

#[cfg(test)]
mod tests {
    use touchstone_verifier::corim::MachineReference;
    use touchstone_verifier::snp::{Product, Tcb, TcbFloors};

    use crate::compute::{Base, Compute, reference_compute, stage::stage};
    use crate::error::PolicyCode;
    use crate::repository::Repository;
    use crate::testing::{NOW, TestRepo};

    use super::*;

    /// Debian's firmware, and the launch digest of two EPYC-Milan with it, as `sev-snp-measure` computes it.
    const OVMF: &str = "/usr/share/ovmf/OVMF.fd";
    const DIGEST: &str =
        "a175292a4a09fcfb760c5bd80c93ed667dbaafce6247d0f21fc06638658b3ebf2804d3019e2abed05cb6a9efe0a7464e";

    fn guest() -> Option<GuestLaunch> {
        let ovmf = std::fs::read(OVMF).unwrap_or_default();
        let known = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&ovmf)).starts_with("7b456907dd0786d4");
        if !known {
            touchstone_vectors::skip(&format!("{OVMF} is not that of ovmf 2022.11-6+deb12u2"));
        }
        known.then_some(GuestLaunch {
            ovmf,
            kernel: None,
            vcpus: 2,
            vcpu_type: "EPYC-Milan".into(),
            guest_features: 1,
            id_block: None,
        })
    }

    fn published(test: &TestRepo, name: &str) -> MachineReference {
        test.publish(NOW).unwrap();
        let references = test.load(NOW).unwrap().references;
        let all = references.references().iter();
        all.map(|reference| reference.values.clone())
            .find(|values| values.name == name)
            .unwrap()
    }

    #[test]
    fn a_guest_is_stated_alone_and_over_a_golden_one() {
        let Some(guest) = guest() else { return };
        let test = TestRepo::published();
        let compute = Compute {
            guest: Some(guest.clone()),
            ..Compute::default()
        };
        let computed = reference_compute(&test.repo, "alone", &compute).unwrap();
        assert_eq!(computed.measurement.as_deref(), Some(DIGEST));
        assert_eq!(computed.notes.len(), 1);
        let measurement = hex::decode(DIGEST).unwrap().try_into().unwrap();
        let alone = published(&test, "alone");
        assert_eq!(alone.snp, Some(SnpReference::of_measurement(measurement)));
        // What a golden guest showed beside its measurement stays.
        let tcb = Tcb::parse([4, 0, 0, 0, 0, 0, 24, 219], Product::Milan).unwrap();
        let base = SnpReference {
            product: Some(Product::Milan),
            vmpl: Some(0),
            floors: TcbFloors {
                reported: Some(tcb),
                ..TcbFloors::default()
            },
            ..SnpReference::of_measurement([7; 48])
        };
        let golden = MachineReference {
            name: "golden-guest".into(),
            snp: Some(base.clone()),
            ..MachineReference::default()
        };
        stage(&Repository::open(&test.repo).unwrap(), &golden).unwrap();
        let compute = Compute {
            base: Some(Base::Reference("golden-guest".into())),
            ..compute
        };
        reference_compute(&test.repo, "next", &compute).unwrap();
        let next = published(&test, "next");
        assert_eq!(next.snp, Some(SnpReference { measurement, ..base }));
    }

    #[test]
    fn guests_that_can_not_be_computed_are_refused() {
        let Some(guest) = guest() else { return };
        let with = |change: fn(&mut GuestLaunch)| {
            let mut guest = guest.clone();
            change(&mut guest);
            let compute = Compute {
                guest: Some(guest),
                ..Compute::default()
            };
            reference_compute(&TestRepo::published().repo, "new", &compute).map_err(|error| error.code())
        };
        assert!(with(|_| ()).is_ok());
        let rows: [(&str, fn(&mut GuestLaunch)); 5] = [
            ("another type of processor", |guest| guest.vcpu_type = "host".into()),
            ("no processor", |guest| guest.vcpus = 0),
            ("another firmware", |guest| guest.ovmf.truncate(4096)),
            ("a kernel that nothing binds", |guest| {
                guest.kernel = Some(GuestKernel {
                    image: vec![1],
                    initrd: None,
                    command_line: String::new(),
                });
            }),
            ("an ID block that is none", |guest| {
                guest.id_block = Some((vec![0; 96], vec![0; 4096]))
            }),
        ];
        for (what, change) in rows {
            assert_eq!(with(change).unwrap_err(), PolicyCode::ArtefactRefused, "{what}");
        }
    }
}
