//! What an agent holds of its TPM: endorsement key, attestation key, and the session key the authorization is bound to.

use std::collections::BTreeMap;

use touchstone_cose::encrypt::{Agreement, AgreementError, Point};
use touchstone_cose::key::{Algorithm, SignError, Signer, VerifyingKey};
use touchstone_evidence::pcr_values::PcrValues;
use touchstone_verifier::tpm::algorithm::HashAlg;
use touchstone_verifier::tpm::attest::Attest;
use zeroize::Zeroizing;

use super::config::{AttestationKeyKind, TpmConfig};
use super::state::{StateDir, StateError};
use crate::tee::TeeError;
use crate::tpm::{Ak, AkAlgorithm, Attestation, EndorsementKey, ReceiveKey, SessionKey, Tpm, TpmError};

/// How often registers are read again because they moved between the quote and the reading.
const READ_ATTEMPTS: usize = 4;

/// Why the TPM did not do its part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttesterError {
    /// The TPM refused or cannot be reached.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// The agent's state directory is unusable.
    #[error(transparent)]
    State(#[from] StateError),
    /// The registers kept moving while they were being read.
    #[error("the quoted registers moved during each of {attempts} quotes")]
    Moving {
        /// How many times it was tried.
        attempts: usize,
    },
    /// The confidential VM gives no report.
    #[error(transparent)]
    Tee(#[from] TeeError),
    /// The platform under a confidential VM is another one than its certificates are of.
    #[error("the platform has changed: its certificates were read anew")]
    PlatformChanged,
    /// No randomness for keys.
    #[error("the machine gives no randomness")]
    Random,
    /// The TPM's session key is not what was asked for.
    #[error("the session key's point is not on P-256")]
    SessionKey,
}

/// A TPM with the keys an agent uses. One owner, one thread at a time.
#[derive(Debug)]
pub struct Attester {
    config: TpmConfig,
    state: StateDir,
    session_registers: Vec<(u16, Vec<u8>)>,
    tpm: Tpm,
    ek: EndorsementKey,
    ak: Ak,
    session: SessionKey,
    session_public: VerifyingKey,
    receive: ReceiveKey,
    receive_public: VerifyingKey,
}

impl AttesterError {
    /// True when the TPM no longer holds the keys it was opened with: it was reset, or what it held was flushed. Opening
    /// it anew mends that.
    #[must_use]
    pub fn keys_are_gone(&self) -> bool {
        matches!(self, Self::Tpm(TpmError::KeyLost))
    }
}

/// A quote and the register values it is a quote of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    /// TPMS_ATTEST.
    pub attested: Vec<u8>,
    /// TPMT_SIGNATURE.
    pub signature: Vec<u8>,
    /// The values whose digest it holds.
    pub values: PcrValues,
}

impl Attester {
    /// Opens the TPM, finds its endorsement key, loads the attestation key of `state` or makes and keeps one, and makes
    /// a session key bound to the present values of `session_registers` (`docs/protocol.md`, "session keys").
    ///
    /// # Errors
    /// [`AttesterError`].
    pub fn open(
        config: &TpmConfig,
        state: &StateDir,
        session_registers: &[(u16, Vec<u8>)],
    ) -> Result<Self, AttesterError> {
        let mut tpm = Tpm::open(&config.tcti)?;
        let ek = tpm.best_endorsement_key()?;
        if let Some(handle) = config.attestation_key_handle {
            let ak = tpm.ak_at(&ek, handle)?;
            return Self::with_key(config, state, session_registers, (tpm, ek, ak));
        }
        let kept = match state.attestation_key()? {
            // A blob of another TPM (the disk moved) is no use here; the identity is the hardware's.
            Some(blob) if blob.ek_name == ek.name() => Some(blob),
            _ => None,
        };
        let kept = match kept {
            // A TPM that was cleared no longer opens its own old blobs; the key is lost, the identity is not.
            Some(blob) => match tpm.load_ak(&ek, &blob) {
                Err(TpmError::BlobRejected(_)) => None,
                loaded => Some(loaded?),
            },
            None => None,
        };
        let ak = match kept {
            Some(ak) => ak,
            None => {
                let algorithm = match config.attestation_key {
                    AttestationKeyKind::Ecc => AkAlgorithm::EcdsaP256,
                    AttestationKeyKind::Rsa => AkAlgorithm::RsassaRsa2048,
                };
                let blob = tpm.create_ak(&ek, algorithm)?;
                state.keep_attestation_key(&blob)?;
                tpm.load_ak(&ek, &blob)?
            }
        };
        Self::with_key(config, state, session_registers, (tpm, ek, ak))
    }

