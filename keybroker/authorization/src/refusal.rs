//! Why something is refused: stable codes and what was expected and found.

use core::fmt;

/// The longest text in a refusal, in bytes.
pub const MAX_TEXT: usize = 512;

touchstone_cose::reason_codes! {
    /// Every code this crate refuses with.
    pub enum RefusalCode {
        RequestMalformed = "request-malformed": "The action or resource that was asked for is not a scope. Ask for action:resource in lower case, without wildcards.",
        TrustStateMissing = "trust-state-missing": "The enforcer holds no trust state yet. It refuses until the domain's broker has sent one.",
        TrustStateDomain = "trust-state-domain": "The trust state belongs to another domain. Look at the enforcer's configuration.",
        TrustStateStale = "trust-state-stale": "No fresh trust state within the freshness window. Look whether the enforcer reaches the broker and whether the clocks agree.",
        AuthorizationTooLarge = "authorization-too-large": "The authorization is larger than any valid one.",
        AuthorizationMalformed = "authorization-malformed": "The authorization is not a CWT of this profile.",
        AuthorizationType = "authorization-type": "A signed object of another type was presented as an authorization.",
        AuthorizationKeyUnknown = "authorization-key-unknown": "No authorization key with this key id is valid now in the domain's keyset. Refresh the keyset.",
        AuthorizationSignature = "authorization-signature": "The authorization's signature does not verify: it was altered or forged.",
        AuthorizationIssuer = "authorization-issuer": "The authorization was issued by another domain.",
        AuthorizationAudience = "authorization-audience": "The authorization is meant for another domain.",
        AuthorizationNotYetValid = "authorization-not-yet-valid": "The authorization begins later. If it was just issued, the clocks disagree.",
        AuthorizationExpired = "authorization-expired": "The authorization has run out. Attest again.",
        AuthorizationPolicyUnknown = "authorization-policy-unknown": "The authorization was made under a policy version that the trust state does not know.",
        AuthorizationEpochAhead = "authorization-epoch-ahead": "The authorization is younger than the enforcer's trust state. It passes once the next trust state has arrived.",
        AuthorizationGeneration = "authorization-generation": "The authorization names another generation of the domain. Attest again.",
        AuthorizationListUnknown = "authorization-list-unknown": "The authorization names a status list that the trust state does not vouch for.",
        AuthorizationIndex = "authorization-index": "The authorization's index lies outside its status list.",
        AuthorizationRevoked = "authorization-revoked": "The authorization was withdrawn. The ledger says why.",
        AuthorizationSuspended = "authorization-suspended": "The authorization is suspended. It passes again when the suspension is lifted.",
        AuthorizationStatusUnknown = "authorization-status-unknown": "The status list holds a value without a meaning; such an entry is refused.",
        AuthorizationRegion = "authorization-region": "The authorization counts in one region, and this enforcer is in another or says none. Present it there, or look at the enforcer's configuration.",
        AuthorizationPurpose = "authorization-purpose": "The authorization counts for one purpose, and this enforcer was asked for another or for none.",
        ChainTooLarge = "chain-too-large": "The chain of authorization and delegations is larger than any valid one.",
        ChainMalformed = "chain-malformed": "The chain is not an authorization with the delegations added to it.",
        ChainTooLong = "chain-too-long": "The chain has more delegations than may be added off-line. Ask the broker for an authorization of its own.",
        DelegationTooLarge = "delegation-too-large": "An off-line delegation is larger than any valid one.",
        DelegationMalformed = "delegation-malformed": "An off-line delegation is not one of this profile.",
        DelegationType = "delegation-type": "A signed object of another type was presented as an off-line delegation.",
        DelegationSignature = "delegation-signature": "An off-line delegation was not signed by the holder of the link before it: it was altered or forged.",
        DelegationOrder = "delegation-order": "An off-line delegation was made for another chain: a link was taken out, put in or exchanged.",
        DelegationNotGranted = "delegation-not-granted": "The authorization gives no right to delegate off-line. Ask the broker for an authorization of its own.",
        DelegationDepth = "delegation-depth": "An off-line delegation follows where none may follow any more, or lets more follow than its parent may.",
        DelegationScope = "delegation-scope": "An off-line delegation gives a scope that its parent does not hold, or may not delegate. Delegate only what you hold, on resources you hold delegate for.",
        DelegationAction = "delegation-action": "Only execute and delegate are handed on off-line: no key release, no administration, no bootstrap.",
        DelegationOutlives = "delegation-outlives": "An off-line delegation begins before its parent or ends after it.",
        DelegationLife = "delegation-life": "An off-line delegation counts for longer than five minutes. Make shorter ones, and new ones in time.",
        DelegationRegion = "delegation-region": "An off-line delegation changes or drops the region of its parent.",
        DelegationPurpose = "delegation-purpose": "An off-line delegation changes or drops the purpose of its parent.",
        DelegationLoop = "delegation-loop": "A key or an id stands twice in one chain of delegations.",
        DelegationNotTaken = "delegation-not-taken": "What is asked here takes no off-line delegation, or policy allows only shorter ones. Ask the broker for an authorization of its own.",
        DelegationNotYetValid = "delegation-not-yet-valid": "An off-line delegation begins later. If it was just made, the clocks disagree.",
        DelegationExpired = "delegation-expired": "An off-line delegation has run out. Its parent makes a new one.",
        DelegationRevoked = "delegation-revoked": "An off-line delegation was taken back by its id. The ledger says why.",
        ScopeNotGranted = "scope-not-granted": "The authorization does not grant this action on this resource.",
        ProofTooLarge = "proof-too-large": "The proof of possession is larger than any valid one.",
        ProofMalformed = "proof-malformed": "The proof of possession is not one of this profile.",
        ProofType = "proof-type": "A signed object of another type was presented as a proof of possession.",
        ProofSignature = "proof-signature": "The proof was not signed by the key the authorization is bound to: the authorization is another's.",
        ProofAudience = "proof-audience": "The proof of possession was made for another enforcer.",
        ProofAuthorization = "proof-authorization": "The proof of possession was made for another authorization.",
        ProofAction = "proof-action": "The proof of possession was made for another action or resource.",
        ProofChannelMissing = "proof-channel-missing": "This enforcer accepts only proofs over its own challenge or TLS connection, and the proof or the request has none.",
        ProofChallenge = "proof-challenge": "The proof answers another challenge: it was replayed or relayed.",
        ProofExporter = "proof-exporter": "The proof belongs to another TLS connection: it was replayed or relayed.",
        ProofRequestMissing = "proof-request-missing": "Without a challenge or a TLS connection the proof must be over the digest of the request.",
        ProofRequest = "proof-request": "The proof was made for another request.",
        ProofTime = "proof-time": "The proof is older or younger than 5 seconds.",
        ProofReplayed = "proof-replayed": "This proof was used before.",
        ReplayMemoryFull = "replay-memory-full": "The enforcer remembers as many proofs as it may. It accepts new ones as the old ones run out.",
        ChallengeUnknown = "challenge-unknown": "The proof answers no open challenge of this enforcer: never given, used before, or too old. Ask for a new one.",
        PolicyExpired = "enforcer-policy-expired": "The policy that the enforcer holds has run out, and it could not load a newer one: keys may have been withdrawn. Publish, and look whether the enforcer reaches the repository.",
        TimeUnknown = "time-unknown": "The enforcer does not know the broker's time, or its own clock contradicts it. It refuses until they agree.",
        EnforcerFull = "enforcer-full": "The enforcer watches over as many authorizations as it may. It accepts new ones as the old ones run out.",
        FederatedDomainUnknown = "federated-domain-unknown": "The authorization was issued by a domain that the signed policy of this one lets nobody in from, or whose keys are not known here yet. Look at federation list.",
        FederatedStateMissing = "federated-state-missing": "No trust state of the issuing domain has arrived here. Look whether the brokers follow it, or import a bundle.",
        FederatedStateDomain = "federated-state-domain": "What was sent as the trust state of one domain belongs to another.",
        FederatedDomainStale = "federated-domain-stale": "The trust state of the issuing domain, or of one on the way to it, is no longer fresh, so its authorizations count no more. Look whether the brokers reach that domain.",
        FederatedStateOld = "federated-state-too-old": "The trust state of the issuing domain was carried here by hand and is older than max_state_age allows. Carry a newer bundle.",
        FederatedClock = "federated-clock": "The trust state of the issuing domain was made later than now: one of the two clocks is wrong.",
        FederatedKeysetOlder = "federated-keyset-older": "The issuing domain has a newer keyset than the one known here, so its keys may have been withdrawn. It passes once its policy repository has been copied again.",
        FederatedPolicyExpired = "federated-policy-expired": "The copy of the issuing domain's policy has run out. That domain must publish, and the brokers must reach it.",
        FederatedPolicySuperseded = "federated-policy-superseded": "The issuing domain's policy has changed since the authorization was made, and may no longer issue it. The node fetches another one once it has been appraised under the new policy.",
        FederatedScope = "federated-scope-not-permitted": "The policy of this domain does not let authorizations of the issuing one do this. The list in its federation file is all they may do.",
        FederatedKeyKind = "federated-key-kind": "The policy of this domain takes no authorizations of the issuing one whose key is kept in such a place.",
        FederatedName = "federated-name": "The subject's name is too long once its domain stands before it.",
        TrustStateTooLarge = "trust-state-too-large": "The trust state is larger than any valid one.",
        TrustStateMalformed = "trust-state-malformed": "The trust state is not one of this profile.",
        TrustStateType = "trust-state-type": "A signed object of another type was sent as a trust state.",
        TrustStateKeyUnknown = "trust-state-key-unknown": "No trust-state key with this key id is valid now in the domain's keyset.",
        TrustStateSignature = "trust-state-signature": "The trust state's signature does not verify: it was altered or forged.",
        TrustStateEpochBack = "trust-state-epoch-back": "The trust state is older than the one held: it was replayed, or the broker was set back.",
        TrustStateForked = "trust-state-forked": "Two trust states of the same epoch say different things: somebody shows two histories. Keep both and look into it.",
        TrustStateFreshUntilBack = "trust-state-fresh-until-back": "A heartbeat that is older than the one held: it was replayed or came out of order.",
        TrustStateLedgerBack = "trust-state-ledger-back": "The ledger in the trust state is shorter than the one seen before.",
        TrustStateBodyMissing = "trust-state-body-missing": "The lists that the trust state vouches for did not come with it and are not held. Fetch the whole trust state.",
        TrustStateDeltaBase = "trust-state-delta-base": "The delta builds on an epoch that is not held. Fetch the whole trust state.",
        TrustStateInflated = "trust-state-inflated": "A list in the trust state inflates to another length than the head says.",
        TrustStateDigest = "trust-state-digest": "A list in the trust state does not have the digest in the signed head.",
        TrustStateRevokedIds = "trust-state-revoked-ids": "The revoked ids in the trust state are not those that the signed head vouches for. Fetch the whole trust state.",
        AckTooLarge = "ack-too-large": "The acknowledgement is larger than any valid one.",
        AckMalformed = "ack-malformed": "The acknowledgement is not one of this profile.",
        AckType = "ack-type": "A signed object of another type was sent as an acknowledgement.",
        AckKeyUnknown = "ack-key-unknown": "No enforcer in the signed policy has the key that this acknowledgement names. Add it with policy enforcer add.",
        AckSignature = "ack-signature": "The acknowledgement's signature does not verify: it was altered or forged.",
        AckName = "ack-name": "An enforcer acknowledged in the name of another.",
        AckDomain = "ack-domain": "The acknowledgement is about the trust state of another domain.",
        UseTooLarge = "use-too-large": "The report of a use is larger than any valid one.",
        UseMalformed = "use-malformed": "The report of a use is not one of this profile.",
        UseType = "use-type": "A signed object of another type was sent as the report of a use.",
        UseKeyUnknown = "use-key-unknown": "No enforcer in the signed policy has the key that this report names. Add it with policy enforcer add.",
        UseSignature = "use-signature": "The report's signature does not verify: it was altered or forged.",
        UseName = "use-name": "An enforcer reported a use in the name of another.",
        UseDomain = "use-domain": "The report is meant for another domain.",
        CommandTooLarge = "command-too-large": "The command is larger than any valid one.",
        CommandMalformed = "command-malformed": "The command is not one of this profile.",
        CommandType = "command-type": "A signed object of another type was sent as a command.",
        CommandKeyUnknown = "command-key-unknown": "No operator in the signed policy has the key that this command names. Add it with policy operator add.",
        CommandSignature = "command-signature": "The command's signature does not verify: it was altered or forged.",
        CommandName = "command-name": "An operator ordered in the name of another.",
        CommandDomain = "command-domain": "The command is meant for another domain.",
        CommandOver = "command-over": "The command's time is over. Look at what it would do now, and sign it again.",
        CommandLife = "command-life": "The command would count for longer than five minutes. Sign one that ends sooner.",
    }
}

