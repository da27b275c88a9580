//! Trust anchors of the domain, by what they may vouch for, parsed once.

use std::collections::BTreeMap;

use crate::x509::certificate::CertificateError;
use crate::x509::{Certificate, CertificateStore};

/// What a trust anchor may vouch for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// TPM endorsement keys.
    Ek,
    /// AMD SEV-SNP chips.
    Snp,
    /// Intel TDX platforms.
    Tdx,
}

impl Purpose {
    /// Every purpose.
    pub const ALL: [Purpose; 3] = [Purpose::Ek, Purpose::Snp, Purpose::Tdx];

    /// Its name in commands and files: `ek`, `snp`, `tdx`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Purpose::Ek => "ek",
            Purpose::Snp => "snp",
            Purpose::Tdx => "tdx",
        }
    }

    /// The purpose of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|purpose| purpose.as_str() == name)
    }
}

/// The certificates a domain trusts. Each ends a chain: the policy lists it, so nothing above it need be known.
#[derive(Debug, Clone, Default)]
pub struct TrustAnchors {
    stores: BTreeMap<Purpose, CertificateStore>,
    none: CertificateStore,
}

impl TrustAnchors {
    /// Reads DER certificates, each with its purpose.
    ///
    /// # Errors
    /// The first certificate that cannot be read.
    pub fn new<D: AsRef<[u8]>>(certificates: impl IntoIterator<Item = (Purpose, D)>) -> Result<Self, CertificateError> {
        let mut parsed: BTreeMap<Purpose, Vec<(Certificate, bool)>> = BTreeMap::new();
        for (purpose, der) in certificates {
            parsed
                .entry(purpose)
                .or_default()
                .push((Certificate::from_der(der.as_ref())?, true));
        }
        let stores = parsed
            .into_iter()
            .map(|(purpose, list)| (purpose, CertificateStore::new(list)))
            .collect();
        Ok(Self {
            stores,
            none: CertificateStore::default(),
        })
    }

    /// The anchors for one purpose.
    pub fn store(&self, purpose: Purpose) -> &CertificateStore {
        self.stores.get(&purpose).unwrap_or(&self.none)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anchor_counts_for_its_own_purpose_only() {
        let pem = include_str!("../../swtpm-tests/boots/ca/swtpm-localca-rootca-cert.pem");
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let anchors = TrustAnchors::new([(Purpose::Ek, &pem.contents)]).unwrap();
        assert_eq!(anchors.store(Purpose::Ek).iter().count(), 1);
        assert_eq!(anchors.store(Purpose::Snp).iter().count(), 0);
        assert!(TrustAnchors::new([(Purpose::Ek, b"no certificate")]).is_err());
        assert_eq!(Purpose::parse("tdx"), Some(Purpose::Tdx));
    }
}
