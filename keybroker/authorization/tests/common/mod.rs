//! A small world for the tests: one domain, one node, one enforcer, fixed keys, a fixed instant.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test binary uses its part, and stops where it cannot go on"
)]

pub mod cases;
pub mod links;

use p256::ecdsa::signature::Signer as _;
use touchstone_authorization::{
    Allowed, Authorization, Channel, ChannelPolicy, Enforcer, KeyKind, KeyRing, ListHead, OfflineLimits, Presented,
    Proof, Refusal, ReplayMemory, Request, RequestChannel, RevokedIds, Scope, Status, StatusArray, StatusIndex,
    StatusLists, TrustFrame, TrustHead, TrustView, TrustedKey, decide,
};
use touchstone_cose::key::{Algorithm, KID_LEN, SignError, Signer, SigningKey, VerifyingKey};

pub const DOMAIN: &str = "demo.example";
pub const ENFORCER: &str = "guard:node-2";
pub const NOW_S: u64 = 1_800_000_000;
pub const NOW_MS: u64 = NOW_S * 1_000;
pub const WINDOW_MS: u64 = 10_000;
pub const SKEW_MS: u64 = 500;
pub const CHALLENGE: &[u8] = b"sixteen bytes or more";
pub const EXPORTER: [u8; 32] = [0xe0; 32];
pub const REQUEST: [u8; 32] = [0x4e; 32];
pub const STATUS: StatusIndex = StatusIndex {
    list: 3,
    generation: 2,
    index: 20_000,
};
pub const ENTRIES: u32 = 40_000;

pub fn issuer() -> SigningKey {
    SigningKey::from_seed([1; 32])
}

pub fn trust_key() -> SigningKey {
    SigningKey::from_seed([2; 32])
}

pub fn ring(keys: &[&SigningKey]) -> KeyRing {
    KeyRing::new(keys.iter().map(|key| TrustedKey {
        key: key.verifying_key(),
        not_before: 0,
        not_after: NOW_S as i64 + 3_600,
    }))
    .unwrap()
}

/// A P-256 key like the one a TPM holds.
pub struct HolderKey(p256::ecdsa::SigningKey);

impl HolderKey {
    pub fn new(seed: u8) -> Self {
        Self(p256::ecdsa::SigningKey::from_slice(&[seed; 32]).unwrap())
    }

    pub fn verifying_key(&self) -> VerifyingKey {
        let point = self.0.verifying_key().to_sec1_point(false);
        VerifyingKey::p256(
            point.x().unwrap().as_slice().try_into().unwrap(),
            point.y().unwrap().as_slice().try_into().unwrap(),
        )
        .unwrap()
    }
}

impl Signer for HolderKey {
    fn algorithm(&self) -> Algorithm {
        Algorithm::Esp256
    }

    fn kid(&self) -> [u8; KID_LEN] {
        self.verifying_key().kid()
    }

    fn sign(&self, to_be_signed: &[u8]) -> Result<Vec<u8>, SignError> {
        let signature: p256::ecdsa::Signature = self.0.sign(to_be_signed);
        Ok(signature.to_bytes().to_vec())
    }
}

pub fn scope(text: &str) -> Scope {
    Scope::parse(text).unwrap()
}

/// The authorization of the demo's node.
pub fn authorization() -> Authorization {
    Authorization {
        issuer: DOMAIN.into(),
        subject: "node-1".into(),
        audience: DOMAIN.into(),
        expires: NOW_S + 110,
        not_before: NOW_S - 10,
        issued_at: NOW_S - 10,
        cti: [0xc1; 16],
        confirmation: HolderKey::new(7).verifying_key(),
        scopes: vec![
            scope("execute:workloads"),
            scope("release:node-secrets"),
            scope("delegate:workloads"),
        ],
        policy_version: 12,
        epoch: 4_711,
        parent: None,
        statement: [0x57; 32],
        status: STATUS,
        key_kind: KeyKind::Tpm,
        depth: 0,
        delegation: None,
        region: None,
        purpose: None,
    }
}