impl RefusalCode {
    /// Whether it is about what a holder may do now, rather than about who the holder is or whether the request is its
    /// own.
    #[must_use]
    pub const fn is_about_a_known_subject(self) -> bool {
        matches!(
            self,
            Self::AuthorizationNotYetValid
                | Self::AuthorizationExpired
                | Self::AuthorizationPolicyUnknown
                | Self::AuthorizationEpochAhead
                | Self::AuthorizationGeneration
                | Self::AuthorizationListUnknown
                | Self::AuthorizationIndex
                | Self::AuthorizationRevoked
                | Self::AuthorizationSuspended
                | Self::AuthorizationStatusUnknown
                | Self::AuthorizationRegion
                | Self::AuthorizationPurpose
                | Self::DelegationNotYetValid
                | Self::DelegationExpired
                | Self::DelegationRevoked
                | Self::ScopeNotGranted
        )
    }

    /// Whether it ends when a suspension is lifted: what runs is frozen and kept, not killed.
    #[must_use]
    pub const fn is_suspension(self) -> bool {
        matches!(self, Self::AuthorizationSuspended)
    }
}

/// One reason why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// The stable code.
    pub code: RefusalCode,
    /// What would have been accepted.
    pub expected: String,
    /// What was there instead. At most [`MAX_TEXT`] bytes, printable ASCII; never a secret.
    pub found: String,
}

