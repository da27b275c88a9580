//! `federation/<domain>.toml`: what authorizations of another domain may do here, and where its state comes from.
//!
//! ```toml
//! domain = "b.example"                  # the file's name
//! root = "<sha256 of b.example.root.json>"   # or path = ["c.example"]: trusted over that domain, which names the root
//! depth = 0                             # how many domains beyond this one may be trusted over it
//! policy = ["https://policy.b.example/"]  # its policy repository: a folder or a URL; none: it is pushed, or carried by hand
//! brokers = ["broker.b.example:7440"]   # its brokers; none likewise
//! push = false                          # whether our brokers send our own state to its brokers
//! issue = ["execute:partners/a/render"] # what our nodes' authorizations may be issued for there, of what they hold here
//!
//! [accept]                              # without it, its authorizations may do nothing here
//! resources = "partners/b"              # every scope lies below this
//! scopes = ["execute:partners/b/render"]
//! key_kinds = ["tpm", "tee"]            # this is the default
//! max_state_age = 86400                 # seconds; only where its state is carried by hand
//! ```
//! Unknown keys and empty lists are refused. Source of the rules: `docs/protocol.md`, section 12.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use touchstone_authorization::narrowing::{FOREIGN_ACTIONS, is_below};
use touchstone_authorization::{KeyKind, Narrowing, Scope};

use crate::error::{PolicyCode, PolicyError, Problem};
use crate::layout::Files;
use crate::layout::{TargetKind, is_name};
use crate::tuf::parse_root;

/// Most domains one domain is federated with.
pub const MAX_DOMAINS: usize = 256;
/// Most domains on the way to one that is not trusted directly.
pub const MAX_DEPTH: usize = 4;
/// Most places a repository may be copied from, and most brokers, of one domain.
pub const MAX_PLACES: usize = 16;
/// Longest `max_state_age`, in seconds: 31 days.
pub const MAX_STATE_AGE_SECONDS: u64 = 31 * 24 * 3600;
/// Longest place or broker, in bytes.
pub const MAX_PLACE_LEN: usize = 512;

/// The domains this one is federated with, by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Federation {
    domains: BTreeMap<String, FederatedDomain>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FederatedDomain {
    /// Its name.
    pub name: String,
    /// Where trust in it begins; nothing where nothing of it is believed.
    pub trust: Option<TrustBegins>,
    /// How many domains beyond it may be trusted over it.
    pub depth: usize,
    /// Where its policy repository is copied from: folders and URLs.
    pub policy: Vec<String>,
    /// Its brokers, `host:port`.
    pub brokers: Vec<String>,
    /// Whether our brokers send our own state there.
    pub push: bool,
    /// What our nodes' authorizations may be issued for there.
    pub issue: Vec<Scope>,
    /// What its authorizations may do here.
    pub accept: Option<Accept>,
}

/// Where trust in a domain begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrustBegins {
    /// With this root metadata, signed into our own policy.
    Root(Vec<u8>),
    /// With the root that the last of these domains has in its own policy, and so on from the first, which is ours.
    Path(Vec<String>),
}

