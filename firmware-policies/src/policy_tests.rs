//! Tests of the policies, kept and signed beside them: what is decided in a case that an author thought of.
//!
//! ```toml
//! [[case]]
//! name = "a machine without Secure Boot gets no key"
//! region = "north"                    # whose policy is asked beside the domain's; ask = "domain" or "region" asks one alone
//! roles = ["database"]
//! action = "release"
//! resource = "keys"
//! status = "affirming"                # what the appraisal is supposed to have said
//! claims = { secure_boot = false }
//! expect = "deny"
//! reasons = ["denied-by-domain-policy"]    # the codes of all reasons, no more and no less
//! forbidden_by = ["secure-boot"]           # the @id of every policy that forbids it; may be left out
//! ```
//! In the place of claims a case may name `evidence` of the file's table `[evidence]` (an envelope in base64) and its
//! `nonce`: it is appraised as `touchstone verify` does, under this repository's own reference values. A version whose
//! tests do not come out as they say is not published, and is not activated. Tests are deterministic: the time is that of
//! the case (`at`, RFC 3339), never now.
//!
//! A region's own tests (`regions/<id>/tests/`) ask the region's policy alone, and know claims only: a tightening by the
//! whole never fails them, so no region can hold one up.

mod file;

use std::collections::BTreeSet;

use serde::Serialize;
use touchstone_evidence::collection::Collection;
use touchstone_verifier::anchors::TrustAnchors;
use touchstone_verifier::appraisal::{Appraisal, Freshness, ImaKnown, Inputs, Known, Tier, appraise};
use touchstone_verifier::inventory::Lookup;
use touchstone_verifier::policy::AppraisalPolicy;
use touchstone_verifier::reason::Code;
use touchstone_verifier::reference::ReferenceSet;

use crate::cedar::Cedar;
use crate::cedar::decision::{CedarDecision, Request};
use crate::error::{PolicyCode, PolicyError, Problem};
use crate::layout::Files;
use crate::layout::{RegionTarget, TargetKind};
use crate::load::contents::Contents;
use crate::region::{Demands, seen_by_whole};
use file::{Ask, Case, Expect, Given, GivenClaims};

pub use file::{DEFAULT_AT, MAX_CASE_LIST, MAX_CASE_TEXT, MAX_CASES};

/// Most cases in a repository.
pub const MAX_ALL_CASES: usize = 4096;
/// The policy version that cases are decided under: what a version will be called is not known before it is published.
pub const CASE_VERSION: u64 = 1;

/// A difference between what a case says and what came.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Mismatch {
    /// What differs: `decision`, `reasons`, `forbidden_by`, `verdict`.
    pub what: &'static str,
    /// What the case says.
    pub expected: String,
    /// What came.
    pub found: String,
}

/// How a case came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CaseResult {
    /// The file.
    pub file: String,
    /// The case.
    pub case: String,
    /// What differs; nothing where it came out as it says.
    pub mismatches: Vec<Mismatch>,
}

impl CaseResult {
    /// Whether it came out as it says.
    pub fn passed(&self) -> bool {
        self.mismatches.is_empty()
    }
}

/// Runs every case of a repository's files, in the order of files and cases.
///
/// # Errors
/// [`PolicyError`] `policy-test-unreadable` with every problem of every file.
pub(crate) fn run(files: &Files, contents: &Contents) -> Result<Vec<CaseResult>, PolicyError> {
    let (mut problems, mut cases) = (Vec::new(), Vec::new());
    for (kind, bytes) in files {
        let own = match kind {
            TargetKind::Test(_) => None,
            TargetKind::Region(region, RegionTarget::Test(_)) => Some(region.as_str()),
            _ => continue,
        };
        let file = kind.name();
        match file::parse(&file, bytes, own, &contents.cedar) {
            Ok(read) => cases.extend(read.into_iter().map(|case| (file.clone(), case))),
            Err(e) => problems.extend(e.into_problems()),
        }
        if cases.len() > MAX_ALL_CASES {
            let expected = format!("at most {MAX_ALL_CASES} in all files");
            problems.push(Problem::new(PolicyCode::TestUnreadable, "cases", expected, cases.len()));
            break;
        }
    }
    PolicyError::unless_empty(problems)?;
    let result = |(file, case): (String, Case)| CaseResult {
        mismatches: decide(&case, contents),
        case: case.name,
        file,
    };
    Ok(cases.into_iter().map(result).collect())
}

/// Refuses files whose tests do not come out as they say.
///
/// # Errors
/// [`PolicyError`]: `policy-test-failed` for each difference, and what [`run`] refuses.
pub(crate) fn check(files: &Files, contents: &Contents) -> Result<(), PolicyError> {
    let results = run(files, contents)?;
    let problems = results.into_iter().flat_map(|result| {
        let claim = format!("{}: {}", result.file, result.case);
        let problem = move |m: Mismatch| {
            let claim = format!("{claim}: {}", m.what);
            Problem::new(PolicyCode::TestFailed, claim, m.expected, m.found)
        };
        result.mismatches.into_iter().map(problem)
    });
    PolicyError::unless_empty(problems.collect())
}

/// What came of a case.
struct Came {
    allow: bool,
    reasons: BTreeSet<String>,
    forbidden_by: BTreeSet<String>,
    verdict: &'static str,
}

impl Came {
    fn of(decision: &CedarDecision, status: &'static str) -> Self {
        Came {
            allow: decision.allow,
            reasons: decision.reasons.iter().map(|r| r.code.as_str().to_owned()).collect(),
            forbidden_by: decision.forbids.iter().map(|(_, id)| id.clone()).collect(),
            verdict: status,
        }
    }
}

