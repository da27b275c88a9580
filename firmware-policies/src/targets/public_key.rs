//! Public keys as people write them into a table: `PUBLIC KEY` PEM, a SubjectPublicKeyInfo in hexadecimal, or a JWK.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use touchstone_cose::key::{Algorithm, KID_LEN, VerifyingKey};

use crate::error::{PolicyCode, Problem};

/// Longest text of a key, in bytes.
pub const MAX_KEY_TEXT: usize = 2048;

/// A JWK (RFC 7517, section 4; RFC 7518, section 6.2; RFC 8037, section 2). A private key is refused as an unknown member.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Jwk {
    kty: String,
    crv: String,
    x: String,
    y: Option<String>,
    #[serde(rename = "kid")]
    _kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    alg: Option<String>,
}

/// Reads a key of one of these algorithms.
pub(crate) fn read(text: &str, allowed: &[Algorithm]) -> Result<VerifyingKey, String> {
    if text.len() > MAX_KEY_TEXT {
        return Err(format!("{} bytes", text.len()));
    }
    let trimmed = text.trim();
    let key = if trimmed.starts_with('{') {
        of_jwk(trimmed)?
    } else if trimmed.starts_with("-----") {
        let pem = pem::parse(trimmed).map_err(|e| e.to_string())?;
        if pem.tag() != "PUBLIC KEY" {
            return Err(pem.tag().to_owned());
        }
        VerifyingKey::from_spki_der(pem.contents()).map_err(|e| e.to_string())?
    } else {
        let der = hex::decode(trimmed).map_err(|e| e.to_string())?;
        VerifyingKey::from_spki_der(&der).map_err(|e| e.to_string())?
    };
    if allowed.contains(&key.algorithm()) {
        Ok(key)
    } else {
        Err(format!("{:?}", key.algorithm()))
    }
}

fn of_jwk(text: &str) -> Result<VerifyingKey, String> {
    let jwk: Jwk = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let coordinate = |text: &str| -> Result<[u8; 32], String> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|e| e.to_string())?;
        bytes
            .try_into()
            .map_err(|_| "a coordinate that is not 32 bytes".to_owned())
    };
    if jwk.usage.as_deref().is_some_and(|usage| usage != "sig") {
        return Err("a key that is not for signatures".into());
    }
    let (key, algorithms) = match (jwk.kty.as_str(), jwk.crv.as_str(), &jwk.y) {
        ("OKP", "Ed25519", None) => (
            VerifyingKey::ed25519(coordinate(&jwk.x)?).map_err(|e| e.to_string())?,
            ["EdDSA", "Ed25519"].as_slice(),
        ),
        ("EC", "P-256", Some(y)) => (
            VerifyingKey::p256(coordinate(&jwk.x)?, coordinate(y)?).map_err(|e| e.to_string())?,
            ["ES256"].as_slice(),
        ),
        (kty, crv, _) => return Err(format!("kty {kty}, crv {crv}")),
    };
    match jwk.alg {
        Some(alg) if !algorithms.contains(&alg.as_str()) => Err(format!("alg {alg}")),
        _ => Ok(key),
    }
}

/// A public key as people write it into our tables.
#[cfg(test)]
pub(crate) fn to_pem(key: &VerifyingKey) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new("PUBLIC KEY", key.to_spki_der()), config)
}

/// Which key is whose: one that is listed twice, for two jobs or two names, is a problem.
#[derive(Default)]
pub(crate) struct Owners {
    known: BTreeMap<[u8; KID_LEN], String>,
}

impl Owners {
    /// Lists a key of `owner`, as in `operators.toml: operators.alice`.
    pub fn add(&mut self, key: &VerifyingKey, owner: String, problems: &mut Vec<Problem>) {
        match self.known.get(&key.kid()) {
            Some(first) => {
                let expected = "a key that is listed once";
                let found = format!("the key of {first}");
                problems.push(Problem::new(PolicyCode::KeyOfTwo, owner, expected, found));
            }
            None => drop(self.known.insert(key.kid(), owner)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use touchstone_cose::key::SigningKey;

    const BOTH: [Algorithm; 2] = [Algorithm::Ed25519, Algorithm::Esp256];

    // RFC 8037, appendix A.2; RFC 7517, appendix A.1.
    const OKP: &str = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    const EC: &str = r#"{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
        "y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","use":"sig","kid":"1"}"#;

    #[test]
    fn the_same_key_in_every_form() {
        let key = SigningKey::from_seed([7; 32]).verifying_key();
        for text in [
            to_pem(&key),
            hex::encode(key.to_spki_der()),
            format!("\n{}\n", to_pem(&key)),
        ] {
            assert_eq!(read(&text, &BOTH), Ok(key.clone()), "{text}");
        }
        let okp = read(OKP, &BOTH).unwrap();
        assert_eq!(read(&to_pem(&okp), &BOTH), Ok(okp));
        assert_eq!(read(EC, &BOTH).unwrap().algorithm(), Algorithm::Esp256);
        assert!(read(EC, &[Algorithm::Ed25519]).is_err() && read(OKP, &[Algorithm::Esp256]).is_err());
    }

    #[test]
    fn what_is_no_key() {
        let private = OKP.replace("\"x\"", "\"d\":\"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A\",\"x\"");
        let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let long = "a".repeat(MAX_KEY_TEXT + 1);
        for (row, text) in [
            ("nothing", ""),
            ("no hexadecimal", "key"),
            ("no key", "302a"),
            ("a private key", &private),
            ("a certificate", certificate),
            ("too long", &long),
            ("for encryption", &EC.replace("\"sig\"", "\"enc\"")),
            ("another algorithm", &EC.replace("\"use\":\"sig\"", "\"alg\":\"none\"")),
            (
                "the other's algorithm",
                &OKP.replace("\"x\"", "\"alg\":\"ES256\",\"x\""),
            ),
            ("a secret", r#"{"kty":"oct","k":"AAAA"}"#),
            ("a point that is none", &EC.replace("MKBC", "AAAA")),
            ("a short coordinate", &OKP.replace("11qY", "")),
            ("twice", &OKP.replace("\"crv\"", "\"kty\":\"EC\",\"crv\"")),
        ] {
            assert!(read(text, &BOTH).is_err(), "{row}");
        }
    }

    #[test]
    fn a_key_has_one_owner() {
        let key = |seed| SigningKey::from_seed([seed; 32]).verifying_key();
        let (mut owners, mut problems) = (Owners::default(), Vec::new());
        owners.add(&key(1), "operators.toml: operators.a".into(), &mut problems);
        owners.add(&key(2), "detectors.toml: detectors.b".into(), &mut problems);
        assert_eq!(problems, []);
        owners.add(&key(1), "enforcers.toml: enforcers.c".into(), &mut problems);
        assert_eq!(problems[0].code, PolicyCode::KeyOfTwo);
        assert_eq!(problems[0].found, "the key of operators.toml: operators.a");
    }
}
