//! The TPM of this machine: the one place that links the C library.
//!
//! [`Tpm`] owns the connection. Each method leaves nothing behind in the TPM, on success or on error: keys are kept as
//! saved contexts outside of it and loaded only while they are used, sessions live for one operation. At most three
//! object slots and two session slots are ever taken, which is what a TPM without a resource manager has.
//!
//! Commands that carry something worth protecting go through HMAC or policy sessions salted to the endorsement key
//! and with parameter encryption (TPM 2.0 Library part 1, 19.6 and 21), so that a wire-tapper between CPU and TPM can
//! neither read nor change them. Everything that travels to a verifier is returned as TPM wire bytes.

mod ak;
mod ek;
mod ek_certificate;
mod error;
mod evidence;
mod nv;
mod receive_key;
mod register;
mod sealed;
mod selection;
mod session_key;

pub use ak::{Ak, AkAlgorithm, AkBlob};
pub use ek::{EkKind, EndorsementKey};
pub use ek_certificate::MAX_EK_CERTIFICATE;
pub use error::{TpmCode, TpmError};
pub use evidence::{Attestation, ClockInfo};
pub use receive_key::ReceiveKey;
pub use sealed::{MAX_SEALED, SealedBlob};
pub use selection::{BankValues, MAX_BANKS, MAX_PCR, Selection};
pub use session_key::SessionKey;

use std::collections::BTreeMap;
use std::str::FromStr as _;

use error::{failed, kind};
use tss_esapi::attributes::SessionAttributesBuilder;
use tss_esapi::constants::response_code::Tss2ResponseCodeKind as Kind;
use tss_esapi::constants::{CapabilityType, SessionType};
use tss_esapi::handles::{KeyHandle, ObjectHandle, PersistentTpmHandle, SessionHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{CapabilityData, Public, SymmetricDefinition};
use tss_esapi::utils::TpmsContext;
use tss_esapi::{Context, TctiNameConf};

/// The most handles asked for at once (TPM2_MAX_CAP_HANDLES of the TSS).
const MAX_HANDLES: u32 = 254;

/// A TPM and the connection to it. One owner, one thread at a time.
#[derive(Debug)]
pub struct Tpm {
    ctx: Context,
    tcti: String,
    /// Persistent keys already opened, with the Name they had. The library caches their public areas.
    open: BTreeMap<u32, (KeyHandle, Vec<u8>)>,
    /// What has to be put right before the next operation.
    repair: Option<Repair>,
}

/// What a failed operation may leave behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repair {
    /// The library's state is stuck (it never leaves "bad sequence" after a response that did not verify).
    Reconnect,
    /// No slot is free in a TPM without a resource manager: a user before us was killed in the middle of an operation.
    FreeSlots,
}

/// Where a key is while no operation uses it.
#[derive(Debug, Clone)]
enum Place {
    /// In the TPM, at this handle, with this Name.
    Persistent(u32, Vec<u8>),
    /// Outside, encrypted by the TPM for itself, until its next reset.
    Saved(Box<TpmsContext>),
}

impl Tpm {
    /// Connects to a TPM, for example `device:/dev/tpmrm0` or `swtpm:host=127.0.0.1,port=2321`.
    ///
    /// # Errors
    /// [`TpmError::TctiInvalid`] or [`TpmError::Unreachable`].
    pub fn open(tcti: &str) -> Result<Self, TpmError> {
        Ok(Self {
            ctx: connect(tcti)?,
            tcti: tcti.to_owned(),
            open: BTreeMap::new(),
            repair: None,
        })
    }

