//! `[keys]` of `broker.toml`: where secrets are kept, and what they are sealed under.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// The `[keys]` section. Without it the broker keeps and releases no key.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeysConfig {
    /// Where the secrets are: `store` (sealed in the broker's own store) or `pkcs11` (in the token).
    #[serde(default)]
    pub source: SourceKind,
    /// What secrets in the store are sealed under; needed for `source = "store"`.
    pub kek: Option<KekConfig>,
    /// The PKCS#11 token, where one is used.
    pub pkcs11: Option<TokenConfig>,
}

/// Where secrets are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// Sealed in the broker's own store.
    #[default]
    Store,
    /// In a PKCS#11 token.
    Pkcs11,
}

/// Where the key-encryption key comes from: exactly one of these.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum KekConfig {
    /// A file of mode 0600 with a passphrase of at least 16 characters, stretched with Argon2id.
    PassphraseFile(PathBuf),
    /// The label of an AES key in the token of `[keys.pkcs11]`, which never leaves it.
    Pkcs11Key(String),
    /// Random bytes, sealed to this machine's TPM in its present state.
    Tpm(TpmKek),
}

impl KekConfig {
    /// Its name in the file.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::PassphraseFile(_) => "passphrase_file",
            Self::Pkcs11Key(_) => "pkcs11_key",
            Self::Tpm(_) => "tpm",
        }
    }
}

/// Which TPM, and which of its registers must be as they are now for the key to come out again.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TpmKek {
    /// A TSS TCTI string.
    pub tcti: String,
    /// Registers by bank, as in `settings.toml`.
    pub registers: BTreeMap<String, Vec<u8>>,
}

impl Default for TpmKek {
    fn default() -> Self {
        Self {
            tcti: "device:/dev/tpmrm0".into(),
            registers: BTreeMap::from([("sha256".to_owned(), vec![7])]),
        }
    }
}

/// A PKCS#11 token.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// The module, a shared library.
    pub module: PathBuf,
    /// The token's label.
    pub token: String,
    /// A file of mode 0600 with the user PIN.
    pub pin_file: PathBuf,
}

impl KeysConfig {
    /// What does not fit together, as (key, expected).
    #[must_use]
    pub fn problem(&self) -> Option<(&'static str, &'static str)> {
        let needs_token = self.source == SourceKind::Pkcs11 || matches!(self.kek, Some(KekConfig::Pkcs11Key(_)));
        match self {
            Self {
                source: SourceKind::Store,
                kek: None,
                ..
            } => Some(("keys.kek", "passphrase_file, pkcs11_key or tpm")),
            Self {
                source: SourceKind::Pkcs11,
                kek: Some(_),
                ..
            } => Some(("keys.kek", "nothing: the token itself keeps the secrets")),
            Self { pkcs11: None, .. } if needs_token => Some(("keys.pkcs11", "module, token and pin_file")),
            _ => None,
        }
    }

    /// Makes paths relative to the folder of the file.
    pub fn relative_to(&mut self, folder: &Path) {
        if let Some(KekConfig::PassphraseFile(path)) = &mut self.kek {
            *path = folder.join(&*path);
        }
        if let Some(token) = &mut self.pkcs11 {
            token.module = folder.join(&token.module);
            token.pin_file = folder.join(&token.pin_file);
        }
    }
}
