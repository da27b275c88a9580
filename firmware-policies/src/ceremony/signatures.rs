//! Signatures: made by signers over a proposal they have checked, carried in files, and merged by whoever publishes.
//!
//! ```json
//! {"format": "touchstone-policy-signatures/1", "domain": "demo.example", "proposal": "<sha256>",
//!  "signatures": [{"role": "targets", "version": 7, "name": "targets-2", "key": "<TUF key id>", "signature": "<hex>"}]}
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use touchstone_verifier::reason::sanitise;
use tough::schema::Signature;

use super::body::RoleBody;
use super::next::{Base, Next};
use super::proposal;
use super::review::Review;
use super::roles::{RoleSigners, of_root};
use crate::error::{PolicyCode, PolicyError, Problem};
use crate::keys::{KeyDir, KeyRole, public};
use crate::repository::write_file;
use crate::transport::bounded::read_bounded;

/// What the format member of a signature file says.
pub const FORMAT: &str = "touchstone-policy-signatures/1";
/// Largest signature file.
pub const MAX_SIGNATURE_FILE_LEN: u64 = 1 << 20;
/// Longest name of a key in one, in bytes.
pub const MAX_KEY_NAME_LEN: usize = 128;
/// Most signature files that one publish merges.
pub const MAX_SIGNATURE_FILES: usize = 256;

/// A signature file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignatureFile {
    /// [`FORMAT`].
    pub format: String,
    /// The domain.
    pub domain: String,
    /// Digest of the proposal (see [`Review::digest`]), hexadecimal.
    pub proposal: String,
    /// The signatures.
    pub signatures: Vec<SignatureEntry>,
}

/// One signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignatureEntry {
    /// The role, as `targets` or `region-eu-1`.
    pub role: String,
    /// The role's version.
    pub version: u64,
    /// The key's name in the signer's folder, for people.
    pub name: String,
    /// TUF key id, hexadecimal.
    pub key: String,
    /// As TUF metadata carries it, hexadecimal.
    pub signature: String,
}

impl SignatureFile {
    /// Reads a signature file; what is wrong with it in words.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let file: SignatureFile = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if file.format != FORMAT {
            return Err(format!("format {}", file.format));
        }
        // Names are for people: whoever publishes sees them on a terminal.
        let name = |entry: &&SignatureEntry| sanitise(&entry.name, MAX_KEY_NAME_LEN) != entry.name;
        if let Some(entry) = file.signatures.iter().find(name) {
            let shown = sanitise(&entry.name, MAX_KEY_NAME_LEN);
            return Err(format!("a key's name that is none, {shown}"));
        }
        Ok(file)
    }
}

/// What [`sign`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedProposal {
    /// What was signed.
    pub review: Review,
    /// Role and key name of each signature.
    pub signed: Vec<(String, String)>,
    /// The file written.
    pub file: PathBuf,
}

/// Checks the proposal in `folder` whole, against the `root` that this signer holds, signs each of its roles with every
/// key of `keys` that is the role's, and writes the signatures to `out`. With `digest`, only a proposal of that digest
/// (hexadecimal). `now` is Unix seconds.
///
/// # Errors
/// [`PolicyError`]: what [`review`](super::review) refuses, `policy-proposal-other`, `policy-key-not-in-root` where no
/// key of the folder may sign any of its roles, and key errors.
pub fn sign(
    folder: &Path,
    root: &[u8],
    keys: &KeyDir,
    digest: Option<&str>,
    out: &Path,
    now: i64,
) -> Result<SignedProposal, PolicyError> {
    let (base, next) = proposal::open(folder, root, now)?;
    let review = Review::of(&base, &next)?;
    if let Some(digest) = digest
        && !digest.eq_ignore_ascii_case(&review.digest)
    {
        return Err(PolicyError::new(
            PolicyCode::ProposalOther,
            folder.display(),
            format!("digest {digest}"),
            &review.digest,
        ));
    }
    let mut own = Signatures::default();
    for body in &next.bodies {
        own.add_local(&base, &next, body, keys)?;
    }
    let mut entries = Vec::new();
    let mut signed = Vec::new();
    for body in &next.bodies {
        for (key, (name, signature)) in own.of(&body.role()) {
            signed.push((body.role().to_string(), name.clone()));
            entries.push(SignatureEntry {
                role: body.role().to_string(),
                version: body.version(),
                name: name.clone(),
                key: key.clone(),
                signature: hex::encode(&signature.sig),
            });
        }
    }
    if entries.is_empty() {
        let roles: Vec<String> = next.bodies.iter().map(|body| body.role().to_string()).collect();
        let expected = format!("a key of {}", roles.join(" or "));
        return Err(PolicyError::new(
            PolicyCode::KeyNotInRoot,
            keys.path().display(),
            expected,
            "none",
        ));
    }
    let file = SignatureFile {
        format: FORMAT.into(),
        domain: review.domain.clone(),
        proposal: review.digest.clone(),
        signatures: entries,
    };
    let mut bytes = serde_json::to_vec_pretty(&file)
        .map_err(|e| PolicyError::new(PolicyCode::SignatureUnreadable, out.display(), "JSON", e))?;
    bytes.push(b'\n');
    write_file(out, &bytes)?;
    Ok(SignedProposal {
        review,
        signed,
        file: out.to_owned(),
    })
}

