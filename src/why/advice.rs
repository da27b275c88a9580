//! What to do next: which command would accept what was found, where accepting it is sensible.
//!
//! Evidence that does not hold together (a wrong signature, another nonce, a log that does not replay) is never offered
//! to be accepted, and then neither is anything else that it says: it may not be this machine's.

use touchstone_policies::DecisionCode;

use super::Why;

/// What the reader has at hand, to fill into commands.
#[derive(Debug, Clone, Copy, Default)]
pub struct Places<'a> {
    /// The policy repository.
    pub repo: Option<&'a str>,
    /// The evidence that was judged.
    pub evidence: Option<&'a str>,
}

/// What can be done about some codes.
struct Advice {
    codes: &'static [&'static str],
    when: &'static str,
    commands: &'static [&'static str],
}

const PUBLISH: &str = "touchstone policy publish {repo} --keys KEYDIR";

/// In the order in which it is told. What is not listed here has no command that would accept it.
const ADVICES: &[Advice] = &[
    Advice {
        codes: &["node-unknown", "ak-not-bound", "identity-unknown"],
        when: "if this machine belongs to the domain, take it into the inventory",
        commands: &[
            "touchstone policy node add {repo} NAME --from {evidence} --region REGION",
            PUBLISH,
        ],
    },
    Advice {
        codes: &["ak-attributes-unknown"],
        when: "if you vouch for this very key, list it",
        commands: &[
            "touchstone policy node add {repo} NAME --ak AK.pem --region REGION",
            PUBLISH,
        ],
    },
    Advice {
        codes: &["tdx-tcb-status"],
        when: "update the platform; if you accept what Intel says of it meanwhile, say so; results will name it",
        commands: &[
            "touchstone policy set {repo} 'tdx.tcb_status=[\"UpToDate\", \"STATUS\"]'",
            PUBLISH,
        ],
    },
    Advice {
        codes: &["azure-report-not-fresh"],
        when: "if a report made when the machine started will do where its TPM's quote is fresh, say so; results will name it",
        commands: &["touchstone policy set {repo} azure.report_freshness=boot", PUBLISH],
    },
    Advice {
        codes: &["snp-alias-check"],
        when: "update the platform's firmware; if you accept that its memory may have aliases, say so; results will name it",
        commands: &["touchstone policy set {repo} snp.alias_check=when-reported", PUBLISH],
    },
    Advice {
        codes: &["snp-chip-masked"],
        when: "if the host may hide which chip it is, say so; the chip is then the one its key was made for",
        commands: &["touchstone policy set {repo} snp.masked_chips=allow", PUBLISH],
    },
    Advice {
        codes: &["snp-provider-refused"],
        when: "if you trust this provider's machines, name it",
        commands: &["touchstone policy set {repo} 'snp.providers=[\"PROVIDER\"]'", PUBLISH],
    },
    Advice {
        codes: &["certificate-issuer-unknown"],
        when: "if you trust the maker of this TPM, take its root certificate (from the maker, not from this machine)",
        commands: &["touchstone policy trust add {repo} --ca MAKER-ROOT.pem", PUBLISH],
    },
    Advice {
        codes: &["certificate-expired"],
        when: "if an expired endorsement certificate is no concern to you, say so in policy; results will name it",
        commands: &["touchstone policy set {repo} tpm.ek_expiry=ignore-with-claim", PUBLISH],
    },
    Advice {
        codes: &["event-log-missing"],
        when: "if this machine cannot give a log and its registers alone are enough for you; results will name it",
        commands: &["touchstone policy set {repo} tpm.event_log=registers-suffice", PUBLISH],
    },
    Advice {
        codes: &["ima-log-missing"],
        when: "show what ran since the boot, with register 10 in the quote",
        commands: &["touchstone evidence pack --ima-log /sys/kernel/security/ima/binary_runtime_measurements …"],
    },
    Advice {
        codes: &["ima-violation"],
        when: "stop what writes the file; if its folder need not be judged, leave it out; results count it",
        commands: &["touchstone policy set {repo} 'ima.exclude=[\"/FOLDER/*\"]'", PUBLISH],
    },
    Advice {
        codes: &["ima-file-unknown"],
        when: "if these files may run, take this state as a reference, or trust the key that signed them",
        commands: &[
            "touchstone reference add {repo} --evidence {evidence} --name NAME",
            "touchstone policy ima-key add {repo} --key SIGNER.der",
            PUBLISH,
        ],
    },
    Advice {
        codes: &["reference-out-of-force"],
        when: "if this state is still wanted, make its reference anew with a later end",
        commands: &[
            "touchstone reference add {repo} --evidence {evidence} --name NAME --valid-until TIME",
            PUBLISH,
        ],
    },
    Advice {
        codes: &[
            "reference-missing",
            "reference-incomplete",
            "firmware-code-mismatch",
            "firmware-config-mismatch",
            "option-rom-mismatch",
            "boot-application-mismatch",
            "boot-configuration-mismatch",
            "secure-boot-mismatch",
            "grub-command-mismatch",
            "kernel-command-line-mismatch",
            "boot-file-mismatch",
            "uki-section-mismatch",
            "mok-mismatch",
            "register-mismatch",
            "snp-measurement-mismatch",
            "tdx-measurement-mismatch",
            "tdx-rtmr-mismatch",
            "gpu-reference-missing",
            "gpu-reference-mismatch",
            "gpu-measurement-mismatch",
        ],
        when: "if this is the state the machine should be in, make it a reference; what is published already stays valid",
        commands: &[
            "touchstone reference add {repo} --evidence {evidence} --name NAME",
            PUBLISH,
        ],
    },
    Advice {
        codes: &[
            "policy-not-published",
            "policy-root-expired",
            "policy-targets-expired",
            "policy-snapshot-expired",
            "policy-timestamp-expired",
            "policy-expired-at-broker",
        ],
        when: "publish again; if somebody else publishes, copy the newest version from them",
        commands: &[PUBLISH],
    },
];

