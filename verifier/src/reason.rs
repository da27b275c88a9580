//! Why something was refused: stable codes, and what was expected and found, in words.
//!
//! An appraisal collects *every* reason, not the first, and sorts them: by the order of declaration here (which is the
//! order of the stages of an appraisal), then by claim. Scripts match on the code; people read the words.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use touchstone_cose::reason::CatalogueEntry;

use crate::gpu::GpuCode;
use crate::hcl::AzureCode;
use crate::snp::SnpCode;
use crate::svsm::SvsmCode;
use crate::tdx::TdxCode;
use crate::tpm::TpmCode;
use crate::x509::CertificateCode;

touchstone_cose::reason_codes! {
    /// Why the appraisal of evidence, or the loading of a reference value, ended in a refusal.
    ///
    /// What is wrong with a single TPM structure or certificate has its codes beside its parser; [`Code`] joins them.
    pub enum AppraisalCode {
        // Parsing the evidence.
        RecordUnreadable = "record-unreadable": "A record of the evidence could not be read. Collect the evidence again, with a matching version of the tools.",
        RecordMissing = "record-missing": "A record that the appraisal needs is missing. Collect the evidence again with that record.",
        EvidenceTypeWrong = "evidence-type-wrong": "This kind of evidence is not accepted here (packed evidence is never accepted by a broker). Collect it with the agent.",
        WeakAlgorithm = "weak-algorithm": "A signature or register bank uses an algorithm that is no longer strong (SHA-1). Use a SHA-256 bank and signing scheme.",
        // The attestation key and what it signed.
        AkUnreadable = "ak-unreadable": "The attestation key's public area could not be read. Send TPM2B_PUBLIC, TPMT_PUBLIC or PEM.",
        AkAttributesUnknown = "ak-attributes-unknown": "An attestation key given as PEM says nothing about where it lives. List that very key in the inventory, or send its TPM public area.",
        NonceMismatch = "nonce-mismatch": "The evidence answers another challenge: it is old, replayed or meant for someone else. Ask for a challenge and attest again.",
        BinderMismatch = "binder-mismatch": "The quote is not bound to this session, key and channel. It was replayed, relayed, or a record was altered on the way.",
        // The event log.
        EventLogMissing = "event-log-missing": "The policy requires a firmware event log and none came. Secure Boot off with an old boot loader gives none: fix the boot path.",
        LogUnreadable = "log-unreadable": "The firmware event log could not be read. It is damaged, truncated or not an event log.",
        LogSha1Only = "log-sha1-only": "The firmware event log is in the old SHA-1 format, which this version does not judge. Switch the firmware to crypto-agile logs.",
        LogDoesNotReplay = "log-does-not-replay": "Replaying the event log does not give the quoted register. The log is incomplete, altered, or of another boot.",
        EventDigestMismatch = "event-digest-mismatch": "An event's digest is not the digest of its data, though its type says it must be. The log lies about what was measured.",
        SeparatorSmuggled = "separator-smuggled": "An event that is no separator carries a separator's digest. The log hides where the firmware ended.",
        EventAfterExit = "event-after-exit-boot-services": "The log has a firmware event after the firmware handed over to the operating system. Whoever measured it, the firmware did not.",
        // The IMA list: what ran since the boot.
        ImaLogMissing = "ima-log-missing": "The machine must show its IMA list (what ran since the boot) and none came. Boot with an IMA policy and send the list.",
        ImaRegisterNotQuoted = "ima-register-not-quoted": "An IMA list came, but the quote does not hold register 10 in a strong bank, so nothing vouches for the list. Quote register 10 as well.",
        ImaLogUnreadable = "ima-log-unreadable": "The IMA list could not be read. It is damaged, too long, not an IMA list, or uses a template this version does not know.",
        ImaPathUnsafe = "ima-path-unsafe": "An entry of the IMA list has a path with a NUL or control character, which no honest program needs. Find out what runs under that name.",
        ImaEntryMismatch = "ima-entry-mismatch": "An entry of the IMA list does not agree with itself: its digest is not that of its data. The list was altered.",
        ImaLogDoesNotReplay = "ima-log-does-not-replay": "Replaying the IMA list does not give the quoted register 10. The list is incomplete, altered, older than the quote, or of another boot.",
        ImaBankWeak = "ima-bank-weak": "Register 10 of this bank was extended with SHA-1 digests padded with zeros (a kernel before 5.8, or one without that hash). Use a bank and kernel that hash anew.",
        ImaBootAggregateMismatch = "ima-boot-aggregate-mismatch": "The first entry of the IMA list is not the digest of the quoted boot registers. The list belongs to another boot, or IMA started without the TPM.",
        ImaViolation = "ima-violation": "A file was written while it was measured, so that its digest is worth nothing. Stop what writes it, or exclude the path in the IMA settings.",
        ImaSignatureInvalid = "ima-signature-invalid": "A file's signature names a listed key but does not verify over the file's digest. The file or its signature was altered.",
        ImaFileUnknown = "ima-file-unknown": "A file was run that no reference in force lists and no listed key signed. Remove it, or add it with reference add or reference compute.",
        ImaKexec = "ima-kexec": "Another kernel was started, or prepared, from the running one with a command line that is not the reference's. Boot the machine anew.",
        ImaEntriesUnavailable = "ima-entries-unavailable": "Rules or references changed and the entries seen before are not at hand to be judged again. Send the whole IMA list.",
        // Comparison with reference values, one code per kind of what changed.
        ReferenceMissing = "reference-missing": "No reference values exist to compare with. Add a signed reference for this kind of machine.",
        ReferenceOutOfForce = "reference-out-of-force": "The machine matches a reference that has expired or is not yet in force. Sign it anew, or update the machine.",
        ReferenceIncomplete = "reference-incomplete": "The nearest reference says nothing about a register the policy requires. Make the reference anew from full evidence.",
        ReferencePurpose = "reference-purpose": "The reference that the report matches is of another purpose: one of a module or paravisor counts only with the virtual TPM that it vouches for, and a guest's own vouches for none. Make the reference from evidence of that kind.",
        FirmwareCodeMismatch = "firmware-code-mismatch": "Platform firmware (register 0) differs from the reference. It was updated, or replaced.",
        FirmwareConfigMismatch = "firmware-config-mismatch": "Firmware configuration (register 1) differs from the reference. Settings or boot entries were changed.",
        OptionRomMismatch = "option-rom-mismatch": "Firmware of an add-in device (registers 2, 3) differs from the reference. A device was added, removed or updated.",
        BootApplicationMismatch = "boot-application-mismatch": "A boot loader or kernel image (register 4) differs from the reference. It was updated, or replaced.",
        BootConfigurationMismatch = "boot-configuration-mismatch": "The partition table or boot-manager configuration (register 5) differs from the reference.",
        SecureBootMismatch = "secure-boot-mismatch": "Secure Boot state, keys or the authority that was used (register 7) differ from the reference.",
        GrubCommandMismatch = "grub-command-mismatch": "A boot loader command (register 8) differs from the reference. The boot loader's configuration was changed.",
        KernelCommandLineMismatch = "kernel-command-line-mismatch": "The kernel command line differs from the reference. Compare the two command lines.",
        BootFileMismatch = "boot-file-mismatch": "A file the boot loader read (register 9), its configuration, kernel or initrd, differs from the reference.",
        UkiSectionMismatch = "uki-section-mismatch": "A section of the unified kernel image, or its boot phase (register 11), differs from the reference.",
        UkiSectionsMismatch = "uki-sections-mismatch": "The unified kernel image that came with the evidence is not the one that was measured, or no quoted register 11 and event log vouch for it. Pack the image that the machine booted.",
        MokMismatch = "mok-mismatch": "The machine owner's keys (register 14) differ from the reference.",
        RegisterMismatch = "register-mismatch": "A register differs from the reference.",
        // Identity.
        EkUnreadable = "ek-unreadable": "The endorsement key could not be read. Read it again from the TPM.",
        EkOther = "ek-not-enrolled": "The endorsement key is not the one this node enrolled with. This is another TPM.",
        EkCertificateMissing = "ek-certificate-missing": "The policy requires an endorsement certificate (ek_certificate = required), and none came. Read it from the TPM, or get it from the TPM's maker.",
        EkDenied = "ek-denied": "The domain's deny list names this endorsement key. Replace the machine's TPM, or take the key off the list.",
        FirmwareDenied = "tpm-firmware-denied": "The TPM's firmware has a version that the domain's deny list names. Update the TPM's firmware.",
        FirmwareUnknown = "tpm-firmware-unknown": "The domain's deny list names firmware of this TPM's maker, and the attestation key cannot show the firmware's version. Make the attestation key under the endorsement hierarchy.",
        CvmOther = "cvm-not-named": "The report is of another confidential VM than the one that said hello. Say hello as the machine that gives the report.",
        AkOther = "ak-not-enrolled": "The attestation key is not the one this node enrolled with. It belongs to another TPM, or was made anew.",
        AkNotBound = "ak-not-bound": "Nothing ties the attestation key to the endorsement key. Activate it online, or record the pair with node add --from.",
        NodeUnknown = "node-unknown": "No node in the inventory has this hardware identity. Add it with node add.",
        NodeAmbiguous = "node-ambiguous": "More than one inventory entry claims this hardware identity. Remove all but one.",
        // The parts together.
        ReportsConflict = "reports-conflict": "The evidence holds two reports of the machine's hardware, and nobody could say which counts. Send one.",
        RootsNotTogether = "roots-not-together": "The parts of the evidence are not shown to be of one machine: no report names the TPM's key, and no inventory entry lists both. Evidence was mixed, or the entry is incomplete.",
        CvmGuestUnnamed = "cvm-guest-unnamed": "The node's entry names a provider, or a platform that hides its id, and no guest: every guest there would be this node. Give the guest host data or a signed ID block and list that (node add --from).",
        EndorsedQuoteMissing = "endorsed-quote-missing": "A report vouches for a virtual TPM, and no quote of that TPM for this challenge came. Send the TPM's evidence beside the report: it alone says what booted.",
        RootMissing = "root-missing": "The policy requires a root of hardware that the evidence does not show, or that something speaks against (roots.required). Send that evidence as well.",
        // The session key and the TPM's clock.
        SessionKeyMissing = "session-key-missing": "The session key came without the attestation key's certification. Send the certification.",
        SessionKeyMismatch = "session-key-mismatch": "The certified key is another one than the session key of this session.",
        SessionKeyNonceMismatch = "session-key-nonce-mismatch": "The certification of the session key answers another challenge: it is old or replayed.",
        SessionKeyStale = "session-key-stale": "The session key was certified before the TPM's last reset, so it cannot exist any more. Create and certify a new one.",
        ClockWentBack = "clock-went-back": "The TPM's clock or counters are behind what was seen before. The evidence is old, or the TPM was rolled back.",
        // Reference values in transport.
        ReferenceUnreadable = "reference-unreadable": "A reference value file is not a CoRIM this version can read.",
        ReferenceUnsigned = "reference-unsigned": "A reference value file is not signed. Only signed reference values count.",
        ReferenceSignerUnknown = "reference-signer-unknown": "A reference value file is signed by someone this domain does not list as a reference signer.",
        ReferenceSignerExpired = "reference-signer-expired": "The key that signed a reference value file is no longer valid for signing references.",
        ReferenceSignatureInvalid = "reference-signature-invalid": "The signature of a reference value file is wrong: it was altered after signing.",
        ReferenceAlgorithmWrong = "reference-algorithm-wrong": "A reference value file is signed with an algorithm that does not belong to its signer's key.",
        ReferenceExpired = "reference-expired": "A reference value file has expired. Sign it again if it still holds.",
        ReferenceNotYetValid = "reference-not-yet-valid": "A reference value file is not valid yet.",
        ReferenceProfileUnknown = "reference-profile-unknown": "A reference value file uses a profile this version does not know, so none of it may be used.",
        // Attestation Results.
        EarUnreadable = "ear-unreadable": "The attestation result could not be read.",
        EarSignatureInvalid = "ear-signature-invalid": "The attestation result is not signed by the verifier's key.",
        EarExpired = "ear-expired": "The attestation result has expired.",
    }
}

