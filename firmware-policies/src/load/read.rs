//! From the bytes of all targets to what decisions are made with. Publishing and loading run the same checks here, so
//! that what was published loads.

use std::collections::BTreeMap;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use touchstone_verifier::anchors::TrustAnchors;
use touchstone_verifier::ima::{ImaKey, ImaRules};
use touchstone_verifier::inventory::Inventory;
use touchstone_verifier::reference::ReferenceSet;

use crate::cedar::Cedar;
use crate::error::{PolicyCode, PolicyError, Problem};
use crate::layout::{Files, KEYSET, RegionTarget, TargetKind};
use crate::load::contents::{Contents, MAX_ANCHORS, MAX_TARGETS, anchors_of};
use crate::policy_tests;
use crate::region::{self, Additions, Whole, additions};
use crate::settings::Settings;
use crate::targets::deny_file;
use crate::targets::detectors_file::Detectors;
use crate::targets::enforcers_file::Enforcers;
use crate::targets::federation_file::Federation;
use crate::targets::ima_keys::{self, MAX_IMA_KEYS};
use crate::targets::inventory_file::{MAX_NODES, NodeFile, Place};
use crate::targets::keyset_file::Keyset;
use crate::targets::network_file::Network;
use crate::targets::operators_file::Operators;
use crate::targets::public_key::Owners;
use crate::targets::signers_file;
use crate::targets::tenants_file::Tenants;

impl Contents {
    /// Parses and verifies every file, and sees that the policy tests among them come out as they say. `now` (Unix seconds)
    /// says nothing about reference values: see [`signers_file::verify_reference`].
    pub fn read(files: &Files, now: i64) -> Result<Self, PolicyError> {
        let contents = Self::untested(files, now)?;
        policy_tests::check(files, &contents)?;
        Ok(contents)
    }

    /// Parses and verifies every file, and leaves the policy tests alone: for those who run them one by one.
    pub fn untested(files: &Files, now: i64) -> Result<Self, PolicyError> {
        let mut problems = Vec::new();
        let mut reader = Reader {
            files,
            problems: &mut problems,
        };
        reader.check_sizes();
        reader.refuse_unread();
        let settings = reader.required(&TargetKind::Settings, Settings::parse);
        let signers = reader.required(&TargetKind::Signers, signers_file::parse);
        let references = signers.map(|signers| reader.references(&signers, now));
        let anchors = reader.anchors();
        let ima_keys = reader.ima_keys();
        let additions = match files.get(&TargetKind::Regions) {
            Some(_) => reader
                .required(&TargetKind::Regions, additions::parse)
                .unwrap_or_default(),
            None => BTreeMap::new(),
        };
        let inventory = reader.inventory(&additions);
        let keyset = match files.get(&TargetKind::Keyset) {
            Some(_) => reader.required(&TargetKind::Keyset, Keyset::parse),
            None => Some(Keyset::default()),
        };
        let operators = reader.optional(&TargetKind::Operators, Operators::parse);
        let detectors = reader.optional(&TargetKind::Detectors, Detectors::parse);
        let enforcers = reader.optional(&TargetKind::Enforcers, Enforcers::parse);
        let network = reader.optional(&TargetKind::Network, Network::parse);
        reader.one_owner(keyset.as_ref(), &operators, &detectors, &enforcers);
        let tenants = reader.tenants(&inventory);
        let cedar = reader.cedar(&tenants);
        let own = settings.as_ref().map_or("", |settings| settings.domain.as_str());
        let federation = reader.note(Federation::read(files, own)).unwrap_or_default();
        let settings = settings.map(|settings| with_ima_keys(settings, &ima_keys));
        let (anchors, references) = (anchors.map(Arc::new), references.map(Arc::new));
        let views = match (&settings, &anchors, &references) {
            (Some(settings), Some(anchors), Some(references)) => {
                let whole = Whole {
                    settings,
                    anchors,
                    references,
                    additions: &additions,
                };
                region::views(files, whole, now, &mut problems)
            }
            _ => BTreeMap::new(),
        };
        PolicyError::unless_empty(problems)?;
        match (settings, anchors, references, keyset, cedar) {
            (Some(settings), Some(anchors), Some(references), Some(keyset), Some(cedar)) => Ok(Contents {
                federation,
                tenants,
                operators,
                detectors,
                enforcers,
                network,
                ima_keys: ima_keys.iter().map(|key| key.key().clone()).collect(),
                settings,
                anchors,
                references,
                inventory,
                keyset,
                cedar,
                additions,
                views,
            }),
            // Each of these was a problem above; a gap here must not let anything through.
            _ => Err(PolicyError::new(
                PolicyCode::TargetRequired,
                "targets",
                "every target read",
                "a gap",
            )),
        }
    }
}

