//! By what a confidential VM is known: the platform it runs on and, where the author names one, which guest it is
//! (`docs/protocol.md`, section 2).

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};
use touchstone_cose::cbor::{self, Value};

/// Domain separation of [`CvmIdentity::digest`].
const DIGEST_DOMAIN: &str = "touchstone-cvm-identity/1";
/// Fewest and most bytes of a platform's identity: a TDX platform instance id has 16, a chip id of Turin 8, of Milan 64.
const PLATFORM_BYTES: std::ops::RangeInclusive<usize> = 8..=64;
/// Fewest and most bytes of a guest's identity: host data have 32, key digests and MRCONFIGID 48.
const GUEST_BYTES: std::ops::RangeInclusive<usize> = 32..=48;
/// Longest name of a provider, in bytes.
const MAX_PROVIDER: usize = 64;

/// The platform a confidential VM runs on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Platform {
    /// One AMD processor: the chip id of its VCEK certificate, 8 bytes on Turin, 64 before.
    SnpChip(Vec<u8>),
    /// Any processor of a provider: the name in its VLEK certificate (`CSP_ID`, an IA5String; in published ones an X.500
    /// name like `CN=cc-eu-west-1.amazonaws.com`).
    SnpProvider(String),
    /// One Intel platform: PPID or platform instance id of its PCK certificate.
    TdxPlatform(Vec<u8>),
}

/// Which guest on that platform.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum GuestId {
    /// SNP: `HOST_DATA`, what the host gave at launch.
    HostData(Vec<u8>),
    /// SNP: SHA-384 of the key that signed the id block.
    IdKey(Vec<u8>),
    /// TDX: `MRCONFIGID`.
    ConfigId(Vec<u8>),
}

/// A confidential VM, as an entry of the inventory lists it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CvmIdentity {
    /// Where it runs.
    pub platform: Platform,
    /// Which guest there; none: whichever the reference values allow.
    pub guest: Option<GuestId>,
}

/// Why text is not an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a confidential VM: expected {expected}, found {found}")]
pub struct CvmIdentityError {
    /// What is accepted.
    pub expected: &'static str,
    /// What was there.
    pub found: String,
}

impl CvmIdentity {
    /// SHA-256 over the deterministic CBOR array [domain string, platform, guest or empty text], both in their text form.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let guest = self.guest.as_ref().map(ToString::to_string).unwrap_or_default();
        let parts = [DIGEST_DOMAIN.to_owned(), self.platform.to_string(), guest];
        Sha256::digest(cbor::encode(&Value::array(parts.map(Value::text)))).into()
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SnpChip(id) => write!(f, "snp:{}", hex::encode(id)),
            Self::SnpProvider(name) => write!(f, "snp-provider:{name}"),
            Self::TdxPlatform(id) => write!(f, "tdx:{}", hex::encode(id)),
        }
    }
}

impl fmt::Display for GuestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostData(bytes) => write!(f, "host-data:{}", hex::encode(bytes)),
            Self::IdKey(bytes) => write!(f, "id-key:{}", hex::encode(bytes)),
            Self::ConfigId(bytes) => write!(f, "config-id:{}", hex::encode(bytes)),
        }
    }
}

