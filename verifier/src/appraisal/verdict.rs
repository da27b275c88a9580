//! From reasons to a verdict in the words of AR4SI (draft-ietf-rats-ar4si-09, 2.3).

use std::fmt;

use crate::gpu::GpuCode;
use crate::reason::{AppraisalCode, Code, Reason};
use crate::snp::SnpCode;
use crate::tdx::TdxCode;
use crate::tpm::TpmCode;

/// A verdict in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i8)]
pub enum Tier {
    /// Nothing was judged.
    None = 0,
    /// As it should be.
    Affirming = 2,
    /// Something to look at.
    Warning = 32,
    /// Not as it should be.
    Contraindicated = 96,
}

impl Tier {
    /// The word: `none`, `affirming`, `warning`, `contraindicated`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Tier::None => "none",
            Tier::Affirming => "affirming",
            Tier::Warning => "warning",
            Tier::Contraindicated => "contraindicated",
        }
    }

    /// The number in an EAR.
    pub const fn value(self) -> i8 {
        self as i8
    }

    /// The tier with this number: only the four that an EAR's status may have.
    pub fn from_value(value: i64) -> Option<Self> {
        [Tier::None, Tier::Affirming, Tier::Warning, Tier::Contraindicated]
            .into_iter()
            .find(|tier| i64::from(tier.value()) == value)
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The AR4SI trustworthiness vector. None is *no claim*, which never counts as good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TrustVector {
    /// Key 0: is it a machine of the domain?
    pub instance_identity: Option<i8>,
    /// Key 1.
    pub configuration: Option<i8>,
    /// Key 2: did it boot what it should?
    pub executables: Option<i8>,
    /// Key 3.
    pub file_system: Option<i8>,
    /// Key 4: is its hardware genuine?
    pub hardware: Option<i8>,
    /// Key 5.
    pub runtime_opaque: Option<i8>,
    /// Key 6.
    pub storage_opaque: Option<i8>,
    /// Key 7.
    pub sourced_data: Option<i8>,
}

impl TrustVector {
    /// Key, name and value of each aspect, in key order.
    pub fn aspects(&self) -> [(i64, &'static str, Option<i8>); 8] {
        [
            (0, "instance-identity", self.instance_identity),
            (1, "configuration", self.configuration),
            (2, "executables", self.executables),
            (3, "file-system", self.file_system),
            (4, "hardware", self.hardware),
            (5, "runtime-opaque", self.runtime_opaque),
            (6, "storage-opaque", self.storage_opaque),
            (7, "sourced-data", self.sourced_data),
        ]
    }

    /// Sets the aspect with this key; false for an unknown one.
    pub fn set(&mut self, key: i64, value: i8) -> bool {
        let aspect = match key {
            0 => &mut self.instance_identity,
            1 => &mut self.configuration,
            2 => &mut self.executables,
            3 => &mut self.file_system,
            4 => &mut self.hardware,
            5 => &mut self.runtime_opaque,
            6 => &mut self.storage_opaque,
            7 => &mut self.sourced_data,
            _ => return false,
        };
        *aspect = Some(value);
        true
    }
}

/// Recognised, and not known to be compromised.
const RECOGNISED: i8 = 2;
/// Only approved executables during boot.
const APPROVED_BOOT: i8 = 3;
/// Genuine hardware.
const GENUINE: i8 = 2;
/// A configuration that is a known and approved one.
const APPROVED_CONFIGURATION: i8 = 2;
/// A configuration with unacceptable exposures.
const UNSUPPORTABLE: i8 = 96;
/// Memory that nobody outside can read: encrypted.
const ENCRYPTED_MEMORY: i8 = 2;
/// Memory that somebody outside can read.
const VISIBLE_MEMORY: i8 = 96;
/// Contraindicated executables.
const CONTRAINDICATED: i8 = 96;
/// Not recognised.
const NOT_RECOGNISED: i8 = 97;
/// Cryptographic validation failed.
const CRYPTO_FAILED: i8 = 99;

/// What a reason speaks against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aspect {
    /// The evidence itself: nothing in it counts.
    Evidence,
    /// Who it is.
    Identity,
    /// What hardware it has.
    Hardware,
    /// How platform and guest are set up.
    Configuration,
    /// Who can read its memory.
    RuntimeOpaque,
    /// What it booted.
    Executables,
}

/// `confidential` is whether there is a genuine report of a confidential VM: only then are there claims about
/// configuration and memory.
///
/// `machine` is whether anything speaks for a machine: GPUs alone do not, and nothing is claimed about whose they are.
///
/// No reason: affirming. Any reason: contraindicated (we fail closed), with the aspects that it concerns.
pub(super) fn verdict(reasons: &[Reason], confidential: bool, machine: bool) -> (Tier, TrustVector) {
    let against = |aspect| reasons.iter().any(|reason| aspect_of(reason.code) == aspect);
    let mut vector = TrustVector::default();
    if against(Aspect::Evidence) {
        vector.instance_identity = Some(CRYPTO_FAILED);
        return (Tier::Contraindicated, vector);
    }
    let choose = |aspect, good, bad| Some(if against(aspect) { bad } else { good });
    vector.instance_identity =
        choose(Aspect::Identity, RECOGNISED, NOT_RECOGNISED).filter(|value| machine || *value != RECOGNISED);
    vector.executables = choose(Aspect::Executables, APPROVED_BOOT, CONTRAINDICATED);
    vector.hardware = choose(Aspect::Hardware, GENUINE, NOT_RECOGNISED);
    if confidential {
        vector.configuration = choose(Aspect::Configuration, APPROVED_CONFIGURATION, UNSUPPORTABLE);
        vector.runtime_opaque = choose(Aspect::RuntimeOpaque, ENCRYPTED_MEMORY, VISIBLE_MEMORY);
    }
    (
        if reasons.is_empty() {
            Tier::Affirming
        } else {
            Tier::Contraindicated
        },
        vector,
    )
}

fn aspect_of(code: Code) -> Aspect {
    match code {
        Code::Certificate(_) => Aspect::Hardware,
        Code::Snp(code) => match code {
            SnpCode::ReportMalformed
            | SnpCode::VekMalformed
            | SnpCode::VekMissing
            | SnpCode::SignatureInvalid
            | SnpCode::ReportData => Aspect::Evidence,
            SnpCode::Debug | SnpCode::MigrationAgent | SnpCode::AliasCheck => Aspect::RuntimeOpaque,
            SnpCode::PlatformSetting | SnpCode::GuestPolicy => Aspect::Configuration,
            SnpCode::Vmpl | SnpCode::Measurement | SnpCode::GuestIdentity => Aspect::Executables,
            _ => Aspect::Hardware,
        },
        Code::Azure(_) | Code::Svsm(_) => Aspect::Evidence,
        Code::Tdx(code) => match code {
            TdxCode::QuoteMalformed | TdxCode::SignatureInvalid | TdxCode::ReportData => Aspect::Evidence,
            TdxCode::Debug | TdxCode::Attributes | TdxCode::ServiceTd | TdxCode::Measurement | TdxCode::Rtmr => {
                Aspect::Executables
            }
            _ => Aspect::Hardware,
        },
        Code::Gpu(code) => match code {
            GpuCode::ReportMalformed
            | GpuCode::CertificatesMissing
            | GpuCode::ChainMalformed
            | GpuCode::SignatureInvalid
            | GpuCode::NonceMismatch
            | GpuCode::DeviceTwice => Aspect::Evidence,
            GpuCode::DriverTooOld
            | GpuCode::VbiosTooOld
            | GpuCode::InsecureMode
            | GpuCode::ReferenceMissing
            | GpuCode::ReferenceMismatch
            | GpuCode::ReferenceOutOfForce
            | GpuCode::MeasurementMismatch => Aspect::Executables,
            _ => Aspect::Hardware,
        },
        Code::Tpm(code) => match code {
            TpmCode::EkTemplate | TpmCode::EkMismatch => Aspect::Hardware,
            TpmCode::AkNotRestricted
            | TpmCode::AkNotSigning
            | TpmCode::AkDecrypts
            | TpmCode::AkNotFixed
            | TpmCode::AkOriginExternal
            | TpmCode::AkSchemeNull
            | TpmCode::AkKeyWeak
            | TpmCode::CertifyName
            | TpmCode::SessionKeyAttributes
            | TpmCode::SessionKeyPolicy
            | TpmCode::SessionKeyType => Aspect::Identity,
            TpmCode::SelectionMismatch | TpmCode::SelectionMissing | TpmCode::RegisterResettable => Aspect::Executables,
            _ => Aspect::Evidence,
        },
        Code::Appraisal(code) => match code {
            AppraisalCode::EkUnreadable
            | AppraisalCode::EkOther
            | AppraisalCode::EkCertificateMissing
            | AppraisalCode::EkDenied
            | AppraisalCode::FirmwareDenied
            | AppraisalCode::FirmwareUnknown => Aspect::Hardware,
            AppraisalCode::AkAttributesUnknown
            | AppraisalCode::AkOther
            | AppraisalCode::AkNotBound
            | AppraisalCode::NodeUnknown
            | AppraisalCode::NodeAmbiguous
            | AppraisalCode::CvmGuestUnnamed
            | AppraisalCode::EndorsedQuoteMissing
            | AppraisalCode::RootMissing
            | AppraisalCode::RootsNotTogether
            | AppraisalCode::SessionKeyMissing
            | AppraisalCode::SessionKeyMismatch
            | AppraisalCode::SessionKeyNonceMismatch
            | AppraisalCode::SessionKeyStale
            | AppraisalCode::ClockWentBack => Aspect::Identity,
            AppraisalCode::EventLogMissing
            | AppraisalCode::LogUnreadable
            | AppraisalCode::LogSha1Only
            | AppraisalCode::LogDoesNotReplay
            | AppraisalCode::EventDigestMismatch
            | AppraisalCode::SeparatorSmuggled
            | AppraisalCode::EventAfterExit
            | AppraisalCode::ImaLogMissing
            | AppraisalCode::ImaRegisterNotQuoted
            | AppraisalCode::ImaLogUnreadable
            | AppraisalCode::ImaPathUnsafe
            | AppraisalCode::ImaEntryMismatch
            | AppraisalCode::ImaLogDoesNotReplay
            | AppraisalCode::ImaBankWeak
            | AppraisalCode::ImaBootAggregateMismatch
            | AppraisalCode::ImaViolation
            | AppraisalCode::ImaSignatureInvalid
            | AppraisalCode::ImaFileUnknown
            | AppraisalCode::ImaKexec
            | AppraisalCode::ImaEntriesUnavailable
            | AppraisalCode::ReferenceMissing
            | AppraisalCode::ReferenceOutOfForce
            | AppraisalCode::ReferenceIncomplete
            | AppraisalCode::FirmwareCodeMismatch
            | AppraisalCode::FirmwareConfigMismatch
            | AppraisalCode::OptionRomMismatch
            | AppraisalCode::BootApplicationMismatch
            | AppraisalCode::BootConfigurationMismatch
            | AppraisalCode::SecureBootMismatch
            | AppraisalCode::GrubCommandMismatch
            | AppraisalCode::KernelCommandLineMismatch
            | AppraisalCode::BootFileMismatch
            | AppraisalCode::UkiSectionMismatch
            | AppraisalCode::UkiSectionsMismatch
            | AppraisalCode::MokMismatch
            | AppraisalCode::RegisterMismatch => Aspect::Executables,
            _ => Aspect::Evidence,
        },
    }
}