/// Every reason code of this crate. Ordered: TPM structures, certificates, the appraisal's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Code {
    /// A TPM structure, key or signature.
    Tpm(TpmCode),
    /// A certificate or chain.
    Certificate(CertificateCode),
    /// An SEV-SNP report or its signing key.
    Snp(SnpCode),
    /// A TDX quote, its collateral or its registers.
    Tdx(TdxCode),
    /// The report of Azure's paravisor.
    Azure(AzureCode),
    /// What a secure VM service module says.
    Svsm(SvsmCode),
    /// The report of a GPU or NVSwitch.
    Gpu(GpuCode),
    /// The appraisal itself.
    Appraisal(AppraisalCode),
}

impl Code {
    /// The rows this crate adds to `docs/reasons.md`.
    pub const CATALOGUES: &'static [&'static [CatalogueEntry]] = &[
        TpmCode::CATALOGUE,
        CertificateCode::CATALOGUE,
        SnpCode::CATALOGUE,
        TdxCode::CATALOGUE,
        AzureCode::CATALOGUE,
        SvsmCode::CATALOGUE,
        GpuCode::CATALOGUE,
        AppraisalCode::CATALOGUE,
    ];

    /// The stable, kebab-case code.
    pub const fn as_str(self) -> &'static str {
        match self {
            Code::Tpm(code) => code.as_str(),
            Code::Certificate(code) => code.as_str(),
            Code::Snp(code) => code.as_str(),
            Code::Tdx(code) => code.as_str(),
            Code::Azure(code) => code.as_str(),
            Code::Svsm(code) => code.as_str(),
            Code::Gpu(code) => code.as_str(),
            Code::Appraisal(code) => code.as_str(),
        }
    }

    /// What the code means, in words.
    pub const fn meaning(self) -> &'static str {
        match self {
            Code::Tpm(code) => code.meaning(),
            Code::Certificate(code) => code.meaning(),
            Code::Snp(code) => code.meaning(),
            Code::Tdx(code) => code.meaning(),
            Code::Azure(code) => code.meaning(),
            Code::Svsm(code) => code.meaning(),
            Code::Gpu(code) => code.meaning(),
            Code::Appraisal(code) => code.meaning(),
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<TpmCode> for Code {
    fn from(code: TpmCode) -> Self {
        Code::Tpm(code)
    }
}

impl From<CertificateCode> for Code {
    fn from(code: CertificateCode) -> Self {
        Code::Certificate(code)
    }
}

impl From<GpuCode> for Code {
    fn from(code: GpuCode) -> Self {
        Code::Gpu(code)
    }
}

impl From<SnpCode> for Code {
    fn from(code: SnpCode) -> Self {
        Code::Snp(code)
    }
}

impl From<TdxCode> for Code {
    fn from(code: TdxCode) -> Self {
        Code::Tdx(code)
    }
}

impl From<AzureCode> for Code {
    fn from(code: AzureCode) -> Self {
        Code::Azure(code)
    }
}

impl From<SvsmCode> for Code {
    fn from(code: SvsmCode) -> Self {
        Code::Svsm(code)
    }
}

impl From<AppraisalCode> for Code {
    fn from(code: AppraisalCode) -> Self {
        Code::Appraisal(code)
    }
}

/// Longest text of [`Reason::claim`], [`Reason::expected`] and [`Reason::found`], in bytes.
pub const MAX_REASON_TEXT: usize = 512;

/// Where to look and what to do: help for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hint {
    /// The event's number in the log.
    pub event: Option<usize>,
    /// The register.
    pub register: Option<u8>,
    /// Name of the reference that was nearest.
    pub nearest: Option<String>,
    /// The command that would accept what was found, where that can be sensible at all: never for evidence that lies.
    pub command: Option<String>,
}

