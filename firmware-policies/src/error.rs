//! Why a policy repository, or something staged for one, was refused: stable codes, the file, the role, its version and
//! the rule, in words.

use std::fmt;
use std::path::Path;

use touchstone_verifier::reason::sanitise;

/// Longest text of one field of a [`Problem`], in bytes.
pub const MAX_PROBLEM_TEXT: usize = 512;
/// Most problems one [`PolicyError`] reports; what is beyond is only counted.
pub const MAX_PROBLEMS: usize = 64;

touchstone_cose::reason_codes! {
    /// Why a policy repository was refused, or something could not be staged or published.
    pub enum PolicyCode {
        // The repository as a whole (TUF 1.0.34, 5).
        NotPublished = "policy-not-published": "The policy repository has no published version yet. Run policy publish.",
        RootMissing = "policy-root-missing": "The policy repository has no first root. Give the root with --root, or copy the repository again.",
        RootInvalid = "policy-root-invalid": "The root that was given is not TUF root metadata signed by its own keys. Get the root from the domain's owner again.",
        RootMismatch = "policy-root-mismatch": "The repository's root is not the one that was pinned, and does not follow from it. This is another domain's repository, or a forged one.",
        MetadataMissing = "policy-metadata-missing": "A metadata file of the policy repository is missing. Copy the repository again, whole.",
        MetadataUnreadable = "policy-metadata-unreadable": "A metadata file of the policy repository could not be read as TUF metadata. It is damaged.",
        MetadataMismatch = "policy-metadata-mismatch": "A metadata file is not the one the signed metadata names. The repository was replaced in part.",
        MetadataTooLarge = "policy-metadata-too-large": "A metadata file of the policy repository is larger than any honest one. It was not read to its end.",
        SignatureInvalid = "policy-signature-invalid": "A metadata file is not signed by enough keys of its role. It is unsigned, altered, or signed by someone else.",
        Rollback = "policy-rollback": "The policy repository is older than one that was already accepted. Someone serves an old copy.",
        ClockWentBack = "policy-clock-went-back": "The time given is before a time at which this policy was already accepted. Set the clock right.",
        RootExpired = "policy-root-expired": "The root of the policy repository has expired. Publish again with the root key.",
        TargetsExpired = "policy-targets-expired": "The signed list of policy targets has expired. Publish again.",
        SnapshotExpired = "policy-snapshot-expired": "The policy snapshot has expired. Publish again.",
        TimestampExpired = "policy-timestamp-expired": "The policy timestamp has expired: the repository is stale, or someone keeps newer versions back. Publish again, or copy the newest version.",
        DelegationUnknown = "policy-delegation-unknown": "The repository delegates targets to a role that is not a region's, or a region's role delegates further. Neither is followed.",
        DelegationRefused = "policy-delegation-refused": "A delegation to a region is not what one must be: terminating, once a region, to at most 32 keys, with paths below regions/<its name>/ only. Delegate to it anew.",
        KeyRepeated = "policy-key-repeated": "A key is listed twice, so that one signer would count as two: in one role, or in two roles of the root and the regions. Give each role keys of its own.",
        RegionOutside = "policy-region-outside": "A region's role signs a target outside of regions/<its name>/. A region signs for itself only, never for another or for the whole.",
        TargetOfRegion = "policy-target-of-region": "The list of the whole names a target in the folder of a region that has keys of its own. Only the region's keys sign there.",
        RegionExpired = "policy-region-expired": "What the region signed has expired, so nothing of it is granted. The region must sign again.",
        SnapshotLife = "policy-snapshot-life": "The policy snapshot says that it lives longer than the signed settings let one live, so that a version could be kept back for longer. Its keys were used by someone else, or its publisher's clock or this one is wrong. Set the clock right, or change the keys and publish again.",
        TimestampLife = "policy-timestamp-life": "The policy timestamp says that it lives longer than the signed settings let one live, so that a version could be kept back for longer. Its keys were used by someone else, or its publisher's clock or this one is wrong. Set the clock right, or change the keys and publish again.",
        // Where it comes from.
        SourceInvalid = "policy-source-invalid": "The place of the policy repository is neither a folder nor an http:// or https:// URL that can be used. For https, name the certificate authorities.",
        SourceUnreachable = "policy-source-unreachable": "The server of the policy repository could not be reached, or did not answer with the file. Nothing was taken from it.",
        SourceSlow = "policy-source-slow": "The server of the policy repository sends more slowly than any honest one. Nothing was taken from it.",
        // Targets.
        TargetUnknown = "policy-target-unknown": "The signed list names a target this version does not know, so its meaning cannot be honoured. Update, or remove the target.",
        TargetRequired = "policy-target-required": "The signed list lacks a target without which nothing can be decided.",
        TargetMissing = "policy-target-missing": "A target of the signed list is not in the repository. Copy the repository again, whole.",
        TargetMismatch = "policy-target-mismatch": "A target is not the file that was signed: its length or digest differs. It was altered.",
        TargetTooLarge = "policy-target-too-large": "A target is larger than its kind may be.",
        TargetsTooMany = "policy-targets-too-many": "The repository holds more targets, nodes, keys or certificates than this version takes.",
        // settings.toml.
        SettingsUnreadable = "policy-settings-unreadable": "settings.toml could not be read: it is not TOML, or has an unknown, missing or wrong key.",
        SettingsEmptyList = "policy-settings-empty-list": "A list in settings.toml is empty. An empty list never means any: name what is meant.",
        SettingsName = "policy-settings-name": "A domain or region name is not lower-case letters, digits, dots and hyphens, at most 63 of them.",
        SettingsGeneration = "policy-settings-generation": "The generation in settings.toml is 0. Generations start at 1.",
        TimerZero = "policy-timer-zero": "A timer is 0. Every timer is at least a millisecond.",
        TimerTooLong = "policy-timer-too-long": "A timer is longer than a year.",
        TimerWindowShort = "policy-timer-window-short": "Three heartbeats, failover and skew do not fit into the freshness window, so good enforcers would stop.",
        TimerWindowOverLife = "policy-timer-window-over-life": "The freshness window is longer than an authorization lives.",
        TimerRenewalOverLife = "policy-timer-renewal-over-life": "Attestation interval, retry and failover together are longer than an authorization lives, so it could not be renewed in time.",
        TimerDeadlineOverLife = "policy-timer-deadline-over-life": "The attestation deadline is longer than an authorization lives.",
        TimerGraceOverLife = "policy-timer-grace-over-life": "The attestation deadline and the grace after it are together longer than an authorization lives, so the grace would say nothing.",
        TimerIntervalOverDeadline = "policy-timer-interval-over-deadline": "Attestation interval with jitter and one retry are longer than the attestation deadline, so good nodes would miss it.",
        TimerTtlOverExp = "policy-timer-ttl-over-exp": "A status list may be cached for longer than it is valid.",
        TimerPublishPeriod = "policy-timer-publish-period": "The publisher renews the timestamp less than three times in its life.",
        TimerTimestampLife = "policy-timer-timestamp-life": "The timestamp lives longer than a day, or longer than the snapshot it names.",
        TimerSnapshotLife = "policy-timer-snapshot-life": "The snapshot lives longer than seven days.",
        TimerJitter = "policy-timer-jitter": "The attestation jitter is over 50 percent.",
        RegisterRefused = "policy-register-refused": "A register is named that cannot serve here: it does not exist, software can reset it, or it moves while the machine runs.",
        BankRefused = "policy-bank-refused": "A register bank is named that is weak or that this version does not judge. Use sha256, sha384 or sha512.",
        SessionRegisters = "policy-session-registers": "Session keys are tied to a register that is not among the required ones, so its value would not be quoted.",
        PathRule = "policy-path-rule": "A path rule of ima.exclude is not an absolute path with its first folder spelled out, * within a name and /** only at the end.",
        SettingUnknown = "policy-setting-unknown": "A key is named that settings.toml does not have. Use one that it has; the nearest is named.",
        SettingValue = "policy-setting-value": "A setting is not given as KEY=VALUE with a TOML value or a bare word, or is given twice. Quote what the shell would change.",
        ScopeInvalid = "policy-scope-invalid": "A scope is not action:resource with a known action and no wildcards.",
        FirstUseInvalid = "policy-first-use-invalid": "The setting that lets machines enrol on first use is not one: it has a beginning, an end at most 31 days later, a region, roles, a prefix for names and a number.",
        ContainmentInvalid = "policy-containment-invalid": "The setting for containment is not one: a reach of subject, zone or cluster, and beyond the subject the roles whose failure reaches so far.",
        DelegationInvalid = "policy-delegation-invalid": "The setting for workloads and delegation is beyond what there can be, or allows something for no time, to no depth or to nobody. Use the numbers named.",
        StatusListUri = "policy-status-list-uri": "The address of the status list is not an http:// or https:// address without fragment, of at most 512 printable characters.",
        // What regions say.
        RegionsUnreadable = "policy-regions-unreadable": "regions.toml could not be read: it is not the TOML form, or has an unknown or wrong key or name.",
        RegionSettingsUnreadable = "policy-region-settings-unreadable": "A region's settings could not be read: they are not TOML, or have a wrong key, or one that a region has no say in.",
        RegionWidens = "policy-region-widens": "A region's setting is wider than the whole's. A region only narrows: make it as strict as the value named, or take the key out.",
        RegionRole = "policy-region-role": "A region gives a node a role that the whole has not delegated to it. Take the role out, or have it listed for the region in regions.toml.",
        RegionOwner = "policy-region-owner": "A region gives a node to an owner that the whole has not delegated to it. Take the owner out, or have it listed for the region in regions.toml.",
        RegionReference = "policy-region-reference": "A region's reference is of a class that the whole has not delegated to it. Take it out, or have its class listed for the region in regions.toml.",
        // Other targets.
        NodeUnreadable = "policy-node-unreadable": "A node file could not be read: it is not the JSON form, or has an unknown, missing or wrong key.",
        NodeOutsideRegion = "policy-node-outside-region": "A node is named or placed where its file does not stand: below regions/<id>/nodes/ every node is called <id>/<file> and is in that region, and elsewhere no name has a slash.",
        TenantsUnreadable = "policy-tenants-unreadable": "tenants.toml could not be read: it is not the TOML form, lists nobody, or has an unknown, missing or wrong key.",
        TenantNode = "policy-tenant-node": "A node is not told apart from those of other tenants: its owner is no tenant, or its name is not <tenant>.<name> of the tenant who owns it.",
        OperatorsUnreadable = "policy-operators-unreadable": "operators.toml could not be read: it is not the TOML form, lists nobody, or has an unknown, missing or wrong key, name, command or region.",
        DetectorsUnreadable = "policy-detectors-unreadable": "detectors.toml could not be read: it is not the TOML form, lists nobody, or has an unknown, missing or wrong key, address, reach or subject.",
        EnforcersUnreadable = "policy-enforcers-unreadable": "enforcers.toml could not be read: it is not the TOML form, lists nobody, or has an unknown, missing or wrong key, name or region.",
        NetworkUnreadable = "policy-network-unreadable": "network.toml could not be read: it is not the TOML form, opens nothing, or has an unknown, missing or wrong scope or address. Only exact addresses, prefixes and ports open anything.",
        KeyOfTwo = "policy-key-of-two": "One public key is listed for two jobs or for two names. Whoever signs is told by the key alone: make a key for each.",
        NodeIdentityMissing = "policy-node-identity-missing": "A node entry names no hardware identity.",
        ImaKeyUnreadable = "policy-ima-key-unreadable": "An IMA signer's key is not an X.509 certificate or public key (RSA of 2048 bits or more, NIST curve), or its name is not its digest.",
        AnchorUnreadable = "policy-anchor-unreadable": "A trust anchor is not an X.509 certificate that can be used, or its name is not its digest.",
        CrlRefused = "policy-crl-refused": "A revocation list cannot be used: it is not a complete list signed by a CA that this repository lists, or it is older than one that is there. Add the CA with policy trust add first.",
        DenyUnreadable = "policy-deny-unreadable": "deny.toml could not be read: it is not the TOML form, denies nothing, or has an unknown, missing or wrong key.",
        ReferenceRefused = "policy-reference-refused": "A reference value file is unsigned, not by a listed signer, expired or unreadable, so the whole repository is refused.",
        SignersUnreadable = "policy-signers-unreadable": "signers.json could not be read: it is not the JSON form, or has an unknown, missing or wrong key.",
        KeysetUnreadable = "policy-keyset-unreadable": "keyset.json could not be read: it is not the JSON form, or has an unknown, missing or wrong key.",
        KeysetDuplicate = "policy-keyset-duplicate": "The keyset names a key twice. One key has one job.",
        KeysetValidity = "policy-keyset-validity": "A key of the keyset ends before it begins.",
        SchemaInvalid = "policy-schema-invalid": "schema.cedarschema is not a Cedar schema, or does not fit the requests that are made.",
        CedarInvalid = "policy-cedar-invalid": "A Cedar policy does not parse, or does not hold against the schema. Nothing is decided by a policy that may err.",
        CedarEmpty = "policy-cedar-empty": "A Cedar policy file holds no policy. To refuse everything, say so with a forbid.",
        // Federation.
        FederationUnreadable = "policy-federation-unreadable": "A federation file could not be read: it is not the TOML form, names another domain, or has an unknown, missing or wrong key.",
        FederationRoot = "policy-federation-root": "A federation file and the root metadata beside it do not belong together, or nothing says where trust in that domain begins. Run federation trust again with its root.",
        FederationScope = "policy-federation-scope": "A federation file names scopes that authorizations of another domain cannot have: execute and release only, each once, each below the prefix of its resources.",
        FederationPath = "policy-federation-path": "Trust over other domains goes further than the depth of the first one allows, or the path is not one. Raise the depth, or trust the domain directly.",
        FederationPrefix = "policy-federation-prefix": "Two federated domains have overlapping prefixes, so one could mean the other's resources. Give each its own.",
        FederationWider = "policy-federation-wider": "A domain that is trusted over another may do something here that the other may not. Take it out of its scopes.",
        ForeignRefused = "policy-foreign-refused": "The copy of another domain's policy repository does not verify from the root that is trusted, or is not whole. If its root was rotated while nobody looked, trust it again by command.",
        TestUnreadable = "policy-test-unreadable": "A file of policy tests could not be read: it is not TOML, has an unknown, missing or wrong key, or a case that tests nothing.",
        TestFailed = "policy-test-failed": "A policy test of the repository does not come out as it says. Correct the policy, or the test where the policy is right; touchstone policy test shows them all.",
        // Authoring.
        AlreadyInitialised = "policy-already-initialised": "The folder is a policy repository already. Choose another folder.",
        KeyFileExposed = "policy-key-file-exposed": "A private key file can be read or changed by others. Set its mode to 0600, and replace the key if others may have read it.",
        KeyFileInvalid = "policy-key-file-invalid": "A key file is not an Ed25519 private key in PKCS#8 PEM, plain or encrypted with PBES2, nor a .pkcs11 or .pub file of the form described. Make it with policy key make.",
        KeyMissing = "policy-key-missing": "The key folder lacks keys of a role that must sign.",
        KeyDuplicate = "policy-key-duplicate": "A key is listed twice, for one role or for two. Each signature must be another key's: make a key for each.",
        KeyPassphrase = "policy-key-passphrase": "A key file is encrypted and was not opened, or is to be encrypted with too short words. Give its passphrase with --passphrase-file or at a terminal.",
        KeyToken = "policy-key-token": "A key's token could not be reached, or does not hold the key as it should. Look at the .pkcs11 file, the token and the PIN.",
        ThresholdNotMet = "policy-threshold-not-met": "Too few keys of a role have signed. Have more of its keys sign the same proposal, and give their signature files to policy publish.",
        SignatureOther = "policy-signature-other-proposal": "A signature file was made over another proposal. Have this proposal signed.",
        SignatureUnreadable = "policy-signature-unreadable": "A signature file could not be read: it is not the JSON form, or has an unknown, missing or wrong key. Copy it again.",
        SignatureKeyUnknown = "policy-signature-key-unknown": "A signature is by a key that its role does not list: it was rotated out, or is a stranger's. Sign with a key of the role.",
        ProposalUnreadable = "policy-proposal-unreadable": "A proposal could not be read: it is not the folder that policy propose writes, or says more than it may. Make it, or copy it, again.",
        ProposalStale = "policy-proposal-stale": "A proposal does not follow the published version: someone else has published since, or it is for another domain. Propose and sign again.",
        ProposalOther = "policy-proposal-other": "The proposal is not the one whose digest was given. It was changed on its way.",
        RootChange = "policy-root-change": "The change of the root cannot be made: it names a key or role that is not there, or leaves a role with fewer keys than must sign.",
        KeyNotInRoot = "policy-key-not-in-root": "No key in the key folder is a key of this repository's root for its role. Use the folder made with the repository.",
        PublishBusy = "policy-publish-busy": "Someone else is changing this policy repository now. Try again when they are done.",
        NodeConflict = "policy-node-conflict": "A node of this name exists with another hardware identity or place. Names are never given to other hardware.",
        IdentityConflict = "policy-identity-conflict": "This hardware identity belongs to another node of the inventory. One machine has one name.",
        IdentityUnreadable = "policy-identity-unreadable": "The file is not a certificate, public key or TPM public area that can name a node.",
        IdentityRefused = "policy-identity-refused": "The key is not one that can name a node: an attestation key must be a restricted signing key made in its TPM.",
        EvidenceUnreadable = "policy-evidence-unreadable": "The evidence could not be read.",
        EvidenceRefused = "policy-evidence-refused": "The evidence does not hold together (signature, quoted values or log), so no reference value and no identity is taken from it.",
        ArtefactRefused = "policy-artefact-refused": "An artefact could not be read, or what a machine would measure of it cannot be known from it. Take the reference from a golden machine with reference add.",
        BaseUnsuitable = "policy-base-unsuitable": "The base of a computed reference is not in the repository, or does not explain the register that is to change. Make it from evidence with an event log.",
        VendorRefused = "policy-vendor-refused": "A vendor's CoRIM is unsigned, altered, by a signer this domain does not list, or says something else than values of TPM registers. None of it is used.",
        SignerUnreadable = "policy-signer-unreadable": "The signer's file is not an X.509 certificate or public key of a kind that may sign reference values (Ed25519, P-256, P-384).",
        SignerConflict = "policy-signer-conflict": "A signer of this name, or with this key, is listed already with something else. Choose another name.",
        ReferenceConflict = "policy-reference-conflict": "A reference of this name exists with other values. Choose another name.",
        KeysetOlder = "policy-keyset-older": "The keyset's version is not above the published one.",
        Io = "policy-io": "A file could not be read or written.",
    }
}

