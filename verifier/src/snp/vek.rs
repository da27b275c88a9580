//! The certificate of the key that signs reports: VCEK (a chip's own) or VLEK (a cloud provider's).
//!
//! Source: AMD 57230 (VCEK certificate and KDS interface), table 8, and AMD 58369 for VLEK. Extensions below
//! 1.3.6.1.4.1.3704.1 hold product, security versions and chip id or provider.

use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::code::SnpCode;
use super::product::Product;
use super::tcb::Tcb;
use crate::reason::Code;
use crate::tpm::algorithm::Curve;
use crate::x509::certificate::CertificateError;
use crate::x509::chain::ChainError;
use crate::x509::{Certificate, CertificateStore, ChainRules, CrlRule, Expiry, SubjectKey, verify_chain};

/// Where AMD's extensions live.
const ARC: &str = "1.3.6.1.4.1.3704.1.";
/// Most intermediates that may come with a certificate.
pub const MAX_OFFERED: usize = 4;
/// Longest provider name, in bytes.
pub const MAX_PROVIDER: usize = 64;

impl VekError {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            VekError::Certificate(error) => error.code().into(),
            VekError::Chain(error) => error.code().into(),
            VekError::Extension { .. } | VekError::Key { .. } => SnpCode::VekMalformed.into(),
            VekError::Issuer { .. } => SnpCode::VekIssuer.into(),
        }
    }

    /// What would have been accepted, and what came.
    pub fn details(&self) -> (String, String) {
        match self {
            VekError::Certificate(error) => error.details(),
            VekError::Chain(error) => error.details(),
            VekError::Extension { oid, expected } => (format!("extension {oid}: {expected}"), "something else".into()),
            VekError::Key { found } => ("a P-384 key".into(), found.clone()),
            VekError::Issuer { expected, found } => (expected.clone(), found.clone()),
        }
    }
}

/// Whose key it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VekKind {
    /// A chip's own key, with the chip's id as AMD certifies it: 64 bytes, on Turin 8.
    Vcek {
        /// hwID.
        chip_id: Vec<u8>,
    },
    /// A key made for a cloud provider, with the provider's name.
    Vlek {
        /// cspID.
        provider: String,
    },
}

/// Why a certificate is not that of a signing key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VekError {
    /// Not a certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// No chain to a trust anchor.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// An AMD extension is missing, unknown or unreadable.
    #[error("extension {oid}: expected {expected}")]
    Extension {
        /// Its object identifier.
        oid: String,
        /// What it should be.
        expected: &'static str,
    },
    /// The key is not on P-384.
    #[error("expected a P-384 key, found {found}")]
    Key {
        /// The key found.
        found: String,
    },
    /// The issuer is not the authority of this product and kind of key.
    #[error("expected an issuer {expected}, found {found}")]
    Issuer {
        /// The authority's common name.
        expected: String,
        /// The issuer found.
        found: String,
    },
}

/// A signing key as its certificate states it: words, until [`VerifiedVek::verify`] has said that AMD signed them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vek {
    point: Vec<u8>,
    kind: VekKind,
    product: Product,
    tcb: Tcb,
}

impl Vek {
    /// Reads a certificate (DER). No signature is checked.
    ///
    /// # Errors
    /// [`VekError`] but for chain and issuer.
    pub fn from_der(der: &[u8]) -> Result<Self, VekError> {
        Self::read(&Certificate::from_der(der)?)
    }

    fn read(certificate: &Certificate) -> Result<Self, VekError> {
        let extensions = Extensions::read(certificate.as_der())?;
        match certificate.key() {
            SubjectKey::Ec { curve: Curve::P384, .. } => {}
            other => {
                return Err(VekError::Key {
                    found: other.describe(),
                });
            }
        }
        Ok(Self {
            point: certificate.key().uncompressed_point(),
            kind: extensions.kind,
            product: extensions.product,
            tcb: extensions.tcb,
        })
    }

    /// The public key, 04 ‖ x ‖ y.
    pub(super) fn point(&self) -> &[u8] {
        &self.point
    }

    /// Whose key it is.
    pub fn kind(&self) -> &VekKind {
        &self.kind
    }

    /// Of which product line.
    pub fn product(&self) -> Product {
        self.product
    }