/// Codes that stand beside others without saying anything against the evidence.
const BESIDE: &[&str] = &[
    "nothing-granted",
    "validity-over",
    "policy-no-longer-permits",
    "attestation-overdue",
    "",
];

/// Whether a code says nothing against the evidence: these, and what the Cedar policies say.
fn beside(code: &str) -> bool {
    BESIDE.contains(&code) || DecisionCode::parse(code).is_some()
}

/// The commands that would accept one of `reasons`, in their order; none where anything speaks against the evidence.
pub(super) fn commands(code: &str, reasons: &[Why], places: &Places<'_>) -> Vec<String> {
    if !doubts(reasons).is_empty() {
        return Vec::new();
    }
    let advice = ADVICES.iter().filter(|advice| advice.codes.contains(&code));
    advice
        .flat_map(|advice| advice.commands)
        .map(|command| filled(command, places))
        .collect()
}

/// Codes that speak against the evidence itself, or that nothing is known about.
fn doubts(reasons: &[Why]) -> Vec<&str> {
    let doubtful = reasons.iter().filter(|why| !advised(why) && !beside(&why.code));
    doubtful.map(|why| why.code.as_str()).collect()
}

fn advised(why: &Why) -> bool {
    ADVICES.iter().any(|advice| advice.codes.contains(&why.code.as_str()))
}

/// The lines of help, the first of each beginning with `help:`.
pub(super) fn help(reasons: &[Why], places: &Places<'_>) -> Vec<String> {
    if let (Some(first), true) = (doubts(reasons).first(), reasons.iter().any(advised)) {
        return vec![format!(
            "help: nothing here should be accepted while {first} stands: see to that first"
        )];
    }
    let mut lines = Vec::new();
    for advice in ADVICES {
        if !reasons.iter().any(|why| advice.codes.contains(&why.code.as_str())) {
            continue;
        }
        lines.push(format!("help: {}:", advice.when));
        if places.evidence.is_none() && advice.commands.iter().any(|command| command.contains("{evidence}")) {
            lines.push(
                "        on the machine: touchstone evidence collect --nonce $(openssl rand -hex 32) -o EVIDENCE"
                    .into(),
            );
        }
        lines.extend(
            advice
                .commands
                .iter()
                .map(|command| format!("        {}", filled(command, places))),
        );
    }
    lines
}

fn filled(command: &str, places: &Places<'_>) -> String {
    let word = |place: Option<&str>, name: &str| place.map_or_else(|| name.to_owned(), quoted);
    command
        .replace("{repo}", &word(places.repo, "REPO"))
        .replace("{evidence}", &word(places.evidence, "EVIDENCE"))
}

/// As a shell takes it for one word.
fn quoted(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+:@%,=".contains(&b);
    if !text.is_empty() && text.bytes().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// Every code that has advice, for the test that holds them against the catalogues.
#[cfg(test)]
pub(super) fn advised_codes() -> impl Iterator<Item = &'static str> {
    ADVICES
        .iter()
        .flat_map(|advice| advice.codes.iter().copied())
        .chain(BESIDE.iter().copied().filter(|code| !code.is_empty()))
}
