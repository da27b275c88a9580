//! Where a policy repository is: a folder, or the URL of any static web server.
//!
//! The place is trusted with nothing: what comes from it is believed for its signatures alone, so plain HTTP forges
//! nothing (TUF 1.0.34, 1.5.2). `https` is for those who do not want others to see what is fetched.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use url::Url;

use crate::error::{PolicyCode, PolicyError};
use crate::transport::bounded::read_bounded;

/// Longest URL of a repository, in bytes.
pub const MAX_URL_LEN: usize = 2_048;
/// Largest file of certificate authorities, in bytes.
pub const MAX_CA_FILE_LEN: u64 = 1 << 20;

/// A folder or a URL.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Location {
    /// A folder with `metadata` and `targets` in it.
    Folder(PathBuf),
    /// `http://…` or `https://…`, below which `metadata/` and `targets/` are. It ends with a slash.
    Url(Url),
}

impl Location {
    /// What `text` names: a URL if it begins with `http://` or `https://`, otherwise a folder.
    ///
    /// # Errors
    /// [`PolicyError`] with `policy-source-invalid`: another scheme, no host, a user name, a query or a fragment.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let invalid = |found: &str| {
            let expected = "a folder, or an http:// or https:// URL without user name, query and fragment";
            PolicyError::new(PolicyCode::SourceInvalid, "policy repository", expected, found)
        };
        if text.is_empty() || text.len() > MAX_URL_LEN {
            return Err(invalid(text));
        }
        if !text.contains("://") {
            return Ok(Self::Folder(text.into()));
        }
        let mut url = Url::parse(text).map_err(|_| invalid(text))?;
        let plain = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
            && url.host_str().is_some_and(|host| !host.is_empty());
        if !matches!(url.scheme(), "http" | "https") || !plain {
            return Err(invalid(text));
        }
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        Ok(Self::Url(url))
    }

    /// A relative folder taken as below `folder`; a URL as it is.
    #[must_use]
    pub fn below(self, folder: &Path) -> Self {
        match self {
            Self::Folder(path) => Self::Folder(folder.join(path)),
            url @ Self::Url(_) => url,
        }
    }

    /// The folder, where it is one.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Self::Folder(path) => Some(path),
            Self::Url(_) => None,
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => path.display().fmt(f),
            Self::Url(url) => url.fmt(f),
        }
    }
}

impl FromStr for Location {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Location {
    type Error = PolicyError;

    fn try_from(text: String) -> Result<Self, PolicyError> {
        Self::parse(&text)
    }
}

/// How long a server may take. A server that keeps to the letter of every single limit still cannot hold a load up for
/// longer than `total_grace` and what it sent at `min_rate` (slow retrieval, TUF 1.0.34, 1.5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpLimits {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// For one file, beside what its bytes take at `min_rate`.
    pub file_grace: Duration,
    /// For one load of the whole repository, beside what its bytes take at `min_rate`.
    pub total_grace: Duration,
    /// Bytes a second below which a server is too slow.
    pub min_rate: u32,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            file_grace: Duration::from_secs(10),
            total_grace: Duration::from_secs(120),
            min_rate: 16 * 1024,
        }
    }
}

/// A place and how it is reached.
#[derive(Debug, Clone)]
pub struct Source {
    location: Location,
    tls: Option<Arc<ClientConfig>>,
    limits: HttpLimits,
}

impl Source {
    /// The place, reached in the default way. An `https` place needs [`Source::with_ca`] or [`Source::with_tls`].
    #[must_use]
    pub fn new(location: Location) -> Self {
        Self {
            location,
            tls: None,
            limits: HttpLimits::default(),
        }
    }

