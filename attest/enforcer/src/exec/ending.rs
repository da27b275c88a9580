//! How it ended, for whoever started it.

/// Exit code where there was no right to begin with: nothing ran.
pub const REFUSED: u8 = 121;
/// Exit code where the right ended, and the command with it.
pub const LOST: u8 = 122;
/// Exit code where `touchstone exec` itself failed; nothing runs any more.
pub const FAILED: u8 = 125;

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// There was no right to run it.
    Refused {
        /// Every reason, as `code: words` where a decision gave it.
        reasons: Vec<String>,
    },
    /// The right ended; all of it was killed.
    Lost {
        /// Every reason.
        reasons: Vec<String>,
    },
    /// The command ended by itself.
    Exited {
        /// Its exit code.
        code: i32,
    },
    /// A signal that was not ours ended the command.
    Signalled {
        /// Which.
        signal: i32,
    },
    /// The command could not be started.
    NotStarted {
        /// 126 or 127, as shells have it.
        code: i32,
        /// Why.
        because: String,
    },
    /// Something failed; nothing runs any more, or it is said that something does.
    Failed {
        /// What.
        because: String,
    },
}

impl Ending {
    /// The exit code: the command's own where it ended by itself, 128 + the signal, 121, 122 or 125.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Refused { .. } => REFUSED,
            Self::Lost { .. } => LOST,
            Self::Failed { .. } => FAILED,
            Self::Exited { code } | Self::NotStarted { code, .. } => u8::try_from(*code).unwrap_or(FAILED),
            Self::Signalled { signal } => u8::try_from(signal.saturating_add(128)).unwrap_or(FAILED),
        }
    }

    /// What is to be said of it; nothing where the command's own end says all.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        match self {
            Self::Exited { .. } | Self::Signalled { .. } => Vec::new(),
            Self::Refused { reasons } | Self::Lost { reasons } => reasons.clone(),
            Self::NotStarted { because, .. } | Self::Failed { because } => vec![because.clone()],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_commands_or_ours() {
        for (ending, code) in [
            (Ending::Refused { reasons: vec![] }, 121),
            (Ending::Lost { reasons: vec![] }, 122),
            (Ending::Exited { code: 0 }, 0),
            (Ending::Exited { code: 42 }, 42),
            (Ending::Exited { code: 4096 }, 125),
            (Ending::Signalled { signal: 9 }, 137),
            (
                Ending::NotStarted {
                    code: 127,
                    because: String::new(),
                },
                127,
            ),
            (Ending::Failed { because: String::new() }, 125),
        ] {
            assert_eq!(ending.code(), code, "{ending:?}");
        }
    }
}