    /// The security versions it was derived from.
    pub fn tcb(&self) -> Tcb {
        self.tcb
    }

    /// Common name of the authority that issues keys of this product and kind (AMD 57230, 3).
    fn issuer(&self) -> String {
        let line = match self.product {
            Product::Milan => "Milan",
            Product::Genoa => "Genoa",
            Product::Turin => "Turin",
        };
        match self.kind {
            VekKind::Vcek { .. } => format!("CN=SEV-{line}"),
            VekKind::Vlek { .. } => format!("CN=SEV-VLEK-{line}"),
        }
    }
}

/// A signing key that AMD certified. Only [`VerifiedVek::verify`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedVek {
    vek: Vek,
    not_after: i64,
    revocation_checked: bool,
}

impl VerifiedVek {
    /// Reads a certificate (DER) and checks its chain to an anchor of `store` at `now` (Unix seconds), with `offered`
    /// intermediates as help.
    ///
    /// # Errors
    /// [`VekError`]. Expired certificates are always refused, whatever `crl` is: a provider's keys are renewed by
    /// expiring.
    pub fn verify(
        der: &[u8],
        offered: &[Certificate],
        store: &CertificateStore,
        now: i64,
        crl: CrlRule,
    ) -> Result<Self, VekError> {
        let certificate = Certificate::from_der(der)?;
        let vek = Vek::read(&certificate)?;
        let offered = offered.get(..MAX_OFFERED).unwrap_or(offered);
        let rules = ChainRules {
            expiry: Expiry::Deny,
            // AMD's roots list the authorities they have revoked; the authorities publish no lists of keys.
            crl: match crl {
                CrlRule::Required => CrlRule::RequiredOfAuthorities,
                other => other,
            },
        };
        let chain = verify_chain(&certificate, offered, store, now, rules)?;
        let (expected, issuer) = (vek.issuer(), certificate.issuer());
        if !issuer.split(", ").any(|part| part == expected) {
            return Err(VekError::Issuer {
                expected,
                found: issuer.to_owned(),
            });
        }
        Ok(Self {
            vek,
            not_after: chain.not_after,
            revocation_checked: chain.revocation_checked || chain.authorities_checked,
        })
    }

    /// The key itself.
    pub fn vek(&self) -> &Vek {
        &self.vek
    }

    /// Last second at which certificate, chain and the revocation lists that were looked at hold, Unix seconds.
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// Whether a revocation list was looked at.
    pub fn revocation_checked(&self) -> bool {
        self.revocation_checked
    }
}

/// What AMD's extensions say.
struct Extensions {
    product: Product,
    kind: VekKind,
    tcb: Tcb,
}

impl Extensions {
    fn read(der: &[u8]) -> Result<Self, VekError> {
        let wrong = |oid: &str, expected| VekError::Extension {
            oid: format!("{ARC}{oid}"),
            expected,
        };
        let Ok((_, x509)) = X509Certificate::from_der(der) else {
            return Err(CertificateError::Malformed {
                expected: "an X.509 certificate",
            }
            .into());
        };
        let (mut name, mut chip, mut provider) = (None, None, None);
        let mut versions: [Option<u8>; 10] = [None; 10];
        for extension in x509.extensions() {
            let oid = extension.oid.to_id_string();
            let Some(rest) = oid.strip_prefix(ARC) else { continue };
            let value = extension.value;
            match rest {
                "1" => drop(small_integer(value).ok_or(wrong(rest, "an INTEGER"))?),
                "2" => name = Some(ia5(value).ok_or(wrong(rest, "an IA5String"))?),
                "4" => chip = Some(value),
                "5" => provider = Some(ia5(value).ok_or(wrong(rest, "an IA5String"))?),
                _ => {
                    // 3.1 to 3.9: a security version each; anything else in this arc is not known, and is not guessed at.
                    let slot = rest.strip_prefix("3.").and_then(|index| index.parse::<usize>().ok());
                    let slot = slot
                        .filter(|index| (1..=9).contains(index) && rest.len() == 3)
                        .and_then(|index| versions.get_mut(index));
                    let slot = slot.ok_or(wrong(rest, "a known extension"))?;
                    *slot = Some(small_integer(value).ok_or(wrong(rest, "an INTEGER of 0 to 255"))?);
                }
            }
        }
        let name = name.ok_or(wrong("2", "a product name"))?;
        let product = Product::of_certificate(&name).ok_or(wrong("2", "Milan, Genoa, Bergamo, Siena or Turin"))?;
        let kind = match (chip, provider) {
            (Some(value), None) => {
                let chip_id = chip_id(value, product.chip_id_len()).ok_or(wrong("4", "64 bytes, on Turin 8"))?;
                VekKind::Vcek { chip_id }
            }
            (None, Some(provider)) if (1..=MAX_PROVIDER).contains(&provider.len()) => VekKind::Vlek { provider },
            _ => return Err(wrong("4", "either a chip id or a provider")),
        };
        let [_, boot_loader, tee, snp, r4, r5, r6, r7, microcode, fmc] = versions;
        if [r4, r5, r6, r7].into_iter().flatten().any(|version| version != 0) {
            return Err(wrong("3.4", "zero in reserved versions"));
        }
        if fmc.is_some() != (product == Product::Turin) {
            return Err(wrong("3.9", "an FMC version on Turin, and only there"));
        }
        let need = |version: Option<u8>, oid| version.ok_or(wrong(oid, "a security version"));
        let tcb = Tcb {
            fmc,
            boot_loader: need(boot_loader, "3.1")?,
            tee: need(tee, "3.2")?,
            snp: need(snp, "3.3")?,
            microcode: need(microcode, "3.8")?,
        };
        Ok(Self { product, kind, tcb })
    }
}

