//! What statements are about, and what came of them.

/// What a statement is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The first leaf of a log: which domain, which generation.
    Genesis,
    /// An EK was tied to a node and an AK to the EK.
    Enrolment,
    /// Evidence of an authenticated subject was appraised and decided on.
    Attestation,
    /// The same again, with nothing changed.
    Renewal,
    /// Rights were withdrawn.
    Revocation,
    /// A policy version came into force.
    PolicyActivation,
    /// A set of the domain's keys came into force.
    Keyset,
    /// How many requests were refused before authentication, by reason.
    RefusalSummary,
    /// An operator put or rotated a key.
    KeyChange,
    /// An authenticated subject asked for a key.
    KeyRelease,
    /// An authenticated subject asked for an authorization that counts in another domain.
    FederatedAuthorization,
    /// Another domain's policy, with its keys, was taken over for what it may do here.
    FederationUpdate,
    /// An operator took the decommissioning of a node back.
    Reinstatement,
    /// Another broker of the domain governs otherwise, or no longer does.
    Divergence,
    /// A workload, under its node or another workload, asked for an authorization of its own.
    WorkloadAuthorization,
    /// A holder asked for a narrower authorization for another under its own.
    Delegation,
    /// An enforcer reported a chain with off-line blocks, at its first use.
    ChainReport,
    /// Enforcers reported what authorizations were used for.
    UseReport,
    /// Rights were suspended: kept, and of no use until the quarantine is lifted.
    Quarantine,
    /// A quarantine or a containment was lifted: what it took comes back with fresh good evidence.
    Lift,
    /// A zone or the whole domain was suspended, because of one of its members or by command.
    Containment,
    /// Which enforcers acknowledged that something was taken away, and who did not in time.
    RevocationClosure,
    /// A detector that policy names reported an event about a subject.
    SecurityEvent,
    /// A node changed between trusted, stale, unreachable, refused and quarantined.
    Standing,
    /// An operator commanded something, signed or on the machine itself.
    Command,
    /// Status entries whose last authorization is long over are to be dealt out anew.
    StatusFreed,
    /// The broker's last run did not end in order: what still counted was suspended until it shows itself.
    Interruption,
}

impl Kind {
    /// Every kind.
    pub const ALL: &'static [Self] = &[
        Self::Genesis,
        Self::Enrolment,
        Self::Attestation,
        Self::Renewal,
        Self::Revocation,
        Self::PolicyActivation,
        Self::Keyset,
        Self::RefusalSummary,
        Self::KeyChange,
        Self::KeyRelease,
        Self::FederatedAuthorization,
        Self::FederationUpdate,
        Self::Reinstatement,
        Self::Divergence,
        Self::WorkloadAuthorization,
        Self::Delegation,
        Self::ChainReport,
        Self::UseReport,
        Self::Quarantine,
        Self::Lift,
        Self::Containment,
        Self::RevocationClosure,
        Self::SecurityEvent,
        Self::Standing,
        Self::Command,
        Self::StatusFreed,
        Self::Interruption,
    ];

    /// Its name in statements.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Genesis => "genesis",
            Self::Enrolment => "enrolment",
            Self::Attestation => "attestation",
            Self::Renewal => "renewal",
            Self::Revocation => "revocation",
            Self::PolicyActivation => "policy-activation",
            Self::Keyset => "keyset",
            Self::RefusalSummary => "refusal-summary",
            Self::KeyChange => "key-change",
            Self::KeyRelease => "key-release",
            Self::FederatedAuthorization => "federated-authorization",
            Self::FederationUpdate => "federation-update",
            Self::Reinstatement => "reinstatement",
            Self::Divergence => "divergence",
            Self::WorkloadAuthorization => "workload-authorization",
            Self::Delegation => "delegation",
            Self::ChainReport => "chain-report",
            Self::UseReport => "use-report",
            Self::Quarantine => "quarantine",
            Self::Lift => "lift",
            Self::Containment => "containment",
            Self::RevocationClosure => "revocation-closure",
            Self::SecurityEvent => "security-event",
            Self::Standing => "standing",
            Self::Command => "command",
            Self::StatusFreed => "status-freed",
            Self::Interruption => "interruption",
        }
    }

    /// The kind with this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == name)
    }
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The subject was granted what it asked for.
    Allow,
    /// It was refused, for at least one reason.
    Deny,
    /// Nothing was decided; an event is on record.
    Recorded,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: &'static [Self] = &[Self::Allow, Self::Deny, Self::Recorded];

    /// Its name in statements.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Recorded => "recorded",
        }
    }

    /// The outcome with this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|outcome| outcome.as_str() == name)
    }
}
