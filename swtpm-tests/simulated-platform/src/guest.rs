//! A guest on a simulated platform: what its reports say.

use crate::authority::{Line, Platform, PlatformError};

/// Bytes of a report.
pub const REPORT_LEN: usize = 0x4A0;
/// Bytes of the data a report is asked for over.
pub const DATA_LEN: usize = 64;

/// Where fields of a report begin (AMD 56860, table 23).
pub mod field {
    /// Version, 4 bytes.
    pub const VERSION: usize = 0x000;
    /// Guest policy, 8 bytes.
    pub const POLICY: usize = 0x008;
    /// Privilege level, 4 bytes.
    pub const VMPL: usize = 0x030;
    /// Signature algorithm, 4 bytes.
    pub const SIGNATURE_ALGORITHM: usize = 0x034;
    /// Security versions in use, 8 bytes.
    pub const CURRENT_TCB: usize = 0x038;
    /// Platform info, 8 bytes.
    pub const PLATFORM_INFO: usize = 0x040;
    /// Key info: what signs, 4 bytes.
    pub const KEY_INFO: usize = 0x048;
    /// Report data, 64 bytes.
    pub const REPORT_DATA: usize = 0x050;
    /// Launch measurement, 48 bytes.
    pub const MEASUREMENT: usize = 0x090;
    /// Host data, 32 bytes.
    pub const HOST_DATA: usize = 0x0C0;
    /// Digest of the id key, 48 bytes.
    pub const ID_KEY_DIGEST: usize = 0x0E0;
    /// Security versions that the signing key is derived from, 8 bytes.
    pub const REPORTED_TCB: usize = 0x180;
    /// Combined family and model, and stepping, 3 bytes, from version 3.
    pub const CPUID: usize = 0x188;
    /// Chip id, 64 bytes.
    pub const CHIP_ID: usize = 0x1A0;
    /// Security versions that cannot be gone back behind, 8 bytes.
    pub const COMMITTED_TCB: usize = 0x1E0;
    /// Security versions at launch, 8 bytes.
    pub const LAUNCH_TCB: usize = 0x1F0;
}

/// Debugging allowed, in the guest policy.
pub const POLICY_DEBUG: u64 = 1 << 19;
/// A guest policy that verifiers accept: the reserved bit that is always set, and SMT.
const POLICY: u64 = 0x3_0000;
/// ECC, RAPL off and alias check, in the platform info.
const PLATFORM_INFO: u8 = 0x25;
const MEASUREMENT_BYTE: u8 = 0x3E;

/// A guest: the platform it runs on, and the report it gets, but for report data and signature.
#[derive(Debug)]
pub struct Guest {
    /// The platform.
    pub platform: Platform,
    /// Whether the host gives the certificates of the platform beside a report.
    pub gives_certificates: bool,
    /// What the kernel's driver calls itself: `sev_guest`. A quote of another kind is given as `replay`.
    pub provider: &'static str,
    /// A report that is given whatever is asked, as it is.
    pub replay: Option<Vec<u8>>,
    report: Vec<u8>,
}

impl Guest {
    /// A guest that verifiers accept: report version 3, no debugging, privilege level 0, everything of its line.
    ///
    /// # Errors
    /// [`PlatformError`]
    pub fn new(line: Line, chip: u8) -> Result<Self, PlatformError> {
        Ok(Self::on(Platform::new(&line.vek(chip))?, line, chip))
    }

    /// The same on a platform that is there.
    #[must_use]
    pub fn on(platform: Platform, line: Line, chip: u8) -> Self {
        let mut guest = Self {
            platform,
            gives_certificates: true,
            provider: "sev_guest",
            replay: None,
            report: vec![0; REPORT_LEN],
        };
        let chip = vec![chip; line.chip_id_len()];
        for (offset, value) in [
            (field::VERSION, &[3][..]),
            (field::POLICY, &POLICY.to_le_bytes()),
            (field::SIGNATURE_ALGORITHM, &[1]),
            (field::PLATFORM_INFO, &[PLATFORM_INFO]),
            (field::MEASUREMENT, &[MEASUREMENT_BYTE; 48]),
            (field::CPUID, &line.cpuid()),
            (field::CHIP_ID, &chip),
            (field::CURRENT_TCB, &line.tcb()),
            (field::REPORTED_TCB, &line.tcb()),
            (field::COMMITTED_TCB, &line.tcb()),
            (field::LAUNCH_TCB, &line.tcb()),
        ] {
            guest.set(offset, value);
        }
        guest
    }

    /// Puts `value` at `offset` of every report from now on. What is beyond its end is ignored.
    pub fn set(&mut self, offset: usize, value: &[u8]) {
        let field = self.report.get_mut(offset..offset + value.len());
        if let Some(field) = field {
            field.copy_from_slice(value);
        }
    }

    /// The report over these data, signed.
    ///
    /// # Errors
    /// [`PlatformError`]
    pub fn report(&self, data: &[u8; DATA_LEN]) -> Result<Vec<u8>, PlatformError> {
        if let Some(replay) = &self.replay {
            return Ok(replay.clone());
        }
        let mut report = self.report.clone();
        if let Some(field) = report.get_mut(field::REPORT_DATA..field::REPORT_DATA + DATA_LEN) {
            field.copy_from_slice(data);
        }
        self.platform.sign(&mut report)?;
        Ok(report)
    }

    /// The table of certificates that a host gives beside it (GHCB specification, 4.1.8.1): signing key, intermediate, root.
    #[must_use]
    pub fn certificate_table(&self) -> Vec<u8> {
        const VCEK: u128 = 0x63da758d_e664_4564_adc5_f4b93be8accd;
        const ASK: u128 = 0x4ab7b379_bbac_4fe4_a02f_05aef327c782;
        const ARK: u128 = 0xc0b406a4_a803_4952_9743_3fb6014cd0ae;
        const ENTRY: usize = 24;
        if !self.gives_certificates {
            return Vec::new();
        }
        let parts = [
            (VCEK, &self.platform.vek),
            (ASK, &self.platform.intermediate),
            (ARK, &self.platform.root),
        ];
        let mut offset = ENTRY * (parts.len() + 1);
        let (mut entries, mut data) = (Vec::new(), Vec::new());
        for (guid, part) in parts {
            entries.extend(guid.to_be_bytes());
            for number in [offset, part.len()] {
                entries.extend(u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
            }
            data.extend_from_slice(part);
            offset += part.len();
        }
        entries.extend([0; ENTRY]);
        [entries, data].concat()
    }
}
