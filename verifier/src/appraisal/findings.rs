//! What an appraisal gathers on its way: reasons, leniencies, claims.

use std::collections::{BTreeMap, BTreeSet};

use super::composite::Whole;
use super::inputs::{Freshness, Inputs};
use crate::reason::{AppraisalCode, Code, Hint, Reason};
use crate::tpm::TpmCode;

/// Most reasons one appraisal tells. Evidence that lies more often is refused all the same.
pub const MAX_REASONS: usize = 256;

/// Claims by name: see [`claim`].
pub type Claims = BTreeMap<String, ClaimValue>;

/// Value of a claim.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClaimValue {
    /// Yes or no.
    Bool(bool),
    /// A number.
    Int(i64),
    /// A text.
    Text(String),
    /// Texts without order.
    Set(BTreeSet<String>),
}

/// Names of claims.
pub mod claim {
    /// Text: `session` or `none`.
    pub const BINDING: &str = "binding";
    /// Text: `activated`, `enrolled`, `inventory`, `iak-certificate`, `report`, `none`.
    pub const AK_BINDING: &str = "ak_binding";
    /// Text: `endorsement-key`, `endorsement-hierarchy` or `unknown`: whether the TPM's counters are in clear.
    pub const AK_PARENT: &str = "ak_parent";
    /// Text: `first-use` for a machine that no entry of the inventory lists; set by who admits it, not by the appraisal.
    pub const ENROLMENT: &str = "enrolment";
    /// Text: `valid`, `expired` or `none`.
    pub const EK_CERTIFICATE: &str = "ek_certificate";
    /// Text: `checked` where a revocation list of the certificate's issuer was looked at, else `none`.
    pub const EK_CRL: &str = "ek_crl";
    /// Text: `idevid`, `ldevid` or `cloud-ak`: whose anchor the attestation key's certificate leads to.
    pub const IAK_CERTIFICATE: &str = "iak_certificate";
    /// Text: the TPM's maker, from the endorsement certificate.
    pub const TPM_MANUFACTURER: &str = "tpm_manufacturer";
    /// Text: the TPM's model, from the endorsement certificate.
    pub const TPM_MODEL: &str = "tpm_model";
    /// Int: the firmware version the TPM signed.
    pub const TPM_FIRMWARE: &str = "tpm_firmware";
    /// Int: TPM resets.
    pub const RESET_COUNT: &str = "reset_count";
    /// Int: TPM restarts since the last reset.
    pub const RESTART_COUNT: &str = "restart_count";
    /// Bool: whether the TPM vouches for its clock.
    pub const CLOCK_SAFE: &str = "clock_safe";
    /// Text: `replayed`, `refused` or `none`.
    pub const EVENT_LOG: &str = "event_log";
    /// Int: events after the quoted state, which were not looked at.
    pub const EVENTS_IGNORED: &str = "events_ignored";
    /// Bool: Secure Boot, as the log says and register 7 proves.
    pub const SECURE_BOOT: &str = "secure_boot";
    /// Bool: whether Secure Boot's keys may be set by anyone.
    pub const SETUP_MODE: &str = "setup_mode";
    /// Set: SHA-256 (hexadecimal) of the platform key's certificates.
    pub const SECURE_BOOT_PK: &str = "secure_boot_pk";
    /// Set: SHA-256 of the certificates that may change db and dbx.
    pub const SECURE_BOOT_KEK: &str = "secure_boot_kek";
    /// Set: SHA-256 of the certificates in db.
    pub const SECURE_BOOT_DB: &str = "secure_boot_db";
    /// Int: how many entries dbx has.
    pub const DBX_ENTRIES: &str = "dbx_entries";
    /// Set: SHA-256 of the certificates that images were let in by.
    pub const BOOT_AUTHORITIES: &str = "boot_authorities";
    /// Text: shim's revocation level.
    pub const SBAT_LEVEL: &str = "sbat_level";
    /// Set: digests (hexadecimal, in the first judged bank) of the images in register 4.
    pub const BOOT_IMAGES: &str = "boot_images";
    /// Text: the firmware's version, as register 0 proves.
    pub const FIRMWARE_VERSION: &str = "firmware_version";
    /// Bool: whether the log holds the whole boot, ExitBootServices too.
    pub const BOOT_LOG_COMPLETE: &str = "boot_log_complete";
    /// Text: the kernel command line, as the log says and the registers prove.
    pub const KERNEL_COMMAND_LINE: &str = "kernel_command_line";
    /// Text: the last phase of the boot that systemd measured into register 11 after the firmware log: `enter-initrd`,
    /// `leave-initrd`, `sysinit`, `ready`, `shutdown` or `final`. Absent where none was.
    pub const BOOT_PHASE: &str = "boot_phase";
    /// Text: whether the machine is in its initramfs and has not opened its disk yet, as registers 11 and 15 show: `open`,
    /// `volume-measured`, `done`, `phase-over` or `register-moved`. Absent where register 15 was not quoted.
    pub const BOOTSTRAP: &str = "bootstrap";
    /// Text: the command line inside the unified kernel image, as register 11 proves.
    pub const UKI_COMMAND_LINE: &str = "uki_command_line";
    /// Text: the kernel release of the unified kernel image, as register 11 proves.
    pub const UKI_UNAME: &str = "uki_uname";
    /// Text: the system of the unified kernel image (PRETTY_NAME of its os-release, else ID), as register 11 proves.
    pub const UKI_OS: &str = "uki_os";
    /// Text: the reference that the registers match.
    pub const REFERENCE: &str = "reference";
    /// Text: `off`, `none`, `refused`, `replayed` (nothing asks for its files to be judged) or `judged`.
    pub const IMA: &str = "ima";
    /// Int: entries of the IMA list that register 10 vouches for.
    pub const IMA_ENTRIES: &str = "ima_entries";
    /// Int: entries after the quoted state, which were not looked at.
    pub const IMA_IGNORED: &str = "ima_ignored";
    /// Int: violations among the entries.
    pub const IMA_VIOLATIONS: &str = "ima_violations";
    /// Set: exclusions that were used, each with the number of entries.
    pub const IMA_EXCLUDED: &str = "ima_excluded";
    /// Text: `matches`, `refused`, or `not checked` and why.
    pub const IMA_BOOT_AGGREGATE: &str = "ima_boot_aggregate";
    /// Text: whether another kernel may have been started from the running one while the boot registers stayed. `not
    /// excluded`; with a list that was judged whole `excluded by IMA`, or `judged by IMA` where one was prepared with the
    /// reference's command line. That holds as far as the machine's IMA policy measures programs and KEXEC_CMDLINE.
    pub const KEXEC: &str = "kexec";
    /// Set: the hardware roots that had nothing against them: `tpm`, `snp`, `tdx`, `gpu`.
    pub const ROOTS: &str = "roots";
    /// Text: `session` where the confidential VM's report answers this challenge; `boot` where it was made when the machine
    /// started and a TPM that it endorses answers instead. Absent without a confidential VM.
    pub const TCB_FRESHNESS: &str = "tcb_freshness";
    /// Text: `inventory` where the node's entry lists every GPU that reported, else `asserted-by-guest`. Absent without one.
    pub const GPU_LOCALITY: &str = "gpu_locality";
    /// Set: the references that list the states of the GPUs. The other claims of GPUs are named `gpu_…`: see
    /// [`gpu::claims`](crate::gpu::claims).
    pub const GPU_REFERENCES: &str = "gpu_references";
    /// Text: `checked` where a revocation list of AMD's was looked at, else `none`. The other claims of an SEV-SNP report are
    /// named `snp_…`: see [`snp::claims`](crate::snp::claims).
    pub const SNP_CRL: &str = "snp_crl";
    /// Text: `replayed`, `refused` or `none`: a TDX guest's event log (CCEL). The other claims of a TDX quote are named
    /// `tdx_…`: see [`tdx::check`](crate::tdx::check).
    pub const TDX_EVENT_LOG: &str = "tdx_event_log";
    /// Bool: Secure Boot, as Azure's paravisor says.
    pub const AZURE_SECURE_BOOT: &str = "azure_secure_boot";
    /// Bool: whether the machine has a serial console, as Azure's paravisor says.
    pub const AZURE_CONSOLE: &str = "azure_console";
    /// Bool: whether the virtual TPM keeps its state over restarts, as Azure's paravisor says.
    pub const AZURE_TPM_PERSISTED: &str = "azure_tpm_persisted";
    /// Text: the machine's id, as Azure's paravisor says.
    pub const AZURE_VM_ID: &str = "azure_vm_id";
    /// Text: `named` where the node's entry names the guest of a confidential VM, else `unnamed`: whatever a reference allows
    /// on that platform. Absent where no entry names the platform.
    pub const CVM_GUEST: &str = "cvm_guest";
    /// What the names of claims begin with that come of a confidential VM's own event log (CCEL), where they are otherwise
    /// those of a TPM's: the two may be of different boots.
    pub const CC_PREFIX: &str = "cc_";
    /// Set: what was overlooked because a signed setting says so.
    pub const LENIENCIES: &str = "leniencies";
}