/// A proof for [`authorization`] at [`ENFORCER`], over [`CHALLENGE`]; `ath` is filled in by who knows the bytes.
pub fn proof() -> Proof {
    Proof {
        audience: ENFORCER.into(),
        issued_at: NOW_S,
        cti: [0xc2; 16],
        authorization_digest: [0; 32],
        scope: scope("execute:workloads"),
        request_digest: None,
        channel: Channel::Challenge(CHALLENGE.to_vec()),
    }
}

pub fn lists(changes: &[(u32, Status)]) -> StatusLists {
    let list = StatusArray::new(ENTRIES)
        .unwrap()
        .with(changes.iter().copied())
        .unwrap();
    StatusLists::new([(1, StatusArray::new(100).unwrap()), (STATUS.list, list)]).unwrap()
}

pub fn head(lists: &StatusLists) -> TrustHead {
    TrustHead {
        domain: DOMAIN.into(),
        generation: STATUS.generation,
        epoch: 4_711,
        term: 1,
        policy_version: 12,
        policy_digest: [0x9d; 32],
        keyset_version: 3,
        lists: ListHead::of(lists),
        ledger_size: 1_000,
        ledger_root: [0x1e; 32],
        issued_at_ms: NOW_MS - 500,
        fresh_until_ms: NOW_MS + 9_000,
        revoked: None,
    }
}

pub fn full_frame(head: &TrustHead, lists: &StatusLists) -> Vec<u8> {
    TrustFrame::full(&head.encode_signed(&trust_key()).unwrap(), lists, RevokedIds::none()).encode()
}

pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).into()
}

/// Everything a decision depends on, good until a test changes it.
pub struct Case {
    pub authorization: Authorization,
    pub issuer: SigningKey,
    /// Changes the signed bytes on their way.
    pub alter_authorization: fn(Vec<u8>) -> Vec<u8>,
    /// Off-line delegations added to the authorization.
    pub links: Vec<links::Link>,
    /// Puts the links together; as it should be done, unless a test does it otherwise.
    pub join: fn(&[Vec<u8>]) -> Vec<u8>,
    pub proof: Proof,
    /// `ath` other than the digest of what is presented.
    pub other_ath: Option<[u8; 32]>,
    pub holder: HolderKey,
    pub alter_proof: fn(Vec<u8>) -> Vec<u8>,
    pub status: Vec<(u32, Status)>,
    /// Ids of delegations that were taken back.
    pub revoked: Vec<[u8; 16]>,
    /// Changes the head before it is signed.
    pub alter_head: fn(&mut TrustHead),
    pub without_view: bool,
    pub enforcer_id: &'static str,
    pub enforcer_domain: &'static str,
    pub policy: ChannelPolicy,
    pub region: Option<&'static str>,
    pub purpose: Option<&'static str>,
    pub offline: OfflineLimits,
    pub action: &'static str,
    pub resource: &'static str,
    pub request_digest: Option<[u8; 32]>,
    pub channel: RequestChannel<'static>,
    pub received_at_ms: u64,
    pub now_ms: u64,
    pub memory: ReplayMemory,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            authorization: authorization(),
            issuer: issuer(),
            alter_authorization: |bytes| bytes,
            links: Vec::new(),
            join: links::join,
            proof: proof(),
            other_ath: None,
            holder: HolderKey::new(7),
            alter_proof: |bytes| bytes,
            status: Vec::new(),
            revoked: Vec::new(),
            alter_head: |_| {},
            without_view: false,
            enforcer_id: ENFORCER,
            enforcer_domain: DOMAIN,
            policy: ChannelPolicy::Challenge,
            region: None,
            purpose: None,
            offline: OfflineLimits::MOST,
            action: "execute",
            resource: "workloads",
            request_digest: None,
            channel: RequestChannel::Challenge(CHALLENGE),
            received_at_ms: NOW_MS,
            now_ms: NOW_MS,
            memory: ReplayMemory::new(16),
        }
    }
}

