//! Reference values of an SEV-SNP guest: what it must have been launched from, how, and on what.

use std::cmp::Ordering;

use super::check::below_floor;
use super::code::SnpCode;
use super::product::Product;
use super::tcb::{Component, Tcb};
use super::verified::SignedReport;
use crate::corim::Endorses;
use crate::reason::Reason;

/// Length of a launch digest, in bytes.
pub const MEASUREMENT_LEN: usize = 48;

/// Bits of the guest's launch policy that count, and what they must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestPolicyBits {
    /// What they must be.
    pub value: u64,
    /// Which bits count.
    pub mask: u64,
}

impl GuestPolicyBits {
    /// Whether a guest's policy has the bits.
    pub const fn accept(self, policy: u64) -> bool {
        (policy ^ self.value) & self.mask == 0
    }
}

/// Least security versions, by component, of each of a report's TCBs. They are laid out as `product` has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TcbFloors {
    /// Of REPORTED_TCB.
    pub reported: Option<Tcb>,
    /// Of COMMITTED_TCB.
    pub committed: Option<Tcb>,
    /// Of LAUNCH_TCB.
    pub launch: Option<Tcb>,
    /// Of CURRENT_TCB.
    pub current: Option<Tcb>,
}

impl TcbFloors {
    /// Each floor with its name in reference values and that of the report's field.
    pub const fn named(&self) -> [(&'static str, &'static str, Option<Tcb>); 4] {
        [
            ("tcb", "REPORTED_TCB", self.reported),
            ("current-tcb", "CURRENT_TCB", self.current),
            ("committed-tcb", "COMMITTED_TCB", self.committed),
            ("launch-tcb", "LAUNCH_TCB", self.launch),
        ]
    }

    /// A total order for sorting; it says nothing of which is newer, and a [`Tcb`] itself has none.
    fn sorted_by(&self) -> [Option<[Option<u8>; 5]>; 4] {
        let versions = |tcb: Tcb| Component::ALL.map(|component| tcb.get(component));
        self.named().map(|(_, _, floor)| floor.map(versions))
    }
}

impl PartialOrd for TcbFloors {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for TcbFloors {
    fn cmp(&self, other: &Self) -> Ordering {
        self.sorted_by().cmp(&other.sorted_by())
    }
}

/// Fields of a report that a maker's reference may state as they stand there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RawField {
    /// VERSION.
    Version,
    /// GUEST_SVN.
    GuestSvn,
    /// CURRENT_TCB.
    CurrentTcb,
    /// PLATFORM_INFO.
    PlatformInfo,
    /// REPORT_DATA.
    ReportData,
    /// REPORT_ID.
    ReportId,
    /// REPORT_ID_MA.
    ReportIdMa,
    /// REPORTED_TCB.
    ReportedTcb,
    /// CPUID family.
    CpuidFamily,
    /// CPUID model.
    CpuidModel,
    /// CPUID stepping.
    CpuidStepping,
    /// CHIP_ID.
    ChipId,
    /// COMMITTED_TCB.
    CommittedTcb,
    /// Build, minor and major number of the firmware that runs.
    CurrentVersion,
    /// Build, minor and major number of the firmware that was committed.
    CommittedVersion,
    /// LAUNCH_TCB.
    LaunchTcb,
}

impl RawField {
    /// Its name, where it begins and how long it is (AMD 56860, table 23).
    pub const fn place(self) -> (&'static str, usize, usize) {
        match self {
            RawField::Version => ("VERSION", 0x000, 4),
            RawField::GuestSvn => ("GUEST_SVN", 0x004, 4),
            RawField::CurrentTcb => ("CURRENT_TCB", 0x038, 8),
            RawField::PlatformInfo => ("PLATFORM_INFO", 0x040, 8),
            RawField::ReportData => ("REPORT_DATA", 0x050, 64),
            RawField::ReportId => ("REPORT_ID", 0x140, 32),
            RawField::ReportIdMa => ("REPORT_ID_MA", 0x160, 32),
            RawField::ReportedTcb => ("REPORTED_TCB", 0x180, 8),
            RawField::CpuidFamily => ("CPUID_FAM_ID", 0x188, 1),
            RawField::CpuidModel => ("CPUID_MOD_ID", 0x189, 1),
            RawField::CpuidStepping => ("CPUID_STEP", 0x18A, 1),
            RawField::ChipId => ("CHIP_ID", 0x1A0, 64),
            RawField::CommittedTcb => ("COMMITTED_TCB", 0x1E0, 8),
            RawField::CurrentVersion => ("CURRENT_VERSION", 0x1E8, 3),
            RawField::CommittedVersion => ("COMMITTED_VERSION", 0x1EC, 3),
            RawField::LaunchTcb => ("LAUNCH_TCB", 0x1F0, 8),
        }
    }
}