/// Reads who signs what (the keyset, operators, detectors, enforcers) and the segments, for those who stage them.
///
/// # Errors
/// [`PolicyError`] naming every problem.
pub(crate) fn check_keys(files: &Files) -> Result<(), PolicyError> {
    let mut problems = Vec::new();
    let mut reader = Reader {
        files,
        problems: &mut problems,
    };
    let keyset = reader.optional(&TargetKind::Keyset, Keyset::parse);
    let operators = reader.optional(&TargetKind::Operators, Operators::parse);
    let detectors = reader.optional(&TargetKind::Detectors, Detectors::parse);
    let enforcers = reader.optional(&TargetKind::Enforcers, Enforcers::parse);
    reader.optional(&TargetKind::Network, Network::parse);
    reader.one_owner(Some(&keyset), &operators, &detectors, &enforcers);
    PolicyError::unless_empty(problems)
}

/// Settings with the keys whose signatures on files count.
fn with_ima_keys(mut settings: Settings, keys: &[ImaKey]) -> Settings {
    let ima = &mut settings.appraisal.ima;
    ima.rules = Arc::new(ImaRules {
        signed_by: keys.to_vec(),
        ..ima.rules.as_ref().clone()
    });
    settings
}

struct Reader<'a> {
    files: &'a Files,
    problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    fn note<T>(&mut self, result: Result<T, PolicyError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(e) => {
                self.problems.extend(e.into_problems());
                None
            }
        }
    }

    fn problem(
        &mut self,
        code: PolicyCode,
        claim: &str,
        expected: impl std::fmt::Display,
        found: impl std::fmt::Display,
    ) {
        self.problems.push(Problem::new(code, claim, expected, found));
    }

    fn required<T>(&mut self, kind: &TargetKind, parse: impl Fn(&[u8]) -> Result<T, PolicyError>) -> Option<T> {
        match self.files.get(kind) {
            Some(bytes) => self.note(parse(bytes)),
            None => {
                self.problem(
                    PolicyCode::TargetRequired,
                    &kind.name(),
                    "in the signed list",
                    "missing",
                );
                None
            }
        }
    }

    /// A file that may be left out.
    fn optional<T: Default>(&mut self, kind: &TargetKind, parse: impl Fn(&[u8]) -> Result<T, PolicyError>) -> T {
        let read = self.files.get(kind).map(|bytes| parse(bytes));
        read.and_then(|read| self.note(read)).unwrap_or_default()
    }

    /// Whoever signs is told by the key alone, so no key is listed twice.
    fn one_owner(
        &mut self,
        keyset: Option<&Keyset>,
        operators: &Operators,
        detectors: &Detectors,
        enforcers: &Enforcers,
    ) {
        let mut owners = Owners::default();
        for entry in keyset.iter().flat_map(|keyset| &keyset.keys) {
            owners.add(&entry.key, format!("{KEYSET}: {:?}", entry.job), self.problems);
        }
        operators.own(&mut owners, self.problems);
        detectors.own(&mut owners, self.problems);
        enforcers.own(&mut owners, self.problems);
    }

    fn text(&mut self, kind: &TargetKind) -> Option<String> {
        let name = kind.name();
        let code = if *kind == TargetKind::Schema {
            PolicyCode::SchemaInvalid
        } else {
            PolicyCode::CedarInvalid
        };
        self.required(kind, |bytes| {
            let text = String::from_utf8(bytes.to_vec());
            text.map_err(|e| PolicyError::new(code, &name, "UTF-8 text", e))
        })
    }

    fn check_sizes(&mut self) {
        if self.files.len() > MAX_TARGETS {
            let expected = format!("at most {MAX_TARGETS}");
            self.problem(PolicyCode::TargetsTooMany, "targets", expected, self.files.len());
        }
        for (kind, bytes) in self.files {
            if bytes.len() as u64 > kind.max_len() {
                let expected = format!("at most {} bytes", kind.max_len());
                self.problem(PolicyCode::TargetTooLarge, &kind.name(), expected, bytes.len());
            }
        }
    }

    /// A target whose contents nothing here reads yet is refused like one that is not known: what is signed is honoured
    /// whole or not at all.
    fn refuse_unread(&mut self) {
        for kind in self.files.keys() {
            let read = match kind {
                TargetKind::Settings
                | TargetKind::Schema
                | TargetKind::GlobalPolicy
                | TargetKind::Signers
                | TargetKind::Keyset
                | TargetKind::Inventory
                | TargetKind::Node(_)
                | TargetKind::Anchor(..)
                | TargetKind::Intermediate(..)
                | TargetKind::Crl(_)
                | TargetKind::Deny
                | TargetKind::Reference(_)
                | TargetKind::ImaKey(_)
                | TargetKind::Regions
                | TargetKind::Tenants
                | TargetKind::Operators
                | TargetKind::Detectors
                | TargetKind::Enforcers
                | TargetKind::Network
                | TargetKind::Region(..)
                | TargetKind::Test(_) => true,
                TargetKind::TenantPolicy(_) => self.files.contains_key(&TargetKind::Tenants),
                TargetKind::Federation(_) | TargetKind::FederationRoot(_) => true,
            };
            if !read {
                let name = kind.name();
                self.problem(PolicyCode::TargetUnknown, &name, "a target that is read", &name);
            }
        }
    }

    fn references(&mut self, signers: &signers_file::Signers, now: i64) -> ReferenceSet {
        let mut verified = Vec::new();
        for (kind, bytes) in self.files {
            if !matches!(kind, TargetKind::Reference(_)) {
                continue;
            }
            match signers_file::verify_reference(bytes, signers, now) {
                Ok(corim) => verified.push(corim),
                Err(e) => {
                    let found = format!("{}: {e}", e.code());
                    self.problem(
                        PolicyCode::ReferenceRefused,
                        &kind.name(),
                        "a CoRIM signed by a listed signer",
                        found,
                    );
                }
            }
        }
        ReferenceSet::new(verified)
    }

    fn anchors(&mut self) -> Option<TrustAnchors> {
        let mut count = 0;
        for (kind, bytes) in self.files {
            let (digest, purpose) = match kind {
                TargetKind::Anchor(purpose, digest) | TargetKind::Intermediate(purpose, digest) => {
                    count += 1;
                    (digest, Some(*purpose))
                }
                TargetKind::Crl(digest) => (digest, None),
                _ => continue,
            };
            let found: [u8; 32] = Sha256::digest(bytes).into();
            if found != *digest {
                let code = purpose.map_or(PolicyCode::CrlRefused, |_| PolicyCode::AnchorUnreadable);
                self.problem(code, &kind.name(), hex::encode(digest), hex::encode(found));
            } else if let Some(Err(e)) = purpose.map(|purpose| TrustAnchors::new([(purpose, bytes)])) {
                self.problem(PolicyCode::AnchorUnreadable, &kind.name(), "an X.509 certificate", e);
            }
        }
        if count > MAX_ANCHORS {
            let expected = format!("at most {MAX_ANCHORS}");
            self.problem(PolicyCode::TargetsTooMany, "anchors", expected, count);
            return None;
        }
        let anchors = anchors_of(self.files);
        let mut anchors = self
            .note(anchors.map_err(|e| PolicyError::new(PolicyCode::AnchorUnreadable, "anchors", "certificates", e)))?;
        for (kind, bytes) in self.files {
            if let TargetKind::Crl(_) = kind {
                match anchors.clone().with_crl(bytes) {
                    Ok(more) => anchors = more,
                    Err(e) => {
                        let expected = "a complete revocation list signed by a CA of this repository";
                        self.problem(PolicyCode::CrlRefused, &kind.name(), expected, e);
                    }
                }
            }
        }
        if self.files.contains_key(&TargetKind::Deny) {
            let denied = self.required(&TargetKind::Deny, deny_file::parse)?;
            anchors = anchors.with_deny_list(denied);
        }
        Some(anchors)
    }

    fn ima_keys(&mut self) -> Vec<ImaKey> {
        let mut keys = Vec::new();
        for (kind, bytes) in self.files {
            if let TargetKind::ImaKey(digest) = kind {
                keys.extend(self.note(ima_keys::parse(digest, bytes)));
            }
        }
        if keys.len() > MAX_IMA_KEYS {
            let expected = format!("at most {MAX_IMA_KEYS}");
            self.problem(PolicyCode::TargetsTooMany, "IMA keys", expected, keys.len());
        }
        keys
    }

    fn inventory(&mut self, additions: &BTreeMap<String, Additions>) -> Inventory {
        let mut nodes = Vec::new();
        for (kind, bytes) in self.files {
            let file = kind.name();
            // What lies in a region's folder is the region's word, whoever signed it.
            let place = kind.region().map_or(Place::WHOLE, |region| Place {
                region: Some(region),
                authority: region,
            });
            let entries = match kind {
                TargetKind::Node(name) | TargetKind::Region(_, RegionTarget::Node(name)) => {
                    NodeFile::parse(&file, &place.name_of(name), bytes).map(|node| vec![node])
                }
                TargetKind::Inventory | TargetKind::Region(_, RegionTarget::Inventory) => {
                    NodeFile::parse_all(&file, bytes)
                }
                _ => continue,
            };
            for entry in self.note(entries).unwrap_or_default() {
                let Some(node) = self.note(entry.to_node_at(&file, place)) else {
                    continue;
                };
                if let Some(region) = place.region {
                    self.problems
                        .extend(region::check_node(&file, &node, additions.get(region)));
                }
                nodes.push(node);
            }
        }
        if nodes.len() > MAX_NODES {
            let expected = format!("at most {MAX_NODES}");
            self.problem(PolicyCode::TargetsTooMany, "nodes", expected, nodes.len());
        }
        Inventory::new(nodes)
    }

    /// The tenants, and what is wrong with the nodes that the whole has signed for them.
    fn tenants(&mut self, inventory: &Inventory) -> Tenants {
        if !self.files.contains_key(&TargetKind::Tenants) {
            return Tenants::default();
        }
        let read = self.required(&TargetKind::Tenants, Tenants::parse);
        let tenants = read.unwrap_or_default().counting(inventory);
        self.problems.extend(tenants.problems(inventory));
        tenants
    }

    fn cedar(&mut self, tenants: &Tenants) -> Option<Cedar> {
        let schema = self.text(&TargetKind::Schema);
        let global = self.text(&TargetKind::GlobalPolicy);
        let mut regions = BTreeMap::new();
        for kind in self.files.keys() {
            if let TargetKind::Region(region, RegionTarget::Policy) = kind
                && let Some(text) = self.text(kind)
            {
                regions.insert(region.clone(), text);
            }
        }
        let mut owners: BTreeMap<String, Option<String>> =
            tenants.names().map(|name| (name.to_owned(), None)).collect();
        for kind in self.files.keys() {
            if let TargetKind::TenantPolicy(tenant) = kind {
                let text = self.text(kind);
                match owners.get_mut(tenant) {
                    Some(policy) => *policy = text,
                    None => self.problem(
                        PolicyCode::TenantsUnreadable,
                        &kind.name(),
                        "of a tenant that tenants.toml lists",
                        tenant,
                    ),
                }
            }
        }
        let (schema, global) = (schema?, global?);
        self.note(Cedar::compile_all(&schema, &global, &regions, &owners))
    }
}