impl Case {
    /// At an endpoint that does not end TLS, with a proof for the request alone.
    pub fn over_request() -> Self {
        Self {
            policy: ChannelPolicy::Optional,
            channel: RequestChannel::None,
            request_digest: Some(REQUEST),
            proof: Proof {
                channel: Channel::None,
                request_digest: Some(REQUEST),
                ..proof()
            },
            ..Self::default()
        }
    }

    /// At a proxy that ends TLS.
    pub fn over_tls() -> Self {
        Self {
            policy: ChannelPolicy::ExporterOrChallenge,
            channel: RequestChannel::Exporter(&EXPORTER),
            proof: Proof {
                channel: Channel::Exporter(EXPORTER),
                ..proof()
            },
            ..Self::default()
        }
    }

    pub fn authorization_bytes(&self) -> Vec<u8> {
        (self.alter_authorization)(self.authorization.encode_signed(&self.issuer).unwrap())
    }

    /// The authorization and the links added to it.
    pub fn chain_bytes(&self) -> Vec<u8> {
        (self.join)(&links::signed(self.authorization_bytes(), &self.links))
    }

    pub fn proof_bytes(&self) -> Vec<u8> {
        let authorization_digest = self.other_ath.unwrap_or_else(|| sha256(&self.chain_bytes()));
        let proof = Proof {
            authorization_digest,
            ..self.proof.clone()
        };
        (self.alter_proof)(proof.encode_signed(&self.holder).unwrap())
    }

    pub fn view(&self) -> TrustView {
        let lists = lists(&self.status);
        let revoked = RevokedIds::new(self.revoked.iter().copied()).unwrap();
        let mut head = TrustHead {
            revoked: revoked.head(),
            ..head(&lists)
        };
        (self.alter_head)(&mut head);
        let domain = head.domain.clone();
        let frame = TrustFrame::full(&head.encode_signed(&trust_key()).unwrap(), &lists, &revoked);
        TrustView::accept(
            None,
            &frame.encode(),
            &ring(&[&trust_key()]),
            &domain,
            self.received_at_ms,
        )
        .unwrap()
    }

    /// Decides about these bytes.
    pub fn decide_bytes(&self, authorization: &[u8], proof: &[u8]) -> (Result<Allowed, Vec<Refusal>>, ReplayMemory) {
        let view = (!self.without_view).then(|| self.view());
        self.decide_presented(Presented::Bytes(authorization), proof, view.as_ref())
    }

    pub fn decide_presented(
        &self,
        authorization: Presented<'_>,
        proof: &[u8],
        view: Option<&TrustView>,
    ) -> (Result<Allowed, Vec<Refusal>>, ReplayMemory) {
        let keys = ring(&[&issuer()]);
        let request = Request {
            authorization,
            proof,
            action: self.action,
            resource: self.resource,
            request_digest: self.request_digest,
            channel: self.channel,
        };
        decide(&request, view, &self.enforcer(&keys), self.memory.clone(), self.now_ms)
    }

    pub fn enforcer<'a>(&self, keys: &'a KeyRing) -> Enforcer<'a> {
        Enforcer {
            id: self.enforcer_id,
            domain: self.enforcer_domain,
            keys,
            skew_ms: SKEW_MS,
            window_ms: WINDOW_MS,
            requires_channel: self.policy,
            region: self.region,
            purpose: self.purpose,
            offline: self.offline,
        }
    }

    pub fn decide(&self) -> (Result<Allowed, Vec<Refusal>>, ReplayMemory) {
        self.decide_bytes(&self.chain_bytes(), &self.proof_bytes())
    }

    /// The codes this case is refused with; empty if it is allowed.
    pub fn codes(&self) -> Vec<&'static str> {
        codes(&self.decide().0)
    }
}

pub fn codes(decision: &Result<Allowed, Vec<Refusal>>) -> Vec<&'static str> {
    decision
        .as_ref()
        .err()
        .into_iter()
        .flatten()
        .map(|refusal| refusal.code.as_str())
        .collect()
}
