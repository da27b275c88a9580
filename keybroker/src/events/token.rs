//! A Security Event Token, from bytes to what a detector that signed policy names has said. Pure: the time is given.
//!
//! RFC 8417 in a compact JWS (RFC 7515, section 3.1), as RFC 8935 pushes it and the Shared Signals Framework 1.0 profiles
//! it: typ `secevent+jwt`, no `sub`, no `exp`, one subject in `sub_id` (RFC 9493) or, as older transmitters write it, in the
//! event itself. Which algorithm counts is said by the key in signed policy, never by the token.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use touchstone_cose::key::{Algorithm, VerifyingKey};
use touchstone_policies::{Detector, Detectors, is_node_name, is_workload_name};

use super::effect::{Effect, effect};
use super::json;

/// Largest token, in bytes.
pub const MAX_SET_BYTES: usize = 32 * 1024;
/// Oldest token that is taken, in seconds since it was issued: for so long a transmitter may try again.
pub const MAX_AGE_S: i64 = 600;
/// By how many seconds a detector's clock may be ahead.
pub const MAX_AHEAD_S: i64 = 5;
/// Most events in one token.
pub const MAX_EVENTS: usize = 8;
/// Longest `jti`, in bytes.
pub const MAX_JTI: usize = 256;
/// Most audiences of one token.
const MAX_AUDIENCES: usize = 16;

/// Why a token is not taken: the error codes of RFC 8935, section 2.4.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", code.as_str())]
pub struct SetError {
    /// The code.
    pub code: SetCode,
    /// What was expected and found.
    pub detail: String,
}

/// The error codes of RFC 8935, section 2.4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetCode {
    /// It is no Security Event Token, or its event does not conform to its type.
    InvalidRequest,
    /// Its algorithm is not the one of the detector's keys.
    InvalidKey,
    /// Signed policy names no detector of this issuer.
    InvalidIssuer,
    /// It is for somebody else.
    InvalidAudience,
    /// Its signature does not verify.
    AuthenticationFailed,
    /// The detector may not report this subject, or not so often.
    AccessDenied,
}

impl SetCode {
    /// As RFC 8935 writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::InvalidKey => "invalid_key",
            Self::InvalidIssuer => "invalid_issuer",
            Self::InvalidAudience => "invalid_audience",
            Self::AuthenticationFailed => "authentication_failed",
            Self::AccessDenied => "access_denied",
        }
    }
}

impl SetError {
    /// An error with its detail.
    #[must_use]
    pub fn new(code: SetCode, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
        }
    }
}

fn malformed(detail: impl Into<String>) -> SetError {
    SetError::new(SetCode::InvalidRequest, detail)
}

/// What a detector has said, authentic, fresh and for this broker.
#[derive(Debug, Clone, PartialEq)]
pub struct SecurityEvent<'p> {
    /// Which detector, by its name in policy.
    pub name: &'p str,
    /// What policy says of it.
    pub detector: &'p Detector,
    /// `jti`: with the issuer, what it is called.
    pub jti: String,
    /// `iat`, Unix seconds.
    pub issued_at: i64,
    /// The types of its events, sorted.
    pub types: Vec<String>,
    /// The strictest that they ask for, before policy caps it.
    pub asks: Effect,
    /// The node or workload it is about; nothing for a trial of the line.
    pub subject: Option<String>,
}

/// Reads and checks a token at `now`, Unix seconds.
///
/// # Errors
/// [`SetError`]: nothing of it counts.
pub fn judge<'p>(detectors: &'p Detectors, bytes: &[u8], now: i64) -> Result<SecurityEvent<'p>, SetError> {
    if bytes.len() > MAX_SET_BYTES {
        return Err(malformed(format!("expected at most {MAX_SET_BYTES} bytes")));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| malformed("expected a compact JWS"))?;
    let mut parts = text.split('.');
    let (Some(head), Some(body), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(malformed("expected three parts with two dots between them"));
    };
    let decoded = |part: &str, what: &str| {
        let bytes = URL_SAFE_NO_PAD.decode(part);
        bytes.map_err(|_| malformed(format!("{what}: expected base64url without padding")))
    };
    let algorithm = header(&decoded(head, "header")?)?;
    let claims = object(json::read(&decoded(body, "payload")?), "payload")?;
    let issuer = string(&claims, "iss")?;
    let unknown = || SetError::new(SetCode::InvalidIssuer, "signed policy names no detector of this issuer");
    let (name, detector) = detectors.by_issuer(issuer).ok_or_else(unknown)?;
    let signed = text.get(..head.len() + 1 + body.len()).unwrap_or_default();
    verify(
        detector,
        &algorithm,
        signed.as_bytes(),
        &decoded(signature, "signature")?,
    )?;
    addressed(&claims, detector)?;
    let issued_at = fresh(&claims, now)?;
    let jti = string(&claims, "jti")?;
    if !(1..=MAX_JTI).contains(&jti.len()) || !jti.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(malformed(format!("jti: expected 1 to {MAX_JTI} printable characters")));
    }
    let (types, asks) = events(&claims)?;
    let subject = subject(&claims)?;
    if subject.is_none() && asks != Effect::Nothing {
        return Err(malformed("expected one subject: sub_id, or subject of the event"));
    }
    Ok(SecurityEvent {
        name,
        detector,
        jti: jti.to_owned(),
        issued_at,
        types,
        asks,
        subject,
    })
}

