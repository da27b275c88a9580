//! The simulated authority: root, intermediate, and the key that signs reports, with AMD's extensions (AMD 57230, table 8).

use std::path::Path;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair,
    PKCS_ECDSA_P384_SHA384, date_time_ymd,
};

/// AMD's arc of extensions.
const ARC: [u64; 8] = [1, 3, 6, 1, 4, 1, 3704, 1];
/// Bytes of a report that are signed.
const SIGNED: usize = 0x2A0;
/// Bytes of one half of a signature in a report, and of the number in it.
const SCALAR_FIELD: usize = 72;
const SCALAR: usize = 48;
const FILES: [&str; 4] = ["ark.pem", "ask.pem", "vek.pem", "vek-key.pem"];

/// Why there is no platform.
#[derive(Debug, thiserror::Error)]
pub enum PlatformError {
    /// A key or certificate could not be made.
    #[error("simulated authority: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A key could not be used.
    #[error("simulated authority: the signing key is not usable")]
    Key,
    /// A file.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A file that is no PEM.
    #[error("simulated authority: {0}")]
    Pem(#[from] pem::PemError),
}

/// A line of processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// EPYC 7003.
    Milan,
    /// EPYC 9004.
    Genoa,
    /// EPYC 9005.
    Turin,
}

/// What goes into the certificate of a signing key.
#[derive(Debug, Clone)]
pub struct VekShape {
    /// Product name: `Milan-B0`.
    pub product: &'static str,
    /// Common name of the authority that issues it: `SEV-Milan`.
    pub issuer: &'static str,
    /// Common name of the root.
    pub root: &'static str,
    /// Security versions: last number of the extension, and the version.
    pub versions: Vec<(u64, u8)>,
    /// The chip's id; none for a provider's key.
    pub chip: Option<Vec<u8>>,
    /// The provider; none for a chip's key.
    pub provider: Option<&'static str>,
    /// Further extensions in the arc: last number and raw value.
    pub extra: Vec<(u64, Vec<u8>)>,
    /// Year at the beginning of which it ends.
    pub expires: i32,
}

/// A platform: its authority, and the key that signs its reports.
pub struct Platform {
    /// The root, DER.
    pub root: Vec<u8>,
    /// The intermediate, DER.
    pub intermediate: Vec<u8>,
    /// The certificate of the signing key, DER.
    pub vek: Vec<u8>,
    key: EcdsaKeyPair,
    key_der: Vec<u8>,
}

impl Line {
    /// The line of this name: `milan`, `genoa`, `turin`.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "milan" => Some(Self::Milan),
            "genoa" => Some(Self::Genoa),
            "turin" => Some(Self::Turin),
            _ => None,
        }
    }

    /// Bytes of its chip ids.
    #[must_use]
    pub const fn chip_id_len(self) -> usize {
        match self {
            Self::Milan | Self::Genoa => 64,
            Self::Turin => 8,
        }
    }

    /// The security versions of the simulated platform, as a report of this line lays them out.
    #[must_use]
    pub const fn tcb(self) -> [u8; 8] {
        match self {
            Self::Milan | Self::Genoa => [4, 0, 0, 0, 0, 0, 24, 219],
            Self::Turin => [1, 4, 0, 24, 0, 0, 0, 219],
        }
    }

    /// Combined family and model, and stepping, as a report of version 3 says them.
    #[must_use]
    pub const fn cpuid(self) -> [u8; 3] {
        match self {
            Self::Milan => [0x19, 0x01, 0x01],
            Self::Genoa => [0x19, 0x11, 0x01],
            Self::Turin => [0x1A, 0x02, 0x01],
        }
    }

    /// A certificate as this line has it, for the chip whose id is made of `chip`.
    #[must_use]
    pub fn vek(self, chip: u8) -> VekShape {
        let (product, issuer, root) = match self {
            Self::Milan => ("Milan-B0", "SEV-Milan", "ARK-Milan"),
            Self::Genoa => ("Genoa-B1", "SEV-Genoa", "ARK-Genoa"),
            Self::Turin => ("Turin-C1", "SEV-Turin", "ARK-Turin"),
        };
        let mut versions = vec![(1, 4), (2, 0), (3, 24), (4, 0), (5, 0), (6, 0), (7, 0), (8, 219)];
        if self == Self::Turin {
            versions.push((9, 1));
        }
        VekShape {
            product,
            issuer,
            root,
            versions,
            chip: Some(vec![chip; self.chip_id_len()]),
            provider: None,
            extra: Vec::new(),
            expires: 2033,
        }
    }
}

impl Default for VekShape {
    fn default() -> Self {
        Line::Milan.vek(0xC1)
    }
}

impl Platform {
    /// A platform with an authority of its own.
    ///
    /// # Errors
    /// [`PlatformError`]
    pub fn new(shape: &VekShape) -> Result<Self, PlatformError> {
        let [root_key, ask_key] = [key()?, key()?];
        let root_params = authority(shape.root);
        let root = root_params.self_signed(&root_key)?;
        let root_issuer = Issuer::new(root_params, root_key);
        let ask_params = authority(shape.issuer);
        let ask = ask_params.signed_by(&ask_key, &root_issuer)?;
        let ask_issuer = Issuer::new(ask_params, ask_key);
        let (vek, key_der) = shape.certificate(&ask_issuer)?;
        Self::of(root.der().to_vec(), ask.der().to_vec(), vek.der().to_vec(), key_der)
    }

