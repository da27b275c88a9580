//! The report's 1184 bytes, read in place (AMD 56860, table 23).

use super::guest_policy::{GuestPolicy, PlatformInfo};

/// Length of a report, in bytes.
pub const REPORT_LEN: usize = 0x4A0;
/// How much of it is signed: everything before the signature.
pub const SIGNED_LEN: usize = 0x2A0;
/// Versions this module reads.
pub const VERSIONS: std::ops::RangeInclusive<u32> = 2..=5;
/// Length of a component of the signature, in bytes: P-384.
const SCALAR: usize = 48;
/// Length of the field that holds it.
const SCALAR_FIELD: usize = 72;

/// Why bytes are not a report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// Another length.
    #[error("a report has {REPORT_LEN} bytes, found {found}")]
    Length {
        /// Bytes given.
        found: usize,
    },
    /// A version this module does not read.
    #[error("expected a report of version 2 to 5, found version {found}")]
    Version {
        /// The version found.
        found: u32,
    },
    /// A reserved field that is not zero, or a fixed bit without its value.
    #[error("reserved field {field} at offset {offset:#05x} holds something")]
    Reserved {
        /// The field.
        field: &'static str,
        /// Where it begins.
        offset: usize,
    },
    /// Another signature algorithm than ECDSA P-384 with SHA-384.
    #[error("expected signature algorithm 1 (ECDSA P-384 with SHA-384), found {found}")]
    Algorithm {
        /// The number found.
        found: u32,
    },
    /// SIGNING_KEY has a reserved value.
    #[error("expected signing key 0 (VCEK), 1 (VLEK) or 7 (none), found {found}")]
    SigningKey {
        /// The value found.
        found: u8,
    },
    /// r or s is longer than 48 bytes or zero.
    #[error("the signature's {field} is outside the range of P-384")]
    Scalar {
        /// `r` or `s`.
        field: &'static str,
    },
}

/// Which kind of key signed a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SigningKey {
    /// The chip's own key, derived from its security versions.
    Vcek,
    /// A key AMD made for a cloud provider.
    Vlek,
    /// None: the signature field means nothing.
    None,
}

/// A report that is well formed. Whether it is true is said by [`super::VerifiedReport`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report<'a> {
    bytes: &'a [u8; REPORT_LEN],
    version: u32,
    signing_key: SigningKey,
}