/// What a domain's authorizations may do here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accept {
    /// The scopes, their prefix, the kinds of keys, the age of a state that is carried by hand.
    pub narrowing: Narrowing,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FederationFile {
    domain: String,
    root: Option<String>,
    path: Option<Vec<String>>,
    #[serde(default)]
    depth: usize,
    policy: Option<Vec<String>>,
    brokers: Option<Vec<String>>,
    #[serde(default)]
    push: bool,
    issue: Option<Vec<String>>,
    accept: Option<AcceptFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AcceptFile {
    resources: String,
    scopes: Vec<String>,
    key_kinds: Option<Vec<KeyKindName>>,
    max_state_age: Option<u64>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum KeyKindName {
    Tpm,
    Tee,
    Software,
}

impl From<KeyKindName> for KeyKind {
    fn from(name: KeyKindName) -> Self {
        match name {
            KeyKindName::Tpm => Self::Tpm,
            KeyKindName::Tee => Self::Tee,
            KeyKindName::Software => Self::Software,
        }
    }
}

impl Federation {
    /// Reads every federation target of `files`. `own` is the domain whose policy they are in.
    ///
    /// # Errors
    /// [`PolicyError`] with every problem, each naming its file.
    pub(crate) fn read(files: &Files, own: &str) -> Result<Self, PolicyError> {
        let mut problems = Vec::new();
        let mut domains = BTreeMap::new();
        for (kind, bytes) in files {
            match kind {
                TargetKind::Federation(name) => {
                    let root = files.get(&TargetKind::FederationRoot(name.clone())).map(Vec::as_slice);
                    match FederatedDomain::parse(name, bytes, root) {
                        Ok(domain) => drop(domains.insert(name.clone(), domain)),
                        Err(error) => problems.extend(error.into_problems()),
                    }
                    if name == own {
                        let claim = kind.name();
                        problems.push(Problem::new(
                            PolicyCode::FederationUnreadable,
                            claim,
                            "another domain",
                            own,
                        ));
                    }
                }
                TargetKind::FederationRoot(name) if !files.contains_key(&TargetKind::Federation(name.clone())) => {
                    let expected = format!("federation/{name}.toml beside it");
                    problems.push(Problem::new(PolicyCode::FederationRoot, kind.name(), expected, "none"));
                }
                _ => {}
            }
        }
        if domains.len() > MAX_DOMAINS {
            let expected = format!("at most {MAX_DOMAINS}");
            problems.push(Problem::new(
                PolicyCode::TargetsTooMany,
                "federation",
                expected,
                domains.len(),
            ));
        }
        let federation = Self { domains };
        federation.judge_paths(own, &mut problems);
        federation.judge_prefixes(&mut problems);
        PolicyError::unless_empty(problems)?;
        Ok(federation)
    }

    /// Every domain, by name.
    pub fn domains(&self) -> impl Iterator<Item = &FederatedDomain> {
        self.domains.values()
    }

    /// The domain with this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&FederatedDomain> {
        self.domains.get(name)
    }

    /// The root from which a copy of that domain's repository is verified: our own policy's, or the one that the last
    /// domain on the way to it has in its. `roots` gives what the verified policy of a domain says of others.
    pub fn root_of<R>(&self, name: &str, roots: impl Fn(&str) -> Option<R>) -> Option<Vec<u8>>
    where
        R: std::ops::Deref<Target = BTreeMap<String, Vec<u8>>>,
    {
        match self.get(name)?.trust.as_ref()? {
            TrustBegins::Root(root) => Some(root.clone()),
            TrustBegins::Path(path) => roots(path.last()?)?.get(name).cloned(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.domains.is_empty()
    }

    /// Trust over other domains goes as far as the depth of the first one allows, and may do no more here than that one.
    fn judge_paths(&self, own: &str, problems: &mut Vec<Problem>) {
        for domain in self.domains.values() {
            let Some(TrustBegins::Path(path)) = &domain.trust else {
                continue;
            };
            let claim = domain.file();
            let mut problem = |code, expected: &str, found: &str| {
                problems.push(Problem::new(code, format!("{claim}: path"), expected, found));
            };
            let named: BTreeSet<&str> = path
                .iter()
                .map(String::as_str)
                .chain([own, domain.name.as_str()])
                .collect();
            if named.len() != path.len() + 2 {
                problem(
                    PolicyCode::FederationPath,
                    "each domain once, and neither end",
                    &path.join(" "),
                );
            }
            let first = path.first().and_then(|first| self.domains.get(first));
            let Some(first) = first.filter(|first| matches!(first.trust, Some(TrustBegins::Root(_)))) else {
                problem(
                    PolicyCode::FederationPath,
                    "a first domain whose root is listed here",
                    &path.join(" "),
                );
                continue;
            };
            let led_to = |at: usize| {
                let step = path.get(at).and_then(|name| self.domains.get(name));
                let before = path.get(..at).unwrap_or_default();
                step.is_some_and(|step| matches!(&step.trust, Some(TrustBegins::Path(own)) if own == before))
            };
            if !(1..path.len()).all(led_to) {
                problem(
                    PolicyCode::FederationPath,
                    "each domain on it listed here with the path to it",
                    &path.join(" "),
                );
            }
            if path.len() > first.depth {
                let expected = format!("at most {} by the depth of {}", first.depth, first.name);
                problem(PolicyCode::FederationPath, &expected, &path.len().to_string());
            }
            let within = |accept: &Accept| {
                let outer = first.accept.as_ref();
                outer.is_some_and(|outer| accept.narrowing.is_within(&outer.narrowing))
            };
            if domain.accept.as_ref().is_some_and(|accept| !within(accept)) {
                let expected = format!("no more than {} may do", first.name);
                problem(PolicyCode::FederationWider, &expected, "more");
            }
        }
    }

    /// Two domains that are trusted directly never mean the same resource.
    fn judge_prefixes(&self, problems: &mut Vec<Problem>) {
        let prefixes: Vec<(&FederatedDomain, &str)> = self
            .domains
            .values()
            .filter(|domain| matches!(domain.trust, Some(TrustBegins::Root(_))))
            .filter_map(|domain| Some((domain, domain.accept.as_ref()?.narrowing.prefix())))
            .collect();
        let mut sorted: Vec<(Vec<&str>, &FederatedDomain, &str)> = prefixes
            .iter()
            .map(|(domain, prefix)| (prefix.split('/').collect(), *domain, *prefix))
            .collect();
        // Sorted by segments, what lies below a prefix comes right after it.
        sorted.sort_by(|one, other| one.0.cmp(&other.0));
        for pair in sorted.windows(2) {
            if let [(_, above, prefix), (_, below, other)] = pair
                && is_below(other, prefix)
            {
                let expected = format!("a prefix apart from {prefix} of {}", above.name);
                problems.push(Problem::new(
                    PolicyCode::FederationPrefix,
                    below.file(),
                    expected,
                    other,
                ));
            }
        }
    }
}

impl FederatedDomain {
    /// Reads one file, and the root beside it.
    ///
    /// # Errors
    /// [`PolicyError`] with every problem.
    pub fn parse(name: &str, bytes: &[u8], root: Option<&[u8]>) -> Result<Self, PolicyError> {
        let file_name = file_of(name);
        let unreadable =
            |found: String| PolicyError::new(PolicyCode::FederationUnreadable, &file_name, "a federation file", found);
        let text = std::str::from_utf8(bytes).map_err(|e| unreadable(e.to_string()))?;
        let file: FederationFile = toml::from_str(text).map_err(|e| unreadable(e.to_string()))?;
        let mut problems = Vec::new();
        let mut problem = |code, member: &str, expected: &str, found: &str| {
            problems.push(Problem::new(code, format!("{file_name}: {member}"), expected, found));
        };
        if file.domain != name || !is_name(name) {
            problem(PolicyCode::FederationUnreadable, "domain", name, &file.domain);
        }
        let trust = match (&file.root, file.path) {
            (Some(digest), None) => match pinned(digest, root) {
                Ok(bytes) => Some(TrustBegins::Root(bytes)),
                Err((expected, found)) => {
                    problem(PolicyCode::FederationRoot, "root", &expected, &found);
                    None
                }
            },
            (None, Some(path)) => {
                if path.is_empty() || path.len() > MAX_DEPTH || !path.iter().all(|step| is_name(step)) {
                    let expected = format!("1 to {MAX_DEPTH} names of domains");
                    problem(PolicyCode::FederationPath, "path", &expected, &path.join(" "));
                }
                Some(TrustBegins::Path(path))
            }
            (None, None) => None,
            (Some(_), Some(_)) => {
                problem(PolicyCode::FederationPath, "path", "either root or path", "both");
                None
            }
        };
        if file.root.is_none() && root.is_some() {
            problem(
                PolicyCode::FederationRoot,
                "root",
                "the digest of the root beside it",
                "none",
            );
        }
        if file.depth > MAX_DEPTH {
            let expected = format!("at most {MAX_DEPTH}");
            problem(PolicyCode::FederationPath, "depth", &expected, &file.depth.to_string());
        }
        for (member, places) in [("policy", &file.policy), ("brokers", &file.brokers)] {
            let Some(places) = places else { continue };
            let good = |place: &String| {
                if member == "policy" {
                    is_place(place)
                } else {
                    is_broker(place)
                }
            };
            if places.is_empty() || places.len() > MAX_PLACES || !places.iter().all(good) {
                let expected = match member {
                    "policy" => "folders (absolute), http:// or https:// URLs",
                    _ => "brokers as host:port",
                };
                problem(PolicyCode::FederationUnreadable, member, expected, &places.join(" "));
            }
        }
        let believes_nothing = file.root.is_none() && trust.is_none();
        if believes_nothing && (file.accept.is_some() || file.policy.is_some() || file.brokers.is_some() || file.push) {
            problem(PolicyCode::FederationRoot, "root", "root or path", "neither");
        }
        if file.push && file.brokers.is_none() {
            problem(PolicyCode::FederationUnreadable, "push", "brokers to send to", "none");
        }
        if believes_nothing && file.issue.is_none() {
            problem(
                PolicyCode::FederationUnreadable,
                "issue",
                "root, path or issue",
                "none of them",
            );
        }
        let issue = match &file.issue {
            None => Vec::new(),
            Some(texts) => scopes(texts, |expected, found| {
                problem(PolicyCode::FederationScope, "issue", expected, found);
            }),
        };
        let accept = file.accept.map(|accept| {
            if accept
                .max_state_age
                .is_some_and(|age| age == 0 || age > MAX_STATE_AGE_SECONDS)
            {
                let expected = format!("1 to {MAX_STATE_AGE_SECONDS} seconds");
                problem(
                    PolicyCode::FederationUnreadable,
                    "accept.max_state_age",
                    &expected,
                    "another number",
                );
            }
            // Of a domain that can be heard silence means denial, and not an age.
            let heard = [
                ("policy", file.policy.is_some()),
                ("brokers", file.brokers.is_some()),
                ("push", file.push),
            ];
            let heard: Vec<&str> = heard
                .iter()
                .filter(|(_, has)| *has)
                .map(|(member, _)| *member)
                .collect();
            if accept.max_state_age.is_some() && !heard.is_empty() {
                problem(
                    PolicyCode::FederationUnreadable,
                    "accept.max_state_age",
                    "a domain without policy, brokers and push, whose state is carried by hand",
                    &heard.join(" "),
                );
            }
            let scopes = scopes(&accept.scopes, |expected, found| {
                problem(PolicyCode::FederationScope, "accept.scopes", expected, found);
            });
            let kinds = accept
                .key_kinds
                .unwrap_or_else(|| vec![KeyKindName::Tpm, KeyKindName::Tee]);
            Narrowing::new(
                scopes,
                &accept.resources,
                kinds.into_iter().map(KeyKind::from),
                accept.max_state_age.map(|seconds| seconds.saturating_mul(1_000)),
            )
        });
        let accept = match accept {
            Some(Ok(narrowing)) => Some(Accept { narrowing }),
            Some(Err(error)) => {
                problem(
                    PolicyCode::FederationScope,
                    "accept",
                    "scopes below one prefix",
                    &error.to_string(),
                );
                None
            }
            None => None,
        };
        PolicyError::unless_empty(problems)?;
        Ok(Self {
            name: name.to_owned(),
            trust,
            depth: file.depth,
            policy: file.policy.unwrap_or_default(),
            brokers: file.brokers.unwrap_or_default(),
            push: file.push,
            issue,
            accept,
        })
    }

    fn file(&self) -> String {
        file_of(&self.name)
    }
}

fn file_of(name: &str) -> String {
    TargetKind::Federation(name.to_owned()).name()
}

/// The root beside the file, if it is the one the digest names and is a root.
fn pinned(digest: &str, root: Option<&[u8]>) -> Result<Vec<u8>, (String, String)> {
    let expected = format!("a root with SHA-256 {digest}");
    let Some(root) = root else {
        return Err((expected, "none".into()));
    };
    let found = hex::encode(Sha256::digest(root));
    if found != digest {
        return Err((expected, found));
    }
    match parse_root(root) {
        Ok(_) => Ok(root.to_vec()),
        Err(error) => Err(("root metadata that signs itself".into(), error)),
    }
}

/// Scopes that foreign authorizations may have.
fn scopes(texts: &[String], mut problem: impl FnMut(&str, &str)) -> Vec<Scope> {
    let most = touchstone_authorization::scope::MAX_SCOPES;
    if texts.is_empty() || texts.len() > most {
        problem(&format!("1 to {most} scopes"), &texts.len().to_string());
    }
    let mut scopes = Vec::new();
    for text in texts.iter().take(most) {
        match Scope::parse(text) {
            Ok(scope) if scopes.contains(&scope) => problem("each scope once", text),
            Ok(scope) if FOREIGN_ACTIONS.contains(&scope.action()) => scopes.push(scope),
            Ok(_) => problem("execute or release", text),
            Err(error) => problem("action:resource", &format!("{text}: {error}")),
        }
    }
    scopes
}

fn is_place(text: &str) -> bool {
    let plain = text.len() <= MAX_PLACE_LEN && text.bytes().all(|b| b.is_ascii_graphic());
    plain && (text.starts_with('/') || text.starts_with("http://") || text.starts_with("https://"))
}

fn is_broker(text: &str) -> bool {
    let host = text.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok());
    text.len() <= MAX_PLACE_LEN
        && text.bytes().all(|b| b.is_ascii_graphic())
        && host.is_some_and(|(host, _)| !host.is_empty() && !host.contains('/'))
}

#[cfg(test)]
mod tests;
