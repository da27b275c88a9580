//! Workloads of this node: who may have an authorization of its own, what for, and the keys that the agent holds for them.
//!
//! A workload is who the kernel says it is ([`super::caller`]), compared with the rules in `agent.toml`: without a rule there
//! is none. What it is granted is the broker's to decide; the agent says under this node's name who asked. A key that the
//! agent holds lives where the node's own session key does (in the TPM, or in a confidential VM's memory), is used for its
//! workload alone, and never leaves. Source: `docs/protocol.md`, section 6.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use touchstone_authorization::name::is_label;
use touchstone_authorization::proof::EXPORTER_LABEL;
use touchstone_authorization::token::StatusIndex;
use touchstone_authorization::{
    Authorization, Channel, DelegateError, Delegation, Proof, Scope, SignedError, UntrustedAuthorization, delegate,
};
use touchstone_cose::cbor::{self, Value};
use touchstone_cose::key::VerifyingKey;
use touchstone_evidence::message::{
    Dependency, DependencyKind, IssuedAnswer, WORKLOAD_PATH, WorkloadRequest, release_nonce, workload_audience,
};
use touchstone_ledger::statement::{Kind, Outcome};

use super::caller::{Caller, CallerError};
use super::desk::{Desk, PresentError, Presentation};
use super::machine::HeldKey;
use super::owner::OwnerGone;
use super::release::{Fetched, KeyWanted, ReleaseError, fetch_as};
use super::workload_rules::Rule;
use crate::client::{BrokerClient, ClientError};
use crate::clock;
use crate::trust::DomainTrust;

/// Most workloads that the agent holds keys for.
pub const MAX_HELD: usize = 256;

const KEY_LIMITS: cbor::Limits = cbor::Limits {
    max_bytes: 256,
    max_depth: 2,
    max_items: 16,
};

/// What a workload asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// What it is called.
    pub label: String,
    /// What it is to be granted: `action:resource`.
    pub scopes: Vec<String>,
    /// How long at most, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub life: Option<u64>,
    /// The region it is to count in alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
    /// How many further links may hang below it.
    #[serde(default)]
    pub delegation_depth: u8,
    /// Whether it may hand on without asking.
    #[serde(default)]
    pub offline: bool,
    /// Its own key, a COSE_Key in hexadecimal; without one the agent makes one and holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What it rests on beside its node: it falls when that falls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<RestsOn>,
    /// The entry that is to go on, for a key of its own; one that the agent holds goes on by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renew: Option<(u16, u32, u32)>,
}

/// What something rests on: `started-by`, `reads-from` or `moved-from`, and a status entry as (list, generation, index).
pub type RestsOn = (String, (u16, u32, u32));

/// What a workload hands on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandedOn {
    /// What the child is called below whoever hands on; on-line its whole label is that one's, a dot and this.
    pub label: String,
    /// The child's key, a COSE_Key in hexadecimal.
    pub key: String,
    /// A part of one's own scopes.
    pub scopes: Vec<String>,
    /// How long at most, in seconds.
    pub life: u64,
    /// How many further links may hang below it.
    #[serde(default)]
    pub delegation_depth: u8,
    /// Whether the broker is asked: then the child gets an authorization and an entry of its own.
    #[serde(default)]
    pub online: bool,
    /// What the child rests on beside whoever hands on; on-line only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<RestsOn>,
}

/// An authorization that a workload got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// Its bytes.
    pub authorization: Vec<u8>,
    /// What it says.
    pub contents: Authorization,
}

/// How a proof is tied to its use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tied {
    /// To an enforcer's challenge.
    Challenge(Vec<u8>),
    /// To one request, by its digest.
    Request([u8; 32]),
}

