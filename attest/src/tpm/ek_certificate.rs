//! The endorsement key certificate that the TPM's maker wrote to NV memory.

use tss_esapi::constants::PropertyTag;
use tss_esapi::handles::{NvIndexHandle, NvIndexTpmHandle, TpmHandle};
use tss_esapi::interface_types::resource_handles::NvAuth;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::Public;

use touchstone_verifier::x509::der::without_stored_header;
use touchstone_verifier::x509::ek_certificate::{MAX_EK_CHAIN_LEN, read_ek_chain};

use super::error::{TpmError, failed};
use super::{EkKind, Tpm};

/// The longest EK certificate that is read, in bytes. Those seen are 0.8-2 KiB.
pub const MAX_EK_CERTIFICATE: usize = 8192;
/// Where makers put the intermediates.
const EK_CHAIN_INDICES: std::ops::RangeInclusive<u32> = 0x01C0_0100..=0x01C0_01FF;
/// How many of them are looked for.
const MAX_CHAIN_INDICES: u32 = 0x100;
/// How much of an NV index is read or written in one go where the TPM does not say (every TPM can do this much).
pub(super) const NV_CHUNK: usize = 512;

impl Tpm {
    /// The DER certificate of the endorsement key of `kind`, as the maker wrote it to NV memory, padding cut off.
    ///
    /// # Errors
    /// [`TpmError::CertificateMalformed`] when the index holds something else.
    pub fn ek_certificate(&mut self, kind: EkKind) -> Result<Option<Vec<u8>>, TpmError> {
        let index = kind.certificate_index();
        let Some(mut bytes) = self.operation(|tpm| tpm.nv_read_all(index))? else {
            return Ok(None);
        };
        let malformed = |problem| TpmError::CertificateMalformed { index, problem };
        let header = bytes.len() - without_stored_header(&bytes).len();
        bytes.drain(..header);
        let length = der_sequence_length(&bytes).ok_or_else(|| malformed("it does not begin with a DER sequence"))?;
        if length > bytes.len() {
            return Err(malformed("it is cut short"));
        }
        bytes.truncate(length);
        Ok(Some(bytes))
    }

