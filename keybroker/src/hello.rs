//! Hello to challenge: who claims to be there, what is asked of it, and what is noted until the answer comes.
//!
//! Nothing here touches state that outlives the session, and nothing is granted: a challenge is given to whoever knows a
//! public key of an inventoried machine.

use touchstone_cose::cbor::{self, Limits};
use touchstone_cose::key::VerifyingKey;
use touchstone_evidence::message::{BOOT_ID_LEN, Challenge, Hello, Identity};
use touchstone_policies::PolicySet;
use touchstone_store::Store;
use touchstone_verifier::appraisal::Activated;
use touchstone_verifier::inventory::{CvmIdentityError, CvmKind, EkId, GuestId, Lookup, Platform};
use touchstone_verifier::tpm::credential::{
    CREDENTIAL_ENTROPY_LEN, CREDENTIAL_SECRET_LEN, Credential, make_credential,
};
use touchstone_verifier::tpm::{PcrSelection, Public};
use zeroize::Zeroizing;

use crate::asked::asked;
use crate::clock::seconds;
use crate::first_use::{self, FirstUseError, Seat};
use crate::hardware::Hardware;
use crate::logs::{self, SeenLogs};
use crate::node::NodeRecord;
use crate::nodes::{self, NodesError, Stored};
use crate::problem::{Refusal, RefusalCode};
use crate::session::{NONCE_LEN, SESSION_ID_LEN, SessionId, random};

/// The kinds of evidence that are appraised here; what a hello offers must hold one of them.
pub const KINDS: [&str; 3] = [KIND_TPM, CvmKind::Snp.as_str(), CvmKind::Tdx.as_str()];

/// The kind of evidence a TPM gives.
pub const KIND_TPM: &str = "tpm";

/// What is noted at a hello until its evidence comes.
#[derive(Debug)]
pub struct Pending {
    /// The challenge's nonce.
    pub nonce: [u8; NONCE_LEN],
    /// The node that was named, by the inventory.
    pub node: String,
    /// The hardware it named.
    pub hardware: Hardware,
    /// The session signing key.
    pub session_key: VerifyingKey,
    /// Thumbprint of the receive key.
    pub receive_key: Option<[u8; 32]>,
    /// That key.
    pub receive_public: Option<VerifyingKey>,
    /// The registers asked for.
    pub asked: PcrSelection,
    /// The boot the node says it is in.
    pub boot: Option<[u8; BOOT_ID_LEN]>,
    /// What it was told it need not send again.
    pub seen: Option<SeenLogs>,
    /// The credential that was sent, where the two keys are not tied yet.
    pub credential: Option<SentCredential>,
}

/// A credential that only one TPM can open, and for one key only.
#[derive(Debug)]
pub struct SentCredential {
    /// The secret in it.
    pub secret: Zeroizing<[u8; CREDENTIAL_SECRET_LEN]>,
    /// The pair of keys it was made for.
    pub pair: Activated,
}

/// Reads a hello and makes its challenge.
///
/// # Errors
/// A [`Refusal`] of the requester.
pub fn challenge(
    store: &dyn Store,
    policy: &PolicySet,
    hello: &Hello,
    now_ms: u64,
) -> Result<(SessionId, Pending, Challenge), Refusal> {
    if !hello.kinds.iter().any(|kind| KINDS.contains(&kind.as_str())) {
        let detail = format!("this broker appraises: {}", KINDS.join(", "));
        return Err(Refusal::new(RefusalCode::KindUnsupported, detail));
    }
    let session_key = key(&hello.session_key, "session key")?;
    let receive_key = hello
        .receive_key
        .as_deref()
        .map(|bytes| key(bytes, "receive key"))
        .transpose()?;
    let claimed = match &hello.identity {
        Identity::Full {
            ek_public, ak_public, ..
        } => full(store, policy, (ek_public, ak_public), seconds(now_ms))?,
        Identity::Known { ak_name } => known(store, policy, ak_name)?,
        Identity::Cvm { platform, guests } => cvm(store, policy, platform, guests)?,
    };
    let appraisal = &policy.settings.appraisal;
    let asked = asked(policy.demands_of(&claimed.node));
    let seen = claimed
        .record
        .as_ref()
        .and_then(|record| logs::offered(record, hello.boot, &asked));
    // Both keys, or neither: then each comes with its certification.
    let session_key_known = claimed.certified() == Some(session_key.thumbprint())
        && claimed.certified_receive() == receive_key.as_ref().map(VerifyingKey::thumbprint);
    let (session_id, nonce) = (
        random::<SESSION_ID_LEN>().map_err(internal)?,
        random().map_err(internal)?,
    );
    let challenge = Challenge {
        session_id,
        nonce,
        selection: asked.to_wire(),
        credential: claimed
            .sealed
            .map(|sealed| (sealed.credential_blob, sealed.encrypted_secret)),
        known: seen.map(|seen| seen.known()).unwrap_or_default(),
        session_key_registers: appraisal.session_key_registers.to_wire(),
        broker_time_ms: now_ms,
        session_key_known,
    };
    let pending = Pending {
        nonce,
        node: claimed.node,
        hardware: claimed.hardware,
        receive_key: receive_key.as_ref().map(VerifyingKey::thumbprint),
        receive_public: receive_key,
        session_key,
        asked,
        boot: hello.boot,
        seen,
        credential: claimed.sent,
    };
    Ok((session_id, pending, challenge))
}