/// Gathers.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) reasons: Vec<Reason>,
    /// How many may be kept for now; nought: [`MAX_REASONS`].
    left_for_others: usize,
    /// How many were found, those beyond the cap included.
    found: usize,
    pub(super) leniencies: Vec<String>,
    pub(super) claims: Claims,
}

impl Findings {
    /// Adds a reason. SHA-1 anywhere has one code, whichever structure it was in.
    pub(super) fn refuse(
        &mut self,
        code: impl Into<Code>,
        claim: impl AsRef<str>,
        expected: impl AsRef<str>,
        found: impl AsRef<str>,
    ) {
        self.push(Reason::new(Self::code(code.into()), claim, expected, found));
    }

    /// Adds a reason that says where to look.
    pub(super) fn refuse_at(
        &mut self,
        code: impl Into<Code>,
        claim: impl AsRef<str>,
        expected: impl AsRef<str>,
        found: impl AsRef<str>,
        hint: Hint,
    ) {
        self.push(Reason::new(Self::code(code.into()), claim, expected, found).with_hint(hint));
    }

    /// Adds a reason that was made elsewhere.
    pub(super) fn refuse_as(&mut self, reason: Reason) {
        self.push(reason);
    }

    /// Adds reasons that were made elsewhere.
    pub(super) fn refuse_all(&mut self, reasons: impl IntoIterator<Item = Reason>) {
        reasons.into_iter().for_each(|reason| self.push(reason));
    }