/// One problem: a stable code, what it is about, what was expected and what was found.
///
/// Ordered by code (declaration order), then claim, then the words.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The stable code.
    pub code: PolicyCode,
    /// The file, role or setting, with its version where it has one: `timestamp.json (timestamp, version 7)`.
    pub claim: String,
    /// The rule, in words.
    pub expected: String,
    /// What was found.
    pub found: String,
}

impl Problem {
    /// A problem whose texts are made safe to show and bounded by [`MAX_PROBLEM_TEXT`].
    pub fn new(
        code: PolicyCode,
        claim: impl fmt::Display,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> Self {
        let text = |t: String| sanitise(&t, MAX_PROBLEM_TEXT);
        Self {
            code,
            claim: text(claim.to_string()),
            expected: text(expected.to_string()),
            found: text(found.to_string()),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}: expected {}, found {}",
            self.code, self.claim, self.expected, self.found
        )
    }
}

/// Everything that is wrong: at least one [`Problem`], sorted, each once, at most [`MAX_PROBLEMS`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyError {
    problems: Vec<Problem>,
    more: usize,
}

impl PolicyError {
    /// One problem.
    pub fn new(
        code: PolicyCode,
        claim: impl fmt::Display,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> Self {
        Self {
            problems: vec![Problem::new(code, claim, expected, found)],
            more: 0,
        }
    }

    /// `Ok` if `problems` is empty, otherwise all of them as one error.
    ///
    /// # Errors
    /// [`PolicyError`] with the problems, sorted.
    pub fn unless_empty(mut problems: Vec<Problem>) -> Result<(), PolicyError> {
        if problems.is_empty() {
            return Ok(());
        }
        problems.sort();
        problems.dedup();
        let more = problems.len().saturating_sub(MAX_PROBLEMS);
        problems.truncate(MAX_PROBLEMS);
        Err(PolicyError { problems, more })
    }

    /// A failed file operation.
    pub fn io(path: &Path, doing: &str, error: &std::io::Error) -> Self {
        Self::new(PolicyCode::Io, path.display(), doing, error)
    }

    /// Every problem, sorted.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The code of the first problem.
    pub fn code(&self) -> PolicyCode {
        self.problems.first().map_or(PolicyCode::Io, |p| p.code)
    }

    /// Every problem as (code, claim, expected, found).
    pub fn reasons(&self) -> Vec<(&'static str, String, String, String)> {
        self.problems
            .iter()
            .map(|p| (p.code.as_str(), p.claim.clone(), p.expected.clone(), p.found.clone()))
            .collect()
    }

    /// Whether this is a failure of the file system or the network, and no verdict about the repository.
    pub fn is_io(&self) -> bool {
        let outside = [PolicyCode::Io, PolicyCode::SourceUnreachable, PolicyCode::SourceSlow];
        self.problems.iter().all(|p| outside.contains(&p.code))
    }

    /// The problems, to join them with others.
    pub fn into_problems(self) -> Vec<Problem> {
        self.problems
    }
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            write!(f, "{}{problem}", if i == 0 { "" } else { "; " })?;
        }
        if self.more > 0 {
            write!(f, "; and {} more", self.more)?;
        }
        Ok(())
    }
}

impl std::error::Error for PolicyError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_explained_kebab_case_and_begin_with_policy() {
        for entry in PolicyCode::CATALOGUE {
            assert!(
                entry.code.starts_with("policy-") && entry.meaning.ends_with('.'),
                "{}",
                entry.code
            );
        }
    }

    #[test]
    fn problems_are_sorted_once_and_bounded() {
        let problem = |n: usize| {
            Problem::new(
                PolicyCode::NodeUnreadable,
                format!("nodes/{n:03}.json"),
                "JSON",
                "a\u{1b}[31m",
            )
        };
        let error =
            PolicyError::unless_empty((0..100).rev().flat_map(|n| [problem(n), problem(n)]).collect()).unwrap_err();
        assert_eq!(error.problems().len(), MAX_PROBLEMS);
        assert_eq!(error.problems().first(), Some(&problem(0)));
        assert!(error.to_string().ends_with("and 36 more") && !error.to_string().contains('\u{1b}'));
        assert_eq!(PolicyError::unless_empty(Vec::new()), Ok(()));
    }
}
