//! What the next publish of a repository would make: to be tested, and held against what is in force, before anybody signs
//! it. Nothing that is granted rests on a preview.

use std::collections::BTreeSet;
use std::path::Path;

use sha2::{Digest as _, Sha256};
use touchstone_cose::key::SigningKey;
use touchstone_verifier::corim::{CorimError, TrustedSigner, UntrustedCorim, sign_corim};

use crate::error::{PolicyCode, PolicyError};
use crate::layout::Files;
use crate::layout::{MAX_NAME_LEN, RegionTarget, TargetKind};
use crate::load::contents::Contents;
use crate::load::{LoadOptions, PolicySet, load_blocking};
use crate::policy_tests::{self, CaseResult};
use crate::repository::Repository;
use crate::targets::signers_file;

/// What the names of signers that exist for one preview begin with.
const SIGNER: &str = "preview";

/// What would be in force if what is staged at `repo` were published now. `options` say what the published version is held
/// against; `now` is Unix seconds.
///
/// # Errors
/// [`PolicyError`]: nothing is published yet, and everything that publishing would refuse.
pub fn preview(repo: &Path, options: LoadOptions, now: i64) -> Result<PolicySet, PolicyError> {
    let published = load_blocking(repo, options, now)?;
    let files = next(repo, now)?;
    // Named one by one: what a later version reads from the files must come from these files, not from the published ones.
    let Contents {
        settings,
        anchors,
        references,
        inventory,
        keyset,
        cedar,
        ima_keys,
        federation,
        additions,
        views,
        tenants,
        operators,
        detectors,
        enforcers,
        network,
    } = Contents::read(&files, now)?;
    Ok(PolicySet {
        domain: settings.domain.clone(),
        version: published.version.saturating_add(1),
        digest: digest(&files),
        settings,
        anchors,
        references,
        inventory,
        keyset,
        cedar,
        ima_keys,
        tenants,
        operators,
        detectors,
        enforcers,
        network,
        federation,
        additions,
        views,
        ..published
    })
}

/// Runs the policy tests of the repository at `repo`: those of what the next publish would make.
///
/// # Errors
/// [`PolicyError`]: files that cannot be read, policy tests among them. A test that fails is a result.
pub fn run_tests(repo: &Path, now: i64) -> Result<Vec<CaseResult>, PolicyError> {
    let files = next(repo, now)?;
    policy_tests::run(&files, &Contents::untested(&files, now)?)
}

/// The files of the next version. Staged reference values are not signed yet: they are by a key that exists for this
/// preview, which signs nothing that leaves it.
fn next(repo: &Path, now: i64) -> Result<Files, PolicyError> {
    let mut files = Repository::open(repo)?.next()?;
    let mut seed = zeroize::Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut()).map_err(|e| PolicyError::new(PolicyCode::Io, "preview", "random bytes", e))?;
    let key = SigningKey::from_seed(*seed);
    let name: String = format!("{SIGNER}-{}", hex::encode(key.verifying_key().thumbprint()));
    let name: String = name.chars().take(MAX_NAME_LEN).collect();
    let mut lists = BTreeSet::new();
    for (kind, bytes) in &mut files {
        let list = match kind {
            TargetKind::Reference(_) => TargetKind::Signers,
            TargetKind::Region(region, RegionTarget::Reference(_)) => {
                TargetKind::Region(region.clone(), RegionTarget::Signers)
            }
            _ => continue,
        };
        if !matches!(UntrustedCorim::new(bytes).verify(&[], now), Err(CorimError::Unsigned)) {
            continue;
        }
        *bytes = sign_corim(bytes, &key, &name, None)
            .map_err(|e| PolicyError::new(PolicyCode::ReferenceRefused, kind.name(), "reference values to sign", e))?;
        lists.insert(list);
    }
    for list in lists {
        // Where there is no list, nobody may sign: that is for the checks of a publish to say.
        let Some(bytes) = files.get(&list) else { continue };
        let mut signers = signers_file::parse(bytes)?;
        signers.own.push(TrustedSigner {
            name: name.clone(),
            key: key.verifying_key(),
            not_after: None,
        });
        files.insert(list, signers_file::to_json(&signers));
    }
    Ok(files)
}

fn digest(files: &Files) -> [u8; 32] {
    let mut digest = Sha256::new();
    digest.update(b"touchstone-policy-preview/1\0");
    for (kind, bytes) in files {
        digest.update(kind.name().as_bytes());
        digest.update(Sha256::digest(bytes));
    }
    digest.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{NOW, TestRepo};

    #[test]
    fn a_preview_is_what_would_be_published() {
        let repo = TestRepo::published();
        let in_force = repo.load(NOW).unwrap();
        let same = preview(&repo.repo, LoadOptions::default(), NOW).unwrap();
        assert_eq!(same.version, in_force.version + 1);
        assert_eq!(same.inventory.nodes(), in_force.inventory.nodes());
        std::fs::write(repo.staged("policy.cedar"), "forbid (principal, action, resource);").unwrap();
        let closed = preview(&repo.repo, LoadOptions::default(), NOW).unwrap();
        assert_ne!(closed.digest, same.digest);
        // It is a preview: what is in force is what it was.
        assert_eq!(repo.load(NOW).unwrap().digest, in_force.digest);
        std::fs::write(repo.staged("policy.cedar"), "permit").unwrap();
        let error = preview(&repo.repo, LoadOptions::default(), NOW).unwrap_err();
        assert_eq!(error.code(), PolicyCode::CedarInvalid);
    }

    #[test]
    fn nothing_published_is_nothing_to_compare_with() {
        let repo = TestRepo::new();
        let error = preview(&repo.repo, LoadOptions::default(), NOW).unwrap_err();
        assert_eq!(error.code(), PolicyCode::NotPublished);
        assert_eq!(run_tests(&repo.repo, NOW).unwrap(), []);
    }
}