/// What a field must be, bit by bit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RawValue {
    /// The field.
    pub field: RawField,
    /// What it must be, as its bytes stand in a report.
    pub value: Vec<u8>,
    /// Which bits count.
    pub mask: Vec<u8>,
}

impl RawValue {
    /// Whether a field's bytes are as they must be. Of another length they are not.
    fn accepts(&self, found: &[u8]) -> bool {
        let bits = self.value.iter().zip(&self.mask).zip(found);
        self.value.len() == found.len()
            && self.mask.len() == found.len()
            && bits
                .into_iter()
                .all(|((value, mask), found)| (value ^ found) & mask == 0)
    }
}

/// A security version as one number, as AMD's draft profile writes it. Which bytes are which component only the product
/// line of a report says, so it is taken apart when it is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackedFloor {
    /// One of the four TCB fields.
    pub field: RawField,
    /// The eight bytes, little-endian.
    pub least: u64,
}

/// Reference values of one guest. What is none is not compared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnpReference {
    /// MEASUREMENT: the launch digest.
    pub measurement: [u8; MEASUREMENT_LEN],
    /// What a report that matches may vouch for.
    pub endorses: Endorses,
    /// The product line. With floors it must be there: it says what their components are.
    pub product: Option<Product>,
    /// POLICY, under a mask.
    pub policy: Option<GuestPolicyBits>,
    /// Least GUEST_SVN.
    pub guest_svn: Option<u32>,
    /// VMPL.
    pub vmpl: Option<u32>,
    /// Least security versions.
    pub floors: TcbFloors,
    /// FAMILY_ID.
    pub family_id: Option<[u8; 16]>,
    /// IMAGE_ID.
    pub image_id: Option<[u8; 16]>,
    /// HOST_DATA.
    pub host_data: Option<[u8; 32]>,
    /// ID_KEY_DIGEST.
    pub id_key_digest: Option<[u8; 48]>,
    /// AUTHOR_KEY_DIGEST, which must be enabled.
    pub author_key_digest: Option<[u8; 48]>,
    /// Other fields that a maker states.
    pub raw: Vec<RawValue>,
    /// Least security versions that a maker states as numbers.
    pub packed: Vec<PackedFloor>,
}

impl SnpReference {
    /// A reference that states the measurement and nothing else.
    pub const fn of_measurement(measurement: [u8; MEASUREMENT_LEN]) -> Self {
        Self {
            measurement,
            endorses: Endorses::None,
            product: None,
            policy: None,
            guest_svn: None,
            vmpl: None,
            floors: TcbFloors {
                reported: None,
                committed: None,
                launch: None,
                current: None,
            },
            family_id: None,
            image_id: None,
            host_data: None,
            id_key_digest: None,
            author_key_digest: None,
            raw: Vec::new(),
            packed: Vec::new(),
        }
    }

    /// What the report of a golden guest shows: its measurement, launch policy, privilege level, version, ids and keys,
    /// and its security versions as floors. Not its host data, which is the single guest's.
    pub fn of_golden(report: &SignedReport<'_>) -> Self {
        let read = report.report();
        let not_zero = |bytes: &[u8]| bytes.iter().any(|byte| *byte != 0);
        Self {
            product: Some(report.product()),
            policy: Some(GuestPolicyBits {
                value: read.policy().0,
                mask: u64::MAX,
            }),
            guest_svn: Some(read.guest_svn()),
            vmpl: Some(read.vmpl()),
            floors: TcbFloors {
                reported: Some(report.reported_tcb()),
                committed: Some(report.committed_tcb()),
                launch: Some(report.launch_tcb()),
                current: None,
            },
            family_id: Some(fixed(read.family_id())).filter(|id| not_zero(id)),
            image_id: Some(fixed(read.image_id())).filter(|id| not_zero(id)),
            host_data: None,
            id_key_digest: Some(fixed(read.id_key_digest())).filter(|id| not_zero(id)),
            author_key_digest: read.author_key_enabled().then(|| fixed(read.author_key_digest())),
            ..Self::of_measurement(fixed(read.measurement()))
        }
    }