/// One reason: a stable code, the claim it is about, what was expected and what was found.
///
/// Ordered and compared by code (declaration order), then claim, then the words. The hint is help: it takes no part in
/// comparison, and is in no signed result.
#[derive(Debug, Clone)]
pub struct Reason {
    /// The stable code.
    pub code: Code,
    /// What it is about, for example `PCR 8 (sha256)`.
    pub claim: String,
    /// What would have been accepted, in words.
    pub expected: String,
    /// What came, in words.
    pub found: String,
    /// Where to look and what to do.
    pub hint: Option<Hint>,
}

impl Reason {
    fn compared(&self) -> (Code, &str, &str, &str) {
        (self.code, &self.claim, &self.expected, &self.found)
    }

    /// A reason whose texts are sanitised: see [`sanitise`].
    pub fn new(
        code: impl Into<Code>,
        claim: impl AsRef<str>,
        expected: impl AsRef<str>,
        found: impl AsRef<str>,
    ) -> Self {
        Self {
            code: code.into(),
            claim: sanitise(claim.as_ref(), MAX_REASON_TEXT),
            expected: sanitise(expected.as_ref(), MAX_REASON_TEXT),
            found: sanitise(found.as_ref(), MAX_REASON_TEXT),
            hint: None,
        }
    }

