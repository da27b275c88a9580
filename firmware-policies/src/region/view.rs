//! What the nodes of one region are judged by.

use std::collections::BTreeMap;
use std::sync::Arc;

use touchstone_verifier::anchors::TrustAnchors;
use touchstone_verifier::corim::VerifiedCorim;
use touchstone_verifier::deny::DenyList;
use touchstone_verifier::inventory::{Lookup, Node};
use touchstone_verifier::policy::AppraisalPolicy;
use touchstone_verifier::reference::{Reference, ReferenceSet};

use super::additions::Additions;
use super::nodes::seen_by_whole;
use super::rules::Rules;
use super::settings::{self, RegionSettings, Selection};
use crate::cedar::decision::NodeSeen;
use crate::error::{PolicyCode, PolicyError, Problem};
use crate::layout::Files;
use crate::layout::{RegionTarget, TargetKind};
use crate::load::PolicySet;
use crate::settings::timers::Timers;
use crate::settings::{Containment, Delegation, Settings};
use crate::targets::deny_file;
use crate::targets::scope::Scope;
use crate::targets::signers_file::{self, Signers};

/// What a region's own nodes are judged by, where it has something to say of it.
#[derive(Debug, Clone)]
pub struct View {
    /// The timers.
    pub timers: Timers,
    /// What is demanded of evidence.
    pub appraisal: AppraisalPolicy,
    /// What the region says of failures of its nodes, beside the whole: see [`PolicySet::extents_of`].
    pub containment: Option<Containment>,
    /// What may stand below a node's authorization.
    pub delegation: Delegation,
    /// What may be granted.
    pub scopes: Vec<Scope>,
    /// Reference values: shared with the whole's where nothing is selected and nothing added.
    pub references: Arc<ReferenceSet>,
    /// The same with the region's own, which count for nodes whose entry the region signed; nothing where it adds none.
    pub with_own: Option<Arc<ReferenceSet>>,
    /// Trust anchors and what is denied.
    pub anchors: Arc<TrustAnchors>,
}

/// What one node is judged by: the whole's demands, or those of its region.
#[derive(Debug, Clone, Copy)]
pub struct Demands<'a> {
    /// The timers.
    pub timers: &'a Timers,
    /// What is demanded of evidence.
    pub appraisal: &'a AppraisalPolicy,
    /// What may stand below a node's authorization.
    pub delegation: &'a Delegation,
    /// What may be granted.
    pub scopes: &'a [Scope],
    /// Reference values.
    pub references: &'a ReferenceSet,
    /// Trust anchors and what is denied.
    pub anchors: &'a TrustAnchors,
}

impl View {
    /// What a node of this region is judged by; `own` says whether its entry is the region's own.
    pub fn demands(&self, own: bool) -> Demands<'_> {
        Demands {
            timers: &self.timers,
            appraisal: &self.appraisal,
            delegation: &self.delegation,
            scopes: &self.scopes,
            references: self.with_own.as_ref().filter(|_| own).unwrap_or(&self.references),
            anchors: &self.anchors,
        }
    }
}