impl Refusal {
    /// Makes a refusal; both texts are cut to [`MAX_TEXT`] bytes and what is not printable ASCII becomes `?`.
    pub fn new(code: RefusalCode, expected: impl fmt::Display, found: impl fmt::Display) -> Self {
        Self {
            code,
            expected: printable(&expected.to_string()),
            found: printable(&found.to_string()),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}, found {}", self.code, self.expected, self.found)
    }
}

/// Whether nothing but a suspension speaks against a request: then what runs is frozen and kept. With any other reason
/// beside it, and with none at all, it is not.
#[must_use]
pub fn only_suspended(refusals: &[Refusal]) -> bool {
    !refusals.is_empty() && refusals.iter().all(|refusal| refusal.code.is_suspension())
}

/// `text` with everything that a terminal or a log could interpret replaced.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .take(MAX_TEXT)
        .map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' })
        .collect()
}

/// Bytes in hexadecimal, for the texts of refusals.
pub(crate) struct Hex<'a>(pub &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_kebab_case() {
        let mut seen = std::collections::BTreeSet::new();
        for row in RefusalCode::CATALOGUE {
            assert!(seen.insert(row.code), "{} twice", row.code);
            assert!(
                row.code.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'),
                "{}",
                row.code
            );
            assert!(row.meaning.ends_with('.'), "{}", row.code);
        }
    }

    #[test]
    fn hostile_text_is_defused_and_cut() {
        let refusal = Refusal::new(
            RefusalCode::ProofAudience,
            "a",
            format!("\u{1b}[31m\n{}", "x".repeat(2000)),
        );
        assert_eq!(refusal.found.len(), MAX_TEXT);
        assert!(refusal.found.starts_with("?[31m?x"));
    }
}