    /// Several platforms under one authority, as the chips of one maker are.
    ///
    /// # Errors
    /// [`PlatformError`]
    pub fn under_one_root(shapes: &[VekShape]) -> Result<Vec<Self>, PlatformError> {
        let Some(first) = shapes.first() else {
            return Ok(Vec::new());
        };
        let [root_key, ask_key] = [key()?, key()?];
        let root_params = authority(first.root);
        let root = root_params.self_signed(&root_key)?;
        let root_issuer = Issuer::new(root_params, root_key);
        let ask_params = authority(first.issuer);
        let ask = ask_params.signed_by(&ask_key, &root_issuer)?;
        let ask_issuer = Issuer::new(ask_params, ask_key);
        let platform = |shape: &VekShape| {
            let (vek, key_der) = shape.certificate(&ask_issuer)?;
            Self::of(root.der().to_vec(), ask.der().to_vec(), vek.der().to_vec(), key_der)
        };
        shapes.iter().map(platform).collect()
    }

    /// The platform that [`Platform::write`] kept in a folder.
    ///
    /// # Errors
    /// [`PlatformError`]
    pub fn read(folder: &Path) -> Result<Self, PlatformError> {
        let contents = |name: &str| -> Result<Vec<u8>, PlatformError> {
            Ok(pem::parse(std::fs::read(folder.join(name))?)?.into_contents())
        };
        let [ark, ask, vek, key] = FILES;
        Self::of(contents(ark)?, contents(ask)?, contents(vek)?, contents(key)?)
    }

    /// Keeps the platform in a folder: `ark.pem` is the root a policy has to list.
    ///
    /// # Errors
    /// [`PlatformError::Io`]
    pub fn write(&self, folder: &Path) -> Result<(), PlatformError> {
        std::fs::create_dir_all(folder)?;
        let parts = [
            ("CERTIFICATE", &self.root),
            ("CERTIFICATE", &self.intermediate),
            ("CERTIFICATE", &self.vek),
            ("PRIVATE KEY", &self.key_der),
        ];
        for (name, (tag, contents)) in FILES.into_iter().zip(parts) {
            let text = pem::encode(&pem::Pem::new(tag, contents.as_slice()));
            std::fs::write(folder.join(name), text)?;
        }
        Ok(())
    }

    /// Signs a report in place.
    ///
    /// # Errors
    /// [`PlatformError::Key`], also for bytes that are no report.
    pub fn sign(&self, report: &mut [u8]) -> Result<(), PlatformError> {
        let (signed, rest) = report.split_at_mut_checked(SIGNED).ok_or(PlatformError::Key)?;
        let signature = self
            .key
            .sign(&SystemRandom::new(), signed)
            .map_err(|_| PlatformError::Key)?;
        let halves = signature.as_ref().chunks_exact(SCALAR);
        for (field, scalar) in rest.chunks_exact_mut(SCALAR_FIELD).zip(halves) {
            // Little endian, padded with zeros (AMD 56860, table 134).
            field.fill(0);
            for (to, from) in field.iter_mut().zip(scalar.iter().rev()) {
                *to = *from;
            }
        }
        Ok(())
    }

    fn of(root: Vec<u8>, intermediate: Vec<u8>, vek: Vec<u8>, key_der: Vec<u8>) -> Result<Self, PlatformError> {
        let key =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &key_der).map_err(|_| PlatformError::Key)?;
        Ok(Self {
            root,
            intermediate,
            vek,
            key,
            key_der,
        })
    }
}

impl std::fmt::Debug for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Platform").finish_non_exhaustive()
    }
}

impl VekShape {
    fn certificate(&self, issuer: &Issuer<'_, KeyPair>) -> Result<(Certificate, Vec<u8>), PlatformError> {
        let mut params = CertificateParams::default();
        let name = if self.provider.is_some() {
            "SEV-VLEK"
        } else {
            "SEV-VCEK"
        };
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = date_time_ymd(2022, 1, 1);
        params.not_after = date_time_ymd(self.expires, 1, 1);
        let mut extension = |rest: &[u64], value: Vec<u8>| {
            let oid: Vec<u64> = ARC.iter().chain(rest).copied().collect();
            let extension = CustomExtension::from_oid_content(&oid, value);
            params.custom_extensions.push(extension);
        };
        extension(&[1], integer(0));
        extension(&[2], ia5(self.product));
        for (index, version) in &self.versions {
            extension(&[3, *index], integer(*version));
        }
        if let Some(chip) = &self.chip {
            extension(&[4], chip.clone());
        }
        if let Some(provider) = self.provider {
            extension(&[5], ia5(provider));
        }
        for (number, value) in &self.extra {
            extension(&[*number], value.clone());
        }
        let key = key()?;
        Ok((params.signed_by(&key, issuer)?, key.serialize_der()))
    }
}

fn key() -> Result<KeyPair, rcgen::Error> {
    KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2045, 1, 1);
    params
}

fn integer(value: u8) -> Vec<u8> {
    if value < 0x80 {
        vec![2, 1, value]
    } else {
        vec![2, 2, 0, value]
    }
}

fn ia5(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    [&[0x16, length], text.as_bytes()].concat()
}
