//! In what state a node stands, in words that mean different things to whoever has to act.

use serde::Serialize;

/// The four states an agent can be in (`design.md` 3.9). `unreachable` and `refused` are never confused: one is about
/// the network, the other about the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Standing {
    /// The last evidence was affirmed and its authorization is still good.
    Trusted {
        /// When the authorization ends, Unix seconds.
        until: i64,
    },
    /// There was an authorization; it has run out or was withdrawn, and no decision has replaced it.
    Stale {
        /// Why there is no newer one.
        because: String,
    },
    /// No broker answers; what rests on the authorization lives until it runs out.
    Unreachable {
        /// When the authorization ends, Unix seconds; `None` where there is none.
        until: Option<i64>,
        /// The last failure.
        because: String,
    },
    /// A broker judged this node's evidence, or its sender, and said no.
    Refused {
        /// `code: claim: expected …, found …`, all of them.
        reasons: Vec<String>,
    },
}

/// What one attempt to attest came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// Affirmed; the authorization ends then (Unix seconds).
    Granted {
        /// End of the authorization.
        until: i64,
    },
    /// A decision, or a refusal before one.
    Refused {
        /// Every reason, in words.
        reasons: Vec<String>,
    },
    /// No answer.
    Unreachable {
        /// The failure, in words.
        because: String,
    },
}

impl Standing {
    /// The state before the first attempt.
    #[must_use]
    pub fn unknown() -> Self {
        Self::Stale {
            because: "not attested yet".into(),
        }
    }

    /// The state after `attempt` at `now` (Unix seconds).
    #[must_use]
    pub fn after(self, attempt: Attempt, now: i64) -> Self {
        match attempt {
            Attempt::Granted { until } => Self::Trusted { until },
            Attempt::Refused { reasons } => Self::Refused { reasons },
            Attempt::Unreachable { because } => match self {
                Self::Trusted { until } | Self::Unreachable { until: Some(until), .. } if until > now => {
                    Self::Unreachable {
                        until: Some(until),
                        because,
                    }
                }
                // What was refused stays refused: silence is not forgiveness.
                Self::Refused { reasons } => Self::Refused { reasons },
                Self::Trusted { .. } | Self::Unreachable { .. } | Self::Stale { .. } => {
                    Self::Unreachable { until: None, because }
                }
            },
        }
    }

    /// The state as time passes without an attempt.
    #[must_use]
    pub fn at(self, now: i64) -> Self {
        match self {
            Self::Trusted { until } if until <= now => Self::Stale {
                because: "the authorization ran out before it was renewed".into(),
            },
            Self::Unreachable {
                until: Some(until),
                because,
            } if until <= now => Self::Unreachable { until: None, because },
            other => other,
        }
    }

    /// The state when the trust state says that the authorization was withdrawn.
    #[must_use]
    pub fn withdrawn(self, because: String) -> Self {
        match self {
            Self::Refused { reasons } => Self::Refused { reasons },
            _ => Self::Stale { because },
        }
    }

    /// One word, for logs and status lines.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Trusted { .. } => "trusted",
            Self::Stale { .. } => "stale",
            Self::Unreachable { .. } => "unreachable",
            Self::Refused { .. } => "refused",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost() -> Attempt {
        Attempt::Unreachable {
            because: "connection refused".into(),
        }
    }

    #[test]
    fn unreachable_is_not_refused_and_refused_is_not_forgotten() {
        let trusted = Standing::unknown().after(Attempt::Granted { until: 100 }, 10);
        assert_eq!(trusted, Standing::Trusted { until: 100 });
        let lost_once = trusted.after(lost(), 20);
        assert_eq!(lost_once.word(), "unreachable");
        assert_eq!(lost_once.clone().at(99), lost_once);
        assert!(matches!(lost_once.at(100), Standing::Unreachable { until: None, .. }));
        let refused = Standing::unknown().after(
            Attempt::Refused {
                reasons: vec!["secure-boot-mismatch".into()],
            },
            1,
        );
        assert_eq!(refused.clone().after(lost(), 2), refused);
    }

    #[test]
    fn an_authorization_that_ran_out_is_stale() {
        assert_eq!(Standing::Trusted { until: 5 }.at(5).word(), "stale");
        assert_eq!(
            Standing::Trusted { until: 5 }.withdrawn("revoked".into()).word(),
            "stale"
        );
    }
}