/// Signatures by role and key id, each key once, with the key's name.
#[derive(Debug, Default)]
pub(crate) struct Signatures {
    by_role: BTreeMap<KeyRole, BTreeMap<String, (String, Signature)>>,
}

impl Signatures {
    /// The signatures of a role.
    pub fn of(&self, role: &KeyRole) -> impl Iterator<Item = (&String, &(String, Signature))> {
        self.by_role.get(role).into_iter().flatten()
    }

    /// Signs with every key of the folder that may sign this role.
    pub fn add_local(&mut self, base: &Base, next: &Next, body: &RoleBody, keys: &KeyDir) -> Result<(), PolicyError> {
        let may = may_sign(base, next, &body.role())?;
        let message = body.canonical()?;
        for key in keys.find(&body.role())? {
            let id = key.key_id()?;
            if may.iter().any(|signers| signers.keys.contains_key(&id)) {
                let signature = key.sign(&message)?;
                let own = self.by_role.entry(body.role()).or_default();
                own.insert(id, (key.name, signature));
            }
        }
        Ok(())
    }

    /// Merges signature files: every signature must be over this very version, by a key that may sign its role. The same
    /// key in two files counts once.
    pub fn add_files(&mut self, paths: &[PathBuf], base: &Base, next: &Next) -> Result<(), PolicyError> {
        if paths.is_empty() {
            return Ok(());
        }
        if paths.len() > MAX_SIGNATURE_FILES {
            let expected = format!("at most {MAX_SIGNATURE_FILES} signature files");
            return Err(PolicyError::new(
                PolicyCode::SignatureUnreadable,
                "signatures",
                expected,
                paths.len(),
            ));
        }
        let review = Review::of(base, next)?;
        let mut signed = BTreeMap::new();
        for body in &next.bodies {
            let signed_part = SignedPart {
                claim: body.claim(),
                version: body.version(),
                message: body.canonical()?,
                may: may_sign(base, next, &body.role())?,
            };
            signed.insert(body.role(), signed_part);
        }
        paths.iter().try_for_each(|path| self.add_file(path, &review, &signed))
    }

    fn add_file(
        &mut self,
        path: &Path,
        review: &Review,
        signed: &BTreeMap<KeyRole, SignedPart>,
    ) -> Result<(), PolicyError> {
        let claim = path.display();
        let unreadable = |found: String| {
            PolicyError::new(
                PolicyCode::SignatureUnreadable,
                path.display(),
                "a signature file",
                found,
            )
        };
        let bytes = read_bounded(path, MAX_SIGNATURE_FILE_LEN).map_err(|e| PolicyError::io(path, "signatures", &e))?;
        let file = SignatureFile::parse(&bytes).map_err(unreadable)?;
        if file.domain != review.domain || file.proposal != review.digest {
            let expected = format!("signatures over proposal {} of {}", review.digest, review.domain);
            let found = format!("over {} of {}", file.proposal, file.domain);
            return Err(PolicyError::new(PolicyCode::SignatureOther, claim, expected, found));
        }
        for entry in &file.signatures {
            let claim = format!("{}: {} by {}", path.display(), entry.role, entry.name);
            let part = KeyRole::parse(&entry.role).and_then(|role| signed.get_key_value(&role));
            let Some((role, part)) = part.filter(|(_, part)| part.version == entry.version) else {
                let expected = "a role of this proposal";
                let found = format!("{} version {}", entry.role, entry.version);
                return Err(PolicyError::new(PolicyCode::SignatureOther, claim, expected, found));
            };
            let Some(key) = part.may.iter().find_map(|signers| signers.keys.get(&entry.key)) else {
                let expected = format!("a key of {}", part.claim);
                return Err(PolicyError::new(
                    PolicyCode::SignatureKeyUnknown,
                    claim,
                    expected,
                    &entry.key,
                ));
            };
            let sig = hex::decode(&entry.signature).map_err(|e| unreadable(e.to_string()))?;
            let own = self.by_role.entry(role.clone()).or_default();
            if own
                .get(&entry.key)
                .is_some_and(|(_, known)| known.sig.as_ref() == sig.as_slice())
            {
                continue;
            }
            if !public::verifies(key, &part.message, &sig) {
                let expected = format!("a signature over {}", part.claim);
                return Err(PolicyError::new(
                    PolicyCode::SignatureInvalid,
                    claim,
                    expected,
                    "another",
                ));
            }
            let signature = Signature {
                keyid: public::key_id(key)?.into(),
                sig: sig.into(),
            };
            own.entry(entry.key.clone()).or_insert((entry.name.clone(), signature));
        }
        Ok(())
    }

