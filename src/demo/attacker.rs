//! The attacker of the story: has seen everything that went over the wire, holds no key.

use std::net::SocketAddr;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};
use touchstone_attest::client::{ClientError, Endpoint};
use touchstone_attest::trust::DomainTrust;
use touchstone_authorization::{Channel, Proof, Scope};
use touchstone_cose::cbor;
use touchstone_cose::key::SigningKey;
use touchstone_enforcer::guard::{DecisionRequest, client};
use touchstone_evidence::collection::{Collection, Label};
use touchstone_evidence::message::{Hello, Identity, LogBytes, PROTOCOL, Submission};
use touchstone_verifier::tpm::Public;

use super::world::{DOMAIN, GUARD, World};
use crate::output::{self, Failure};
use crate::{clock, runtime};

/// How a theft was refused.
pub struct Refusal {
    /// The stable code.
    pub code: String,
    /// In words.
    pub message: String,
}

/// Sends the evidence in `record` (a collection) again, in a session and over a connection of its own.
pub async fn replay_evidence(world: &World, broker: &str, record: &Path) -> Result<Refusal, Failure> {
    let collection = output::read(record)?;
    let seen = Collection::decode(&collection)?;
    let ak = seen
        .get(Label::TpmAkPublic)
        .ok_or_else(|| Failure::new("the record has no attestation key"))?;
    let ak = Public::parse(ak)?;
    let trust = DomainTrust::load(&world.path("policy"), &world.path("root.json"), DOMAIN, clock::now()).await?;
    let mut client = trust.client(vec![Endpoint::parse(broker)?]);
    let challenge = client
        .hello(&Hello {
            protocol: PROTOCOL.into(),
            identity: Identity::Known {
                ak_name: ak.name().as_bytes().to_vec(),
            },
            // Any key will do for a thief: he holds the private half of none.
            session_key: cbor::encode(&ak.to_cose_key()?.to_cose_key(true)),
            receive_key: None,
            kinds: vec!["tpm".into()],
            boot: None,
        })
        .await?;
    let submission = Submission {
        session_id: challenge.session_id,
        collection,
        activation: None,
        offsets: LogBytes::new(),
    };
    match client.submit(&submission).await {
        Err(ClientError::Refused {
            code, message, reasons, ..
        }) => Ok(Refusal {
            code,
            message: std::iter::once(message).chain(reasons).collect::<Vec<_>>().join("; "),
        }),
        Ok(submitted) if submitted.answer.allowed => Err(Failure::new("the broker accepted a replayed quote")),
        Ok(_) => Err(Failure::new(
            "the broker recorded a decision about a node that said nothing",
        )),
        Err(other) => Err(other.into()),
    }
}

/// The stolen authorization of `stolen` with a proof for a fresh challenge, signed by a key made on the spot.
pub fn sign_with_another_key(guard: SocketAddr, stolen: &DecisionRequest) -> Result<DecisionRequest, Failure> {
    let challenge = runtime::block_on(client::challenge(guard))??;
    let mut seed = [0u8; 32];
    let mut cti = [0u8; 16];
    getrandom::fill(&mut seed).map_err(|error| Failure::new(error.to_string()))?;
    getrandom::fill(&mut cti).map_err(|error| Failure::new(error.to_string()))?;
    let authorization = STANDARD.decode(&stolen.authorization)?;
    let proof = Proof {
        audience: GUARD.into(),
        issued_at: u64::try_from(clock::now()).unwrap_or(0),
        cti,
        authorization_digest: Sha256::digest(&authorization).into(),
        scope: Scope::parse(&format!("{}:{}", stolen.action, stolen.resource))?,
        request_digest: None,
        channel: Channel::Challenge(hex::decode(&challenge)?),
    };
    let proof = proof.encode_signed(&SigningKey::from_seed(seed))?;
    Ok(DecisionRequest {
        proof: STANDARD.encode(proof),
        challenge,
        ..stolen.clone()
    })
}