fn decide(case: &Case, contents: &Contents) -> Vec<Mismatch> {
    let (came, verdict) = match &case.given {
        Given::Claims(given) => (Ok(of_claims(case, given, contents)), None),
        Given::Evidence {
            envelope,
            nonce,
            verdict,
        } => (of_evidence(case, envelope, nonce, contents), verdict.as_deref()),
    };
    let came = match came {
        Ok(came) => came,
        Err(mismatch) => return vec![mismatch],
    };
    let mut mismatches = Vec::new();
    let mut compare = |what, expected: String, found: String| {
        if expected != found {
            mismatches.push(Mismatch { what, expected, found });
        }
    };
    let word = |allow: bool| if allow { "allow" } else { "deny" }.to_owned();
    compare("decision", word(case.expect == Expect::Allow), word(came.allow));
    compare("reasons", list(&case.reasons), list(&came.reasons));
    if let Some(expected) = &case.forbidden_by {
        compare("forbidden_by", list(expected), list(&came.forbidden_by));
    }
    if let Some(verdict) = verdict {
        compare("verdict", verdict.to_owned(), came.verdict.to_owned());
    }
    mismatches
}

fn list(texts: &BTreeSet<String>) -> String {
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    if texts.is_empty() {
        "none".into()
    } else {
        texts.join(", ")
    }
}

fn of_claims(case: &Case, given: &GivenClaims, contents: &Contents) -> Came {
    let request = Request {
        principal: case.principal,
        zone: given.zone.as_deref(),
        roles: &given.roles,
        owner: given.owner.as_deref(),
        item: case.item.as_deref(),
        status: &given.status,
        ak_binding: &given.ak_binding,
        purpose: case.purpose.as_deref(),
        lineage_depth: case.lineage_depth,
        lineage: case.lineage.as_ref(),
        now: case.at,
        policy_version: CASE_VERSION,
        ..Request::of_node(
            &given.subject,
            &given.region,
            &case.action,
            &case.resource,
            &given.claims,
        )
    };
    Came::of(&ask(case, &request, contents), "")
}

fn of_evidence(case: &Case, envelope: &[u8], nonce: &[u8], contents: &Contents) -> Result<Came, Mismatch> {
    let collection = Collection::decode(envelope).map_err(|e| Mismatch {
        what: "evidence",
        expected: "an envelope, as touchstone evidence pack makes it".into(),
        found: e.to_string(),
    })?;
    let under = |policy: &AppraisalPolicy, references: &ReferenceSet, anchors: &TrustAnchors| {
        appraise(&Inputs {
            collection: &collection,
            freshness: Freshness::Unbound { nonce },
            policy,
            references,
            anchors,
            inventory: &contents.inventory,
            enrolled: None,
            ima: ImaKnown::default(),
            known: Known::default(),
            now: case.at,
        })
    };
    let mut appraisal = under(&contents.settings.appraisal, &contents.references, &contents.anchors);
    // As everywhere: the whole says which node it is, and its region's view, where it has one, judges it.
    if let Some(view) = view_of(&appraisal, contents) {
        let own = under(view.appraisal, view.references, view.anchors);
        appraisal = Appraisal {
            node: appraisal.node,
            ..own
        };
    }
    let mut came = of_appraisal(case, &appraisal, contents);
    came.reasons.extend(
        appraisal
            .reasons
            .iter()
            .map(|reason| Code::as_str(reason.code).to_owned()),
    );
    // As the broker does: policies are asked on top of an appraisal that has nothing against the machine.
    came.allow &= appraisal.status == Tier::Affirming && appraisal.reasons.is_empty();
    Ok(came)
}

/// What the nodes of this machine's region are judged by, where that is not what the whole says.
fn view_of<'c>(appraisal: &Appraisal, contents: &'c Contents) -> Option<Demands<'c>> {
    match contents.inventory.by_name(appraisal.node.as_deref()?) {
        Lookup::Node(node) => {
            let view = contents.views.get(&node.region)?;
            Some(view.demands(node.authority == node.region))
        }
        _ => None,
    }
}

fn of_appraisal(case: &Case, appraisal: &Appraisal, contents: &Contents) -> Came {
    let status = appraisal.status.as_str();
    let named = appraisal.node.as_deref().map(|name| contents.inventory.by_name(name));
    let Some(Lookup::Node(node)) = named else {
        return Came {
            allow: false,
            reasons: BTreeSet::new(),
            forbidden_by: BTreeSet::new(),
            verdict: status,
        };
    };
    let whole = seen_by_whole(node, &contents.additions);
    let request = Request {
        zone: node.zone.as_deref(),
        roles: &node.roles,
        owner: node.owner.as_deref(),
        whole: whole.as_ref(),
        item: case.item.as_deref(),
        status,
        ak_binding: appraisal.ak_binding.as_str(),
        purpose: case.purpose.as_deref(),
        lineage_depth: case.lineage_depth,
        lineage: case.lineage.as_ref(),
        now: case.at,
        policy_version: CASE_VERSION,
        ..Request::of_node(
            &node.name,
            &node.region,
            &case.action,
            &case.resource,
            &appraisal.claims,
        )
    };
    Came::of(&ask(case, &request, contents), status)
}

fn ask(case: &Case, request: &Request<'_>, contents: &Contents) -> CedarDecision {
    match case.ask {
        Ask::All => contents.cedar.decide(request.region, request),
        Ask::Domain => contents.cedar.decide_alone(None, request),
        Ask::Region => contents.cedar.decide_alone(Some(request.region), request),
    }
}

/// Whether these bytes are a file of cases; a region's own, where `own` names it.
pub(crate) fn reads(file: &str, bytes: &[u8], own: Option<&str>, cedar: &Cedar) -> bool {
    file::parse(file, bytes, own, cedar).is_ok()
}

#[cfg(test)]
mod tests;
