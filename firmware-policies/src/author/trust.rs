//! Authoring of trust: bundles of makers' certificates, revocation lists, deny lists.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};
use touchstone_verifier::anchors::Purpose;
use touchstone_verifier::x509::{Certificate, Crl};

use crate::error::{PolicyCode, PolicyError};
use crate::layout::TargetKind;
use crate::load::contents::{MAX_ANCHORS, anchors_of};
use crate::repository::Repository;
use crate::targets::deny_file;
use crate::transport::bounded::read_bounded;

/// Largest file of a bundle.
pub const MAX_BUNDLE_FILE_LEN: u64 = 4 << 20;
/// Most files of a bundle in a folder.
pub const MAX_BUNDLE_FILES: usize = 8192;
/// Deepest folder of a bundle.
pub const MAX_BUNDLE_DEPTH: usize = 4;

/// What [`trust_bundle`] staged and what it did not.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct BundleAdded {
    /// Subject and SHA-256 of each root, which ends chains.
    pub anchors: Vec<(String, String)>,
    /// Subject and SHA-256 of each intermediate, which vouches for nothing by itself.
    pub intermediates: Vec<(String, String)>,
    /// What was left out, and why.
    pub skipped: Vec<(String, String)>,
}

/// Stages a bundle of certificates: a PEM file, a DER file, or a folder of both. Self-issued CA certificates become
/// anchors, other CA certificates intermediates; everything else is skipped and named.
///
/// # Errors
/// [`PolicyError`] `policy-anchor-unreadable` where nothing at all could be taken, `policy-targets-too-many`, or file
/// errors; then nothing is staged.
pub fn trust_bundle(repo: &Path, purpose: Purpose, bundle: &Path) -> Result<BundleAdded, PolicyError> {
    let repository = Repository::open(repo)?;
    let mut files = Vec::new();
    collect(bundle, 0, &mut files)?;
    let (mut added, mut taken) = (BundleAdded::default(), Vec::new());
    let mut seen = BTreeSet::new();
    for path in &files {
        let name = path.display().to_string();
        let bytes = match read_bounded(path, MAX_BUNDLE_FILE_LEN) {
            Ok(bytes) => bytes,
            Err(e) if files.len() > 1 => {
                added.skipped.push((name, e.to_string()));
                continue;
            }
            Err(e) => return Err(PolicyError::io(path, "a certificate file", &e)),
        };
        for (index, part) in parts(&bytes).into_iter().enumerate() {
            let name = format!("{name}#{}", index + 1);
            match part.and_then(|der| classify(&der)) {
                Err(why) => added.skipped.push((name, why)),
                Ok((certificate, is_anchor)) => {
                    let digest: [u8; 32] = Sha256::digest(certificate.as_der()).into();
                    if !seen.insert(digest) {
                        let why = format!("{}: it is in the bundle already", certificate.subject());
                        added.skipped.push((name, why));
                        continue;
                    }
                    let entry = (certificate.subject().to_owned(), hex::encode(digest));
                    let kind = if is_anchor {
                        added.anchors.push(entry);
                        TargetKind::Anchor(purpose, digest)
                    } else {
                        added.intermediates.push(entry);
                        TargetKind::Intermediate(purpose, digest)
                    };
                    taken.push((kind, certificate));
                }
            }
        }
    }
    if taken.is_empty() {
        let found = added
            .skipped
            .first()
            .map_or("none".to_owned(), |(name, why)| format!("{name}: {why}"));
        let claim = bundle.display();
        return Err(PolicyError::new(
            PolicyCode::AnchorUnreadable,
            claim,
            "at least one CA certificate",
            found,
        ));
    }
    if taken.len() > MAX_ANCHORS {
        let expected = format!("at most {MAX_ANCHORS} certificates");
        return Err(PolicyError::new(
            PolicyCode::TargetsTooMany,
            bundle.display(),
            expected,
            taken.len(),
        ));
    }
    for (kind, certificate) in taken {
        repository.stage(&kind, certificate.as_der())?;
    }
    Ok(added)
}

/// Every file of the bundle, sorted.
fn collect(path: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), PolicyError> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let failed = |e: &std::io::Error| PolicyError::io(path, "a folder of certificates", e);
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|e| failed(&e))? {
        entries.push(entry.map_err(|e| failed(&e))?.path());
    }
    entries.sort();
    if depth == MAX_BUNDLE_DEPTH || files.len() + entries.len() > MAX_BUNDLE_FILES {
        let expected = format!("at most {MAX_BUNDLE_FILES} files in folders {MAX_BUNDLE_DEPTH} deep");
        return Err(PolicyError::new(
            PolicyCode::TargetsTooMany,
            path.display(),
            expected,
            "more",
        ));
    }
    entries.iter().try_for_each(|entry| collect(entry, depth + 1, files))
}

/// Whether this is PEM: bundles have comments before their first block, DER begins with a SEQUENCE.
fn is_pem(bytes: &[u8]) -> bool {
    const BEGIN: &[u8] = b"-----BEGIN ";
    bytes.first() != Some(&0x30) && bytes.windows(BEGIN.len()).any(|window| window == BEGIN)
}