    /// From now on that many reasons are left for what is judged later: no part's evidence can crowd out what others say.
    pub(super) fn leave(&mut self, reasons: usize) {
        self.left_for_others = reasons;
    }

    /// How many reasons there are, those that were not kept included; a stage that adds none had nothing against what it judged.
    pub(super) fn count(&self) -> usize {
        self.found
    }

    fn code(code: Code) -> Code {
        match code {
            Code::Tpm(TpmCode::HashWeak | TpmCode::AkNameHashWeak) => AppraisalCode::WeakAlgorithm.into(),
            other => other,
        }
    }

    fn push(&mut self, reason: Reason) {
        self.found = self.found.saturating_add(1);
        if self.reasons.len() < MAX_REASONS.saturating_sub(self.left_for_others) {
            self.reasons.push(reason);
        }
    }

    /// Adds a reason from an error's own words.
    pub(super) fn refuse_with(&mut self, code: impl Into<Code>, claim: &str, (expected, found): (String, String)) {
        self.refuse(code, claim, expected, found);
    }

    pub(super) fn text(&mut self, claim: &str, value: impl Into<String>) {
        self.claims.insert(claim.to_owned(), ClaimValue::Text(value.into()));
    }

    pub(super) fn int(&mut self, claim: &str, value: impl TryInto<i64>) {
        if let Ok(value) = value.try_into() {
            self.claims.insert(claim.to_owned(), ClaimValue::Int(value));
        }
    }

    pub(super) fn bool(&mut self, claim: &str, value: bool) {
        self.claims.insert(claim.to_owned(), ClaimValue::Bool(value));
    }

    pub(super) fn set(&mut self, claim: &str, value: impl IntoIterator<Item = String>) {
        self.claims
            .insert(claim.to_owned(), ClaimValue::Set(value.into_iter().collect()));
    }

    /// The claims that sum up the others.
    pub(super) fn note_situation(&mut self, inputs: &Inputs<'_>, whole: &Whole<'_>) {
        let binding = match inputs.freshness {
            Freshness::Bound { .. } => "session",
            Freshness::Unbound { .. } => "none",
        };
        self.text(claim::BINDING, binding);
        self.text(claim::AK_BINDING, whole.ak_binding.as_str());
        self.set(claim::ROOTS, whole.roots.iter().map(|root| root.as_str().to_owned()));
        // No quote and no report shows that no other kernel was started since (protocol.md 5).
        self.claims
            .entry(claim::KEXEC.to_owned())
            .or_insert_with(|| ClaimValue::Text("not excluded".to_owned()));
        if let Some(clock) = whole.clock {
            self.int(claim::RESET_COUNT, clock.reset_count);
            self.int(claim::RESTART_COUNT, clock.restart_count);
            self.bool(claim::CLOCK_SAFE, clock.safe);
        }
        if let Some(reference) = &whole.reference {
            self.text(claim::REFERENCE, reference);
        }
        if let Some(freshness) = whole.tcb_freshness {
            self.text(claim::TCB_FRESHNESS, freshness);
        }
        if !self.leniencies.is_empty() {
            let leniencies = self.leniencies.iter().cloned().collect();
            self.claims
                .insert(claim::LENIENCIES.to_owned(), ClaimValue::Set(leniencies));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_part_crowds_out_what_others_say() {
        let mut findings = Findings::default();
        findings.leave(MAX_REASONS - 2);
        for number in 0..MAX_REASONS {
            findings.refuse(AppraisalCode::RecordMissing, number.to_string(), "", "");
        }
        // What is not kept is found all the same: a stage that found nothing had nothing against it.
        assert_eq!((findings.reasons.len(), findings.count()), (2, MAX_REASONS));
        findings.leave(0);
        let before = findings.count();
        findings.refuse(AppraisalCode::RootMissing, "roots", "", "");
        assert_eq!(findings.count(), before + 1);
        assert!(
            findings
                .reasons
                .iter()
                .any(|reason| reason.code == AppraisalCode::RootMissing.into())
        );
        for number in 0..MAX_REASONS {
            findings.refuse(AppraisalCode::RecordMissing, number.to_string(), "", "");
        }
        assert_eq!(findings.reasons.len(), MAX_REASONS);
        let before = findings.count();
        findings.refuse(AppraisalCode::RootMissing, "beyond", "", "");
        assert!(findings.count() > before, "also where none is kept any more");
    }
}