/// Why a workload gets nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WorkloadError {
    /// Nobody knows who asks.
    #[error("workload-unknown: {0}")]
    Caller(#[from] CallerError),
    /// No rule names whoever asks.
    #[error(
        "workload-not-listed: no rule of agent.toml says that user {uid} with {path} in {cgroup} (sha256 {}) is {label:?}",
        hex::encode(executable)
    )]
    NotListed {
        /// The label that was asked for.
        label: String,
        /// What the kernel says of who asks: its user.
        uid: u32,
        /// The path of its executable.
        path: String,
        /// Its control group.
        cgroup: String,
        /// The digest of its executable.
        executable: [u8; 32],
    },
    /// More than the rule allows.
    #[error("workload-rule: the rule of {label:?} in agent.toml allows no {what}")]
    Beyond {
        /// The label.
        label: String,
        /// What was asked for.
        what: String,
    },
    /// Not well formed.
    #[error("workload-request: {0}")]
    Malformed(String),
    /// There is nothing to present or to hand on.
    #[error("workload-not-held: the agent holds no key of {0:?}: request one first, without a key of its own")]
    NotHeld(String),
    /// The agent holds as many as it may.
    #[error("workload-full: the agent holds keys for {MAX_HELD} workloads")]
    Full,
    /// The machine made no key, or does not sign with it any more.
    #[error("workload-key: {0}")]
    Key(String),
    /// The broker, or what it said.
    #[error(transparent)]
    Broker(#[from] ReleaseError),
    /// Nothing that could be handed on.
    #[error("workload-delegation: {0}")]
    Delegate(#[from] DelegateError),
}

impl From<OwnerGone> for WorkloadError {
    fn from(error: OwnerGone) -> Self {
        Self::Broker(error.into())
    }
}

impl From<PresentError> for WorkloadError {
    fn from(error: PresentError) -> Self {
        Self::Broker(error.into())
    }
}

/// A workload whose key the agent holds.
#[derive(Debug, Clone)]
struct Held {
    wanted: Wanted,
    key: Arc<HeldKey>,
    granted: Option<Granted>,
}

/// Whoever the agent holds keys for, by label.
#[derive(Debug, Default)]
pub(super) struct Workloads {
    held: BTreeMap<String, Held>,
}

impl Desk {
    /// An authorization for the workload that asks: a first one, or one more under the same entry.
    ///
    /// # Errors
    /// [`WorkloadError`]
    pub async fn workload(&self, caller: &Caller, wanted: Wanted) -> Result<Granted, WorkloadError> {
        self.allow(caller, &wanted)?;
        let Some(key) = &wanted.key else {
            return self.held_workload(caller, wanted).await;
        };
        let key = read_key(key)?;
        let request = request(&wanted, &key, "software", wanted.renew)?;
        self.ask_below(caller, request).await
    }

    /// One whose key the agent holds.
    async fn held_workload(&self, caller: &Caller, wanted: Wanted) -> Result<Granted, WorkloadError> {
        let held = self.workloads().held.get(&wanted.label).cloned();
        let (key, before) = match held {
            // The same again goes on under its entry.
            Some(held) if held.wanted == wanted => (held.key, held.granted),
            _ => {
                let made = self.tpm().for_workloads().run(|machine| machine.held_key()).await?;
                let key = made.map_err(|error| WorkloadError::Key(error.to_string()))?;
                (Arc::new(key), None)
            }
        };
        let entry = before.map(|granted| number(&granted.contents.status));
        let first = request(&wanted, key.public(), key.kind(), entry)?;
        let granted = match self.ask_below(caller, first).await {
            // Its entry has fallen, or the node has another one since: it begins anew.
            Err(WorkloadError::Broker(ReleaseError::Denied(reasons)))
                if entry.is_some() && reasons.iter().any(|reason| reason.code == RENEWAL_OTHER) =>
            {
                let anew = request(&wanted, key.public(), key.kind(), None)?;
                self.ask_below(caller, anew).await?
            }
            answered => answered?,
        };
        let mut workloads = self.workloads();
        if workloads.held.len() >= MAX_HELD && !workloads.held.contains_key(&wanted.label) {
            return Err(WorkloadError::Full);
        }
        let kept = Held {
            wanted: wanted.clone(),
            key,
            granted: Some(granted.clone()),
        };
        workloads.held.insert(wanted.label, kept);
        Ok(granted)
    }

    /// The authorization of the workload that asks, and a proof that its key is here. One that is half over is renewed
    /// first.
    ///
    /// # Errors
    /// [`WorkloadError`]
    pub async fn present_workload(
        &self,
        caller: &Caller,
        label: &str,
        audience: &str,
        (scope, tied): (Scope, Tied),
    ) -> Result<Presentation, WorkloadError> {
        let (granted, key) = self.current(caller, label).await?;
        let mut cti = [0u8; 16];
        getrandom::fill(&mut cti).map_err(|error| PresentError::Random(error.to_string()))?;
        let (channel, request_digest) = match tied {
            Tied::Challenge(challenge) => (Channel::Challenge(challenge), None),
            Tied::Request(digest) => (Channel::None, Some(digest)),
        };
        let proof = Proof {
            audience: audience.to_owned(),
            issued_at: clock::wall_ms() / 1_000,
            cti,
            authorization_digest: Sha256::digest(&granted.authorization).into(),
            scope,
            request_digest,
            channel,
        };
        let proof = self
            .tpm()
            .for_workloads()
            .run(move |machine| proof.encode_signed(&*machine.signer_of(&key)))
            .await?
            .map_err(PresentError::Signing)?;
        Ok(Presentation {
            authorization: granted.authorization,
            proof,
        })
    }

    /// A part of the asking workload's rights for another key: the chain that its holder presents, made without asking the
    /// broker, or the authorization that the broker issues below the workload's.
    ///
    /// # Errors
    /// [`WorkloadError`]
    pub async fn hand_on(&self, caller: &Caller, label: &str, child: &HandedOn) -> Result<Vec<u8>, WorkloadError> {
        let (granted, key) = self.current(caller, label).await?;
        if child.online {
            return self.hand_on_online(granted, key, child).await;
        }
        if !child.depends_on.is_empty() {
            let what = "an off-line link has no entry that could rest on another one: hand on on-line";
            return Err(WorkloadError::Malformed(what.to_owned()));
        }
        let mut cti = [0u8; 16];
        getrandom::fill(&mut cti).map_err(|error| PresentError::Random(error.to_string()))?;
        let now = clock::wall_ms() / 1_000;
        let scopes = child.scopes.iter().map(|scope| Scope::parse(scope));
        let handed_on = Delegation {
            key: read_key(&child.key)?,
            label: child.label.clone(),
            scopes: scopes
                .collect::<Result<_, _>>()
                .map_err(|error| WorkloadError::Malformed(error.to_string()))?,
            not_before: now.max(granted.contents.not_before),
            expires: now.saturating_add(child.life).min(granted.contents.expires),
            depth: child.delegation_depth,
            region: granted.contents.region.clone(),
            purpose: granted.contents.purpose.clone(),
            cti,
        };
        let signed = self
            .tpm()
            .for_workloads()
            .run(move |machine| delegate(&granted.authorization, &handed_on, &*machine.signer_of(&key)))
            .await?;
        Ok(signed?)
    }

    /// A key for the workload that asks, where the agent holds its own: asked for under its authorization, and opened with
    /// this node's receive key.
    ///
    /// # Errors
    /// [`WorkloadError`]
    pub async fn workload_key(
        &self,
        caller: &Caller,
        label: &str,
        wanted: &KeyWanted,
    ) -> Result<Fetched, WorkloadError> {
        let (granted, key) = self.current(caller, label).await?;
        let scope = format!("release:{}", wanted.resource);
        let scope = Scope::parse(&scope).map_err(|e| WorkloadError::Malformed(e.to_string()))?;
        let standing = self.standing().word();
        let releases = self.releases().ok_or(PresentError::NotAuthorized { standing })?;
        let trust = releases.trust().await?;
        let brokers = releases.config.endpoints();
        let mut client = trust.client(brokers.map_err(|e| ReleaseError::Domain(e.to_string()))?);
        let holder = (granted.authorization.as_slice(), Some(key));
        Ok(fetch_as(&mut client, &self.tpm().for_workloads(), &trust, holder, scope, wanted).await?)
    }

    async fn hand_on_online(
        &self,
        granted: Granted,
        key: Arc<HeldKey>,
        child: &HandedOn,
    ) -> Result<Vec<u8>, WorkloadError> {
        let subject = &granted.contents.subject;
        let own = subject.split_once('@').map_or(subject.as_str(), |(label, _)| label);
        let wanted = Wanted {
            label: below(own, &child.label)?,
            scopes: child.scopes.clone(),
            life: Some(child.life),
            region: granted.contents.region.clone(),
            purpose: granted.contents.purpose.clone(),
            delegation_depth: child.delegation_depth,
            offline: false,
            key: None,
            depends_on: child.depends_on.clone(),
            renew: None,
        };
        let request = WorkloadRequest {
            chain: granted.authorization,
            ..request(&wanted, &read_key(&child.key)?, "software", None)?
        };
        Ok(self.ask(Some(key), request).await?.authorization)
    }

    /// What the agent holds for the workload that asks, renewed where half of it is over.
    async fn current(&self, caller: &Caller, label: &str) -> Result<(Granted, Arc<HeldKey>), WorkloadError> {
        let not_held = || WorkloadError::NotHeld(label.to_owned());
        let held = self.workloads().held.get(label).cloned().ok_or_else(not_held)?;
        // Asked each time: whoever asks now need not be who asked then.
        self.allow(caller, &held.wanted)?;
        let granted = held.granted.ok_or_else(not_held)?;
        let (from, until) = (granted.contents.not_before, granted.contents.expires);
        if clock::wall_ms() / 1_000 < from.midpoint(until) {
            return Ok((granted, held.key));
        }
        let granted = self.held_workload(caller, held.wanted).await?;
        let key = self.workloads().held.get(label).map(|held| Arc::clone(&held.key));
        Ok((granted, key.ok_or_else(not_held)?))
    }

    /// Whether the rules say that this caller is the workload it asks as, and may have what it asks for.
    fn allow(&self, caller: &Caller, wanted: &Wanted) -> Result<(), WorkloadError> {
        let rules = self.rules();
        let rule = rules
            .iter()
            .find(|rule| rule.label == wanted.label && rule.fits(caller.uid, &caller.executable, &caller.cgroup));
        let Some(rule) = rule else {
            return Err(WorkloadError::NotListed {
                label: wanted.label.clone(),
                uid: caller.uid,
                path: caller.path.clone(),
                cgroup: caller.cgroup.clone(),
                executable: caller.executable,
            });
        };
        let beyond = |what: String| {
            Err(WorkloadError::Beyond {
                label: wanted.label.clone(),
                what,
            })
        };
        if let Some(scope) = wanted.scopes.iter().find(|scope| !rule.scopes.contains(scope)) {
            return beyond(scope.clone());
        }
        if wanted.delegation_depth > rule.delegation_depth {
            return beyond(format!("delegation of depth {}", wanted.delegation_depth));
        }
        if wanted.offline && !rule.offline {
            return beyond("off-line delegation".to_owned());
        }
        Ok(())
    }

    /// Asks the broker for an authorization below this node's, and checks what comes back in full.
    async fn ask_below(&self, caller: &Caller, request: WorkloadRequest) -> Result<Granted, WorkloadError> {
        let standing = self.standing().word();
        let authorization = self.authorization().ok_or(PresentError::NotAuthorized { standing })?;
        let list = self.releases().map(|releases| releases.config.tpm.ima_list.clone());
        let digest = caller.executable;
        let looking = tokio::task::spawn_blocking(move || list.is_some_and(|list| is_measured(&list, &digest)));
        // Where the list cannot be read nothing was measured, as far as anybody can say.
        let measured = looking.await.unwrap_or(false);
        let request = WorkloadRequest {
            chain: authorization.to_vec(),
            attributes: Some(caller.attributes(measured)),
            ..request
        };
        self.ask(None, request).await
    }

    /// Asks with the chain in the request, as whose key it is: this node, or a workload whose key the agent holds.
    async fn ask(&self, holder: Option<Arc<HeldKey>>, request: WorkloadRequest) -> Result<Granted, WorkloadError> {
        let standing = self.standing().word();
        let releases = self.releases().ok_or(PresentError::NotAuthorized { standing })?;
        let trust = releases.trust().await?;
        let brokers = releases.config.endpoints();
        let mut client = trust.client(brokers.map_err(|e| ReleaseError::Domain(e.to_string()))?);
        let (cti, request) = self.prove_below(&mut client, &trust, holder, request).await?;
        let answer = post(&mut client, &request).await?;
        Ok(check(&trust, &cti, &request, &answer)?)
    }

    async fn prove_below(
        &self,
        client: &mut BrokerClient,
        trust: &DomainTrust,
        holder: Option<Arc<HeldKey>>,
        request: WorkloadRequest,
    ) -> Result<([u8; 16], WorkloadRequest), ReleaseError> {
        let first = request.scopes.first().and_then(|scope| scope.split_once(':'));
        let resource = first.map_or("", |(_, resource)| resource);
        let scope = Scope::parse(&format!("delegate:{resource}"));
        let mut cti = [0u8; 16];
        getrandom::fill(&mut cti).map_err(|error| PresentError::Random(error.to_string()))?;
        client.connect().await?;
        let digest: [u8; 32] = Sha256::digest(&request.chain).into();
        let proof = Proof {
            audience: workload_audience(&trust.policy.domain),
            issued_at: clock::wall_ms() / 1_000,
            cti,
            authorization_digest: digest,
            scope: scope.map_err(|e| PresentError::Scope(e.to_string()))?,
            request_digest: None,
            channel: Channel::Exporter(client.export(EXPORTER_LABEL, &digest)?),
        };
        let proof = self
            .tpm()
            .for_workloads()
            .run(move |machine| match &holder {
                None => proof.encode_signed(&*machine.signer()),
                Some(key) => proof.encode_signed(&*machine.signer_of(key)),
            })
            .await?
            .map_err(PresentError::Signing)?;
        Ok((cti, WorkloadRequest { proof, ..request }))
    }

    fn workloads(&self) -> std::sync::MutexGuard<'_, Workloads> {
        self.below.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether any rule is about this user.
    pub(super) fn has_rule_of(&self, uid: u32) -> bool {
        self.releases()
            .is_some_and(|releases| releases.config.workloads.rule.iter().any(|rule| rule.uid == uid))
    }

    fn rules(&self) -> Vec<Rule> {
        self.releases()
            .map(|releases| releases.config.workloads.rule.clone())
            .unwrap_or_default()
    }
}

/// What a child of a workload is called in full.
fn below(own: &str, child: &str) -> Result<String, WorkloadError> {
    let label = format!("{own}.{child}");
    if child.is_empty() || !is_label(&label) {
        let what = format!("{label:?} is no label: [a-z0-9][a-z0-9._-]{{0,31}}, the parent's and the dot included");
        return Err(WorkloadError::Malformed(what));
    }
    Ok(label)
}

/// The broker's word for a renewal that is none.
const RENEWAL_OTHER: &str = "workload-renewal-other";

fn request(
    wanted: &Wanted,
    key: &VerifyingKey,
    kind: &str,
    renew: Option<(u16, u32, u32)>,
) -> Result<WorkloadRequest, WorkloadError> {
    let mut depends_on = wanted
        .depends_on
        .iter()
        .map(|(kind, on)| {
            let kind = DependencyKind::parse(kind).ok_or_else(|| {
                let kinds = DependencyKind::ALL.map(DependencyKind::as_str).join(", ");
                WorkloadError::Malformed(format!("{kind:?} is no kind of dependency: {kinds}"))
            })?;
            Ok(Dependency { kind, on: *on })
        })
        .collect::<Result<Vec<_>, WorkloadError>>()?;
    depends_on.sort_unstable();
    depends_on.dedup();
    Ok(WorkloadRequest {
        chain: Vec::new(),
        proof: Vec::new(),
        label: wanted.label.clone(),
        key: cbor::encode(&key.to_cose_key(true)),
        key_kind: kind.to_owned(),
        scopes: wanted.scopes.clone(),
        life: wanted.life,
        region: wanted.region.clone(),
        purpose: wanted.purpose.clone(),
        delegation: (wanted.delegation_depth > 0).then_some((wanted.delegation_depth, wanted.offline)),
        depends_on,
        attributes: None,
        renew,
    })
}

/// Sends a request on the connection that its proof is for.
///
/// # Errors
/// [`ReleaseError::Client`]
pub async fn post(client: &mut BrokerClient, request: &WorkloadRequest) -> Result<IssuedAnswer, ReleaseError> {
    let (status, body) = client.post_here(WORKLOAD_PATH, request.encode()).await?;
    match IssuedAnswer::decode(&body) {
        Ok(answer) if (status == 200) == answer.authorization.is_some() => Ok(answer),
        _ => Err(ClientError::Refused {
            status,
            code: "unexplained".into(),
            message: String::from_utf8_lossy(body.get(..body.len().min(300)).unwrap_or_default()).into_owned(),
            reasons: Vec::new(),
        }
        .into()),
    }
}

/// Checks an answer: statement and receipt first, also of a denial; then that the authorization is the one they are about,
/// for this key, below the one presented and no wider than asked for. `cti` is the id of the proof it answers.
///
/// # Errors
/// [`ReleaseError::Denied`], or [`ReleaseError::Unproven`] for what nobody of the domain has said.
pub fn check(
    trust: &DomainTrust,
    cti: &[u8; 16],
    request: &WorkloadRequest,
    answer: &IssuedAnswer,
) -> Result<Granted, ReleaseError> {
    let unproven = |what: &str| ReleaseError::Unproven(what.to_owned());
    let recorded = trust
        .recorded(&answer.statement, &answer.receipt)
        .map_err(ReleaseError::Unproven)?;
    let (statement, digest) = (recorded.statement(), *recorded.digest());
    let verify = |bytes: &[u8]| {
        UntrustedAuthorization::parse(bytes)
            .and_then(|token| token.verify(&trust.authorization_keys, clock::wall_ms()))
            .map_err(|e| ReleaseError::Unproven(e.to_string()))
    };
    let own = verify(&request.chain)?;
    let nonce = release_nonce(own.confirmation_thumbprint(), cti);
    let own = own.contents();
    let kind = match own.depth {
        0 => Kind::WorkloadAuthorization,
        _ => Kind::Delegation,
    };
    let about_this = statement.kind == kind
        && statement.nonce.as_deref() == Some(nonce.as_slice())
        && statement.body.get(2).and_then(Value::as_bytes) == Some(own.cti.as_slice());
    if !about_this {
        return Err(unproven("the statement is about another request"));
    }
    let Some(bytes) = answer.authorization.as_deref() else {
        return Err(ReleaseError::Denied(answer.reasons.clone()));
    };
    let issued = verify(bytes)?.contents().clone();
    let node = own
        .subject
        .split_once('@')
        .map_or(own.subject.as_str(), |(_, node)| node);
    let scopes: Vec<String> = issued.scopes.iter().map(ToString::to_string).collect();
    let key = cbor::decode(&request.key, KEY_LIMITS).ok();
    let key = key.and_then(|key| VerifyingKey::from_cose_key(&key).ok());
    let as_asked = statement.outcome == Outcome::Allow
        && issued.statement == digest
        && issued.subject == format!("{}@{node}", request.label)
        && Some(&issued.confirmation) == key.as_ref()
        && issued.parent == Some(own.cti)
        && issued.depth == own.depth.saturating_add(1)
        && issued.expires <= own.expires
        && scopes == request.scopes
        && issued.region == request.region
        && issued.purpose == request.purpose
        && request.renew.is_none_or(|entry| entry == number(&issued.status));
    if !as_asked {
        return Err(unproven("the authorization is another than the one asked for"));
    }
    Ok(Granted {
        authorization: bytes.to_vec(),
        contents: issued,
    })
}

/// Largest list of IMA's that is looked through, in bytes.
const MAX_IMA_LIST: u64 = 64 << 20;

/// Whether IMA's list has a file of this SHA-256: the field of an entry's digest is `sha256:`, a zero, and the digest.
fn is_measured(list: &Path, digest: &[u8; 32]) -> bool {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(list).and_then(|file| file.take(MAX_IMA_LIST).read_to_end(&mut bytes));
    let field = [b"sha256:\0".as_slice(), digest].concat();
    read.is_ok() && bytes.windows(field.len()).any(|window| window == field)
}

fn read_key(text: &str) -> Result<VerifyingKey, WorkloadError> {
    let malformed = || WorkloadError::Malformed("the key is not a COSE_Key in hexadecimal".to_owned());
    let bytes = hex::decode(text).map_err(|_| malformed())?;
    let key = cbor::decode(&bytes, KEY_LIMITS).map_err(|_| malformed())?;
    VerifyingKey::from_cose_key(&key).map_err(|_| malformed())
}

/// A status entry as it travels.
#[must_use]
pub fn number(entry: &StatusIndex) -> (u16, u32, u32) {
    (entry.list, entry.generation, entry.index)
}

impl From<SignedError> for WorkloadError {
    fn from(error: SignedError) -> Self {
        Self::Broker(PresentError::Signing(error).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_called_within_its_parents_name() {
        assert_eq!(below("agent", "reader").as_deref(), Ok("agent.reader"));
        assert_eq!(below("agent.reader", "x").as_deref(), Ok("agent.reader.x"));
        let longest = "a".repeat(26);
        assert_eq!(below("agent", &longest).map(|label| label.len()), Ok(32));
        for bad in ["", "A", "a@node-2", "a b", &format!("{longest}a")] {
            assert!(matches!(below("agent", bad), Err(WorkloadError::Malformed(_))), "{bad}");
        }
    }

    #[test]
    fn what_ima_has_measured_is_found_by_its_digest_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("list");
        let entry = [b"....ima-ng(...sha256:\0".as_slice(), &[4; 32], b"/usr/bin/agent\0"].concat();
        std::fs::write(&list, &entry).unwrap();
        assert!(is_measured(&list, &[4; 32]));
        assert!(!is_measured(&list, &[5; 32]));
        std::fs::write(&list, &entry[..entry.len() - 20]).unwrap();
        assert!(!is_measured(&list, &[4; 32]), "cut short");
        assert!(!is_measured(&folder.path().join("none"), &[4; 32]));
    }
}
