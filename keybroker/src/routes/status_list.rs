//! `GET /v1/status` and `GET /v1/status/{list}`: status lists for those who poll (draft-ietf-oauth-status-list, sections 5.2,
//! 8.1 and 9.3), at the address that signed policy gives them.
//!
//! A list is signed once a second, however many ask for it, and may be kept for its ttl. It says less than the trust state: no
//! epoch, and its age is what whoever polls accepts.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use touchstone_cose::status_list::{StatusList, StatusListToken, TYP};
use touchstone_policies::PolicySet;

use super::{answer, blocking};
use crate::app::App;
use crate::clock::seconds;
use crate::hello::internal;
use crate::problem::{Refusal, RefusalCode};

/// What was signed last of each list: of which contents, under which name, and when.
#[derive(Debug, Default)]
pub struct StatusTokens(Mutex<BTreeMap<u16, Made>>);

#[derive(Debug, Clone)]
struct Made {
    digest: [u8; 32],
    subject: String,
    issued_at: i64,
    token: Bytes,
}

/// The name of a list: its address where signed policy gives one.
fn subject(policy: &PolicySet, number: u16) -> String {
    match &policy.settings.status_list_uri {
        Some(uri) => format!("{}/{number}", uri.trim_end_matches('/')),
        None => format!(
            "urn:touchstone:status:{}:{}:{number}",
            policy.domain, policy.settings.generation
        ),
    }
}

/// The lists there are (section 9.3): JSON, `{"status_lists": [address …]}`. Nothing where policy gives them no address.
pub(super) async fn aggregation(State(app): State<Arc<App>>) -> Result<Response, Refusal> {
    let policy = app.policy();
    if policy.settings.status_list_uri.is_none() {
        let detail = "signed policy gives the status lists no address: [status_list] uri in settings.toml";
        return Err(Refusal::new(RefusalCode::NotFound, detail));
    }
    let lists = app.trust.lists();
    let names: Vec<String> = lists.iter().map(|(number, _)| subject(&policy, number)).collect();
    let body = serde_json::json!({ "status_lists": names }).to_string();
    Ok(cached(answer(StatusCode::OK, "application/json", body), ttl(&policy)))
}

/// One status list as a signed token. None is made while this broker grants nothing, because its policy has ended or it
/// differs from the others: a list says that it is fresh.
pub(super) async fn status_list(
    State(app): State<Arc<App>>,
    Path(list): Path<String>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let number: u16 = list
        .parse()
        .map_err(|_| Refusal::new(RefusalCode::ParameterMalformed, "a status list has a number"))?;
    if query.contains_key("time") {
        // Section 8.4: one that cannot answer for the past says so, and does not answer for now instead.
        let detail = "only the present list is served; the ledger tells the past";
        return Err(Refusal::new(RefusalCode::StatusHistory, detail));
    }
    if !accepts(&headers) {
        return Err(Refusal::new(RefusalCode::NotAcceptable, format!("there is {TYP}")));
    }
    if app.trust.is_stopped() {
        // Who polls must not be told that a list is fresh which nothing can be entered into any more.
        return Err(Refusal::new(RefusalCode::BrokerStopping, "the ledger has stopped"));
    }
    let (token, ttl) = blocking(move || {
        let policy = app.live_policy(app.clock.now_ms())?;
        if app.trust.is_held() {
            return Err(Refusal::new(RefusalCode::Diverged, "no fresh trust state goes out"));
        }
        Ok((made(&app, &policy, number)?, ttl(&policy)))
    })
    .await?;
    let mut response = cached(answer(StatusCode::OK, TYP, token), ttl);
    // Section 8.1: who polls from a web page may.
    let any = HeaderValue::from_static("*");
    response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, any);
    Ok(response)
}

/// The token of a list, made anew where its contents, its name or the second are others.
fn made(app: &App, policy: &PolicySet, number: u16) -> Result<Bytes, Refusal> {
    // Held while it is made: whoever asks meanwhile gets this one.
    let mut held = app.status_tokens.0.lock().unwrap_or_else(PoisonError::into_inner);
    let lists = app.trust.lists();
    let found = lists
        .get(number)
        .ok_or_else(|| Refusal::new(RefusalCode::NotFound, "no such status list"))?;
    let (subject, now) = (subject(policy, number), seconds(app.clock.now_ms()));
    let same = |made: &&Made| made.digest == found.digest() && made.issued_at == now && made.subject == subject;
    if let Some(made) = held.get(&number).filter(same) {
        return Ok(made.token.clone());
    }
    let life = i64::try_from(policy.settings.timers.status_list_exp_ms / 1_000).unwrap_or(0);
    let token = StatusListToken {
        subject: subject.clone(),
        issued_at: now,
        expires: now.saturating_add(life.max(1)),
        ttl: ttl(policy),
        list: StatusList::from_bytes(found.to_bytes()).map_err(internal)?,
    };
    let token = Bytes::from(token.sign(&*app.keys.trust_state).map_err(internal)?);
    let made = Made {
        digest: found.digest(),
        subject,
        issued_at: now,
        token: token.clone(),
    };
    held.insert(number, made);
    Ok(token)
}

/// How long a list may be kept, in seconds.
fn ttl(policy: &PolicySet) -> u64 {
    (policy.settings.timers.status_list_ttl_ms / 1_000).max(1)
}

/// Whether whoever asks takes what there is (RFC 9110, 12.5.1). No header, and one that nobody can read, take everything.
fn accepts(headers: &HeaderMap) -> bool {
    let Some(Ok(accept)) = headers.get(header::ACCEPT).map(HeaderValue::to_str) else {
        return true;
    };
    let named = accept.split(',').filter_map(|range| range.split(';').next());
    named
        .map(str::trim)
        .any(|range| matches!(range, "*/*" | "application/*") || range.eq_ignore_ascii_case(TYP))
}

fn cached(mut response: Response, seconds: u64) -> Response {
    let value = HeaderValue::try_from(format!("public, max-age={seconds}"));
    if let Ok(value) = value {
        response.headers_mut().insert(header::CACHE_CONTROL, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_accepted() {
        for (accept, expected) in [
            ("*/*", true),
            ("application/*;q=0.5", true),
            ("text/html, application/statuslist+cwt", true),
            ("application/statuslist+jwt", false),
            ("text/html", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_str(accept).unwrap())]);
            assert_eq!(accepts(&headers), expected, "{accept:?}");
        }
        assert!(accepts(&HeaderMap::new()));
    }
}
