//! The file of policy tests: TOML, unknown keys refused, and every case one that can fail.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use touchstone_verifier::appraisal::{ClaimValue, Claims};

use crate::cedar::Cedar;
use crate::cedar::decision::{LineageFacts, Principal};
use crate::error::{PolicyCode, PolicyError, Problem};
use crate::layout::is_name;
use crate::targets::node_name::{is_node_name, is_workload_name};
use crate::targets::scope::Scope;

/// Most cases in one file.
pub const MAX_CASES: usize = 256;
/// Longest text of a case, in bytes.
pub const MAX_CASE_TEXT: usize = 256;
/// Most claims, roles, reasons or policies that a case names.
pub const MAX_CASE_LIST: usize = 256;
/// The time of a case that names none: 2026-01-01T00:00:00Z. The same everywhere and for ever, so that a test that passed
/// when it was published passes when it is activated.
pub const DEFAULT_AT: i64 = 1_767_225_600;

const STATUSES: [&str; 4] = ["affirming", "warning", "contraindicated", "none"];
const BINDINGS: [&str; 6] = [
    "activated",
    "enrolled",
    "inventory",
    "iak-certificate",
    "report",
    "none",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TestFile {
    #[serde(default)]
    evidence: BTreeMap<String, String>,
    #[serde(default)]
    case: Vec<CaseFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseFile {
    name: String,
    region: Option<String>,
    ask: Option<Ask>,
    #[serde(default)]
    principal: PrincipalName,
    subject: Option<String>,
    zone: Option<String>,
    roles: Option<Vec<String>>,
    owner: Option<String>,
    action: String,
    resource: String,
    item: Option<String>,
    status: Option<String>,
    ak_binding: Option<String>,
    claims: Option<BTreeMap<String, toml::Value>>,
    evidence: Option<String>,
    nonce: Option<String>,
    purpose: Option<String>,
    #[serde(default)]
    lineage_depth: u32,
    lineage: Option<LineageFile>,
    at: Option<String>,
    expect: Expect,
    verdict: Option<String>,
    reasons: Option<Vec<String>>,
    forbidden_by: Option<Vec<String>>,
}

/// `[case.lineage]`: what is left out is as for a node's own request, and the depth is `lineage_depth`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LineageFile {
    parents: Vec<String>,
    issued: Vec<String>,
    used: Vec<String>,
    uses_of: BTreeMap<String, u32>,
    uses: Option<u32>,
    children: u32,
    key_kind: Option<String>,
    started_by: Option<String>,
    executable: Option<String>,
}

/// Whose policies are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Ask {
    /// Everyone's who has a say.
    All,
    /// The domain's alone.
    Domain,
    /// The region's alone.
    Region,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PrincipalName {
    #[default]
    Node,
    Workload,
    Operator,
}

/// What a case says must come of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Expect {
    Allow,
    Deny,
}

/// What is decided on.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Given {
    /// Claims, as if an appraisal had found them.
    Claims(GivenClaims),
    /// Packed evidence, appraised as `touchstone verify` does.
    Evidence {
        envelope: Vec<u8>,
        nonce: Vec<u8>,
        verdict: Option<String>,
    },
}

/// Who asks, and what an appraisal is supposed to have found.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct GivenClaims {
    pub subject: String,
    pub region: String,
    pub zone: Option<String>,
    pub roles: Vec<String>,
    pub owner: Option<String>,
    pub status: String,
    pub ak_binding: String,
    pub claims: Claims,
}

/// One case.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Case {
    pub name: String,
    pub ask: Ask,
    pub principal: Principal,
    pub action: String,
    pub resource: String,
    pub item: Option<String>,
    pub purpose: Option<String>,
    pub lineage_depth: u32,
    pub lineage: Option<LineageFacts>,
    pub at: i64,
    pub given: Given,
    pub expect: Expect,
    /// The codes of all reasons; none where it is allowed.
    pub reasons: BTreeSet<String>,
    /// The policies that forbid it, where the case says.
    pub forbidden_by: Option<BTreeSet<String>>,
}

