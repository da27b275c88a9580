//! The broker's keys: one for each job, so that a signature made for one purpose is worthless for another.
//!
//! `DATA/keys/<job>.pem`, and `tls-certificate.pem` beside `tls.pem`. The certificate is a shell around the TLS key:
//! clients know the key from the signed keyset and look at nothing else in it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use touchstone_cose::key::{SigningKey, VerifyingKey};

use crate::key_files::{KeyFileError, private_folder, read_private, sync_folder, write_new};
use crate::session::{EntropyError, random};

/// The folder of the keys, in the data folder.
pub const KEY_FOLDER: &str = "keys";

/// The name in the TLS certificate. Nobody trusts it.
const TLS_NAME: &str = "touchstone-broker";

/// What a key of the broker is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyJob {
    /// Signs authorizations.
    Authorization,
    /// Signs attestation results.
    Ear,
    /// Signs the heads of the trust state, and time.
    TrustState,
    /// Signs the ledger's statements.
    Statement,
    /// Signs the ledger's roots: checkpoints and receipts.
    Checkpoint,
    /// Signs answers that carry a released key.
    Release,
    /// Cosigns the checkpoints of other logs.
    Witness,
    /// Ends TLS.
    Tls,
}

impl KeyJob {
    /// Every job.
    pub const ALL: [Self; 8] = [
        Self::Authorization,
        Self::Ear,
        Self::TrustState,
        Self::Statement,
        Self::Checkpoint,
        Self::Release,
        Self::Witness,
        Self::Tls,
    ];

    /// Jobs that an older release did not know: a data folder or a keyset of its time is without them, and everything
    /// else goes on.
    pub const ADDED: [Self; 2] = [Self::Release, Self::Witness];

    /// The job's name in the keyset and in file names.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Authorization => "authorization",
            Self::Ear => "ear",
            Self::TrustState => "trust-state",
            Self::Statement => "statement",
            Self::Checkpoint => "checkpoint",
            Self::Release => "release",
            Self::Witness => "witness",
            Self::Tls => "tls",
        }
    }
}

/// Why the broker's keys are not made or not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeysError {
    /// A file.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// No random bytes.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// The key library refuses.
    #[error("cannot make or read the {job} key: {detail}", job = job.as_str())]
    Library {
        /// Which key.
        job: KeyJob,
        /// The library's own words; they never hold a key.
        detail: String,
    },
}

/// The broker's keys in memory.
#[derive(Debug)]
pub struct BrokerKeys {
    /// Signs authorizations.
    pub authorization: SigningKey,
    /// Signs attestation results.
    pub ear: SigningKey,
    /// Signs the heads of the trust state, and time.
    pub trust_state: Arc<SigningKey>,
    /// Signs the ledger's statements.
    pub statement: SigningKey,
    /// Signs the ledger's roots.
    pub checkpoint: Arc<SigningKey>,
    /// Signs answers that carry a released key. A data folder from before there was this job has none: then no key is
    /// released ([`BrokerKeys::add_missing`] makes it).
    pub release: Option<SigningKey>,
    /// Cosigns the checkpoints of other logs; as `release` it may not be there, and then nothing is cosigned.
    pub witness: Option<SigningKey>,
    tls: TlsKey,
}

/// A key that ends TLS, in a shell of a certificate that nobody looks at.
pub struct TlsKey {
    key: PrivatePkcs8KeyDer<'static>,
    certificate: CertificateDer<'static>,
    public: VerifyingKey,
}

impl std::fmt::Debug for TlsKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsKey")
            .field("kid", &self.public.kid())
            .finish_non_exhaustive()
    }
}

impl BrokerKeys {
    /// Makes a key for each job in `data_dir`, which is made (mode 0700) if it is not there.
    ///
    /// # Errors
    /// [`KeysError`]; [`KeyFileError::Exists`] if there is a key already: keys are replaced by adding new ones to the
    /// keyset, never by overwriting the old.
    pub fn init(data_dir: &Path) -> Result<Self, KeysError> {
        private_folder(data_dir)?;
        let folder = data_dir.join(KEY_FOLDER);
        private_folder(&folder)?;
        for job in KeyJob::ALL {
            if job != KeyJob::Tls {
                let pem = SigningKey::from_seed(random()?).to_pkcs8_pem().map_err(library(job))?;
                write_new(&path(&folder, job), pem.as_bytes())?;
            }
        }
        TlsKey::write(&folder)?;
        sync_folder(&folder)?;
        sync_folder(data_dir)?;
        Self::load(data_dir)
    }