/// The `len` bytes of a chip id that fill `value`. AMD 57230 calls them an OCTET STRING: certificates have the bare bytes, or
/// what X.509 would have there, the OCTET STRING in DER. The length tells which.
fn chip_id(value: &[u8], len: usize) -> Option<Vec<u8>> {
    match value {
        bare if bare.len() == len => Some(bare.to_vec()),
        [0x04, stated, id @ ..] if usize::from(*stated) == len && id.len() == len => Some(id.to_vec()),
        _ => None,
    }
}

/// A DER INTEGER of 0 to 255 that fills `value`.
fn small_integer(value: &[u8]) -> Option<u8> {
    match value {
        [0x02, 1, number] if *number < 0x80 => Some(*number),
        [0x02, 2, 0, number] if *number >= 0x80 => Some(*number),
        _ => None,
    }
}

/// A DER IA5String of at most 127 bytes that fills `value`.
fn ia5(value: &[u8]) -> Option<String> {
    match value {
        [0x16, len, text @ ..] if usize::from(*len) == text.len() && *len < 0x80 && text.is_ascii() => {
            String::from_utf8(text.to_vec()).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_and_strings_have_one_form() {
        assert_eq!(small_integer(&[2, 1, 4]), Some(4));
        assert_eq!(small_integer(&[2, 2, 0, 0xDB]), Some(0xDB));
        for wrong in [
            &[2, 1, 0xDB][..],
            &[2, 2, 0, 4],
            &[2, 2, 1, 0],
            &[2, 1, 4, 0],
            &[2, 1],
            &[4, 1, 4],
            &[],
        ] {
            assert_eq!(small_integer(wrong), None, "{wrong:?}");
        }
        assert_eq!(ia5(b"\x16\x05Genoa").as_deref(), Some("Genoa"));
        assert_eq!(ia5(b"\x16\x06Genoa"), None);
        assert_eq!(ia5(b"\x16\x04Genoa"), None);
    }

    #[test]
    fn a_chip_id_stands_bare_or_as_an_octet_string() {
        // Bare ids that begin like an OCTET STRING are taken for what they are.
        for id in [[7; 8], [4, 8, 1, 2, 3, 4, 5, 6]] {
            assert_eq!(chip_id(&id, 8), Some(id.to_vec()));
            let wrapped = [&[0x04, 8][..], &id].concat();
            assert_eq!(chip_id(&wrapped, 8), Some(id.to_vec()));
            for wrong in [
                &id[..7],
                &wrapped[..9],
                &[&wrapped[..], &[0]].concat(),
                &[&[0x03, 8][..], &id].concat(),
                &[&[0x04, 7][..], &id].concat(),
                &[],
            ] {
                assert_eq!(chip_id(wrong, 8), None, "{wrong:?}");
            }
        }
    }
}