struct Claimed {
    node: String,
    hardware: Hardware,
    /// Its record, where it has enrolled with this very hardware and key.
    record: Option<NodeRecord>,
    sent: Option<SentCredential>,
    sealed: Option<Credential>,
}

impl Claimed {
    /// Thumbprint of the receive key that was certified last.
    fn certified_receive(&self) -> Option<[u8; 32]> {
        let key = self.record.as_ref()?.enrolled.tpm()?.receive_key.as_ref();
        key.map(|key| key.thumbprint)
    }

    /// Thumbprint of the session key that was certified last.
    fn certified(&self) -> Option<[u8; 32]> {
        let key = self.record.as_ref()?.enrolled.session_key.as_ref();
        key.map(|key| key.thumbprint)
    }
}

fn full(
    store: &dyn Store,
    policy: &PolicySet,
    (ek_public, ak_public): (&[u8], &[u8]),
    now: i64,
) -> Result<Claimed, Refusal> {
    let malformed = |what: &str, (expected, found): (String, String)| {
        Refusal::new(
            RefusalCode::IdentityMalformed,
            format!("{what}: expected {expected}, found {found}"),
        )
    };
    let ek_public = Public::from_tpm2b_or_tpmt(ek_public).map_err(|e| malformed("endorsement key", e.details()))?;
    let ek = ek_public
        .check_ek()
        .map_err(|e| malformed("endorsement key", e.details()))?;
    let ak_public = Public::from_tpm2b_or_tpmt(ak_public).map_err(|e| malformed("attestation key", e.details()))?;
    let ak = ak_public.check_ak().map_err(|faults| {
        let first = faults.first().map(|fault| fault.details()).unwrap_or_default();
        malformed("attestation key", first)
    })?;
    let ek_id = EkId(ek.id());
    let node = match policy.inventory.by_ek(&ek_id) {
        Lookup::Node(node) => node.name.clone(),
        // Not listed: nobody, unless signed settings admit whoever shows a maker's certificate.
        Lookup::Unknown => unlisted(store, policy, &ek_id, now)?.0,
        Lookup::Ambiguous => {
            return Err(unknown(format!(
                "more than one inventory entry claims endorsement key {ek_id}"
            )));
        }
    };
    let ak_name = ak.name().as_bytes().to_vec();
    let hardware = Hardware::Tpm {
        ek: ek_id,
        ak_name: ak_name.clone(),
    };
    let record = record_of(store, policy, &node, &hardware)?;
    if record.is_some() {
        return Ok(Claimed {
            node,
            hardware,
            record,
            sent: None,
            sealed: None,
        });
    }
    let secret = Zeroizing::new(random::<CREDENTIAL_SECRET_LEN>().map_err(internal)?);
    let entropy = Zeroizing::new(random::<CREDENTIAL_ENTROPY_LEN>().map_err(internal)?);
    let sealed = make_credential(&ek, &ak, secret.as_slice(), &entropy)
        .map_err(|e| malformed("endorsement key", e.details()))?;
    let pair = Activated { ek: ek_id, ak_name };
    let sent = Some(SentCredential { secret, pair });
    Ok(Claimed {
        node,
        hardware,
        record: None,
        sent,
        sealed: Some(sealed),
    })
}

/// The name and the seat of a machine that no entry lists.
pub(crate) fn unlisted(store: &dyn Store, policy: &PolicySet, ek: &EkId, now: i64) -> Result<(String, Seat), Refusal> {
    let record = |name: &str| Ok(nodes::by_name(store, name)?.map(|(record, _)| record));
    first_use::seat(store, policy, ek, record, now).map_err(|error| match error {
        FirstUseError::Nodes(error) => unreadable(error),
        FirstUseError::Unknown { .. } => unknown(error.to_string()),
        FirstUseError::Over(detail) => Refusal::new(RefusalCode::FirstUseOver, detail),
    })
}