    /// The same, believing the servers that the certificate authorities in this PEM file vouch for, and no others.
    ///
    /// # Errors
    /// [`PolicyError`]: `policy-io`, or `policy-source-invalid` where the file holds no certificate that can be used.
    pub fn with_ca(self, ca: &Path) -> Result<Self, PolicyError> {
        let bytes =
            read_bounded(ca, MAX_CA_FILE_LEN).map_err(|e| PolicyError::io(ca, "certificate authorities", &e))?;
        let invalid = |found: String| {
            let expected = "certificate authorities in PEM";
            PolicyError::new(PolicyCode::SourceInvalid, ca.display(), expected, found)
        };
        let blocks = pem::parse_many(&bytes).map_err(|e| invalid(e.to_string()))?;
        let mut roots = RootCertStore::empty();
        for block in blocks.iter().filter(|block| block.tag() == "CERTIFICATE") {
            let certificate = CertificateDer::from(block.contents().to_vec());
            roots.add(certificate).map_err(|e| invalid(e.to_string()))?;
        }
        if roots.is_empty() {
            return Err(invalid("no certificate".into()));
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| invalid(e.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(self.with_tls(Arc::new(config)))
    }

    /// The same, with TLS as the caller has it, for example pinned to a keyset.
    #[must_use]
    pub fn with_tls(mut self, tls: Arc<ClientConfig>) -> Self {
        self.tls = Some(tls);
        self
    }

    /// The same with other limits.
    #[must_use]
    pub fn with_limits(mut self, limits: HttpLimits) -> Self {
        self.limits = limits;
        self
    }

    /// The place.
    #[must_use]
    pub const fn location(&self) -> &Location {
        &self.location
    }

    pub(crate) fn tls(&self) -> Option<Arc<ClientConfig>> {
        self.tls.clone()
    }

    pub(crate) const fn limits(&self) -> HttpLimits {
        self.limits
    }
}

impl From<Location> for Source {
    fn from(location: Location) -> Self {
        Self::new(location)
    }
}

impl From<&Location> for Source {
    fn from(location: &Location) -> Self {
        Self::new(location.clone())
    }
}

impl From<&Source> for Source {
    fn from(source: &Source) -> Self {
        source.clone()
    }
}

impl From<&Path> for Source {
    fn from(folder: &Path) -> Self {
        Self::new(Location::Folder(folder.to_owned()))
    }
}

impl From<&PathBuf> for Source {
    fn from(folder: &PathBuf) -> Self {
        folder.as_path().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_folder_or_a_plain_url() {
        assert_eq!(Location::parse("repo"), Ok(Location::Folder("repo".into())));
        assert_eq!(
            Location::parse("/srv/repo").map(|l| l.below(Path::new("/etc"))),
            Ok(Location::Folder("/srv/repo".into()))
        );
        for (text, written) in [
            ("http://a.example", "http://a.example/"),
            ("http://[::1]:80/v1/policy", "http://[::1]/v1/policy/"),
            ("https://a.example/x/", "https://a.example/x/"),
        ] {
            let place = Location::parse(text).unwrap();
            assert_eq!(place.to_string(), written);
            assert_eq!(place.clone().below(Path::new("/etc")), place, "{text}");
        }
        let long = format!("http://a.example/{}", "a".repeat(MAX_URL_LEN));
        for bad in [
            "",
            "ftp://a.example/",
            "file:///srv/repo",
            "http://",
            "http://user@a.example/",
            "http://:secret@a.example/",
            "http://a.example/?x=1",
            "http://a.example/#x",
            long.as_str(),
        ] {
            assert_eq!(
                Location::parse(bad).unwrap_err().code(),
                PolicyCode::SourceInvalid,
                "{bad}"
            );
        }
    }

    #[test]
    fn a_file_without_certificates_names_no_authority() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        let source = || Source::new(Location::parse("https://a.example").unwrap());
        assert_eq!(source().with_ca(&file).unwrap_err().code(), PolicyCode::Io);
        for text in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(
                source().with_ca(&file).unwrap_err().code(),
                PolicyCode::SourceInvalid,
                "{text}"
            );
        }
    }
}
