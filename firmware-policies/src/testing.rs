//! What the tests of this crate share: recorded boots as evidence, and repositories made from them.

#[path = "../tests/forge/mod.rs"]
pub mod forge;
#[path = "../tests/web/mod.rs"]
pub mod web;

use std::path::{Path, PathBuf};

use touchstone_evidence::collection::{Collection, Label};
use touchstone_evidence::pcr_values::{self, PcrValues};
use touchstone_verifier::anchors::Purpose;

use crate::author::identity::NodeIdentity;
use crate::author::{NodePlace, init, node_add, reference_add, trust_add};
use crate::error::PolicyError;
use crate::load::{LoadOptions, PolicySet, load_blocking};
use crate::publish::publish;

/// The time the test repositories are made at.
pub const NOW: i64 = 1_760_000_000;
pub const DAY: i64 = 86_400;
pub const DOMAIN: &str = "eu-1.example";

pub fn boots() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../swtpm-tests/boots")
}

pub fn boot_file(boot: &str, file: &str) -> Vec<u8> {
    std::fs::read(boots().join(boot).join(file)).unwrap()
}

/// The quoted values of a recorded boot.
pub fn boot_values(boot: &str) -> PcrValues {
    let selection = String::from_utf8(boot_file(boot, "quote-rsa/selection.txt")).unwrap();
    let quoted: Vec<u8> = selection
        .trim()
        .strip_prefix("sha256:")
        .unwrap()
        .split(',')
        .map(|n| n.parse().unwrap())
        .collect();
    let text = String::from_utf8(boot_file(boot, "pcrs.txt")).unwrap();
    let values = text.lines().filter_map(|line| {
        let mut parts = line.split_whitespace();
        let (bank, index, value) = (parts.next()?, parts.next()?.parse::<u8>().ok()?, parts.next()?);
        (bank == "sha256" && quoted.contains(&index)).then(|| ((0x0B, index), hex::decode(value).unwrap()))
    });
    values.collect()
}

/// A recorded boot as packed evidence, with every record `change` leaves in it.
pub fn boot_records(boot: &str) -> Vec<(Label, Vec<u8>)> {
    vec![
        (Label::TpmEkCertificate, boot_file(boot, "ek-rsa-cert.der")),
        (Label::TpmAkPublic, boot_file(boot, "ak-rsa.pub")),
        (Label::TpmQuote, boot_file(boot, "quote-rsa/quote.msg")),
        (Label::TpmQuoteSignature, boot_file(boot, "quote-rsa/quote.sig")),
        (Label::TpmPcrValues, pcr_values::encode(&boot_values(boot))),
        (Label::FirmwareEventLog, boot_file(boot, "eventlog.bin")),
    ]
}

pub fn pack(records: Vec<(Label, Vec<u8>)>) -> Vec<u8> {
    let mut collection = Collection::unbound();
    for (label, bytes) in records {
        collection.insert(label, bytes).unwrap();
    }
    collection.encode()
}

pub fn boot_evidence(boot: &str) -> Vec<u8> {
    pack(boot_records(boot))
}

/// A repository in a folder of its own that goes away with it.
pub struct TestRepo {
    pub dir: tempfile::TempDir,
    pub repo: PathBuf,
    pub keys: PathBuf,
}

impl TestRepo {
    /// Initialised, nothing published.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // A name that URL encoding would change.
        let (repo, keys) = (dir.path().join("policy repo %41"), dir.path().join("keys"));
        init(&repo, DOMAIN, &keys, NOW).unwrap();
        Self { dir, repo, keys }
    }

    /// With the anchors, the node and the reference of the boot `good`, published.
    pub fn published() -> Self {
        let test = Self::new();
        let ca = boots().join("ca/issuercert.pem");
        trust_add(&test.repo, Purpose::Ek, &[ca]).unwrap();
        test.add_node("web-1", "north", NodeIdentity::Evidence(boot_evidence("good")))
            .unwrap();
        reference_add(&test.repo, &boot_evidence("good"), Some("golden"), None, None).unwrap();
        test.publish(NOW).unwrap();
        test
    }

    pub fn add_node(&self, name: &str, region: &str, identity: NodeIdentity) -> Result<crate::NodeAdded, PolicyError> {
        node_add(
            &self.repo,
            &identity,
            NodePlace {
                name,
                region,
                zone: None,
                roles: &[],
                owner: None,
            },
        )
    }

    pub fn publish(&self, now: i64) -> Result<crate::PublishedVersion, PolicyError> {
        publish(&self.repo, &self.keys, now)
    }

    /// The published repository with all its keys, to be signed by hand: regions with keys of their own, for example.
    pub fn forge(&self) -> forge::Forge {
        forge::Forge::open(&self.repo, &self.keys)
    }

    pub fn load(&self, now: i64) -> Result<PolicySet, PolicyError> {
        load_blocking(&self.repo, LoadOptions::default(), now)
    }

    /// Judged at `now` by somebody who has what was published at [`NOW`].
    pub fn load_of_today(&self, now: i64) -> Result<PolicySet, PolicyError> {
        let options = LoadOptions {
            made_by: Some(NOW),
            ..LoadOptions::default()
        };
        load_blocking(&self.repo, options, now)
    }

    /// Why the published version would not load, as `policy show` has it.
    pub fn show_problems(&self) -> Vec<&'static str> {
        let shown = crate::show::show(&self.repo, NOW).unwrap();
        shown.problems.iter().map(|problem| problem.code).collect()
    }

    pub fn metadata(&self, file: &str) -> PathBuf {
        self.repo.join("metadata").join(file)
    }

    pub fn staged(&self, file: &str) -> PathBuf {
        self.repo.join("staged").join(file)
    }
}
