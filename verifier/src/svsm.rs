//! What a secure VM service module (SVSM) says of the virtual TPM it runs at the most privileged level of an SEV-SNP guest.
//!
//! The module asks for a report at VMPL 0 whose report data are SHA-512(nonce ‖ manifest); the manifest of the vTPM
//! service, version 0, is the endorsement key's TPMT_PUBLIC. So the report endorses the key, and is fresh by its nonce.
//! Source: AMD 58019 (Secure VM Service Module for SEV-SNP Guests), attestation protocol: calls SVSM_ATTEST_SERVICES and
//! SVSM_ATTEST_SINGLE_SERVICE, and the vTPM service's manifest.

use aws_lc_rs::digest::{Context, SHA512};

use crate::tpm::Public;

/// Longest manifest, in bytes.
pub const MAX_MANIFEST: usize = 16 << 10;
/// Most services a manifest may list.
pub const MAX_SERVICES: usize = 32;
/// Services manifest: 63849ebb-3d92-4670-a1ff-58f9c94b87bb, as GUIDs are written to memory.
pub const SERVICES: [u8; 16] = [
    0xBB, 0x9E, 0x84, 0x63, 0x92, 0x3D, 0x70, 0x46, 0xA1, 0xFF, 0x58, 0xF9, 0xC9, 0x4B, 0x87, 0xBB,
];
/// vTPM service: c476f1eb-0123-45a5-9641-b4e7dde5bfe3.
pub const VTPM: [u8; 16] = [
    0xEB, 0xF1, 0x76, 0xC4, 0x23, 0x01, 0xA5, 0x45, 0x96, 0x41, 0xB4, 0xE7, 0xDD, 0xE5, 0xBF, 0xE3,
];
/// GUID, total length, number of services.
const HEAD: usize = 24;
/// GUID, offset, length.
const ENTRY: usize = 24;

touchstone_cose::reason_codes! {
    /// Why what a secure VM service module says was refused.
    pub enum SvsmCode {
        ManifestMalformed = "svsm-manifest-malformed":
            "The manifest does not name exactly one virtual TPM by the public area of its endorsement key. Ask the module for the vTPM service's manifest again.",
        Vmpl = "svsm-vmpl":
            "The report that vouches for the virtual TPM was not made at VMPL 0, where the module runs: the guest may have made it itself.",
    }
}

/// Why bytes are not a manifest that names one virtual TPM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SvsmError {
    /// Too long, too short, or its lengths do not fit.
    #[error("expected {expected}, found {found}")]
    Layout {
        /// What was expected.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// Not exactly one vTPM service.
    #[error("expected one vTPM service, found {found}")]
    Services {
        /// How many are there.
        found: usize,
    },
    /// Its manifest is not the public area of an endorsement key.
    #[error("expected the TPMT_PUBLIC of an endorsement key, found {found}")]
    EndorsementKey {
        /// What is there.
        found: String,
    },
}

/// A manifest that is well formed and names one endorsement key. It counts once a report at VMPL 0 carries
/// [`Manifest::report_data`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest<'a> {
    bytes: &'a [u8],
    endorsement_key: Public,
}

impl<'a> Manifest<'a> {
    /// Reads the manifest of the vTPM service alone, or of all services.
    ///
    /// # Errors
    /// [`SvsmError`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, SvsmError> {
        if bytes.len() > MAX_MANIFEST {
            return Err(layout("at most 16 KiB", format!("{} bytes", bytes.len())));
        }
        let service = match bytes.strip_prefix(&SERVICES) {
            Some(_) => vtpm_service(bytes)?,
            None => bytes,
        };
        let wrong = |found: String| SvsmError::EndorsementKey { found };
        let public = Public::parse(service).map_err(|error| wrong(error.to_string()))?;
        if let Err(error) = public.check_ek() {
            return Err(wrong(error.to_string()));
        }
        Ok(Self {
            bytes,
            endorsement_key: public,
        })
    }

    /// The manifest's bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The virtual TPM's endorsement key.
    pub fn endorsement_key(&self) -> &Public {
        &self.endorsement_key
    }

    /// The report data of the report that endorses it: SHA-512(nonce ‖ manifest).
    pub fn report_data(&self, nonce: &[u8; 64]) -> [u8; 64] {
        let mut context = Context::new(&SHA512);
        context.update(nonce);
        context.update(self.bytes);
        context.finish().as_ref().try_into().unwrap_or([0; 64])
    }
}

fn layout(expected: &'static str, found: String) -> SvsmError {
    SvsmError::Layout { expected, found }
}

/// The vTPM's own manifest within that of all services.
fn vtpm_service(bytes: &[u8]) -> Result<&[u8], SvsmError> {
    let number = |offset: usize| -> Option<usize> {
        let field = bytes.get(offset..)?.first_chunk::<4>()?;
        usize::try_from(u32::from_le_bytes(*field)).ok()
    };
    let (Some(total), Some(count)) = (number(16), number(20)) else {
        return Err(layout(
            "a length and a number of services",
            format!("{} bytes", bytes.len()),
        ));
    };
    if total != bytes.len() {
        return Err(layout(
            "as many bytes as it says",
            format!("{total} for {}", bytes.len()),
        ));
    }
    let end = HEAD + ENTRY * count;
    if count > MAX_SERVICES || end > bytes.len() {
        return Err(layout("at most 32 services within the manifest", count.to_string()));
    }
    let entries = bytes.get(HEAD..end).unwrap_or_default();
    let mut services = Vec::new();
    for (index, entry) in entries.chunks_exact(ENTRY).enumerate() {
        let start = HEAD + ENTRY * index;
        let (offset, len) = (number(start + 16).unwrap_or(0), number(start + 20).unwrap_or(0));
        let data = offset
            .checked_add(len)
            .filter(|_| offset >= end)
            .and_then(|stop| bytes.get(offset..stop))
            .ok_or_else(|| {
                layout(
                    "a service behind the list and within it",
                    format!("{len} bytes at {offset}"),
                )
            })?;
        if entry.starts_with(&VTPM) {
            services.push(data);
        }
    }
    match services.as_slice() {
        [service] => Ok(service),
        other => Err(SvsmError::Services { found: other.len() }),
    }
}