    /// Makes the keys of jobs that an older release did not know, in a folder that has the others. Gives whether any was
    /// missing: then the keyset has to be staged and published anew.
    ///
    /// # Errors
    /// [`KeysError`]
    pub fn add_missing(data_dir: &Path) -> Result<(Self, bool), KeysError> {
        let keys = Self::load(data_dir)?;
        let folder = data_dir.join(KEY_FOLDER);
        let missing = KeyJob::ADDED.map(|job| (job, path(&folder, job)));
        let missing: Vec<_> = missing.into_iter().filter(|(_, path)| !path.exists()).collect();
        if missing.is_empty() {
            return Ok((keys, false));
        }
        for (job, path) in missing {
            let pem = SigningKey::from_seed(random()?).to_pkcs8_pem().map_err(library(job))?;
            write_new(&path, pem.as_bytes())?;
        }
        sync_folder(&folder)?;
        Ok((Self::load(data_dir)?, true))
    }

    /// Reads the keys in `data_dir`.
    ///
    /// # Errors
    /// [`KeysError`]; [`KeyFileError::NotPrivate`] if anybody else may read a key.
    pub fn load(data_dir: &Path) -> Result<Self, KeysError> {
        private_folder(data_dir)?;
        let folder = data_dir.join(KEY_FOLDER);
        private_folder(&folder)?;
        Ok(Self {
            authorization: signing(&folder, KeyJob::Authorization)?,
            ear: signing(&folder, KeyJob::Ear)?,
            trust_state: Arc::new(signing(&folder, KeyJob::TrustState)?),
            statement: signing(&folder, KeyJob::Statement)?,
            checkpoint: Arc::new(signing(&folder, KeyJob::Checkpoint)?),
            release: added(&folder, KeyJob::Release)?,
            witness: added(&folder, KeyJob::Witness)?,
            tls: TlsKey::load(&folder)?,
        })
    }

    /// The public half of each key.
    #[must_use]
    pub fn public(&self) -> Vec<(KeyJob, VerifyingKey)> {
        let mut keys = vec![
            (KeyJob::Authorization, self.authorization.verifying_key()),
            (KeyJob::Ear, self.ear.verifying_key()),
            (KeyJob::TrustState, self.trust_state.verifying_key()),
            (KeyJob::Statement, self.statement.verifying_key()),
            (KeyJob::Checkpoint, self.checkpoint.verifying_key()),
            (KeyJob::Tls, self.tls.public.clone()),
        ];
        for (job, key) in [(KeyJob::Release, &self.release), (KeyJob::Witness, &self.witness)] {
            keys.extend(key.as_ref().map(|key| (job, key.verifying_key())));
        }
        keys
    }

    /// Certificate and private key for [`crate::tls::server_config`].
    #[must_use]
    pub fn tls(&self) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        self.tls.pair()
    }
}

impl TlsKey {
    /// Makes a key in `data_dir`, which is made (mode 0700) if it is not there: for who ends TLS and has no other job.
    ///
    /// # Errors
    /// [`KeysError`]; [`KeyFileError::Exists`] if there is one already.
    pub fn init(data_dir: &Path) -> Result<Self, KeysError> {
        private_folder(data_dir)?;
        let folder = data_dir.join(KEY_FOLDER);
        private_folder(&folder)?;
        Self::write(&folder)?;
        sync_folder(&folder)?;
        sync_folder(data_dir)?;
        Self::load(&folder)
    }

    /// Reads the key that [`TlsKey::init`] made in `data_dir`.
    ///
    /// # Errors
    /// [`KeysError`]; [`KeyFileError::NotPrivate`] if anybody else may read it.
    pub fn open(data_dir: &Path) -> Result<Self, KeysError> {
        private_folder(data_dir)?;
        let folder = data_dir.join(KEY_FOLDER);
        private_folder(&folder)?;
        Self::load(&folder)
    }

    /// The public half.
    #[must_use]
    pub const fn public(&self) -> &VerifyingKey {
        &self.public
    }