    /// The intermediates above the EK certificates that the maker wrote to NV memory, in the order of their indices
    /// (EK Credential Profile, 2.2.1.5.2): DER one after the other, padding cut off. `None` where there are none, or
    /// where they are not certificates: they are help, and the verifier may do without.
    ///
    /// # Errors
    /// [`TpmError`] when the TPM fails.
    pub fn ek_chain(&mut self) -> Result<Option<Vec<u8>>, TpmError> {
        let first = *EK_CHAIN_INDICES.start();
        let indices = self.operation(|tpm| tpm.handles_from(first, MAX_CHAIN_INDICES))?;
        let mut bytes = Vec::new();
        for index in indices.into_iter().filter(|index| EK_CHAIN_INDICES.contains(index)) {
            match self.operation(|tpm| tpm.nv_read_all(index)) {
                Ok(part) => bytes.extend(part.unwrap_or_default()),
                Err(error @ TpmError::CertificateMalformed { .. }) => {
                    tracing::warn!(%error, "going on without the TPM's intermediates");
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
            if bytes.len() > MAX_EK_CHAIN_LEN {
                tracing::warn!("the TPM's intermediates are longer than any: going on without them");
                return Ok(None);
            }
        }
        match read_ek_chain(&bytes) {
            Ok(chain) if chain.is_empty() => Ok(None),
            Ok(chain) => Ok(Some(chain.iter().flat_map(|c| c.as_der()).copied().collect())),
            Err(error) => {
                tracing::warn!(%error, "going on without the TPM's intermediates");
                Ok(None)
            }
        }
    }

    /// The whole contents of an NV index; `None` when it does not exist or was never written.
    pub(super) fn nv_read_all(&mut self, index: u32) -> Result<Option<Vec<u8>>, TpmError> {
        if !self.exists(index)? {
            return Ok(None);
        }
        let handle = NvIndexTpmHandle::new(index).map_err(failed("NV index"))?;
        let object = self.ctx.tr_from_tpm_public(TpmHandle::NvIndex(handle));
        let mut object = object.map_err(failed("TPM2_NV_ReadPublic"))?;
        let read = self.nv_read_open(index, NvIndexHandle::from(object));
        let closed = self.ctx.tr_close(&mut object).map_err(failed("Esys_TR_Close"));
        let read = read?;
        closed?;
        Ok(read)
    }

    fn nv_read_open(&mut self, index: u32, nv: NvIndexHandle) -> Result<Option<Vec<u8>>, TpmError> {
        let (public, _) = self.ctx.nv_read_public(nv).map_err(failed("TPM2_NV_ReadPublic"))?;
        let size = public.data_size();
        if !public.attributes().written() {
            return Ok(None);
        }
        if size > MAX_EK_CERTIFICATE {
            return Err(TpmError::CertificateMalformed {
                index,
                problem: "it is longer than 8192 bytes",
            });
        }
        // By the index itself where that is allowed: the owner hierarchy may have a password.
        let auth = if public.attributes().auth_read() {
            NvAuth::NvIndex(nv)
        } else {
            NvAuth::Owner
        };
        let chunk = self
            .ctx
            .get_tpm_property(PropertyTag::NvBufferMax)
            .map_err(failed("TPM2_GetCapability"))?;
        let chunk = chunk
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| (1..=NV_CHUNK).contains(n));
        let chunk = chunk.unwrap_or(NV_CHUNK);
        let mut bytes = Vec::with_capacity(size);
        while bytes.len() < size {
            let (Ok(offset), Ok(wanted)) = (u16::try_from(bytes.len()), u16::try_from(chunk.min(size - bytes.len())))
            else {
                break;
            };
            let part = self
                .ctx
                .execute_with_session(Some(AuthSession::Password), |ctx| ctx.nv_read(auth, nv, wanted, offset))
                .map_err(failed("TPM2_NV_Read"))?;
            if part.value().is_empty() {
                return Err(TpmError::CertificateMalformed {
                    index,
                    problem: "the TPM stopped answering midway",
                });
            }
            bytes.extend_from_slice(part.value());
        }
        Ok(Some(bytes))
    }
}

/// Whether the certificate's subject key is `public`. Says nothing about who signed it: that is the verifier's.
pub(super) fn certifies(certificate: &[u8], public: &Public) -> bool {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(certificate) else {
        return false;
    };
    let subject_key: &[u8] = &certificate.public_key().subject_public_key.data;
    match public {
        // RSAPublicKey ::= SEQUENCE { modulus, publicExponent }; also under RSAES-OAEP's identifier. The modulus alone
        // is 256 bytes that nobody else has.
        Public::Rsa { unique, .. } => {
            let modulus = unique.value();
            !modulus.is_empty() && subject_key.windows(modulus.len()).any(|part| part == modulus)
        }
        // The uncompressed point, SEC 1 2.3.3.
        Public::Ecc { unique, .. } => {
            let mut point = vec![4];
            point.extend_from_slice(unique.x().value());
            point.extend_from_slice(unique.y().value());
            subject_key == point
        }
        _ => false,
    }
}

/// The length in bytes of the DER SEQUENCE that `bytes` begins with, header included (X.690 8.1.3, definite lengths
/// of up to three octets: NV indices are at most 64 KiB).
fn der_sequence_length(bytes: &[u8]) -> Option<usize> {
    let octets = |n: usize| bytes.get(2..2 + n);
    let length = |octets: &[u8]| octets.iter().fold(0usize, |sum, octet| sum << 8 | usize::from(*octet));
    match bytes.first_chunk::<2>()? {
        [0x30, short @ 0..=0x7F] => Some(2 + usize::from(*short)),
        [0x30, long @ 0x81..=0x83] => {
            let count = usize::from(*long & 0x7F);
            Some(2 + count + length(octets(count)?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_certificate_is_read_from_its_header() {
        for (bytes, length) in [
            (&[0x30, 0x03, 1, 2, 3, 0xFF, 0xFF][..], Some(5)),
            (&[0x30, 0x81, 0x80][..], Some(131)),
            (&[0x30, 0x82, 0x03, 0xF8][..], Some(1020)),
            (&[0x30, 0x83, 0x01, 0x00, 0x00][..], Some(65541)),
            (&[0x30, 0x80, 0, 0][..], None),
            (&[0x30, 0x84, 0, 0, 0, 1][..], None),
            (&[0x30, 0x82, 0x03][..], None),
            (&[0x31, 0x03, 1, 2, 3][..], None),
            (&[0x30][..], None),
            (&[][..], None),
            (&[0xFF; 64][..], None),
        ] {
            assert_eq!(der_sequence_length(bytes), length, "{bytes:02x?}");
        }
    }
}