/// Checks the header, and gives the algorithm it names. A member that is not known could change what the rest means.
fn header(bytes: &[u8]) -> Result<String, SetError> {
    let header = object(json::read(bytes), "header")?;
    if let Some(other) = header
        .keys()
        .find(|name| !["alg", "typ", "kid"].contains(&name.as_str()))
    {
        return Err(malformed(format!("header: expected alg, typ and kid, found {other:?}")));
    }
    let typ = string(&header, "typ")?.to_ascii_lowercase();
    if typ.strip_prefix("application/").unwrap_or(&typ) != "secevent+jwt" {
        return Err(malformed("typ: expected secevent+jwt"));
    }
    Ok(string(&header, "alg")?.to_owned())
}

/// Whether one of the detector's keys, under the algorithm of that key, made this signature.
fn verify(detector: &Detector, algorithm: &str, signed: &[u8], signature: &[u8]) -> Result<(), SetError> {
    let fits = |key: &&VerifyingKey| match key.algorithm() {
        Algorithm::Ed25519 => matches!(algorithm, "EdDSA" | "Ed25519"),
        Algorithm::Esp256 => algorithm == "ES256",
        _ => false,
    };
    let mut keys = detector.keys.iter().filter(fits).peekable();
    if keys.peek().is_none() {
        let detail = "alg: expected the algorithm of a key that signed policy lists for this issuer";
        return Err(SetError::new(SetCode::InvalidKey, detail));
    }
    match keys.any(|key| key.verify(signed, signature).is_ok()) {
        true => Ok(()),
        false => Err(SetError::new(
            SetCode::AuthenticationFailed,
            "the signature is by none of the keys that signed policy lists for this issuer",
        )),
    }
}