/// Refuses hardware that may not speak for `node`: decommissioned, tied to another name, or beside the TPM that has
/// enrolled under this one.
pub(crate) fn may_speak(stored: &Stored, policy: &PolicySet, node: &str, hardware: &Hardware) -> Result<(), Refusal> {
    let conflict = |detail: String| Err(Refusal::new(RefusalCode::EnrolmentConflict, detail));
    if stored.gone.is_some() {
        let detail = format!("{node} was decommissioned");
        return Err(Refusal::new(RefusalCode::NodeDecommissioned, detail));
    }
    if stored.is_of_another(node) {
        return conflict(format!(
            "the hardware presented for {node} was tied to another name before"
        ));
    }
    match (&stored.record, policy.inventory.by_name(node)) {
        (Some((record, _)), Lookup::Node(entry)) if hardware.conflicts_with(&record.enrolled, entry) => conflict(
            format!("another machine has enrolled as {node}, and its entry still lists that one"),
        ),
        _ => Ok(()),
    }
}

/// The record of `node`, where it has enrolled with this very hardware and key.
fn record_of(
    store: &dyn Store,
    policy: &PolicySet,
    node: &str,
    hardware: &Hardware,
) -> Result<Option<NodeRecord>, Refusal> {
    let stored = Stored::read(store, node, hardware).map_err(unreadable)?;
    may_speak(&stored, policy, node, hardware)?;
    let record = stored.record.map(|(record, _)| record);
    Ok(record.filter(|record| hardware.has_key_of(&record.enrolled)))
}

/// A confidential VM by what it says of itself; believed only when a report shows it.
fn cvm(store: &dyn Store, policy: &PolicySet, platform: &str, guests: &[String]) -> Result<Claimed, Refusal> {
    let malformed = |e: CvmIdentityError| Refusal::new(RefusalCode::IdentityMalformed, e.to_string());
    let platform: Platform = platform.parse().map_err(malformed)?;
    let guests: Vec<GuestId> = guests
        .iter()
        .map(|text| text.parse().map_err(malformed))
        .collect::<Result<_, _>>()?;
    let (node, identity) = match policy.inventory.by_cvm(&platform, &guests) {
        (Lookup::Node(node), Some(identity)) => (node.name.clone(), identity.clone()),
        (Lookup::Ambiguous, _) => {
            return Err(unknown(format!("more than one inventory entry claims {platform}")));
        }
        _ => return Err(unknown(format!("confidential VM {platform} is not in the inventory"))),
    };
    let hardware = Hardware::Cvm(identity);
    let record = record_of(store, policy, &node, &hardware)?;
    Ok(Claimed {
        node,
        hardware,
        record,
        sent: None,
        sealed: None,
    })
}

fn known(store: &dyn Store, policy: &PolicySet, ak_name: &[u8]) -> Result<Claimed, Refusal> {
    let not_enrolled = || unknown("no node with this attestation key has enrolled here".to_owned());
    let (name, _) = nodes::ak_tie(store, ak_name)
        .map_err(unreadable)?
        .held
        .ok_or_else(not_enrolled)?;
    let (record, _) = nodes::by_name(store, &name)
        .map_err(unreadable)?
        .ok_or_else(not_enrolled)?;
    let tpm = record.enrolled.tpm().filter(|tpm| tpm.ak_name == ak_name);
    let ek = tpm.map(|tpm| tpm.ek).ok_or_else(not_enrolled)?;
    if nodes::is_gone(store, &name).map_err(unreadable)? {
        let detail = format!("{name} was decommissioned");
        return Err(Refusal::new(RefusalCode::NodeDecommissioned, detail));
    }
    let first_use = record.first_use.as_ref();
    let inventory = first_use::inventory(first_use, policy);
    if !matches!(inventory.by_name(&name), Lookup::Node(_)) {
        return Err(not_enrolled());
    }
    let ak_name = ak_name.to_vec();
    Ok(Claimed {
        node: name,
        hardware: Hardware::Tpm { ek, ak_name },
        record: Some(record),
        sent: None,
        sealed: None,
    })
}

/// A COSE_Key on P-256, as the session keys of a TPM are.
fn key(bytes: &[u8], what: &str) -> Result<VerifyingKey, Refusal> {
    let malformed = |found: String| Refusal::new(RefusalCode::IdentityMalformed, format!("{what}: {found}"));
    let value = cbor::decode(bytes, Limits::TOKEN).map_err(|e| malformed(e.to_string()))?;
    match VerifyingKey::from_cose_key(&value) {
        Ok(key @ VerifyingKey::P256 { .. }) => Ok(key),
        Ok(_) => Err(malformed("expected a P-256 key, found another kind".into())),
        Err(e) => Err(malformed(e.to_string())),
    }
}

fn unknown(detail: String) -> Refusal {
    Refusal::new(RefusalCode::IdentityUnknown, detail)
}

/// A row that cannot be read refuses who asked for it; what is in it is for the log, not for them.
pub(crate) fn unreadable(error: NodesError) -> Refusal {
    tracing::error!(%error, "a node's state cannot be read");
    Refusal::new(RefusalCode::Internal, "the state of this node cannot be read")
}

pub(crate) fn internal(error: impl std::fmt::Display) -> Refusal {
    tracing::error!(%error, "a request failed");
    Refusal::new(RefusalCode::Internal, "the broker's log says more")
}
