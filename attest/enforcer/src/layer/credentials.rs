//! The two headers of a request that carry what it is allowed by:
//! `Authorization: Touchstone <chain>` and `Touchstone-Proof: <proof of possession>`, both base64url without padding
//! (RFC 4648, section 5; credentials after RFC 9110, section 11.4). Each once, or the request is refused: with two, the
//! enforcer might judge one and the service believe the other.

use axum::http::{HeaderMap, HeaderName, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use touchstone_authorization::chain::MAX_CHAIN_BYTES;
use touchstone_authorization::proof::MAX_PROOF_BYTES;

use super::reason::{AccessCode, Denied};

/// The scheme in `Authorization`. Its case does not matter.
pub const SCHEME: &str = "Touchstone";
/// The header with the proof of possession.
pub const PROOF: HeaderName = HeaderName::from_static("touchstone-proof");

/// What a request shows. Nothing of it is believed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The authorization, with the delegations below it.
    pub chain: Vec<u8>,
    /// The proof of possession.
    pub proof: Vec<u8>,
}

impl Credentials {
    /// Reads the two headers.
    ///
    /// # Errors
    /// `credentials-missing` or `credentials-malformed`.
    pub fn of(headers: &HeaderMap) -> Result<Self, Denied> {
        let words = one(headers, &header::AUTHORIZATION)?;
        let chain = words
            .split_once(' ')
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(SCHEME));
        let Some((_, chain)) = chain else {
            return Err(Denied::access(
                AccessCode::CredentialsMissing,
                "the Authorization header is not of the scheme Touchstone",
            ));
        };
        Ok(Self {
            chain: decode(chain, MAX_CHAIN_BYTES, "the authorization")?,
            proof: decode(one(headers, &PROOF)?, MAX_PROOF_BYTES, "the proof")?,
        })
    }

    /// The two headers for these.
    #[must_use]
    pub fn headers(&self) -> [(HeaderName, String); 2] {
        [
            (
                header::AUTHORIZATION,
                format!("{SCHEME} {}", URL_SAFE_NO_PAD.encode(&self.chain)),
            ),
            (PROOF, URL_SAFE_NO_PAD.encode(&self.proof)),
        ]
    }
}

fn one<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<&'h str, Denied> {
    let mut all = headers.get_all(name).iter();
    match (all.next(), all.next()) {
        (Some(value), None) => value
            .to_str()
            .map_err(|_| Denied::access(AccessCode::CredentialsMalformed, format!("{name} is not ASCII"))),
        (None, _) => Err(Denied::access(
            AccessCode::CredentialsMissing,
            format!("no {name} header"),
        )),
        (Some(_), Some(_)) => Err(Denied::access(
            AccessCode::CredentialsMissing,
            format!("more than one {name} header"),
        )),
    }
}

fn decode(text: &str, limit: usize, what: &str) -> Result<Vec<u8>, Denied> {
    let refuse = |words: String| Denied::access(AccessCode::CredentialsMalformed, words);
    if text.len() > limit.div_ceil(3) * 4 {
        return Err(refuse(format!("{what} is longer than {limit} bytes")));
    }
    match URL_SAFE_NO_PAD.decode(text) {
        Ok(bytes) if bytes.is_empty() => Err(refuse(format!("{what} is empty"))),
        Ok(bytes) if bytes.len() > limit => Err(refuse(format!("{what} is longer than {limit} bytes"))),
        Ok(bytes) => Ok(bytes),
        Err(_) => Err(refuse(format!("{what} is not base64url without padding"))),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn read(rows: &[(&str, &str)]) -> Result<Credentials, Vec<&'static str>> {
        let mut headers = HeaderMap::new();
        for (name, value) in rows {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        Credentials::of(&headers).map_err(|denied| denied.codes())
    }

    #[test]
    fn reads_what_it_writes() {
        let credentials = Credentials {
            chain: vec![0xfb; MAX_CHAIN_BYTES],
            proof: vec![0xff; MAX_PROOF_BYTES],
        };
        let headers = credentials.headers();
        let rows: Vec<(&str, &str)> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(read(&rows), Ok(credentials));
        assert!(read(&[("authorization", "tOUCHSTONE AAAA"), ("touchstone-proof", "AAAA")]).is_ok());
    }

    #[test]
    fn what_is_refused() {
        let (missing, malformed) = (vec!["credentials-missing"], vec!["credentials-malformed"]);
        let long_chain = format!("Touchstone {}", "A".repeat(MAX_CHAIN_BYTES.div_ceil(3) * 4 + 1));
        let long_proof = "A".repeat(MAX_PROOF_BYTES.div_ceil(3) * 4 + 4);
        let good = ("authorization", "Touchstone AAAA");
        let proof = ("touchstone-proof", "AAAA");
        for (attack, rows, expected) in [
            ("nothing", vec![], &missing),
            ("no proof", vec![good], &missing),
            ("no authorization", vec![proof], &missing),
            (
                "two authorizations",
                vec![good, ("authorization", "Touchstone BBBB"), proof],
                &missing,
            ),
            (
                "a password beside it",
                vec![("authorization", "Basic AAAA"), good, proof],
                &missing,
            ),
            ("two proofs", vec![good, proof, proof], &missing),
            (
                "another scheme",
                vec![("authorization", "Bearer AAAA"), proof],
                &missing,
            ),
            ("no scheme", vec![("authorization", "AAAA"), proof], &missing),
            (
                "an empty one",
                vec![("authorization", "Touchstone "), proof],
                &malformed,
            ),
            (
                "two joined by a comma",
                vec![("authorization", "Touchstone AAAA,BBBB"), proof],
                &malformed,
            ),
            ("padding", vec![("authorization", "Touchstone AA=="), proof], &malformed),
            (
                "the other alphabet",
                vec![("authorization", "Touchstone ++//"), proof],
                &malformed,
            ),
            (
                "stray bits at the end",
                vec![("authorization", "Touchstone AB"), proof],
                &malformed,
            ),
            (
                "a space inside",
                vec![("authorization", "Touchstone AA AA"), proof],
                &malformed,
            ),
            (
                "too long an authorization",
                vec![("authorization", long_chain.as_str()), proof],
                &malformed,
            ),
            (
                "too long a proof",
                vec![good, ("touchstone-proof", long_proof.as_str())],
                &malformed,
            ),
            ("an empty proof", vec![good, ("touchstone-proof", "")], &malformed),
        ] {
            assert_eq!(read(&rows).as_ref().err(), Some(expected), "{attack}");
        }
    }
}