    /// Runs one public operation: first puts right what an earlier one left behind, then notes what this one did.
    fn operation<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T, TpmError>) -> Result<T, TpmError> {
        match self.repair {
            Some(Repair::Reconnect) => {
                self.ctx = connect(&self.tcti)?;
                self.open.clear();
                if !self.is_managed() {
                    self.free_slots()?;
                }
            }
            Some(Repair::FreeSlots) => self.free_slots()?,
            None => {}
        }
        self.repair = None;
        let result = f(self);
        self.repair = match &result {
            Err(TpmError::AnswerAltered { .. } | TpmError::Library { .. } | TpmError::NoAnswer { .. }) => {
                Some(Repair::Reconnect)
            }
            Err(TpmError::OutOfSlots { .. }) if !self.is_managed() => Some(Repair::FreeSlots),
            _ => None,
        };
        result
    }

    /// Whether a resource manager (the kernel's or tabrmd) clears up after dead users. Without one a TPM has one user
    /// at a time, so that what is left in it is ours.
    fn is_managed(&self) -> bool {
        self.tcti.starts_with("tabrmd") || self.tcti.starts_with("device:/dev/tpmrm")
    }

    /// Flushes every transient object and session in the TPM.
    fn free_slots(&mut self) -> Result<(), TpmError> {
        for handle in self.loaded_handles()? {
            let handle = TpmHandle::try_from(handle).map_err(failed("transient handle"))?;
            let object = self.ctx.tr_from_tpm_public(handle).map_err(failed("TPM2_ReadPublic"))?;
            self.ctx.flush_context(object).map_err(failed("TPM2_FlushContext"))?;
        }
        Ok(())
    }

    /// The TCTI string this TPM was opened with.
    #[must_use]
    pub fn tcti(&self) -> &str {
        &self.tcti
    }

    /// `count` random bytes from the TPM's generator (at most 32 in one go on every TPM).
    ///
    /// # Errors
    /// [`TpmError::Refused`] when the TPM refuses.
    pub fn random(&mut self, count: usize) -> Result<Vec<u8>, TpmError> {
        self.operation(|tpm| {
            let bytes = tpm.ctx.get_random(count).map_err(failed("TPM2_GetRandom"))?;
            Ok(bytes.to_vec())
        })
    }

    /// The handles of transient objects and loaded sessions in the TPM at this moment, everybody's.
    ///
    /// # Errors
    /// [`TpmError::Refused`] when the TPM refuses.
    pub fn loaded_handles(&mut self) -> Result<Vec<u32>, TpmError> {
        /// TPM_HT_TRANSIENT, TPM_HT_LOADED_SESSION: the first handle of each range (part 2, 7.2).
        const RANGES: [u32; 2] = [0x8000_0000, 0x0200_0000];
        let mut found = Vec::new();
        for first in RANGES {
            let same_range = |handle: &u32| handle >> 24 == first >> 24;
            found.extend(self.handles_from(first, MAX_HANDLES)?.into_iter().filter(same_range));
        }
        Ok(found)
    }

    /// Whether there is a persistent object or NV index at this handle. Asked for before it is opened, because the C
    /// library writes to standard error when it opens something that does not exist.
    fn exists(&mut self, handle: u32) -> Result<bool, TpmError> {
        Ok(self.handles_from(handle, 1)?.first() == Some(&handle))
    }

    /// Up to `count` handles that exist in the TPM, from `first` upwards.
    fn handles_from(&mut self, first: u32, count: u32) -> Result<Vec<u32>, TpmError> {
        let data = self.ctx.get_capability(CapabilityType::Handles, first, count);
        match data.map_err(failed("TPM2_GetCapability"))? {
            (CapabilityData::Handles(handles), _) => Ok(handles.into_inner().into_iter().map(u32::from).collect()),
            _ => Err(TpmError::Refused {
                command: "TPM2_GetCapability",
                response: "another capability".into(),
            }),
        }
    }

    /// Runs `f` with the key loaded, and unloads it again whatever `f` returns.
    fn with_key<T>(
        &mut self,
        place: &Place,
        f: impl FnOnce(&mut Self, KeyHandle) -> Result<T, TpmError>,
    ) -> Result<T, TpmError> {
        match place {
            Place::Persistent(handle, name) => {
                let key = self.persistent(*handle, name)?;
                f(self, key)
            }
            Place::Saved(context) => {
                let loaded = self.ctx.context_load((**context).clone()).map_err(|e| match kind(&e) {
                    Some(Kind::Integrity | Kind::Hierarchy | Kind::Handle | Kind::ReferenceH0) => TpmError::KeyLost,
                    _ => failed("TPM2_ContextLoad")(e),
                })?;
                self.flushing(loaded, |tpm| f(tpm, KeyHandle::from(loaded)))
            }
        }
    }

    /// The library's handle of a persistent key, whose Name must be the expected one.
    fn persistent(&mut self, handle: u32, expected: &[u8]) -> Result<KeyHandle, TpmError> {
        if let Some((key, name)) = self.open.get(&handle)
            && name == expected
        {
            return Ok(*key);
        }
        let (key, name, _) = self.open_persistent(handle)?.ok_or(TpmError::KeyLost)?;
        if name != expected {
            let (expected, found) = (hex::encode(expected), hex::encode(name));
            return Err(TpmError::KeyMismatch {
                handle,
                expected,
                found,
            });
        }
        Ok(key)
    }

    /// Opens a persistent key: the library's handle, its Name and its public area; `None` when there is none.
    fn open_persistent(&mut self, handle: u32) -> Result<Option<(KeyHandle, Vec<u8>, Public)>, TpmError> {
        if let Some((old, _)) = self.open.remove(&handle) {
            self.ctx
                .tr_close(&mut ObjectHandle::from(old))
                .map_err(failed("Esys_TR_Close"))?;
        }
        if !self.exists(handle)? {
            return Ok(None);
        }
        let tpm_handle = PersistentTpmHandle::new(handle).map_err(failed("persistent handle"))?;
        let object = self
            .ctx
            .tr_from_tpm_public(TpmHandle::Persistent(tpm_handle))
            .map_err(failed("TPM2_ReadPublic"))?;
        let key = KeyHandle::from(object);
        let (public, name, _) = self.ctx.read_public(key).map_err(failed("TPM2_ReadPublic"))?;
        let name = name.value().to_vec();
        self.open.insert(handle, (key, name.clone()));
        Ok(Some((key, name, public)))
    }

    /// Saves a loaded object outside of the TPM. The object itself stays loaded.
    fn save(&mut self, key: KeyHandle) -> Result<Place, TpmError> {
        let context = self.ctx.context_save(key.into()).map_err(failed("TPM2_ContextSave"))?;
        Ok(Place::Saved(Box::new(context)))
    }

    /// Runs `f` and then flushes `handle`, whatever `f` returned.
    fn flushing<T>(
        &mut self,
        handle: ObjectHandle,
        f: impl FnOnce(&mut Self) -> Result<T, TpmError>,
    ) -> Result<T, TpmError> {
        let result = f(self);
        let flushed = self.ctx.flush_context(handle).map_err(failed("TPM2_FlushContext"));
        let value = result?;
        flushed?;
        Ok(value)
    }

    /// Runs `f` with a session salted to `salt` and with parameter encryption both ways.
    fn with_session<T>(
        &mut self,
        salt: KeyHandle,
        session_type: SessionType,
        f: impl FnOnce(&mut Self, AuthSession) -> Result<T, TpmError>,
    ) -> Result<T, TpmError> {
        let session = self
            .ctx
            .start_auth_session(
                Some(salt),
                None,
                None,
                session_type,
                SymmetricDefinition::AES_128_CFB,
                HashingAlgorithm::Sha256,
            )
            .map_err(failed("TPM2_StartAuthSession"))?
            .ok_or(TpmError::Library {
                command: "TPM2_StartAuthSession",
                problem: "no session".into(),
            })?;
        self.flushing(SessionHandle::from(session).into(), |tpm| {
            let (attributes, mask) = SessionAttributesBuilder::new()
                .with_decrypt(true)
                .with_encrypt(true)
                .build();
            tpm.ctx
                .tr_sess_set_attributes(session, attributes, mask)
                .map_err(failed("Esys_TRSess_SetAttributes"))?;
            f(tpm, session)
        })
    }
}