    /// The metadata file of a role, once enough of its keys have signed.
    pub fn finish(&self, base: &Base, next: &Next, body: &RoleBody) -> Result<Vec<u8>, PolicyError> {
        let role = body.role();
        let mut problems = Vec::new();
        for signers in may_sign(base, next, &role)? {
            let mut have: Vec<&str> = self
                .of(&role)
                .filter(|(key, _)| signers.keys.contains_key(*key))
                .map(|(_, (name, _))| name.as_str())
                .collect();
            have.sort_unstable();
            if (have.len() as u64) < signers.threshold {
                let expected = format!("signatures by {} of its {} keys", signers.threshold, signers.keys.len());
                let found = match have.as_slice() {
                    [] => "0".to_owned(),
                    names => format!("{}: {}", names.len(), names.join(", ")),
                };
                problems.push(Problem::new(PolicyCode::ThresholdNotMet, body.claim(), expected, found));
            }
        }
        PolicyError::unless_empty(problems)?;
        body.to_json(self.of(&role).map(|(_, (_, signature))| signature.clone()).collect())
    }
}

/// What signatures over one role are held against.
struct SignedPart {
    claim: String,
    version: u64,
    message: Vec<u8>,
    may: Vec<RoleSigners>,
}

/// Who must sign a role: its signers in the new version and, for the root, those of the old one as well (TUF 1.0.34,
/// 5.3.4). A key that is in neither does not count.
fn may_sign(base: &Base, next: &Next, role: &KeyRole) -> Result<Vec<RoleSigners>, PolicyError> {
    let mut signers = vec![next.signers(role)?];
    if *role == KeyRole::Root
        && let Some(old) = of_root(&base.root.signed)?.remove(role)
        && !signers.contains(&old)
    {
        signers.push(old);
    }
    Ok(signers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file() -> Vec<u8> {
        serde_json::to_vec(&SignatureFile {
            format: FORMAT.into(),
            domain: "demo.example".into(),
            proposal: "ab".repeat(32),
            signatures: vec![SignatureEntry {
                role: "targets".into(),
                version: 7,
                name: "targets-2".into(),
                key: "cd".repeat(32),
                signature: "ef".repeat(64),
            }],
        })
        .unwrap()
    }

    #[test]
    fn a_signature_file_is_read_whole_or_not_at_all() {
        let bytes = file();
        assert_eq!(SignatureFile::parse(&bytes).unwrap().signatures.len(), 1);
        for n in 0..bytes.len() {
            assert!(SignatureFile::parse(&bytes[..n]).is_err(), "cut off at {n}");
        }
        let twice = [bytes.as_slice(), &bytes].concat();
        assert!(SignatureFile::parse(&twice).is_err());
    }

    /// Whoever publishes is told who signed, on a terminal.
    #[test]
    fn a_name_that_would_write_over_the_terminal_is_no_name_of_a_key() {
        let named = |name: &str| {
            let mut file: SignatureFile = serde_json::from_slice(&file()).unwrap();
            file.signatures[0].name = name.into();
            SignatureFile::parse(&serde_json::to_vec(&file).unwrap())
        };
        for name in ["targets-2", "targets-müller", &"a".repeat(MAX_KEY_NAME_LEN)] {
            assert!(named(name).is_ok(), "{name}");
        }
        for name in [
            "a\x1b[2J",
            "a\nroot signed by root-1",
            "a\u{202e}b",
            &"a".repeat(MAX_KEY_NAME_LEN + 1),
        ] {
            let found = named(name).unwrap_err();
            assert!(!found.contains(['\x1b', '\n', '\u{202e}']), "{found}");
        }
    }

    proptest! {
        #[test]
        fn hostile_signature_files_are_refused(bytes: Vec<u8>, at in 0..200usize, byte: u8) {
            prop_assert!(SignatureFile::parse(&bytes).is_err());
            let mut bent = file();
            let at = at % bent.len();
            bent[at] = byte;
            drop(SignatureFile::parse(&bent));
        }
    }
}