fn addressed(claims: &Map<String, Value>, detector: &Detector) -> Result<(), SetError> {
    let audiences: Vec<&str> = match claims.get("aud") {
        Some(Value::String(audience)) => vec![audience],
        Some(Value::Array(all)) if all.len() <= MAX_AUDIENCES => all.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    match audiences.contains(&detector.audience.as_str()) {
        true => Ok(()),
        false => Err(SetError::new(
            SetCode::InvalidAudience,
            "aud: expected the audience that signed policy names for this issuer",
        )),
    }
}

/// When it was issued: lately. A token of another kind (one that expires, one about a person) is none.
fn fresh(claims: &Map<String, Value>, now: i64) -> Result<i64, SetError> {
    if let Some(other) = ["sub", "exp", "nbf"]
        .into_iter()
        .find(|name| claims.contains_key(*name))
    {
        return Err(malformed(format!("{other}: a Security Event Token has none")));
    }
    let issued_at = claims.get("iat").and_then(Value::as_i64);
    let issued_at = issued_at.ok_or_else(|| malformed("iat: expected Unix seconds"))?;
    let (first, last) = (now.saturating_sub(MAX_AGE_S), now.saturating_add(MAX_AHEAD_S));
    if !(first..=last).contains(&issued_at) {
        let detail = format!("iat: expected {first} to {last}, found {issued_at}");
        return Err(malformed(detail));
    }
    Ok(issued_at)
}

/// The types of the events, and the strictest that they ask for.
fn events(claims: &Map<String, Value>) -> Result<(Vec<String>, Effect), SetError> {
    let events = claims.get("events").and_then(Value::as_object);
    let events = events.filter(|events| (1..=MAX_EVENTS).contains(&events.len()));
    let events = events.ok_or_else(|| malformed(format!("events: expected 1 to {MAX_EVENTS}")))?;
    let mut types: Vec<String> = events.keys().cloned().collect();
    types.sort();
    let mut asks = Effect::Nothing;
    for (uri, payload) in events {
        let payload = payload
            .as_object()
            .ok_or_else(|| malformed("events: expected objects"))?;
        let asked = effect(uri, payload).map_err(|detail| malformed(format!("{}: {detail}", short(uri))))?;
        asks = asks.max(asked);
    }
    Ok((types, asks))
}

/// The one subject of the token: `sub_id`, or what every event calls so.
fn subject(claims: &Map<String, Value>) -> Result<Option<String>, SetError> {
    let events = claims.get("events").and_then(Value::as_object);
    let within = events
        .into_iter()
        .flat_map(Map::values)
        .filter_map(|event| event.get("subject"));
    let mut subjects: Vec<&Value> = claims.get("sub_id").into_iter().chain(within).collect();
    subjects.dedup();
    match subjects.as_slice() {
        [] => Ok(None),
        [subject] => named(subject).map(Some),
        _ => Err(malformed("expected one subject, found several")),
    }
}

/// The node or workload that a subject identifier names (RFC 9493, section 3.2.6: opaque; Shared Signals 1.0, section 3.2:
/// complex, with a device and nothing else).
fn named(subject: &Value) -> Result<String, SetError> {
    let expected =
        || malformed("subject: expected {\"format\": \"opaque\", \"id\": <node or label@node>}, alone or as device");
    let members = subject.as_object().ok_or_else(expected)?;
    let only = |names: [&str; 2]| members.len() == 2 && names.iter().all(|name| members.contains_key(*name));
    match members.get("format").and_then(Value::as_str) {
        Some("opaque") if only(["format", "id"]) => {
            let id = members.get("id").and_then(Value::as_str);
            let id = id.filter(|id| is_node_name(id) || is_workload_name(id));
            id.map(str::to_owned).ok_or_else(expected)
        }
        Some("complex") if only(["format", "device"]) => match members.get("device") {
            Some(device) if device.get("format").and_then(Value::as_str) == Some("opaque") => named(device),
            _ => Err(expected()),
        },
        _ => Err(expected()),
    }
}

fn object(read: Result<Value, String>, what: &str) -> Result<Map<String, Value>, SetError> {
    match read {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err(malformed(format!("{what}: expected a JSON object"))),
        Err(detail) => Err(malformed(format!("{what}: {}", short(&detail)))),
    }
}

fn string<'m>(members: &'m Map<String, Value>, name: &str) -> Result<&'m str, SetError> {
    let text = members.get(name).and_then(Value::as_str);
    text.ok_or_else(|| malformed(format!("{name}: expected a string")))
}