    /// The same with a hint; its texts are sanitised.
    #[must_use]
    pub fn with_hint(mut self, hint: Hint) -> Self {
        let safe = |text: String| sanitise(&text, MAX_REASON_TEXT);
        self.hint = Some(Hint {
            nearest: hint.nearest.map(safe),
            command: hint.command.map(safe),
            ..hint
        });
        self
    }
}

impl PartialEq for Reason {
    fn eq(&self, other: &Self) -> bool {
        self.compared() == other.compared()
    }
}

impl Eq for Reason {}

impl PartialOrd for Reason {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Reason {
    fn cmp(&self, other: &Self) -> Ordering {
        self.compared().cmp(&other.compared())
    }
}

impl Hash for Reason {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.compared().hash(state);
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}: expected {}, found {}",
            self.code, self.claim, self.expected, self.found
        )
    }
}

/// Text from outside made safe to show: control and bidirectional-formatting characters become `\u{…}` escapes, and
/// what goes beyond `limit` bytes is cut at a character and marked with `…`.
pub fn sanitise(text: &str, limit: usize) -> String {
    let mut out = String::with_capacity(text.len().min(limit));
    for c in text.chars() {
        let before = out.len();
        if is_unsafe_to_show(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
        if out.len() > limit {
            out.truncate(before);
            while out.len() + '…'.len_utf8() > limit && out.pop().is_some() {}
            out.push('…');
            break;
        }
    }
    out
}

/// Characters that could move the cursor, colour the terminal, reorder or hide text.
fn is_unsafe_to_show(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E007F}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn codes_are_unique_kebab_case_and_explained() {
        let mut seen = BTreeSet::new();
        for entry in Code::CATALOGUES.iter().copied().flatten() {
            assert!(seen.insert(entry.code), "{} twice", entry.code);
            assert!(
                entry
                    .code
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            );
            assert!(
                entry.meaning.ends_with('.') && entry.meaning.len() > 20,
                "{}",
                entry.code
            );
        }
    }

    #[test]
    fn reasons_sort_by_stage_then_claim() {
        let late = Reason::new(AppraisalCode::NodeUnknown, "a", "", "");
        let early_b = Reason::new(AppraisalCode::NonceMismatch, "b", "", "");
        let early_a = Reason::new(AppraisalCode::NonceMismatch, "a", "", "");
        let mut all = vec![late.clone(), early_b.clone(), early_a.clone()];
        all.sort();
        assert_eq!(all, [early_a, early_b, late]);
    }

    #[test]
    fn a_hint_takes_no_part_in_comparison() {
        let plain = Reason::new(AppraisalCode::NodeUnknown, "a", "b", "c");
        let hint = Hint {
            nearest: Some("gol\nden".into()),
            ..Hint::default()
        };
        let hinted = plain.clone().with_hint(hint);
        assert_eq!(plain, hinted);
        assert_eq!(plain.cmp(&hinted), Ordering::Equal);
        assert_eq!(hinted.hint.unwrap().nearest.as_deref(), Some("gol\\u{a}den"));
    }

    #[test]
    fn hostile_text_is_made_harmless() {
        for (text, shown) in [
            ("plain \"quoted\" text", "plain \"quoted\" text"),
            ("\x1b[31mred", "\\u{1b}[31mred"),
            ("a\nb\0", "a\\u{a}b\\u{0}"),
            ("\u{202E}evil", "\\u{202e}evil"),
        ] {
            assert_eq!(sanitise(text, MAX_REASON_TEXT), shown);
        }
        let long = sanitise(&"é".repeat(1000), 21);
        assert!(long.len() <= 21 && long.ends_with('…'));
        assert!(
            Reason::new(AppraisalCode::NodeUnknown, "x".repeat(100_000), "", "")
                .claim
                .len()
                <= MAX_REASON_TEXT
        );
    }
}
