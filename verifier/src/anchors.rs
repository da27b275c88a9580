//! Trust anchors of the domain, by what they may vouch for, parsed once.

use std::collections::{BTreeMap, BTreeSet};

use crate::deny::DenyList;
use crate::tpm::HashAlg;
use crate::x509::certificate::CertificateError;
use crate::x509::{Certificate, CertificateStore, Crl, CrlError};

/// What a trust anchor may vouch for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// TPM endorsement keys.
    Ek,
    /// AMD SEV-SNP chips.
    Snp,
    /// Intel TDX platforms.
    Tdx,
    /// GPUs and NVSwitches.
    Gpu,
    /// Device identities and attestation keys of makers (IEEE 802.1AR IDevID; TCG IAK).
    Idevid,
    /// The same, of an owner (LDevID; LAK).
    Ldevid,
    /// Attestation keys of cloud providers' virtual TPMs, and nothing else.
    CloudAk,
}

impl Purpose {
    /// Every purpose.
    pub const ALL: [Purpose; 7] = [
        Purpose::Ek,
        Purpose::Snp,
        Purpose::Tdx,
        Purpose::Gpu,
        Purpose::Idevid,
        Purpose::Ldevid,
        Purpose::CloudAk,
    ];

    /// Its name in commands and files: `ek`, `snp`, `tdx`, `gpu`, `idevid`, `ldevid`, `cloud-ak`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Purpose::Ek => "ek",
            Purpose::Snp => "snp",
            Purpose::Tdx => "tdx",
            Purpose::Gpu => "gpu",
            Purpose::Idevid => "idevid",
            Purpose::Ldevid => "ldevid",
            Purpose::CloudAk => "cloud-ak",
        }
    }

    /// The purpose of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|purpose| purpose.as_str() == name)
    }
}

/// The certificates a domain trusts, and what it has been told against some of what they vouch for. Each anchor ends a
/// chain: the policy lists it, so nothing above it need be known.
#[derive(Debug, Clone, Default)]
pub struct TrustAnchors {
    stores: BTreeMap<Purpose, CertificateStore>,
    none: CertificateStore,
    denied: DenyList,
}

impl TrustAnchors {
    /// Reads DER certificates, each with its purpose.
    ///
    /// # Errors
    /// The first certificate that cannot be read.
    pub fn new<D: AsRef<[u8]>>(certificates: impl IntoIterator<Item = (Purpose, D)>) -> Result<Self, CertificateError> {
        Self::default().with_anchors(certificates)
    }

    /// Adds anchors.
    ///
    /// # Errors
    /// The first certificate that cannot be read.
    pub fn with_anchors<D: AsRef<[u8]>>(
        mut self,
        certificates: impl IntoIterator<Item = (Purpose, D)>,
    ) -> Result<Self, CertificateError> {
        for (purpose, der) in certificates {
            self.add(purpose, der.as_ref(), true)?;
        }
        Ok(self)
    }

    /// Adds intermediates: they lead to an anchor and vouch for nothing by themselves.
    ///
    /// # Errors
    /// The first certificate that cannot be read.
    pub fn with_intermediates<D: AsRef<[u8]>>(
        mut self,
        certificates: impl IntoIterator<Item = (Purpose, D)>,
    ) -> Result<Self, CertificateError> {
        for (purpose, der) in certificates {
            self.add(purpose, der.as_ref(), false)?;
        }
        Ok(self)
    }

    /// Adds a revocation list (DER) wherever a CA that issued it is listed, as anchor or intermediate.
    ///
    /// # Errors
    /// [`CrlError`] if it cannot be read, or no CA that is listed issued it.
    pub fn with_crl(mut self, der: &[u8]) -> Result<Self, CrlError> {
        let crl = Crl::from_der(der)?;
        let mut refusal = CrlError::IssuerUnknown {
            issuer: crl.issuer().to_owned(),
        };
        let mut taken = false;
        for store in self.stores.values_mut() {
            match store.add_crl(crl.clone()) {
                Ok(()) => taken = true,
                Err(CrlError::IssuerUnknown { .. }) => {}
                Err(e) => refusal = e,
            }
        }
        if taken { Ok(self) } else { Err(refusal) }
    }

    /// Sets what is refused although somebody vouches for it.
    #[must_use]
    pub fn with_deny_list(mut self, denied: DenyList) -> Self {
        self.denied = denied;
        self
    }

    /// These anchors as a part of the domain takes them: of the anchors only `selected` (SHA-256 of the DER certificate), all
    /// where there is no selection, and `denied` beside what is refused already. Nothing can be added this way.
    #[must_use]
    pub fn narrowed(&self, selected: Option<&BTreeSet<[u8; 32]>>, denied: &DenyList) -> Self {
        let mut narrowed = self.clone();
        narrowed.denied = narrowed.denied.and(denied);
        if let Some(selected) = selected {
            for store in narrowed.stores.values_mut() {
                *store = store.with_anchors(|certificate| {
                    let digest = HashAlg::Sha256.digest([certificate.as_der()]);
                    <[u8; 32]>::try_from(digest.as_ref()).is_ok_and(|digest| selected.contains(&digest))
                });
            }
        }
        narrowed
    }

    /// What is refused although somebody vouches for it.
    pub fn deny_list(&self) -> &DenyList {
        &self.denied
    }

    fn add(&mut self, purpose: Purpose, der: &[u8], anchor: bool) -> Result<(), CertificateError> {
        let certificate = Certificate::from_der(der)?;
        self.stores.entry(purpose).or_default().add(certificate, anchor);
        Ok(())
    }

    /// The certificates for one purpose.
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

    #[test]
    fn a_part_selects_among_the_anchors_and_adds_none() {
        let pem = include_str!("../../swtpm-tests/boots/ca/swtpm-localca-rootca-cert.pem");
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let whole = TrustAnchors::new([(Purpose::Ek, &pem.contents)]).unwrap();
        let digest: [u8; 32] = HashAlg::Sha256
            .digest([pem.contents.as_slice()])
            .as_ref()
            .try_into()
            .unwrap();
        let anchors = |selected: Option<&[[u8; 32]]>| {
            let selected = selected.map(|digests| digests.iter().copied().collect());
            let narrowed = whole.narrowed(selected.as_ref(), &DenyList::default());
            let store = narrowed.store(Purpose::Ek);
            let count = store.iter().filter(|(_, anchor)| *anchor).count();
            (
                count,
                store.iter().count(),
                store.digest() == whole.store(Purpose::Ek).digest(),
            )
        };
        assert_eq!(anchors(None), (1, 1, true));
        assert_eq!(anchors(Some(&[digest, [9; 32]])), (1, 1, true));
        // What was an anchor stays known: its revocation lists and constraints hold on every other way to an anchor. The
        // store is another one, so that nothing that was remembered of the whole's counts for it.
        assert_eq!(anchors(Some(&[[9; 32]])), (0, 1, false));
        assert_eq!(anchors(Some(&[])), (0, 1, false));
    }
}