/// Reads a file of cases. In a region's own file every case is about that region's policy, and nothing that others sign
/// makes it fail.
///
/// # Errors
/// [`PolicyError`] `policy-test-unreadable` with every problem.
pub(super) fn parse(file: &str, bytes: &[u8], own: Option<&str>, cedar: &Cedar) -> Result<Vec<Case>, PolicyError> {
    let unreadable = |found: String| PolicyError::new(PolicyCode::TestUnreadable, file, "policy tests", found);
    let text = std::str::from_utf8(bytes).map_err(|e| unreadable(e.to_string()))?;
    let read: TestFile = toml::from_str(text).map_err(|e| unreadable(e.to_string()))?;
    if read.case.is_empty() {
        return Err(unreadable("no case".into()));
    }
    if read.case.len() > MAX_CASES {
        return Err(unreadable(format!("{} cases, more than {MAX_CASES}", read.case.len())));
    }
    let mut problems = Vec::new();
    let mut evidence = BTreeMap::new();
    for (name, text) in &read.evidence {
        match STANDARD.decode(text.split_ascii_whitespace().collect::<String>()) {
            Ok(bytes) => drop(evidence.insert(name.as_str(), bytes)),
            Err(e) => problems.push(Problem::new(
                PolicyCode::TestUnreadable,
                format!("{file}: evidence.{name}"),
                "an envelope in base64",
                e,
            )),
        }
    }
    let (mut cases, mut names, mut used) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    for case in read.case {
        let claim = format!("{file}: {}", case.name);
        used.extend(case.evidence.clone());
        let mut wrong = |key: &str, expected: &str, found: String| {
            problems.push(Problem::new(
                PolicyCode::TestUnreadable,
                format!("{claim}: {key}"),
                expected,
                found,
            ));
        };
        if !names.insert(case.name.clone()) {
            wrong("name", "a name of its own", "a name that another case has".into());
        }
        cases.extend(
            Reading {
                wrong: &mut wrong,
                cedar,
                own,
            }
            .case(case, &evidence),
        );
    }
    for name in evidence.keys().filter(|name| !used.contains(**name)) {
        problems.push(Problem::new(
            PolicyCode::TestUnreadable,
            format!("{file}: evidence.{name}"),
            "evidence that a case names",
            "none does",
        ));
    }
    PolicyError::unless_empty(problems)?;
    Ok(cases)
}

struct Reading<'a, W: FnMut(&str, &str, String)> {
    wrong: &'a mut W,
    cedar: &'a Cedar,
    own: Option<&'a str>,
}