impl PolicySet {
    /// What the nodes that stand in `region` are judged by, whoever signed their entries: its view, or the whole's where it
    /// has none.
    pub fn demands(&self, region: &str) -> Demands<'_> {
        self.demands_in(region, false)
    }

    /// What `node` is judged by: as [`Self::demands`]; where its region signed its entry, the region's own references
    /// count with the others. A region never vouches for the software of a machine of the whole.
    pub fn demands_for(&self, node: &Node) -> Demands<'_> {
        self.demands_in(&node.region, node.authority == node.region)
    }

    pub(super) fn demands_in(&self, region: &str, own: bool) -> Demands<'_> {
        self.views
            .get(region)
            .map_or_else(|| self.whole(), |view| view.demands(own))
    }

    /// What nodes are judged by where no region says more.
    pub fn whole(&self) -> Demands<'_> {
        Demands {
            timers: &self.settings.timers,
            appraisal: &self.settings.appraisal,
            delegation: &self.settings.delegation,
            scopes: &self.settings.scopes,
            references: &self.references,
            anchors: &self.anchors,
        }
    }

    /// What the node of this name is judged by, where the inventory lists it or the setting for first use names it so;
    /// otherwise the whole's.
    pub fn demands_of(&self, node: &str) -> Demands<'_> {
        let first_use = self.settings.first_use.as_ref();
        let region = match self.inventory.by_name(node) {
            Lookup::Node(node) => return self.demands_for(node),
            Lookup::Unknown => first_use
                .filter(|setting| node.starts_with(&setting.name_prefix))
                .map(|setting| &setting.region),
            Lookup::Ambiguous => None,
        };
        region.map_or_else(|| self.whole(), |region| self.demands(region))
    }

    /// What the domain's own Cedar policy is told of `node`, where that is not everything that stands in its entry.
    pub fn seen_by_whole<'a>(&self, node: &'a Node) -> Option<NodeSeen<'a>> {
        seen_by_whole(node, &self.additions)
    }
}

/// What the whole says, for regions to narrow.
#[derive(Clone, Copy)]
pub(crate) struct Whole<'a> {
    pub settings: &'a Settings,
    pub anchors: &'a Arc<TrustAnchors>,
    pub references: &'a Arc<ReferenceSet>,
    pub additions: &'a BTreeMap<String, Additions>,
}

