//! How long a version of policy with 100,000 reference values takes from its files to being ready to decide with; its
//! budget is two seconds.
//!
//! Prints the median over whole loads, and its ratio to the work that nobody can leave out, done in the same run: reading
//! every file, its SHA-256, and one signature a CoRIM. Run: `cargo bench -p touchstone-policies --bench activation`.

#[path = "../tests/forge/mod.rs"]
mod forge;

use std::hint::black_box;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use forge::{Forge, ForgeKey, key};
use sha2::{Digest, Sha256};
use touchstone_cose::key::Signer as _;
use touchstone_policies::cedar::{DEFAULT_POLICY, DEFAULT_SCHEMA, default_region_policy};
use touchstone_policies::signers_file::{self, Signers};
use touchstone_policies::{LoadOptions, PolicyError, Settings, load_blocking};
use touchstone_verifier::corim::{FileDigest, MachineReference, TrustedSigner, sign_corim};
use touchstone_verifier::tpm::HashAlg;

const NOW: i64 = 1_760_000_000;
/// What an activation may take.
const BUDGET: Duration = Duration::from_secs(2);
const VALUES: usize = 100_000;
const RUNS: usize = 7;

fn main() -> ExitCode {
    let mut within = true;
    for references in [25, 1_000] {
        match measure(references) {
            Ok(took) => within &= took <= BUDGET,
            Err(error) => {
                eprintln!("{references} references: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    if within { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A repository with [`VALUES`] values in this many CoRIMs; the median of its loads.
fn measure(references: usize) -> Result<Duration, Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let author = key([9; 32]);
    let corims = corims(references, &author)?;
    publish(folder.path(), &corims, &author);
    let policy = load(folder.path())?;
    assert_eq!(policy.references.references().len(), references);
    let loads = median(|| drop(black_box(load(folder.path()))));
    let mut signed: Vec<(&[u8], Vec<u8>)> = Vec::with_capacity(corims.len());
    for corim in &corims {
        signed.push((corim, author.sign(corim)?));
    }
    let raw = median(|| {
        read_and_hash(folder.path());
        let public = author.verifying_key();
        for (corim, signature) in &signed {
            drop(black_box(public.verify(corim, signature)));
        }
    });
    println!(
        "{VALUES} values in {references:>4} references: {loads:>9.1?}, raw reading, SHA-256 and signatures {raw:>9.1?}: {:.1} times",
        loads.as_secs_f64() / raw.as_secs_f64().max(f64::MIN_POSITIVE),
    );
    Ok(loads)
}

fn load(folder: &Path) -> Result<touchstone_policies::PolicySet, PolicyError> {
    load_blocking(folder, LoadOptions::default(), NOW)
}

fn corims(references: usize, author: &ForgeKey) -> Result<Vec<Vec<u8>>, Box<dyn std::error::Error>> {
    let each = VALUES / references;
    let mut corims = Vec::with_capacity(references);
    for n in 0..references {
        let file = |i: usize| FileDigest {
            algorithm: HashAlg::Sha256,
            digest: Sha256::digest(format!("{n}/{i}")).to_vec(),
            path: format!("/usr/lib/module-{n}/file-{i}.so"),
        };
        let mut files: Vec<FileDigest> = (0..each).map(file).collect();
        files.sort();
        let reference = MachineReference {
            name: format!("image-{n}"),
            files,
            ..MachineReference::default()
        };
        corims.push(sign_corim(&reference.to_corim_unsigned()?, &**author, "author", None)?);
    }
    Ok(corims)
}

fn publish(folder: &Path, corims: &[Vec<u8>], author: &ForgeKey) {
    let signers = signers_file::to_json(&Signers {
        own: vec![TrustedSigner {
            name: "author".into(),
            key: author.verifying_key(),
            not_after: None,
        }],
        vendors: Vec::new(),
    });
    let settings = Settings::default_file("bench.example");
    let region = default_region_policy("eu-1");
    let files: [(&str, &[u8]); 5] = [
        ("settings.toml", settings.as_bytes()),
        ("schema.cedarschema", DEFAULT_SCHEMA.as_bytes()),
        ("policy.cedar", DEFAULT_POLICY.as_bytes()),
        ("regions/eu-1/policy.cedar", region.as_bytes()),
        ("signers.json", &signers),
    ];
    let mut forge = Forge::found(folder, &files, 3, 2, NOW);
    for (n, corim) in corims.iter().enumerate() {
        forge.put(&format!("references/image-{n}.corim"), corim);
    }
    forge.publish(NOW);
}

/// Every file of the repository, read and hashed.
fn read_and_hash(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            read_and_hash(&path);
        } else if let Ok(bytes) = std::fs::read(&path) {
            black_box(Sha256::digest(&bytes));
        }
    }
}

fn median(mut run: impl FnMut()) -> Duration {
    let mut took: Vec<Duration> = (0..RUNS)
        .map(|_| {
            let begun = Instant::now();
            run();
            begun.elapsed()
        })
        .collect();
    took.sort();
    took.get(RUNS / 2).copied().unwrap_or_default()
}