    /// Every difference of a report from this reference, in the order of the fields. None where it matches.
    pub fn mismatches(&self, report: &SignedReport<'_>) -> Vec<Reason> {
        let read = report.report();
        let mut reasons = Vec::new();
        let mut refuse = |code: SnpCode, claim: &str, expected: String, found: String| {
            reasons.push(Reason::new(code, claim, expected, found));
        };
        if let Some(product) = self.product.filter(|product| *product != report.product()) {
            refuse(
                SnpCode::ProductRefused,
                "product",
                product.to_string(),
                report.product().to_string(),
            );
        }
        if let Some(bits) = self.policy.filter(|bits| !bits.accept(read.policy().0)) {
            let expected = format!("{:#x} under the mask {:#x}", bits.value, bits.mask);
            refuse(
                SnpCode::GuestPolicy,
                "POLICY",
                expected,
                format!("{:#x}", read.policy().0),
            );
        }
        if let Some(vmpl) = self.vmpl.filter(|vmpl| *vmpl != read.vmpl()) {
            refuse(SnpCode::Vmpl, "VMPL", vmpl.to_string(), read.vmpl().to_string());
        }
        let identity = SnpCode::GuestIdentity;
        if let Some(svn) = self.guest_svn.filter(|svn| read.guest_svn() < *svn) {
            refuse(
                identity,
                "GUEST_SVN",
                format!("at least {svn}"),
                read.guest_svn().to_string(),
            );
        }
        let author = if read.author_key_enabled() {
            read.author_key_digest()
        } else {
            &[]
        };
        type Exact<'e> = (&'static str, Option<&'e [u8]>, &'e [u8]);
        let exact: [Exact<'_>; 6] = [
            ("MEASUREMENT", Some(&self.measurement), read.measurement()),
            (
                "FAMILY_ID",
                self.family_id.as_ref().map(<[u8; 16]>::as_slice),
                read.family_id(),
            ),
            (
                "IMAGE_ID",
                self.image_id.as_ref().map(<[u8; 16]>::as_slice),
                read.image_id(),
            ),
            (
                "HOST_DATA",
                self.host_data.as_ref().map(<[u8; 32]>::as_slice),
                read.host_data(),
            ),
            (
                "ID_KEY_DIGEST",
                self.id_key_digest.as_ref().map(<[u8; 48]>::as_slice),
                read.id_key_digest(),
            ),
            (
                "AUTHOR_KEY_DIGEST",
                self.author_key_digest.as_ref().map(<[u8; 48]>::as_slice),
                author,
            ),
        ];
        for (claim, wanted, found) in exact {
            if let Some(wanted) = wanted.filter(|wanted| *wanted != found) {
                let code = if claim == "MEASUREMENT" {
                    SnpCode::Measurement
                } else {
                    identity
                };
                refuse(code, claim, hex::encode(wanted), hex::encode(found));
            }
        }
        let found = [
            report.reported_tcb(),
            report.current_tcb(),
            report.committed_tcb(),
            report.launch_tcb(),
        ];
        for ((_, name, floor), found) in self.floors.named().into_iter().zip(found) {
            if let Some(floor) = floor {
                reasons.extend(below_floor(name, &found, &floor));
            }
        }
        for raw in &self.raw {
            let (name, offset, len) = raw.field.place();
            let found = read.signed().get(offset..offset + len).unwrap_or_default();
            if !raw.accepts(found) {
                let expected = format!("{} under the mask {}", hex::encode(&raw.value), hex::encode(&raw.mask));
                reasons.push(Reason::new(identity, name, expected, hex::encode(found)));
            }
        }
        for packed in &self.packed {
            reasons.extend(packed.mismatches(report));
        }
        reasons
    }
}

impl PackedFloor {
    /// The components that are below it; all of it where the product line lays versions out otherwise.
    fn mismatches(self, report: &SignedReport<'_>) -> Vec<Reason> {
        let (name, ..) = self.field.place();
        let found = match self.field {
            RawField::ReportedTcb => report.reported_tcb(),
            RawField::CurrentTcb => report.current_tcb(),
            RawField::CommittedTcb => report.committed_tcb(),
            RawField::LaunchTcb => report.launch_tcb(),
            // Nothing else is a security version: it is never enough.
            _ => {
                return vec![Reason::new(
                    SnpCode::TcbBelowFloor,
                    name,
                    "a security version",
                    "another field",
                )];
            }
        };
        match Tcb::parse(self.least.to_le_bytes(), report.product()) {
            Ok(floor) => below_floor(name, &found, &floor).collect(),
            Err(error) => {
                let expected = format!("{:#018x}, which {error}", self.least);
                vec![Reason::new(SnpCode::TcbBelowFloor, name, expected, found.to_string())]
            }
        }
    }
}

/// A field of a report, whose length its layout fixes.
fn fixed<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().unwrap_or([0; N])
}