/// The view of every region that says anything of its own.
pub(crate) fn views(
    files: &Files,
    whole: Whole<'_>,
    now: i64,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, Arc<View>> {
    let mut spoken: BTreeMap<&str, Spoken<'_>> = BTreeMap::new();
    for (kind, bytes) in files {
        let TargetKind::Region(region, target) = kind else {
            continue;
        };
        let file = kind.name();
        let spoken = spoken.entry(region).or_default();
        match target {
            RegionTarget::Settings => spoken.settings = Some((file, bytes)),
            RegionTarget::Deny => spoken.denied = Some((file, bytes)),
            RegionTarget::Signers => spoken.signers = Some((file, bytes)),
            RegionTarget::Reference(_) => spoken.references.push((file, bytes)),
            RegionTarget::Policy | RegionTarget::Inventory | RegionTarget::Node(_) | RegionTarget::Test(_) => {}
        }
    }
    let nothing = Additions::default();
    let view = |(region, spoken): (&str, Spoken<'_>)| {
        let additions = whole.additions.get(region).unwrap_or(&nothing);
        let view = spoken.view(region, whole, additions, now, problems)?;
        Some((region.to_owned(), Arc::new(view)))
    };
    spoken.into_iter().filter_map(view).collect()
}

/// What a region says of how its nodes are judged.
#[derive(Default)]
struct Spoken<'a> {
    settings: Option<(String, &'a Vec<u8>)>,
    denied: Option<(String, &'a Vec<u8>)>,
    signers: Option<(String, &'a Vec<u8>)>,
    references: Vec<(String, &'a Vec<u8>)>,
}

impl Spoken<'_> {
    fn view(
        self,
        region: &str,
        whole: Whole<'_>,
        additions: &Additions,
        now: i64,
        problems: &mut Vec<Problem>,
    ) -> Option<View> {
        let signers = self.signers.map(|(file, bytes)| signers(&file, bytes, problems));
        let mut own = Vec::new();
        for (file, bytes) in &self.references {
            own.extend(reference(
                (file, bytes),
                region,
                signers.as_ref(),
                additions,
                now,
                problems,
            ));
        }
        let denied = self.denied.map(|(file, bytes)| denied(&file, bytes, problems));
        if self.settings.is_none() && denied.is_none() && self.references.is_empty() {
            return None;
        }
        let (file, said) = match self.settings {
            Some((file, bytes)) => {
                let said = settings::read(&file, bytes, problems);
                (file, said)
            }
            None => Default::default(),
        };
        Some(narrowed(
            whole,
            &said,
            denied.as_ref(),
            own,
            &mut Rules::new(&file, problems),
        ))
    }
}

/// The whole's view with a region's settings, deny list and references beside it. Nothing in it accepts what the whole does
/// not, but for `own`: references of classes that are delegated.
fn narrowed(
    whole: Whole<'_>,
    said: &RegionSettings,
    denied: Option<&DenyList>,
    own: Vec<VerifiedCorim>,
    rules: &mut Rules<'_>,
) -> View {
    let Selection {
        references,
        anchors,
        signers,
    } = said.selection(rules);
    let all = references.is_none() && signers.is_none();
    let selected = |reference: &Reference| {
        let named = references
            .as_ref()
            .is_none_or(|names| names.contains(&reference.values.name));
        named
            && signers
                .as_ref()
                .is_none_or(|names| names.contains(&reference.authority))
    };
    let nothing = DenyList::default();
    View {
        timers: said.timers(&whole.settings.timers, rules),
        appraisal: said.appraisal(&whole.settings.appraisal, rules),
        containment: said.containment(&whole.settings.containment, rules),
        delegation: said.delegation(&whole.settings.delegation, rules),
        scopes: said.scopes(&whole.settings.scopes, rules),
        references: if all {
            Arc::clone(whole.references)
        } else {
            Arc::new(whole.references.narrowed(selected, Vec::new()))
        },
        with_own: (!own.is_empty()).then(|| Arc::new(whole.references.narrowed(selected, own))),
        anchors: if anchors.is_none() && denied.is_none() {
            Arc::clone(whole.anchors)
        } else {
            Arc::new(whole.anchors.narrowed(anchors.as_ref(), denied.unwrap_or(&nothing)))
        },
    }
}

/// A reference of the region: signed by a signer of the region, of classes that are delegated to it.
fn reference(
    (file, bytes): (&str, &[u8]),
    region: &str,
    signers: Option<&Signers>,
    additions: &Additions,
    now: i64,
    problems: &mut Vec<Problem>,
) -> Option<VerifiedCorim> {
    let nobody = Signers::default();
    let verified = match signers_file::verify_reference(bytes, signers.unwrap_or(&nobody), now) {
        Ok(verified) => verified,
        Err(e) => {
            let found = format!("{}: {e}", e.code());
            let expected = format!("a CoRIM signed by a signer that regions/{region}/signers.json lists");
            problems.push(Problem::new(PolicyCode::ReferenceRefused, file, expected, found));
            return None;
        }
    };
    let outside = verified
        .references()
        .iter()
        .find(|reference| !additions.covers_class(&reference.name));
    if let Some(outside) = outside {
        let classes: Vec<&str> = additions.environments.iter().map(String::as_str).collect();
        let expected = match classes.as_slice() {
            [] => "no reference: no class is delegated to the region".to_owned(),
            classes => format!("a class that regions.toml delegates: {}", classes.join(", ")),
        };
        let claim = format!("{file}: environment");
        problems.push(Problem::new(
            PolicyCode::RegionReference,
            claim,
            expected,
            &outside.name,
        ));
        return None;
    }
    Some(verified.under(region))
}

fn signers(file: &str, bytes: &[u8], problems: &mut Vec<Problem>) -> Signers {
    own_file(file, signers_file::parse(bytes), problems)
}

fn denied(file: &str, bytes: &[u8], problems: &mut Vec<Problem>) -> DenyList {
    own_file(file, deny_file::parse(bytes), problems)
}

/// What the reader of the whole's file made of the region's, whose problems name the region's file.
fn own_file<T: Default>(file: &str, read: Result<T, PolicyError>, problems: &mut Vec<Problem>) -> T {
    read.unwrap_or_else(|error| {
        problems.extend(error.into_problems().into_iter().map(|mut problem| {
            let base = file.rsplit('/').next().unwrap_or_default();
            if let Some(rest) = problem.claim.strip_prefix(base) {
                problem.claim = format!("{file}{rest}");
            }
            problem
        }));
        T::default()
    })
}
