//! What the attestation key signs: quotes and certifications, as the bytes that travel. And the credential it opens.

use tss_esapi::constants::SessionType;
use tss_esapi::constants::response_code::Tss2ResponseCodeKind as Kind;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{Attest, Data, EncryptedSecret, IdObject, Signature, SignatureScheme};
use tss_esapi::traits::Marshall as _;
use zeroize::Zeroizing;

use super::ak::Ak;
use super::ek::EndorsementKey;
use super::error::{TpmError, failed, kind};
use super::receive_key::ReceiveKey;
use super::selection::{Selection, to_tpm};
use super::session_key::SessionKey;
use super::{Place, Tpm};

/// Something the TPM attested to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attestation {
    /// TPMS_ATTEST: exactly the bytes that were signed.
    pub attested: Vec<u8>,
    /// TPMT_SIGNATURE over them.
    pub signature: Vec<u8>,
    /// The TPM's clock at that moment, as in the attested bytes.
    pub clock: ClockInfo,
}

/// The TPM's clock and counters (TPMS_CLOCK_INFO, part 2, 10.11.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockInfo {
    /// Milliseconds of operation, over the TPM's life.
    pub clock_ms: u64,
    /// How often the TPM was reset (reboots).
    pub reset_count: u32,
    /// How often it was restarted or resumed since.
    pub restart_count: u32,
    /// Whether no greater value of the clock was ever reported.
    pub safe: bool,
}

impl Tpm {
    /// Quotes the selected PCRs with `qualifying` as extraData.
    ///
    /// # Errors
    /// [`TpmError::KeyLost`] after a TPM reset (load the key again), [`TpmError::SelectionInvalid`].
    pub fn quote(&mut self, ak: &Ak, selection: &Selection, qualifying: &[u8]) -> Result<Attestation, TpmError> {
        let selection = to_tpm(selection)?;
        let qualifying = data(qualifying)?;
        self.operation(|tpm| {
            tpm.with_key(ak.ek(), |tpm, salt| {
                tpm.with_key(ak.place(), |tpm, key| {
                    tpm.with_session(salt, SessionType::Hmac, |tpm, session| {
                        tpm.ctx
                            .execute_with_session(Some(session), |ctx| {
                                ctx.quote(key, qualifying, SignatureScheme::Null, selection)
                            })
                            .map_err(failed("TPM2_Quote"))
                    })
                })
            })
        })
        .and_then(attestation)
    }

    /// Certifies with the attestation key that the session key lives in this TPM, with these attributes, now.
    ///
    /// # Errors
    /// [`TpmError::KeyLost`] after a TPM reset (make both keys anew).
    pub fn certify(&mut self, key: &SessionKey, ak: &Ak, qualifying: &[u8; 32]) -> Result<Attestation, TpmError> {
        self.certify_at(key.place(), ak, qualifying)
    }

    /// The same for a receive key.
    ///
    /// # Errors
    /// [`TpmError::KeyLost`] after a TPM reset.
    pub fn certify_receive_key(
        &mut self,
        key: &ReceiveKey,
        ak: &Ak,
        qualifying: &[u8; 32],
    ) -> Result<Attestation, TpmError> {
        self.certify_at(key.place(), ak, qualifying)
    }

    fn certify_at(&mut self, key: &Place, ak: &Ak, qualifying: &[u8; 32]) -> Result<Attestation, TpmError> {
        let qualifying = data(qualifying)?;
        self.operation(|tpm| {
            tpm.with_key(ak.ek(), |tpm, salt| {
                tpm.with_key(ak.place(), |tpm, signer| {
                    tpm.with_key(key, |tpm, object| {
                        tpm.with_session(salt, SessionType::Hmac, |tpm, session| {
                            // The session key's own authorization is its ADMIN role: the empty secret, because
                            // adminWithPolicy is clear.
                            let sessions = (Some(AuthSession::Password), Some(session), None);
                            tpm.ctx
                                .execute_with_sessions(sessions, |ctx| {
                                    ctx.certify(object.into(), signer, qualifying, SignatureScheme::Null)
                                })
                                .map_err(failed("TPM2_Certify"))
                        })
                    })
                })
            })
        })
        .and_then(attestation)
    }

    /// Opens a credential that was made for this endorsement key and this attestation key (TPM2_ActivateCredential).
    ///
    /// `credential_blob` is a TPM2B_ID_OBJECT and `encrypted_secret` a TPM2B_ENCRYPTED_SECRET, each with its length, as
    /// they travel.
    ///
    /// # Errors
    /// [`TpmError::CredentialRejected`] when it was made for other keys.
    pub fn activate_credential(
        &mut self,
        ek: &EndorsementKey,
        ak: &Ak,
        credential_blob: &[u8],
        encrypted_secret: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        let refused = |_| TpmError::CredentialRejected;
        let blob = IdObject::try_from(tpm2b(credential_blob)?).map_err(refused)?;
        let secret = EncryptedSecret::try_from(tpm2b(encrypted_secret)?).map_err(refused)?;
        self.operation(|tpm| {
            tpm.with_key(ak.place(), |tpm, activated| {
                tpm.with_authorized_ek(ek, |tpm, key, session| {
                    // The endorsement key's session also encrypts the answer on its way to us.
                    let sessions = (Some(AuthSession::Password), Some(session), None);
                    tpm.ctx
                        .execute_with_sessions(sessions, |ctx| ctx.activate_credential(activated, key, blob, secret))
                        .map(|digest| Zeroizing::new(digest.value().to_vec()))
                        .map_err(|e| match kind(&e) {
                            Some(
                                Kind::Integrity
                                | Kind::Size
                                | Kind::Insufficient
                                | Kind::Value
                                | Kind::EccPoint
                                | Kind::Failure
                                | Kind::Type,
                            ) => TpmError::CredentialRejected,
                            _ => failed("TPM2_ActivateCredential")(e),
                        })
                })
            })
        })
    }

    /// The TPM's clock and counters now, from an empty-handed quote by `ak` (so they are not obfuscated).
    ///
    /// # Errors
    /// As [`Self::quote`].
    pub fn clock_info(&mut self, ak: &Ak) -> Result<ClockInfo, TpmError> {
        const SHA256: u16 = 0x000B;
        self.quote(ak, &[(SHA256, vec![0])], &[]).map(|quote| quote.clock)
    }
}

/// The contents of a TPM2B structure: a 16-bit big-endian length and exactly that many bytes.
fn tpm2b(bytes: &[u8]) -> Result<&[u8], TpmError> {
    match bytes.split_first_chunk::<2>() {
        Some((size, contents)) if usize::from(u16::from_be_bytes(*size)) == contents.len() => Ok(contents),
        _ => Err(TpmError::CredentialRejected),
    }
}

/// extraData: at most what every TPM takes.
fn data(qualifying: &[u8]) -> Result<Data, TpmError> {
    Data::try_from(qualifying).map_err(failed("qualifying data"))
}

/// The wire bytes. The library hands out parsed structures only; marshalling is the inverse of its parsing (fixed
/// widths, no optional parts), and a difference could only make the signature fail.
fn attestation((attest, signature): (Attest, Signature)) -> Result<Attestation, TpmError> {
    let clock = attest.clock_info();
    Ok(Attestation {
        clock: ClockInfo {
            clock_ms: clock.clock(),
            reset_count: clock.reset_count(),
            restart_count: clock.restart_count(),
            safe: clock.safe(),
        },
        attested: attest.marshall().map_err(failed("TPMS_ATTEST"))?,
        signature: signature.marshall().map_err(failed("TPMT_SIGNATURE"))?,
    })
}
