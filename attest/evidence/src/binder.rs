//! The binder: one value in every hardware quote of a bundle.
//!
//! It ties the evidence to the verifier's challenge, to the session keys an authorization will be bound to, to one TLS
//! connection and to every unsigned record sent along. It adds freshness, never locality (`docs/protocol.md` 3).

use sha2::{Digest as _, Sha256, Sha512};
use touchstone_cose::cbor::{self, Value};

/// Domain separation of the binder's encoding.
pub const BINDER_DOMAIN: &str = "trust-evidence-binder/1";

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A node that asks for an authorization.
    Node,
    /// A broker that shows what it runs.
    Broker,
    /// A confidential VM.
    Guest,
}

impl Role {
    /// The role as it stands in the binder.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Broker => "broker",
            Self::Guest => "guest",
        }
    }
}

/// Everything a quote must be about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BinderInput<'a> {
    /// Who speaks.
    pub role: Role,
    /// The trust domain's name.
    pub domain: &'a str,
    /// The session the challenge belongs to.
    pub session_id: [u8; 16],
    /// The verifier's challenge.
    pub nonce: [u8; 32],
    /// RFC 9679 thumbprint of the signing session key.
    pub ckt: [u8; 32],
    /// RFC 9679 thumbprint of the receive key, where there is one.
    pub receive_key: Option<[u8; 32]>,
    /// `TLS-Exporter("EXPORTER-touchstone-binder", nonce, 32)` of the connection; never absent.
    pub tls_exporter: [u8; 32],
    /// Digest over the records that nothing else authenticates (see [`crate::manifest`]).
    pub manifest_digest: [u8; 32],
}

impl BinderInput<'_> {
    /// The deterministic CBOR array that is hashed.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        cbor::encode(&Value::array([
            Value::text(BINDER_DOMAIN),
            Value::text(self.role.as_str()),
            Value::text(self.domain),
            Value::bytes(self.session_id),
            Value::bytes(self.nonce),
            Value::bytes(self.ckt),
            self.receive_key.map_or(Value::Null, Value::bytes),
            Value::bytes(self.tls_exporter),
            Value::bytes(self.manifest_digest),
        ]))
    }

    /// What a TPM signs as qualifying data: SHA-256 of the encoding.
    #[must_use]
    pub fn tpm_qualifying_data(&self) -> [u8; 32] {
        Sha256::digest(self.encode()).into()
    }

    /// What a confidential VM's report carries: SHA-512 of the encoding.
    #[must_use]
    pub fn report_data(&self) -> [u8; 64] {
        Sha512::digest(self.encode()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input() -> BinderInput<'static> {
        BinderInput {
            role: Role::Node,
            domain: "demo.example",
            session_id: [1; 16],
            nonce: [2; 32],
            ckt: [3; 32],
            receive_key: None,
            tls_exporter: [4; 32],
            manifest_digest: [5; 32],
        }
    }

    #[test]
    fn golden_encoding() {
        let expected = format!(
            "8977{}646e6f64656c{}50{}5820{}5820{}f65820{}5820{}",
            hex::encode(BINDER_DOMAIN),
            hex::encode("demo.example"),
            "01".repeat(16),
            "02".repeat(32),
            "03".repeat(32),
            "04".repeat(32),
            "05".repeat(32)
        );
        assert_eq!(hex::encode(input().encode()), expected);
        // Computed with another tool over the same bytes.
        assert_eq!(
            hex::encode(input().tpm_qualifying_data()),
            "6cb6704bae77c5e3f07c06cd7b6afd06e339a87e3e7ea8af4a80f2abf2f8d194"
        );
        assert_eq!(
            hex::encode(input().report_data()),
            concat!(
                "4530c6a22b467e5cf09bbb71808bd9ca8ef56588539b02551f03b362d2cdc44c",
                "01598e109eb3e754c901c345826a9ebb76cb4742eca3500859caf72e9dd512c6"
            )
        );
    }

    #[test]
    fn every_field_changes_the_binder() {
        let base = input().tpm_qualifying_data();
        let others = [
            BinderInput {
                role: Role::Guest,
                ..input()
            },
            BinderInput {
                domain: "demo.exampl",
                ..input()
            },
            BinderInput {
                session_id: [9; 16],
                ..input()
            },
            BinderInput {
                nonce: [9; 32],
                ..input()
            },
            BinderInput {
                ckt: [9; 32],
                ..input()
            },
            BinderInput {
                receive_key: Some([9; 32]),
                ..input()
            },
            BinderInput {
                tls_exporter: [9; 32],
                ..input()
            },
            BinderInput {
                manifest_digest: [9; 32],
                ..input()
            },
        ];
        for other in others {
            assert_ne!(other.tpm_qualifying_data(), base, "{other:?}");
        }
    }
}