impl fmt::Display for CvmIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.platform.fmt(f)?;
        match &self.guest {
            Some(guest) => write!(f, "/{guest}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = CvmIdentityError;

    fn from_str(text: &str) -> Result<Self, CvmIdentityError> {
        let refuse = || CvmIdentityError {
            expected: "snp:<chip id>, snp-provider:<name> or tdx:<platform id>, ids as 16 to 128 lower-case hexadecimal digits",
            found: shortened(text),
        };
        let (kind, id) = text.split_once(':').ok_or_else(refuse)?;
        let bytes = || bytes(id, PLATFORM_BYTES).ok_or_else(refuse);
        match kind {
            "snp" => Ok(Self::SnpChip(bytes()?)),
            "tdx" => Ok(Self::TdxPlatform(bytes()?)),
            "snp-provider" if is_provider(id) => Ok(Self::SnpProvider(id.to_owned())),
            _ => Err(refuse()),
        }
    }
}

impl FromStr for GuestId {
    type Err = CvmIdentityError;

    fn from_str(text: &str) -> Result<Self, CvmIdentityError> {
        let refuse = || CvmIdentityError {
            expected: "host-data:<hex>, id-key:<hex> or config-id:<hex>, as 64 to 96 lower-case hexadecimal digits",
            found: shortened(text),
        };
        let (kind, id) = text.split_once(':').ok_or_else(refuse)?;
        let bytes = bytes(id, GUEST_BYTES).ok_or_else(refuse)?;
        match kind {
            "host-data" => Ok(Self::HostData(bytes)),
            "id-key" => Ok(Self::IdKey(bytes)),
            "config-id" => Ok(Self::ConfigId(bytes)),
            _ => Err(refuse()),
        }
    }
}

impl FromStr for CvmIdentity {
    type Err = CvmIdentityError;

    fn from_str(text: &str) -> Result<Self, CvmIdentityError> {
        let (platform, guest) = match text.split_once('/') {
            Some((platform, guest)) => (platform, Some(guest)),
            None => (text, None),
        };
        Ok(Self {
            platform: platform.parse()?,
            guest: guest.map(str::parse).transpose()?,
        })
    }
}

/// One text for one value: upper-case digits would be a second.
fn bytes(digits: &str, length: std::ops::RangeInclusive<usize>) -> Option<Vec<u8>> {
    let bytes = hex::decode(digits).ok()?;
    (length.contains(&bytes.len()) && hex::encode(&bytes) == digits).then_some(bytes)
}

/// Printable and of one form: what separates the guest from the platform is no part of it, and no space is at its ends.
fn is_provider(name: &str) -> bool {
    let printable = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'/';
    (1..=MAX_PROVIDER).contains(&name.len()) && name.trim() == name && name.bytes().all(printable)
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_come_back_from_their_text() {
        let chip = "ab".repeat(64);
        for text in [
            format!("snp:{chip}"),
            format!("snp:0123456789abcdef/host-data:{}", "01".repeat(32)),
            format!("snp-provider:Example-Cloud/id-key:{}", "02".repeat(48)),
            // As AMD certifies them.
            "snp-provider:CN=cc-eu-west-1.amazonaws.com".to_owned(),
            format!("snp-provider:O=Example Cloud, CN=r-1/host-data:{}", "05".repeat(32)),
            format!("tdx:{}/config-id:{}", "03".repeat(16), "04".repeat(48)),
        ] {
            let identity: CvmIdentity = text.parse().unwrap();
            assert_eq!(identity.to_string(), text);
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "snp",
            "snp:",
            "snp:00",
            "snp:ABCDEFABCDEFABCD",
            "snp:0123456789abcdef/",
            "snp:0123456789abcdef/host-data:00",
            "snp:0123456789abcdef/host-data",
            "snp-provider:",
            "snp-provider: a",
            "snp-provider:a ",
            "snp-provider:a\tb",
            "snp-provider:\u{e9}",
            "snp-provider:a/b",
            "tpm:0123456789abcdef",
        ] {
            assert!(text.parse::<CvmIdentity>().is_err(), "{text}");
        }
        let long = format!("snp:{}", "00".repeat(65));
        assert!(long.parse::<CvmIdentity>().is_err());
    }

    #[test]
    fn every_part_changes_the_digest() {
        let of = |text: &str| text.parse::<CvmIdentity>().unwrap().digest();
        let host = |byte: &str| format!("snp:0123456789abcdef/host-data:{}", byte.repeat(32));
        let all = [
            of("snp:0123456789abcdef"),
            of("tdx:0123456789abcdef"),
            of("snp:1123456789abcdef"),
            of(&host("00")),
            of(&host("01")),
            of(&host("00").replace("host-data", "id-key")),
        ];
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }
}