fn connect(tcti: &str) -> Result<Context, TpmError> {
    check_tcti(tcti)?;
    let invalid = |problem| TpmError::TctiInvalid {
        given: tcti.to_owned(),
        problem,
    };
    let name = TctiNameConf::from_str(tcti).map_err(|_| invalid("not understood by the TSS library"))?;
    let unreachable = |_| TpmError::Unreachable { tcti: tcti.to_owned() };
    let mut ctx = Context::new(name).map_err(unreachable)?;
    // The library connects lazily: ask something, so that a dead TPM is seen here.
    ctx.get_random(1).map_err(unreachable)?;
    Ok(ctx)
}

/// Refuses what the library would silently misread: it knows only `host` and `port` of a network TPM, ignores every
/// other key and then dials localhost:2321, somebody else's TPM perhaps.
fn check_tcti(tcti: &str) -> Result<(), TpmError> {
    let invalid = |problem| {
        Err(TpmError::TctiInvalid {
            given: tcti.to_owned(),
            problem,
        })
    };
    let (name, settings) = tcti.split_once(':').unwrap_or((tcti, ""));
    match name {
        "device" if settings.starts_with('/') => Ok(()),
        "device" => invalid("device wants an absolute path, as in device:/dev/tpmrm0"),
        "swtpm" | "mssim" => {
            let mut keys: Vec<&str> = settings
                .split(',')
                .filter_map(|setting| setting.split_once('='))
                .map(|(key, _)| key)
                .collect();
            keys.sort_unstable();
            if keys == ["host", "port"] && settings.matches(',').count() == 1 {
                Ok(())
            } else {
                invalid("a network TPM wants exactly host=ADDRESS,port=N")
            }
        }
        "tabrmd" => Ok(()),
        _ => invalid("unknown kind; use device:, swtpm: or tabrmd:"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tcti_string_the_library_would_misread_is_refused() {
        for good in [
            "device:/dev/tpmrm0",
            "swtpm:host=127.0.0.1,port=1",
            "swtpm:port=1,host=::1",
            "tabrmd:",
        ] {
            assert_eq!(check_tcti(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "swtpm",
            "swtpm:",
            "swtpm:path=/run/tpm",
            "swtpm:host=127.0.0.1",
            "swtpm:host=127.0.0.1,port=1,path=/x",
            "swtpm:host=127.0.0.1,port=1,x",
            "device:tpmrm0",
            "/dev/tpmrm0",
            "unix:/run/tpm",
        ] {
            assert!(matches!(check_tcti(bad), Err(TpmError::TctiInvalid { .. })), "{bad}");
        }
    }

    #[test]
    fn nobody_at_the_other_end_is_told_apart() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let tcti = format!("swtpm:host=127.0.0.1,port={port}");
        assert_eq!(Tpm::open(&tcti).map(drop), Err(TpmError::Unreachable { tcti }));
    }
}