    fn with_key(
        config: &TpmConfig,
        state: &StateDir,
        session_registers: &[(u16, Vec<u8>)],
        (mut tpm, ek, ak): (Tpm, EndorsementKey, Ak),
    ) -> Result<Self, AttesterError> {
        let session = tpm.create_session_key(&ek, session_registers)?;
        let session_public = point(session.point()).ok_or(AttesterError::SessionKey)?;
        let receive = tpm.create_receive_key(&ek, session_registers)?;
        let receive_public = point(receive.point()).ok_or(AttesterError::SessionKey)?;
        Ok(Self {
            config: config.clone(),
            state: state.clone(),
            session_registers: session_registers.to_vec(),
            tpm,
            ek,
            ak,
            session,
            session_public,
            receive,
            receive_public,
        })
    }

    /// Opens the TPM anew, with a session key bound to the registers' present values: after a reset of the TPM, or when
    /// the old session key can no longer be what policy asks for.
    ///
    /// # Errors
    /// [`AttesterError`]; then everything is as it was.
    pub fn reopen(&mut self) -> Result<(), AttesterError> {
        *self = Self::open(&self.config, &self.state, &self.session_registers)?;
        Ok(())
    }

    /// The endorsement key.
    #[must_use]
    pub fn endorsement_key(&self) -> &EndorsementKey {
        &self.ek
    }

    /// The attestation key.
    #[must_use]
    pub fn attestation_key(&self) -> &Ak {
        &self.ak
    }

    /// The session key's public area, TPMT_PUBLIC.
    #[must_use]
    pub fn session_public_area(&self) -> &[u8] {
        self.session.public()
    }

    /// The session key as the authorization names it.
    #[must_use]
    pub fn session_key(&self) -> &VerifyingKey {
        &self.session_public
    }

    /// The receive key's public area, TPMT_PUBLIC.
    #[must_use]
    pub fn receive_public_area(&self) -> &[u8] {
        self.receive.public()
    }

    /// The key that secrets are encrypted to.
    #[must_use]
    pub fn receive_key(&self) -> &VerifyingKey {
        &self.receive_public
    }

    /// Quotes `selection` over `qualifying` and reads the values the quote is of.
    ///
    /// # Errors
    /// [`AttesterError::Moving`] when registers never stand still; [`AttesterError::Tpm`].
    pub fn quote(&mut self, selection: &[(u16, Vec<u8>)], qualifying: &[u8]) -> Result<Quote, AttesterError> {
        for _ in 0..READ_ATTEMPTS {
            let Attestation {
                attested, signature, ..
            } = self.tpm.quote(&self.ak, selection, qualifying)?;
            let values: PcrValues = self
                .tpm
                .pcr_values(selection)?
                .into_iter()
                .flat_map(|(bank, values)| values.into_iter().map(move |(index, value)| ((bank, index), value)))
                .collect();
            if is_quote_of(&attested, &values) {
                return Ok(Quote {
                    attested,
                    signature,
                    values,
                });
            }
        }
        Err(AttesterError::Moving {
            attempts: READ_ATTEMPTS,
        })
    }

    /// A register's values, in every bank that is known here.
    ///
    /// # Errors
    /// [`AttesterError::Tpm`].
    pub fn register(&mut self, register: u8) -> Result<BTreeMap<HashAlg, Vec<u8>>, AttesterError> {
        Ok(self.tpm.register(register)?)
    }

    /// Extends a register in every bank by what `digest` gives for it.
    ///
    /// # Errors
    /// [`AttesterError::Tpm`].
    pub fn extend(&mut self, register: u8, digest: impl Fn(HashAlg) -> Vec<u8>) -> Result<(), AttesterError> {
        Ok(self.tpm.extend(&self.ek, register, digest)?)
    }

    /// Has the attestation key certify the session key over `qualifying`.
    ///
    /// # Errors
    /// [`AttesterError::Tpm`].
    pub fn certify_session_key(&mut self, qualifying: &[u8; 32]) -> Result<Attestation, AttesterError> {
        Ok(self.tpm.certify(&self.session, &self.ak, qualifying)?)
    }

    /// Has the attestation key certify the receive key over `qualifying`.
    ///
    /// # Errors
    /// [`AttesterError::Tpm`].
    pub fn certify_receive_key(&mut self, qualifying: &[u8; 32]) -> Result<Attestation, AttesterError> {
        Ok(self.tpm.certify_receive_key(&self.receive, &self.ak, qualifying)?)
    }

    /// The secret shared with the point (`x`, `y`), as the receive key computes it; fails once one of its registers has
    /// changed.
    ///
    /// # Errors
    /// [`AttesterError::Tpm`].
    pub fn agree(&mut self, x: &[u8; 32], y: &[u8; 32]) -> Result<Zeroizing<[u8; 32]>, AttesterError> {
        Ok(self.tpm.agree(&self.receive, x, y)?)
    }