impl<W: FnMut(&str, &str, String)> Reading<'_, W> {
    /// The case, whole; what is wrong with it is noted, and then it is never run.
    fn case(mut self, case: CaseFile, evidence: &BTreeMap<&str, Vec<u8>>) -> Option<Case> {
        let good_name = !case.name.is_empty() && case.name.len() <= MAX_CASE_TEXT;
        self.check("name", good_name, "1 to 256 bytes", &case.name);
        let scope = format!("{}:{}", case.action, case.resource);
        self.check(
            "action, resource",
            Scope::parse(&scope).is_some(),
            "a scope, action:resource",
            &scope,
        );
        for (key, text) in [("item", &case.item), ("purpose", &case.purpose), ("owner", &case.owner)] {
            let text = text.as_deref().unwrap_or("-");
            self.check(
                key,
                !text.is_empty() && text.len() <= MAX_CASE_TEXT,
                "1 to 256 bytes",
                text,
            );
        }
        let reasons = self.set("reasons", case.reasons.as_deref());
        let forbidden_by = case
            .forbidden_by
            .as_ref()
            .map(|ids| self.set("forbidden_by", Some(ids)));
        match case.expect {
            Expect::Allow => {
                let none = case.reasons.is_none() && case.forbidden_by.is_none();
                self.check("reasons", none, "no reasons where it is to be allowed", "reasons");
            }
            // A denial for another reason than the one that is meant would pass unseen.
            Expect::Deny => self.check("reasons", !reasons.is_empty(), "the codes of all reasons", "none"),
        }
        let at = match &case.at {
            None => DEFAULT_AT,
            Some(text) => match text.parse::<jiff::Timestamp>() {
                Ok(time) => time.as_second(),
                Err(_) => {
                    (self.wrong)("at", "a time as RFC 3339 writes it", text.clone());
                    DEFAULT_AT
                }
            },
        };
        let (ask, principal, expect) = (self.ask(case.ask), case.principal, case.expect);
        let (name, action, resource) = (case.name.clone(), case.action.clone(), case.resource.clone());
        let (item, purpose, lineage_depth) = (case.item.clone(), case.purpose.clone(), case.lineage_depth);
        let lineage = case
            .lineage
            .as_ref()
            .map(|lineage| self.lineage(lineage, lineage_depth));
        let given = match case.evidence.clone() {
            Some(named) => self.evidence(case, &named, evidence)?,
            None => Given::Claims(self.claims(case)),
        };
        Some(Case {
            name,
            ask,
            principal: match principal {
                PrincipalName::Node => Principal::Node,
                PrincipalName::Workload => Principal::Workload,
                PrincipalName::Operator => Principal::Operator,
            },
            action,
            resource,
            item,
            purpose,
            lineage_depth,
            lineage,
            at,
            given,
            expect,
            reasons,
            forbidden_by,
        })
    }

    fn lineage(&mut self, lineage: &LineageFile, depth: u32) -> LineageFacts {
        for (key, rights) in [("lineage.issued", &lineage.issued), ("lineage.used", &lineage.used)] {
            for right in rights {
                self.check(key, Scope::parse(right).is_some(), "rights, action:resource", right);
            }
        }
        for (right, times) in &lineage.uses_of {
            let good = Scope::parse(right).is_some() && *times > 0;
            let expected = "rights, action:resource, each with how often, at least 1";
            self.check("lineage.uses_of", good, expected, &format!("{right} = {times}"));
        }
        let kind = lineage.key_kind.as_deref().unwrap_or("none");
        let known = ["tpm", "tee", "software", "none"];
        self.check(
            "lineage.key_kind",
            known.contains(&kind),
            "tpm, tee, software or none",
            kind,
        );
        for (key, text) in [
            ("lineage.started_by", &lineage.started_by),
            ("lineage.executable", &lineage.executable),
        ] {
            let text = text.as_deref().unwrap_or("-");
            let good = !text.is_empty() && text.len() <= MAX_CASE_TEXT;
            self.check(key, good, "1 to 256 bytes", text);
        }
        // What is named in `used` alone was used once.
        let once = self.set("lineage.used", Some(&lineage.used));
        let mut used: BTreeMap<String, u64> = once.into_iter().map(|right| (right, 1)).collect();
        used.extend(
            lineage
                .uses_of
                .iter()
                .map(|(right, times)| (right.clone(), (*times).into())),
        );
        let counted = match lineage.uses_of.is_empty() {
            true => 0,
            false => used.values().sum(),
        };
        LineageFacts {
            depth,
            parents: self.set("lineage.parents", Some(&lineage.parents)),
            issued: self.set("lineage.issued", Some(&lineage.issued)),
            used,
            uses: lineage.uses.map_or(counted, u64::from),
            children: lineage.children.into(),
            key_kind: kind.to_owned(),
            started_by: lineage.started_by.clone(),
            executable: lineage.executable.clone(),
        }
    }

    /// A region's tests are about the region's own policy: what the whole decides is the whole's to change, and no region
    /// can hold a version up by a test that expects otherwise.
    fn ask(&mut self, ask: Option<Ask>) -> Ask {
        if self.own.is_none() {
            return ask.unwrap_or(Ask::All);
        }
        let own = ask.is_none_or(|ask| ask == Ask::Region);
        self.check("ask", own, "\"region\" in a region's own file", "another");
        Ask::Region
    }

    fn check(&mut self, key: &str, good: bool, expected: &str, found: &str) {
        if !good {
            (self.wrong)(key, expected, found.to_owned());
        }
    }

    fn set(&mut self, key: &str, texts: Option<&[String]>) -> BTreeSet<String> {
        let texts = texts.unwrap_or_default();
        let good = texts.len() <= MAX_CASE_LIST && texts.iter().all(|t| !t.is_empty() && t.len() <= MAX_CASE_TEXT);
        self.check(key, good, "at most 256 texts of at most 256 bytes", "others");
        texts.iter().cloned().collect()
    }

    fn evidence(&mut self, case: CaseFile, named: &str, evidence: &BTreeMap<&str, Vec<u8>>) -> Option<Given> {
        // Who the node is and what it shows is in its evidence and the inventory, and nowhere else.
        self.check(
            "evidence",
            self.own.is_none(),
            "claims in a region's own file",
            "evidence",
        );
        let alone = case.subject.is_none()
            && case.region.is_none()
            && case.zone.is_none()
            && case.roles.is_none()
            && case.owner.is_none()
            && case.status.is_none()
            && case.ak_binding.is_none()
            && case.claims.is_none()
            && case.principal == PrincipalName::Node;
        let expected =
            "no subject, region, zone, roles, owner, status, ak_binding, claims or other principal beside it";
        self.check("evidence", alone, expected, "some");
        let nonce = case.nonce.as_deref().and_then(|text| hex::decode(text.trim()).ok());
        let nonce = nonce.filter(|nonce| (1..=64).contains(&nonce.len()));
        if nonce.is_none() {
            (self.wrong)("nonce", "1 to 64 bytes in hexadecimal", case.nonce.unwrap_or_default());
        }
        self.word("verdict", case.verdict.as_deref(), &STATUSES);
        let Some(envelope) = evidence.get(named) else {
            (self.wrong)("evidence", "evidence of this file", named.to_owned());
            return None;
        };
        Some(Given::Evidence {
            envelope: envelope.clone(),
            nonce: nonce?,
            verdict: case.verdict,
        })
    }

    fn claims(&mut self, case: CaseFile) -> GivenClaims {
        let beside = case.nonce.is_none() && case.verdict.is_none();
        self.check("nonce, verdict", beside, "only beside evidence", "without");
        self.word("status", case.status.as_deref(), &STATUSES);
        if case.status.is_none() {
            (self.wrong)("status", "what the appraisal said", "nothing".into());
        }
        self.word("ak_binding", case.ak_binding.as_deref(), &BINDINGS);
        let region = match (self.own, case.region) {
            (Some(own), None) => own.to_owned(),
            (Some(own), Some(region)) => {
                self.check("region", region == own, "the region whose file this is", &region);
                region
            }
            (None, Some(region)) => region,
            (None, None) => {
                (self.wrong)("region", "the region it is in", "none".into());
                String::new()
            }
        };
        self.check(
            "region",
            region.is_empty() || is_name(&region),
            "a region's name",
            &region,
        );
        let subject = case.subject.unwrap_or_else(|| "subject".to_owned());
        let named = is_node_name(&subject) || is_workload_name(&subject);
        self.check("subject", named, "a name, or <label>@<name> of a workload", &subject);
        if let Some(zone) = &case.zone {
            self.check("zone", is_name(zone), "a name", zone);
        }
        let roles = case.roles.unwrap_or_default();
        for role in &roles {
            self.check("roles", is_name(role), "names", role);
        }
        self.check("roles", roles.len() <= MAX_CASE_LIST, "at most 256", "more");
        let mut claims = Claims::new();
        for (name, value) in case.claims.unwrap_or_default() {
            let value = claim(value).filter(|value| self.cedar.declares(&name, value));
            match value {
                Some(value) => drop(claims.insert(name, value)),
                // What the schema does not declare is shown to no policy: the case would test nothing.
                None => (self.wrong)(
                    &format!("claims.{name}"),
                    "a claim of the schema, of its type",
                    name.clone(),
                ),
            }
        }
        GivenClaims {
            subject,
            region,
            zone: case.zone,
            roles,
            owner: case.owner,
            status: case.status.unwrap_or_default(),
            ak_binding: case.ak_binding.unwrap_or_else(|| "activated".to_owned()),
            claims,
        }
    }

    fn word(&mut self, key: &str, word: Option<&str>, known: &[&str]) {
        if let Some(word) = word.filter(|word| !known.contains(word)) {
            (self.wrong)(key, &known.join(", "), word.to_owned());
        }
    }
}

fn claim(value: toml::Value) -> Option<ClaimValue> {
    Some(match value {
        toml::Value::Boolean(b) => ClaimValue::Bool(b),
        toml::Value::Integer(n) => ClaimValue::Int(n),
        toml::Value::String(text) => ClaimValue::Text(text),
        toml::Value::Array(items) => {
            let text = |item: toml::Value| item.as_str().map(str::to_owned);
            ClaimValue::Set(items.into_iter().map(text).collect::<Option<_>>()?)
        }
        _ => return None,
    })
}
