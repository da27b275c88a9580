//! Security Event Tokens: the fuzzer writes the claims and a detector's key signs them, so that what is read behind the
//! signature is reached; and it writes the whole token. The parser is read from the broker's sources: the broker itself, with
//! its store and its servers, is no part of this build.

use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use touchstone_cose::key::{Signer as _, SigningKey};
use touchstone_policies::Detectors;

#[path = "../../keybroker/src/events/effect.rs"]
pub mod effect;
#[path = "../../keybroker/src/events/json.rs"]
pub mod json;
#[path = "../../keybroker/src/events/token.rs"]
pub mod set;

use set::judge;

/// The second all of it is looked at: that of the seeds.
const NOW: i64 = 1_790_000_000;
const HEADER: &str = r#"{"alg":"EdDSA","typ":"secevent+jwt"}"#;

fn key() -> SigningKey {
    SigningKey::from_seed([1; 32])
}

fn detectors() -> &'static Detectors {
    static DETECTORS: OnceLock<Detectors> = OnceLock::new();
    DETECTORS.get_or_init(|| {
        let key = hex(&key().verifying_key().to_spki_der());
        let text = format!(
            "[detectors.monitor]\nissuer = \"https://monitor.example/\"\naudience = \"https://broker.example/v1/events\"\n\
             keys = [\"{key}\"]\nregions = [\"north\"]\nmost_per_minute = 3\n"
        );
        Detectors::parse(text.as_bytes()).unwrap_or_default()
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A token.
pub fn token(data: &[u8]) {
    drop(judge(detectors(), data, NOW));
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(HEADER), URL_SAFE_NO_PAD.encode(data));
    let Ok(signature) = key().sign(signed.as_bytes()) else {
        return;
    };
    let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
    if let Ok(event) = judge(detectors(), token.as_bytes(), NOW) {
        assert_eq!(event.name, "monitor");
        assert!(!event.types.is_empty() && event.types.is_sorted());
    }
}