/// At most so much of a stranger's words as is safe to show.
fn short(text: &str) -> String {
    touchstone_verifier::reason::sanitise(text, 128)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use touchstone_cose::key::{Signer as _, SigningKey};

    use super::*;

    pub(crate) const NOW: i64 = 1_790_000_000;
    pub(crate) const ISSUER: &str = "https://monitor.example/";
    pub(crate) const AUDIENCE: &str = "https://broker.example/v1/events";
    pub(crate) const REVOKED: &str = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";

    pub(crate) fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed([seed; 32])
    }

    pub(crate) fn detectors(more: &str) -> Detectors {
        let key = hex::encode(key(1).verifying_key().to_spki_der());
        let text = format!(
            "[detectors.monitor]\nissuer = \"{ISSUER}\"\naudience = \"{AUDIENCE}\"\nkeys = [\"{key}\"]\n\
             regions = [\"north\"]\nmost_per_minute = 3\n{more}"
        );
        Detectors::parse(text.as_bytes()).unwrap()
    }

    pub(crate) fn claims() -> Value {
        json!({
            "iss": ISSUER, "aud": AUDIENCE, "iat": NOW, "jti": "756E69717565",
            "sub_id": {"format": "opaque", "id": "node-1"},
            "events": { REVOKED: {"event_timestamp": NOW} },
        })
    }

    pub(crate) fn signed_by(key: &SigningKey, header: &Value, claims: &str) -> Vec<u8> {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let signed = format!("{}.{}", encode(&header.to_string()), encode(claims));
        let signature = key.sign(signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)).into_bytes()
    }

    pub(crate) fn header() -> Value {
        json!({"alg": "EdDSA", "typ": "secevent+jwt", "kid": "1"})
    }

    pub(crate) fn set(claims: &Value) -> Vec<u8> {
        signed_by(&key(1), &header(), &claims.to_string())
    }

    fn code(bytes: &[u8]) -> Option<SetCode> {
        judge(&detectors(""), bytes, NOW).err().map(|error| error.code)
    }

    #[test]
    fn a_token_says_who_what_and_about_whom() {
        let detectors = detectors("reach = \"revoke\"\n");
        let bytes = set(&claims());
        let event = judge(&detectors, &bytes, NOW).unwrap();
        assert_eq!(
            (event.name, event.jti.as_str(), event.issued_at),
            ("monitor", "756E69717565", NOW)
        );
        assert_eq!((event.asks, event.subject.as_deref()), (Effect::Revoke, Some("node-1")));
        assert_eq!(event.types, [REVOKED]);
        // As older transmitters write it, and as a complex subject.
        let mut older = claims();
        older.as_object_mut().unwrap().remove("sub_id");
        older["events"][REVOKED]["subject"] =
            json!({"format": "complex", "device": {"format": "opaque", "id": "agent@node-1"}});
        older["aud"] = json!(["https://other.example/", AUDIENCE]);
        assert_eq!(
            judge(&detectors, &set(&older), NOW).unwrap().subject.as_deref(),
            Some("agent@node-1")
        );
        // A trial of the line is about nobody.
        let mut trial = claims();
        trial.as_object_mut().unwrap().remove("sub_id");
        trial["events"] = json!({"https://schemas.openid.net/secevent/ssf/event-type/verification": {"state": "x"}});
        let trial = set(&trial);
        let trial = judge(&detectors, &trial, NOW).unwrap();
        assert_eq!((trial.asks, trial.subject), (Effect::Nothing, None));
    }

    #[test]
    fn attacks_by_header_and_signature() {
        use SetCode::{AuthenticationFailed, InvalidKey, InvalidRequest};
        let with = |name: &str, value: Value| {
            let mut header = header();
            header[name] = value;
            signed_by(&key(1), &header, &claims().to_string())
        };
        let good = String::from_utf8(set(&claims())).unwrap();
        assert_eq!(code(good.as_bytes()), None);
        let (signed, signature) = good.rsplit_once('.').unwrap();
        let other = set(&{
            let mut claims = claims();
            claims["sub_id"]["id"] = "node-2".into();
            claims
        });
        let other = String::from_utf8(other).unwrap();
        let own_key = json!({"kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode([2; 32])});
        for (row, bytes, expected) in [
            ("no algorithm", with("alg", "none".into()), InvalidKey),
            (
                "no algorithm and no signature",
                format!("{signed}.").into_bytes(),
                AuthenticationFailed,
            ),
            ("a secret for a public key", with("alg", "HS256".into()), InvalidKey),
            ("an algorithm of another key", with("alg", "ES256".into()), InvalidKey),
            ("an algorithm in other letters", with("alg", "eddsa".into()), InvalidKey),
            ("another token's type", with("typ", "at+jwt".into()), InvalidRequest),
            ("a plain JWT", with("typ", "JWT".into()), InvalidRequest),
            ("a key of its own", with("jwk", own_key), InvalidRequest),
            (
                "a key from elsewhere",
                with("jku", "https://evil.example/keys".into()),
                InvalidRequest,
            ),
            (
                "an extension that must be understood",
                with("crit", json!(["b64"])),
                InvalidRequest,
            ),
            (
                "another key",
                signed_by(&key(2), &header(), &claims().to_string()),
                AuthenticationFailed,
            ),
            (
                "the signature of another token",
                format!("{signed}.{}", other.rsplit_once('.').unwrap().1).into_bytes(),
                AuthenticationFailed,
            ),
            ("two parts", signed.as_bytes().to_vec(), InvalidRequest),
            ("four parts", format!("{good}.x").into_bytes(), InvalidRequest),
            ("padding", format!("{signed}.{signature}=").into_bytes(), InvalidRequest),
            ("a newline", format!("{good}\n").into_bytes(), InvalidRequest),
            ("too large", vec![b'a'; MAX_SET_BYTES + 1], InvalidRequest),
            ("not text", vec![0xff; 9], InvalidRequest),
        ] {
            assert_eq!(code(&bytes), Some(expected), "{row}");
        }
        for cut in 0..good.len() {
            assert!(code(&good.as_bytes()[..cut]).is_some(), "cut at {cut}");
        }
    }

    #[test]
    fn attacks_by_claims() {
        use SetCode::{InvalidAudience, InvalidIssuer, InvalidRequest};
        let with = |pointer: &str, value: Value| {
            let mut claims = claims();
            claims[pointer] = value;
            claims
        };
        let without = |name: &str| {
            let mut claims = claims();
            claims.as_object_mut().unwrap().remove(name);
            claims
        };
        let opaque = |id: &str| json!({"format": "opaque", "id": id});
        let rows: [(&str, Value, SetCode); 26] = [
            ("no issuer", without("iss"), InvalidRequest),
            (
                "another issuer",
                with("iss", "https://monitor.example".into()),
                InvalidIssuer,
            ),
            ("an issuer that is none", with("iss", json!([ISSUER])), InvalidRequest),
            ("no audience", without("aud"), InvalidAudience),
            (
                "for another broker",
                with("aud", "https://other.example/v1/events".into()),
                InvalidAudience,
            ),
            ("for everybody", with("aud", "*".into()), InvalidAudience),
            ("for too many", with("aud", json!(vec![AUDIENCE; 17])), InvalidAudience),
            ("no time", without("iat"), InvalidRequest),
            ("old", with("iat", (NOW - MAX_AGE_S - 1).into()), InvalidRequest),
            (
                "of the future",
                with("iat", (NOW + MAX_AHEAD_S + 1).into()),
                InvalidRequest,
            ),
            ("a time in words", with("iat", NOW.to_string().into()), InvalidRequest),
            ("a time beyond numbers", with("iat", json!(1e300)), InvalidRequest),
            ("one that expires", with("exp", (NOW + 60).into()), InvalidRequest),
            ("about a person", with("sub", "alice".into()), InvalidRequest),
            ("no id", without("jti"), InvalidRequest),
            ("an empty id", with("jti", "".into()), InvalidRequest),
            (
                "an id with control characters",
                with("jti", "a\u{1b}[2J".into()),
                InvalidRequest,
            ),
            ("no events", without("events"), InvalidRequest),
            ("an empty list of events", with("events", json!({})), InvalidRequest),
            (
                "an unknown event",
                with("events", json!({"https://evil.example/all": {}})),
                InvalidRequest,
            ),
            (
                "one known and one unknown",
                with("events", json!({REVOKED: {}, "x": {}})),
                InvalidRequest,
            ),
            ("nobody", without("sub_id"), InvalidRequest),
            ("everybody", with("sub_id", opaque("*")), InvalidRequest),
            ("a path", with("sub_id", opaque("../node-1")), InvalidRequest),
            (
                "a subject that is narrower than we understand",
                with(
                    "sub_id",
                    json!({"format": "complex", "device": opaque("node-1"), "user": opaque("x")}),
                ),
                InvalidRequest,
            ),
            (
                "two subjects",
                with("events", json!({REVOKED: {"subject": opaque("node-2")}})),
                InvalidRequest,
            ),
        ];
        for (row, claims, expected) in rows {
            assert_eq!(code(&set(&claims)), Some(expected), "{row}");
        }
        let edges = [NOW - MAX_AGE_S, NOW + MAX_AHEAD_S];
        assert!(
            edges
                .into_iter()
                .all(|iat| code(&set(&with("iat", iat.into()))).is_none())
        );
        // Of two members of one name readers take one or the other.
        let twice = claims()
            .to_string()
            .replacen("\"iat\"", "\"iss\":\"https://evil.example/\",\"iat\"", 1);
        assert_eq!(code(&signed_by(&key(1), &header(), &twice)), Some(InvalidRequest));
        let deep = claims().to_string().replacen(
            "\"event_timestamp\"",
            &format!("\"x\":{}{},\"event_timestamp\"", "[".repeat(20), "]".repeat(20)),
            1,
        );
        assert_eq!(code(&signed_by(&key(1), &header(), &deep)), Some(InvalidRequest));
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = judge(&detectors(""), &bytes, NOW);
        }

        #[test]
        fn no_claims_are_a_panic(text in "\\PC{0,200}") {
            let _ = judge(&detectors(""), &signed_by(&key(1), &header(), &text), NOW);
        }
    }
}
