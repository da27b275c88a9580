//! The launch digest of an SEV-SNP guest, from what QEMU launches it with.

use touchstone_artefacts::snp_launch::id_block::{IdBlock, verify};
use touchstone_artefacts::snp_launch::{Kernel, Launch, VcpuType, launch_digest};
use touchstone_verifier::snp::{GuestPolicyBits, Product, SnpReference, Tcb, TcbFloors};

use super::{Draft, refused};
use crate::error::{PolicyCode, PolicyError};

/// What is told of a reference without security versions.
const NO_FLOOR: &str = "no base and no --tcb: the reference states no security versions of the platform, so machines are refused \
                        unless the settings do (snp.floors)";

/// Reads security versions by component, as the command takes them: `bl=4,tee=0,snp=24,ucode=219`, on Turin with `fmc=`,
/// elsewhere with `product=milan` or `product=genoa` where the type of processor (`EPYC-Milan`) does not say it.
///
/// # Errors
/// What is wrong, in words.
pub fn parse_tcb(text: &str, vcpu_type: &str) -> Result<(Product, Tcb), String> {
    let (mut product, mut versions) = (None, [None; 5]);
    for part in text.split(',') {
        let (key, value) = part
            .split_once('=')
            .ok_or_else(|| format!("{part}: expected KEY=VALUE"))?;
        if key == "product" {
            product = Some(Product::parse(value).ok_or_else(|| format!("{value}: expected milan, genoa or turin"))?);
            continue;
        }
        let slot = ["fmc", "bl", "tee", "snp", "ucode"]
            .iter()
            .position(|known| *known == key);
        let slot = slot
            .and_then(|slot| versions.get_mut(slot))
            .filter(|slot| slot.is_none());
        let version: u8 = value
            .parse()
            .map_err(|_| format!("{part}: expected a version of 0 to 255"))?;
        *slot.ok_or_else(|| format!("{key}: expected bl, tee, snp, ucode, on Turin fmc, each once"))? = Some(version);
    }
    let [fmc, Some(boot_loader), Some(tee), Some(snp), Some(microcode)] = versions else {
        return Err("every one of bl, tee, snp and ucode is needed: one that is left out could be anything".into());
    };
    let of_type = || {
        let line = vcpu_type.strip_prefix("EPYC-")?.split('-').next()?;
        Product::of_certificate(line)
    };
    let product = product
        .or_else(|| fmc.map(|_| Product::Turin))
        .or_else(of_type)
        .ok_or_else(|| format!("{vcpu_type} does not say which product it is: add product=milan or product=genoa"))?;
    if fmc.is_some() != (product == Product::Turin) {
        return Err("fmc is needed on Turin, and only there".into());
    }
    let tcb = Tcb {
        fmc,
        boot_loader,
        tee,
        snp,
        microcode,
    };
    Ok((product, tcb))
}

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
    /// Least security versions of the platform: of what is reported, committed and was there at launch.
    pub floor: Option<(Product, Tcb)>,
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
        None if guest.floor.is_some() => SnpReference::of_measurement(measurement),
        None => {
            draft.notes.push(NO_FLOOR.into());
            SnpReference::of_measurement(measurement)
        }
    };
    if let Some((product, floor)) = guest.floor {
        reference.product = Some(product);
        reference.floors = TcbFloors {
            reported: Some(floor),
            committed: Some(floor),
            launch: Some(floor),
            current: reference.floors.current,
        };
    }
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
            floor: None,
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
    fn security_versions_are_whole_or_refused() {
        let tcb = |fmc| Tcb {
            fmc,
            boot_loader: 4,
            tee: 0,
            snp: 24,
            microcode: 219,
        };
        for (text, vcpu_type, expected) in [
            (
                "bl=4,tee=0,snp=24,ucode=219",
                "EPYC-Milan-v2",
                Some((Product::Milan, None)),
            ),
            (
                "ucode=219,snp=24,tee=0,bl=4",
                "EPYC-Genoa",
                Some((Product::Genoa, None)),
            ),
            (
                "bl=4,tee=0,snp=24,ucode=219,product=genoa",
                "EPYC-v4",
                Some((Product::Genoa, None)),
            ),
            (
                "bl=4,tee=0,snp=24,ucode=219,fmc=1",
                "EPYC-v4",
                Some((Product::Turin, Some(1))),
            ),
            ("bl=4,tee=0,snp=24", "EPYC-Milan", None),
            ("bl=4,tee=0,snp=24,ucode=256", "EPYC-Milan", None),
            ("bl=4,tee=0,snp=24,ucode=219,bl=0", "EPYC-Milan", None),
            ("bl=4,tee=0,snp=24,ucode=219,spl=1", "EPYC-Milan", None),
            ("bl=4,tee=0,snp=24,ucode=219", "EPYC-v4", None),
            ("bl=4,tee=0,snp=24,ucode=219,fmc=1,product=milan", "EPYC-Milan", None),
            ("bl=4,tee=0,snp=24,ucode=219,product=rome", "EPYC-Milan", None),
            ("", "EPYC-Milan", None),
        ] {
            let found = parse_tcb(text, vcpu_type).ok();
            assert_eq!(
                found,
                expected.map(|(product, fmc)| (product, tcb(fmc))),
                "{text} {vcpu_type}"
            );
        }
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
        // With floors it needs no settings.
        let floored = Compute {
            guest: Some(GuestLaunch {
                floor: Some(parse_tcb("bl=4,tee=0,snp=24,ucode=219", "EPYC-Milan").unwrap()),
                ..guest.clone()
            }),
            ..Compute::default()
        };
        let computed = reference_compute(&test.repo, "floored", &floored).unwrap();
        assert!(computed.notes.is_empty(), "{:?}", computed.notes);
        let snp = published(&test, "floored").snp.unwrap();
        assert_eq!(snp.product, Some(Product::Milan));
        assert!(snp.floors.reported.is_some() && snp.floors.committed.is_some() && snp.floors.launch.is_some());
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
        type Row = (&'static str, fn(&mut GuestLaunch));
        let rows: [Row; 5] = [
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