    /// Certificate and private key for [`crate::tls::server_config`].
    #[must_use]
    pub fn pair(&self) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        (self.certificate.clone(), PrivateKeyDer::Pkcs8(self.key.clone_key()))
    }

    fn write(folder: &Path) -> Result<(), KeysError> {
        let tls = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(library(KeyJob::Tls))?;
        let certificate = rcgen::CertificateParams::new([TLS_NAME.to_owned()])
            .and_then(|params| params.self_signed(&tls))
            .map_err(library(KeyJob::Tls))?;
        let pem = zeroize::Zeroizing::new(tls.serialize_pem());
        write_new(&path(folder, KeyJob::Tls), pem.as_bytes())?;
        write_new(&certificate_path(folder), certificate.pem().as_bytes())?;
        Ok(())
    }

    fn load(folder: &Path) -> Result<Self, KeysError> {
        let (key_path, certificate_path) = (path(folder, KeyJob::Tls), certificate_path(folder));
        let not_a_key = |path: &Path, expected| KeyFileError::NotAKey {
            path: path.into(),
            expected,
        };
        let pem = read_private(&key_path)?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| not_a_key(&key_path, "a PKCS#8 P-256 key"))?;
        let pair = rcgen::KeyPair::from_pem_and_sign_algo(&pem, &rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(|_| not_a_key(&key_path, "a PKCS#8 P-256 key"))?;
        let certificate = CertificateDer::from_pem_slice(read_private(&certificate_path)?.as_bytes())
            .map_err(|_| not_a_key(&certificate_path, "a certificate"))?;
        let public = VerifyingKey::from_spki_der(&rcgen::PublicKeyData::subject_public_key_info(&pair))
            .map_err(library(KeyJob::Tls))?;
        Ok(Self {
            key,
            certificate,
            public,
        })
    }
}

fn signing(folder: &Path, job: KeyJob) -> Result<SigningKey, KeysError> {
    let path = path(folder, job);
    let pem = read_private(&path)?;
    let expected = "an Ed25519 private key in PKCS#8 PEM form";
    SigningKey::from_pkcs8_pem(&pem).map_err(|_| KeyFileError::NotAKey { path, expected }.into())
}

/// The key of a job that an older release did not know.
fn added(folder: &Path, job: KeyJob) -> Result<Option<SigningKey>, KeysError> {
    match signing(folder, job) {
        Ok(key) => Ok(Some(key)),
        Err(_) if !path(folder, job).exists() => Ok(None),
        Err(error) => Err(error),
    }
}

fn path(folder: &Path, job: KeyJob) -> PathBuf {
    folder.join(job.as_str()).with_extension("pem")
}

fn certificate_path(folder: &Path) -> PathBuf {
    folder.join("tls-certificate.pem")
}

fn library<E: std::fmt::Display>(job: KeyJob) -> impl FnOnce(E) -> KeysError {
    move |e| KeysError::Library {
        job,
        detail: e.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn keys_come_back_and_each_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let made = BrokerKeys::init(&data).unwrap();
        let read = BrokerKeys::load(&data).unwrap();
        assert_eq!(made.public(), read.public());
        let kids: std::collections::BTreeSet<_> = read.public().iter().map(|(_, key)| key.kid()).collect();
        assert_eq!(kids.len(), KeyJob::ALL.len());
        let (certificate, key) = read.tls();
        crate::tls::server_config(certificate, key).unwrap();
        assert!(matches!(
            BrokerKeys::init(&data),
            Err(KeysError::File(KeyFileError::Exists { .. }))
        ));
    }

    #[test]
    fn every_file_must_be_private_and_present() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        BrokerKeys::init(&data).unwrap();
        for entry in std::fs::read_dir(data.join(KEY_FOLDER)).unwrap() {
            let path = entry.unwrap().path();
            let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            mode(0o644);
            let refused = BrokerKeys::load(&data).unwrap_err();
            assert!(
                matches!(refused, KeysError::File(KeyFileError::NotPrivate { found: 0o644, .. })),
                "{refused}"
            );
            mode(0o600);
            let kept = std::fs::read(&path).unwrap();
            std::fs::write(&path, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").unwrap();
            let refused = BrokerKeys::load(&data).unwrap_err();
            assert!(
                !refused.to_string().contains("AAAA"),
                "an error never shows what a key file holds"
            );
            std::fs::write(&path, kept).unwrap();
        }
        BrokerKeys::load(&data).unwrap();
    }
}