impl<'a> Report<'a> {
    /// Reads a report of exactly [`REPORT_LEN`] bytes.
    ///
    /// # Errors
    /// [`ReportError`] for another length or version, or where what must be zero is not.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ReportError> {
        let bytes: &[u8; REPORT_LEN] = bytes
            .try_into()
            .map_err(|_| ReportError::Length { found: bytes.len() })?;
        let mut report = Self {
            bytes,
            version: 0,
            signing_key: SigningKey::None,
        };
        report.version = report.u32(0x000);
        if !VERSIONS.contains(&report.version) {
            return Err(ReportError::Version { found: report.version });
        }
        match report.u32(0x034) {
            1 => {}
            found => return Err(ReportError::Algorithm { found }),
        }
        let flags = report.u32(0x048);
        report.signing_key = match (flags >> 2 & 0b111) as u8 {
            0 => SigningKey::Vcek,
            1 => SigningKey::Vlek,
            7 => SigningKey::None,
            found => return Err(ReportError::SigningKey { found }),
        };
        if flags >> 5 != 0 {
            return Err(ReportError::Reserved {
                field: "flags",
                offset: 0x048,
            });
        }
        if !report.policy().is_well_formed() {
            return Err(ReportError::Reserved {
                field: "POLICY",
                offset: 0x008,
            });
        }
        let cpuid = if report.version >= 3 { 0x18B } else { 0x188 };
        let mitigations = if report.version >= 5 { 0x208 } else { 0x1F8 };
        for (offset, end) in [
            (0x04C, 0x050),
            (cpuid, 0x1A0),
            (0x1EB, 0x1EC),
            (0x1EF, 0x1F0),
            (mitigations, SIGNED_LEN),
            (SIGNED_LEN + 2 * SCALAR_FIELD, REPORT_LEN),
        ] {
            if report
                .bytes
                .get(offset..end)
                .unwrap_or_default()
                .iter()
                .any(|byte| *byte != 0)
            {
                return Err(ReportError::Reserved {
                    field: "reserved bytes",
                    offset,
                });
            }
        }
        Ok(report)
    }

    /// The bytes that are signed.
    pub fn signed(&self) -> &'a [u8] {
        self.bytes.get(..SIGNED_LEN).unwrap_or_default()
    }

    /// r ‖ s, big-endian, 48 bytes each.
    ///
    /// # Errors
    /// [`ReportError::Scalar`] where one is zero or does not fit; that it is below the group order is checked where the
    /// signature is.
    pub fn signature(&self) -> Result<[u8; 2 * SCALAR], ReportError> {
        let mut out = [0; 2 * SCALAR];
        for (index, field) in ["r", "s"].into_iter().enumerate() {
            let start = SIGNED_LEN + index * SCALAR_FIELD;
            let scalar = self.bytes.get(start..start + SCALAR).unwrap_or_default();
            let rest = self.bytes.get(start + SCALAR..start + SCALAR_FIELD).unwrap_or_default();
            if rest.iter().any(|byte| *byte != 0) || scalar.iter().all(|byte| *byte == 0) {
                return Err(ReportError::Scalar { field });
            }
            out.iter_mut()
                .skip(index * SCALAR)
                .zip(scalar.iter().rev())
                .for_each(|(to, from)| *to = *from);
        }
        Ok(out)
    }

    /// VERSION.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// GUEST_SVN, of the guest's id block.
    pub fn guest_svn(&self) -> u32 {
        self.u32(0x004)
    }

    /// POLICY.
    pub fn policy(&self) -> GuestPolicy {
        GuestPolicy(self.u64(0x008))
    }

    /// FAMILY_ID, 16 bytes.
    pub fn family_id(&self) -> &'a [u8] {
        self.field(0x010, 16)
    }

    /// IMAGE_ID, 16 bytes.
    pub fn image_id(&self) -> &'a [u8] {
        self.field(0x020, 16)
    }

    /// VMPL the report was asked for from.
    pub fn vmpl(&self) -> u32 {
        self.u32(0x030)
    }

    /// PLATFORM_INFO.
    pub fn platform_info(&self) -> PlatformInfo {
        PlatformInfo(self.u64(0x040))
    }

    /// Whether the digest of the author key is in AUTHOR_KEY_DIGEST.
    pub fn author_key_enabled(&self) -> bool {
        self.u32(0x048) & 1 != 0
    }

    /// Which kind of key signed.
    pub fn signing_key(&self) -> SigningKey {
        self.signing_key
    }

    /// REPORT_DATA, 64 bytes: what the guest asked to be signed.
    pub fn report_data(&self) -> &'a [u8] {
        self.field(0x050, 64)
    }

    /// MEASUREMENT, 48 bytes: the launch digest.
    pub fn measurement(&self) -> &'a [u8] {
        self.field(0x090, 48)
    }

    /// HOST_DATA, 32 bytes: what the host gave at launch.
    pub fn host_data(&self) -> &'a [u8] {
        self.field(0x0C0, 32)
    }

    /// ID_KEY_DIGEST, 48 bytes.
    pub fn id_key_digest(&self) -> &'a [u8] {
        self.field(0x0E0, 48)
    }

    /// AUTHOR_KEY_DIGEST, 48 bytes.
    pub fn author_key_digest(&self) -> &'a [u8] {
        self.field(0x110, 48)
    }

    /// REPORT_ID, 32 bytes.
    pub fn report_id(&self) -> &'a [u8] {
        self.field(0x140, 32)
    }

    /// REPORT_ID_MA, 32 bytes: of the migration agent; all ones where there is none.
    pub fn report_id_ma(&self) -> &'a [u8] {
        self.field(0x160, 32)
    }

    /// CPUID family, model and stepping; none before version 3.
    pub fn cpuid(&self) -> Option<(u8, u8, u8)> {
        match (self.version >= 3, self.field(0x188, 3)) {
            (true, &[family, model, stepping]) => Some((family, model, stepping)),
            _ => None,
        }
    }

    /// CHIP_ID, 64 bytes; all zero where the platform masks it.
    pub fn chip_id(&self) -> &'a [u8] {
        self.field(0x1A0, 64)
    }

    /// Whether the platform masks the chip id.
    pub fn chip_id_masked(&self) -> bool {
        self.chip_id().iter().all(|byte| *byte == 0)
    }

    /// CURRENT_TCB: what runs now.
    pub fn current_tcb(&self) -> [u8; 8] {
        self.u64(0x038).to_le_bytes()
    }

    /// REPORTED_TCB: what the signing key was derived from.
    pub fn reported_tcb(&self) -> [u8; 8] {
        self.u64(0x180).to_le_bytes()
    }

    /// COMMITTED_TCB: what the platform can not go back below.
    pub fn committed_tcb(&self) -> [u8; 8] {
        self.u64(0x1E0).to_le_bytes()
    }

    /// LAUNCH_TCB: what ran when the guest was launched.
    pub fn launch_tcb(&self) -> [u8; 8] {
        self.u64(0x1F0).to_le_bytes()
    }

    /// Firmware version that runs: major, minor, build.
    pub fn current_version(&self) -> (u8, u8, u8) {
        self.firmware(0x1E8)
    }

    /// Firmware version the platform can not go back below: major, minor, build.
    pub fn committed_version(&self) -> (u8, u8, u8) {
        self.firmware(0x1EC)
    }

    /// LAUNCH_MIT_VECTOR and CURRENT_MIT_VECTOR: mitigations in place at launch and now; none before version 5.
    pub fn mitigations(&self) -> Option<(u64, u64)> {
        (self.version >= 5).then(|| (self.u64(0x1F8), self.u64(0x200)))
    }

    fn firmware(&self, offset: usize) -> (u8, u8, u8) {
        match self.field(offset, 3) {
            &[build, minor, major] => (major, minor, build),
            _ => (0, 0, 0),
        }
    }

    fn field(&self, offset: usize, len: usize) -> &'a [u8] {
        self.bytes.get(offset..offset + len).unwrap_or_default()
    }

    fn u32(&self, offset: usize) -> u32 {
        self.field(offset, 4).try_into().map_or(0, u32::from_le_bytes)
    }

    fn u64(&self, offset: usize) -> u64 {
        self.field(offset, 8).try_into().map_or(0, u64::from_le_bytes)
    }
}
