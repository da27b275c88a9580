//! The guard's small HTTP interface for local services: a challenge, a decision.
//!
//! `POST /challenge` → `{"challenge": hex}`; `POST /decide` with a [`DecisionRequest`] → 200 or 403 with a [`Verdict`].
//! Loopback only: who may ask is the node's own business, and every answer says `Cache-Control: no-store`.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::{Guard, GuardEvent};
use crate::clock;

/// The largest request that is read.
const MAX_REQUEST: usize = 16 * 1024;

/// What is asked of a guard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecisionRequest {
    /// The authorization, base64.
    pub authorization: String,
    /// The proof of possession, base64.
    pub proof: String,
    /// The guard's challenge that the proof answers, hexadecimal.
    pub challenge: String,
    /// What is to be done.
    pub action: String,
    /// To what.
    pub resource: String,
}

/// What a guard answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Allowed or not.
    pub allowed: bool,
    /// The authorization's subject, where allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The domain that issued the authorization, where it is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// How old that domain's state was, in milliseconds, where it counted by its age alone.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "state-age")]
    pub state_age_ms: Option<u64>,
    /// Until when, Unix milliseconds, where allowed and nothing is withdrawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
    /// Every reason against, as `code: words`.
    pub reasons: Vec<String>,
    /// The reasons' stable codes.
    pub codes: Vec<String>,
}

/// A guard and where it tells what it did.
pub struct GuardService {
    /// The guard.
    pub guard: Arc<Guard>,
    /// Receives every event.
    pub tell: Arc<dyn Fn(GuardEvent) + Send + Sync>,
}

/// The routes of a guard.
pub fn router(service: GuardService) -> Router {
    Router::new()
        .route("/challenge", post(challenge))
        .route("/decide", post(decision))
        .layer(axum::extract::DefaultBodyLimit::max(MAX_REQUEST))
        .with_state(Arc::new(service))
}

async fn challenge(State(service): State<Arc<GuardService>>) -> Response {
    match service.guard.challenge() {
        Ok(challenge) => json(
            StatusCode::OK,
            &serde_json::json!({ "challenge": hex::encode(challenge) }),
        ),
        Err(error) => json(StatusCode::SERVICE_UNAVAILABLE, &serde_json::json!({ "error": error })),
    }
}

async fn decision(State(service): State<Arc<GuardService>>, body: Bytes) -> Response {
    let request = match parse(&body) {
        Ok(request) => request,
        Err(error) => return json(StatusCode::BAD_REQUEST, &serde_json::json!({ "error": error })),
    };
    let Parsed {
        authorization,
        proof,
        challenge,
        action,
        resource,
    } = request;
    match service
        .guard
        .decide(&authorization, &proof, &action, &resource, &challenge)
    {
        Ok(admitted) => {
            let (subject, allowed) = (admitted.subject, admitted.allowed);
            (service.tell)(GuardEvent::Allowed {
                subject: subject.clone(),
                scope: allowed.scope.to_string(),
                at_ms: clock::wall_ms(),
            });
            let verdict = Verdict {
                allowed: true,
                subject: Some(subject),
                authority: admitted.authority,
                state_age_ms: admitted.state_age_ms,
                until_ms: Some(allowed.until_ms),
                reasons: Vec::new(),
                codes: Vec::new(),
            };
            json(StatusCode::OK, &verdict)
        }
        Err(refusals) => {
            let reasons: Vec<String> = refusals.iter().map(ToString::to_string).collect();
            (service.tell)(GuardEvent::Denied {
                reasons: reasons.clone(),
                at_ms: clock::wall_ms(),
            });
            let codes = refusals
                .iter()
                .map(|refusal| refusal.code.as_str().to_owned())
                .collect();
            json(
                StatusCode::FORBIDDEN,
                &Verdict {
                    allowed: false,
                    subject: None,
                    authority: None,
                    state_age_ms: None,
                    until_ms: None,
                    reasons,
                    codes,
                },
            )
        }
    }
}

struct Parsed {
    authorization: Vec<u8>,
    proof: Vec<u8>,
    challenge: Vec<u8>,
    action: String,
    resource: String,
}

fn parse(body: &[u8]) -> Result<Parsed, String> {
    let request: DecisionRequest = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    Ok(Parsed {
        authorization: STANDARD
            .decode(&request.authorization)
            .map_err(|error| format!("authorization: {error}"))?,
        proof: STANDARD
            .decode(&request.proof)
            .map_err(|error| format!("proof: {error}"))?,
        challenge: hex::decode(&request.challenge).map_err(|error| format!("challenge: {error}"))?,
        action: request.action,
        resource: request.resource,
    })
}

fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let mut response = (status, serde_json::to_vec(body).unwrap_or_default()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