    /// Opens a credential made for this TPM and this attestation key.
    ///
    /// # Errors
    /// [`AttesterError::Tpm`].
    pub fn activate_credential(&mut self, blob: &[u8], secret: &[u8]) -> Result<Zeroizing<Vec<u8>>, AttesterError> {
        Ok(self.tpm.activate_credential(&self.ek, &self.ak, blob, secret)?)
    }

    /// Makes one more session key, for a workload: the same attributes, bound to the present values of the same registers.
    ///
    /// # Errors
    /// [`AttesterError`].
    pub fn make_key(&mut self) -> Result<(SessionKey, VerifyingKey), AttesterError> {
        let key = self.tpm.create_session_key(&self.ek, &self.session_registers)?;
        let public = point(key.point()).ok_or(AttesterError::SessionKey)?;
        Ok((key, public))
    }

    /// Signs `message` with such a key; fails once one of its registers has changed.
    ///
    /// # Errors
    /// [`AttesterError::Tpm`].
    pub fn sign_with(&mut self, key: &SessionKey, message: &[u8]) -> Result<[u8; 64], AttesterError> {
        let digest = <sha2::Sha256 as sha2::Digest>::digest(message);
        Ok(self.tpm.session_sign(key, &digest.into())?)
    }

    /// Signs `message` with the session key; fails once one of its registers has changed.
    ///
    /// # Errors
    /// [`AttesterError::Tpm`].
    pub fn sign(&mut self, message: &[u8]) -> Result<[u8; 64], AttesterError> {
        let digest = <sha2::Sha256 as sha2::Digest>::digest(message);
        Ok(self.tpm.session_sign(&self.session, &digest.into())?)
    }
}

/// The session key as a COSE signer, for the length of one signature. The TPM is used through `&mut`, a signer through
/// `&`: the cell is borrowed for one command at a time.
pub struct SessionSigner<'a> {
    kid: [u8; 8],
    attester: std::cell::RefCell<&'a mut Attester>,
}

impl<'a> SessionSigner<'a> {
    /// Signs with the session key of `attester`.
    pub fn new(attester: &'a mut Attester) -> Self {
        Self {
            kid: attester.session_public.kid(),
            attester: std::cell::RefCell::new(attester),
        }
    }
}

impl Signer for SessionSigner<'_> {
    fn algorithm(&self) -> Algorithm {
        Algorithm::Esp256
    }

    fn kid(&self) -> [u8; 8] {
        self.kid
    }

    fn sign(&self, to_be_signed: &[u8]) -> Result<Vec<u8>, SignError> {
        let signed = self.attester.borrow_mut().sign(to_be_signed);
        signed
            .map(|signature| signature.to_vec())
            .map_err(|error| SignError::Device(error.to_string()))
    }
}

/// The receive key, for the length of one agreement.
pub struct Receiver<'a> {
    kid: [u8; 8],
    attester: std::cell::RefCell<&'a mut Attester>,
}

impl<'a> Receiver<'a> {
    /// Agrees with the receive key of `attester`.
    pub fn new(attester: &'a mut Attester) -> Self {
        Self {
            kid: attester.receive_public.kid(),
            attester: std::cell::RefCell::new(attester),
        }
    }
}

impl Agreement for Receiver<'_> {
    fn kid(&self) -> [u8; 8] {
        self.kid
    }

    fn agree(&self, ephemeral: &Point) -> Result<Zeroizing<[u8; 32]>, AgreementError> {
        let agreed = self.attester.borrow_mut().agree(&ephemeral.x, &ephemeral.y);
        agreed.map_err(|error| AgreementError(error.to_string()))
    }
}

fn point(point: &[u8; 64]) -> Option<VerifyingKey> {
    let (x, y) = point.split_at(32);
    Some(VerifyingKey::P256 {
        x: x.try_into().ok()?,
        y: y.try_into().ok()?,
    })
}

/// True when the quote's digest is the digest of exactly these values.
fn is_quote_of(attested: &[u8], values: &PcrValues) -> bool {
    let Ok(attest) = Attest::parse(attested) else {
        return false;
    };
    let Ok(quote) = attest.quote() else { return false };
    let value = |bank: HashAlg, index: u8| values.get(&(bank.tpm_id(), index)).map(Vec::as_slice);
    // The session's attestation keys sign with SHA-256, and so does their digest of the registers.
    quote
        .selection
        .pcr_digest(HashAlg::Sha256, value)
        .is_ok_and(|digest| digest.as_ref() == quote.pcr_digest)
}
