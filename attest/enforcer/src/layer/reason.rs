//! Why a request over HTTP is refused before, or instead of, a decision about its authorization.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Response, StatusCode, header};
use touchstone_authorization::Refusal;

use crate::guard::Verdict;

/// The header that carries the codes of every reason, separated by `, `.
pub const REASON: HeaderName = HeaderName::from_static("touchstone-reason");

/// The most codes that are written into the header; the body has all.
const MAX_CODES: usize = 16;

touchstone_cose::reason_codes! {
    /// Codes of what is wrong with a request, not with an authorization.
    pub enum AccessCode {
        CredentialsMissing = "credentials-missing": "The request carries no authorization or no proof of possession, or one of them twice. Send `Authorization: Touchstone …` and `Touchstone-Proof: …`, each once.",
        CredentialsMalformed = "credentials-malformed": "The authorization or the proof of possession is not base64url without padding, or too long. Look at what was sent.",
        RequestAmbiguous = "request-ambiguous": "The request could be read in two ways, by the enforcer and by the service behind it. Send one host, and a path without dot segments, empty segments, and escapes of plain characters.",
        RequestUnmapped = "request-unmapped": "No route says which right this request needs. Add one to the routes, or ask for something else.",
        BodyTooLarge = "proven-body-too-large": "The body is larger than the enforcer reads to compute the digest that the proof is over. Send less at once, or raise the limit.",
        BodyUnreadable = "proven-body-unreadable": "The body ended before it was whole, so nothing can be said about it. Send the request again with a new proof.",
        BodyNotCovered = "request-body-not-covered": "The request has a body, or may have one, that the proof cannot be held against here. Send Content-Digest where the enforcer takes it, or no body.",
        ConnectionUnknown = "connection-unknown": "The service ends TLS but does not say on which connection the request came. Put `layer::Connection` into the extensions of every request.",
        UpgradeNotHeld = "upgrade-not-held": "The request asks to make another protocol of the connection, which nobody here would end with the right. Send plain requests; or let the service end what it upgrades, and say so (`AuthorizationLayer::with_upgrades`).",
        OriginalMissing = "original-request-missing": "The proxy does not say which request it asks about. Set every header of the example configuration.",
        HeadersPassedThrough = "client-headers-passed-through": "The proxy hands on headers of its client to the enforcer, so a client could speak in its name. Set `proxy_pass_request_headers off` for the check.",
    }
}

/// Every reason why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// What is wrong with the request, if that is it.
    access: Option<(AccessCode, String)>,
    /// What is wrong with the authorization or its proof.
    refusals: Vec<Refusal>,
}

impl Denied {
    /// Refused for one thing that is wrong with the request; `found` in words, never a secret.
    pub fn access(code: AccessCode, found: impl Into<String>) -> Self {
        Self {
            access: Some((code, found.into())),
            refusals: Vec::new(),
        }
    }

    /// The stable codes.
    #[must_use]
    pub fn codes(&self) -> Vec<&'static str> {
        let access = self.access.iter().map(|(code, _)| code.as_str());
        access
            .chain(self.refusals.iter().map(|refusal| refusal.code.as_str()))
            .collect()
    }

    /// Every reason, as `code: words`.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        let access = self.access.iter().map(|(code, found)| format!("{code}: {found}"));
        access.chain(self.refusals.iter().map(ToString::to_string)).collect()
    }

    /// 403 with the codes in a header and everything in the body, never to be kept by a cache.
    #[must_use]
    pub fn response(&self) -> Response<Body> {
        let verdict = Verdict {
            allowed: false,
            subject: None,
            authority: None,
            state_age_ms: None,
            until_ms: None,
            reasons: self.reasons(),
            codes: self.codes().into_iter().map(str::to_owned).collect(),
        };
        let mut response = Response::new(Body::from(serde_json::to_vec(&verdict).unwrap_or_default()));
        *response.status_mut() = StatusCode::FORBIDDEN;
        let mut codes = self.codes();
        codes.dedup();
        codes.truncate(MAX_CODES);
        let headers = response.headers_mut();
        // Codes are lower-case letters, digits and hyphens.
        if let Ok(codes) = HeaderValue::try_from(codes.join(", ")) {
            headers.insert(REASON, codes);
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

impl From<Vec<Refusal>> for Denied {
    fn from(refusals: Vec<Refusal>) -> Self {
        Self { access: None, refusals }
    }
}