/// The certificates of a file, each DER or why not.
fn parts(bytes: &[u8]) -> Vec<Result<Vec<u8>, String>> {
    if !is_pem(bytes) {
        return vec![Ok(bytes.to_vec())];
    }
    match pem::parse_many(bytes) {
        Err(e) => vec![Err(e.to_string())],
        Ok(blocks) => blocks
            .into_iter()
            .map(|block| match block.tag() {
                "CERTIFICATE" => Ok(block.into_contents()),
                tag => Err(format!("PEM of {tag}")),
            })
            .collect(),
    }
}

/// A CA certificate, and whether it is a root.
fn classify(der: &[u8]) -> Result<(Certificate, bool), String> {
    let certificate = Certificate::from_der(der).map_err(|e| e.to_string())?;
    if !certificate.is_ca() {
        return Err(format!("{}: it is not a CA's", certificate.subject()));
    }
    if !certificate.is_self_issued() {
        return Ok((certificate, false));
    }
    // Old roots are signed with SHA-1, which proves nothing and is not needed: the author's signature lists them.
    if certificate.is_signed_by_another() {
        return Err(format!(
            "{}: it has a root's name and another's signature",
            certificate.subject()
        ));
    }
    Ok((certificate, true))
}

/// A revocation list that was staged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CrlAdded {
    /// Its issuer.
    pub issuer: String,
    /// How many certificates it revokes.
    pub revoked: usize,
    /// Last second at which it counts, Unix time.
    pub next_update: i64,
    /// The target.
    pub target: String,
    /// Older lists of the same issuer that it replaces with the next publish.
    pub replaced: Vec<String>,
}

/// Stages revocation lists, DER or PEM. Each must be signed by a CA that is listed as anchor or intermediate, published
/// or staged. Older lists of the same issuer are taken out; a list older than one that is there is refused.
///
/// # Errors
/// [`PolicyError`] `policy-crl-refused`, or file errors; then nothing is staged.
pub fn crl_add(repo: &Path, crl_files: &[PathBuf]) -> Result<Vec<CrlAdded>, PolicyError> {
    let repository = Repository::open(repo)?;
    let files = repository.next()?;
    let anchors =
        anchors_of(&files).map_err(|e| PolicyError::new(PolicyCode::AnchorUnreadable, "anchors", "certificates", e))?;
    let mut present: Vec<(TargetKind, Crl)> = files
        .iter()
        .filter(|(kind, _)| matches!(kind, TargetKind::Crl(_)))
        .filter_map(|(kind, bytes)| Some((kind.clone(), Crl::from_der(bytes).ok()?)))
        .collect();
    let (mut added, mut staged) = (Vec::new(), Vec::new());
    for path in crl_files {
        let refused =
            |expected: &str, found: String| PolicyError::new(PolicyCode::CrlRefused, path.display(), expected, found);
        let bytes =
            read_bounded(path, MAX_BUNDLE_FILE_LEN).map_err(|e| PolicyError::io(path, "a revocation list", &e))?;
        let der = crl_der(&bytes).map_err(|e| refused("a revocation list", e))?;
        let expected = "a complete list signed by a CA of this repository";
        let crl = Crl::from_der(&der).map_err(|e| refused(expected, e.to_string()))?;
        anchors
            .clone()
            .with_crl(&der)
            .map_err(|e| refused(expected, e.to_string()))?;
        let digest: [u8; 32] = Sha256::digest(&der).into();
        let kind = TargetKind::Crl(digest);
        let same = |(other, old): &&(TargetKind, Crl)| *other != kind && old.is_of_same_issuer(&crl);
        if let Some((other, old)) = present
            .iter()
            .find(|entry| same(entry) && entry.1.this_update() > crl.this_update())
        {
            let found = format!(
                "one made at {}, older than {} of {}",
                crl.this_update(),
                other.name(),
                old.this_update()
            );
            return Err(refused("the issuer's newest list", found));
        }
        let replaced: Vec<TargetKind> = present.iter().filter(same).map(|(kind, _)| kind.clone()).collect();
        added.push(CrlAdded {
            issuer: crl.issuer().to_owned(),
            revoked: crl.len(),
            next_update: crl.next_update(),
            target: kind.name(),
            replaced: replaced.iter().map(TargetKind::name).collect(),
        });
        present.retain(|(kind, _)| !replaced.contains(kind));
        present.push((kind.clone(), crl));
        staged.extend(replaced.into_iter().map(|kind| (kind, Vec::new())));
        staged.push((kind, der));
    }
    for (kind, bytes) in staged {
        repository.stage(&kind, &bytes)?;
    }
    Ok(added)
}

fn crl_der(bytes: &[u8]) -> Result<Vec<u8>, String> {
    if !is_pem(bytes) {
        return Ok(bytes.to_vec());
    }
    let block = pem::parse(bytes).map_err(|e| e.to_string())?;
    match block.tag() {
        "X509 CRL" => Ok(block.into_contents()),
        tag => Err(format!("PEM of {tag}")),
    }
}

/// Stages a deny list; gives how many keys and how many ranges of firmware it names.
///
/// # Errors
/// [`PolicyError`] `policy-deny-unreadable`, or file errors.
pub fn deny_set(repo: &Path, file: &Path) -> Result<(usize, usize), PolicyError> {
    let repository = Repository::open(repo)?;
    let bytes = read_bounded(file, TargetKind::Deny.max_len()).map_err(|e| PolicyError::io(file, "a deny list", &e))?;
    let list = deny_file::parse(&bytes)?;
    repository.stage(&TargetKind::Deny, &bytes)?;
    Ok((list.keys().count(), list.firmware().len()))
}

#[cfg(test)]
mod tests;
