//! The stable codes of every refusal of a TDX quote.

touchstone_cose::reason_codes! {
    /// Why a TDX quote, or what came with it, was refused.
    pub enum TdxCode {
        QuoteMalformed = "tdx-quote-malformed":
            "The bytes are not a TDX quote of version 4 or 5 with a body this version knows. Send the quote as the guest device gave it, zero padding allowed.",
        PckMalformed = "tdx-pck-malformed":
            "The certificate of the platform's provisioning key lacks what Intel puts into it. Collect the quote again.",
        PckMissing = "tdx-pck-missing":
            "The quote names its platform without the certificate of the provisioning key, and nothing beside it has that. Fetch the certificate from Intel or the host's cache and put its chain into the collateral (pck_certificate_chain).",
        SignatureInvalid = "tdx-signature-invalid":
            "A signature in the quote does not verify, or the attestation key is not the one the quoting enclave vouches for: the quote was altered, or put together from several.",
        ReportData = "tdx-report-data-mismatch":
            "The quote answers another challenge: it is old, replayed or meant for someone else. Ask for a quote over the challenge.",
        CollateralMissing = "tdx-collateral-missing":
            "Nothing says what Intel thinks of the platform's security versions. Send the collateral of this platform (FMSPC) with the quote.",
        CollateralMalformed = "tdx-collateral-malformed":
            "The collateral is not the JSON of Intel's answers. Fetch it again.",
        CollateralOtherPlatform = "tdx-collateral-other-platform":
            "The collateral is for another kind of platform (FMSPC), or has the revocation list of another authority, than the one that signed the quote. Fetch the one for this platform; `ca=platform` or `ca=processor` by the issuer of its certificate.",
        CollateralNotYetValid = "tdx-collateral-not-yet-valid":
            "Part of the collateral was issued after the time of the appraisal. Fetch it for that time, or set the clock.",
        CollateralExpired = "tdx-collateral-expired":
            "Part of the collateral is past its next update, so it no longer says anything about the platform. Fetch it again.",
        CollateralRefused = "tdx-collateral-refused":
            "The collateral, or the quote by it, does not hold: a signature, chain, revocation list or the quoting enclave's identity is wrong. Fetch the collateral again; do not trust the platform meanwhile.",
        ModuleMismatch = "tdx-module-mismatch":
            "The TDX module is not one that Intel's collateral names, by signer, attributes or version. Update the platform's firmware.",
        TcbLevelUnknown = "tdx-tcb-level-unknown":
            "The platform's security versions are below every level that Intel names. Update its firmware and microcode.",
        TcbRevoked = "tdx-tcb-revoked":
            "Intel has revoked the platform's security versions, or a key of it: its quotes prove nothing. No policy can accept it.",
        TcbStatus = "tdx-tcb-status":
            "What Intel says of the platform's security versions is not among the policy's accepted statuses (tdx.tcb_status). Update the platform.",
        TcbEvaluationOld = "tdx-tcb-evaluation-old":
            "The collateral belongs to an older evaluation than the policy demands (tdx.min_tcb_evaluation_number). Fetch the newest.",
        Debug = "tdx-debug-enabled":
            "The guest may be debugged or profiled by its host: its memory is readable. Launch it without.",
        Attributes = "tdx-attributes":
            "The guest was launched with attributes that leave it open: migratable, without SEPT_VE_DISABLE, or with reserved bits set.",
        ServiceTd = "tdx-service-td":
            "A service TD is bound to the guest and may act on it, and the policy allows none.",
        PlatformDenied = "tdx-platform-denied":
            "The policy lists this very platform as one that is not to be trusted.",
        Measurement = "tdx-measurement-mismatch":
            "The guest's launch measurement, or a field fixed at launch, differs from the reference.",
        TcbBelowFloor = "tdx-tcb-below-floor":
            "A component of the TDX module or microcode is older than the reference's. Update the platform.",
        Rtmr = "tdx-rtmr-mismatch":
            "A run-time measurement register differs from the reference. Look at the event that differs; firmware, boot loader, kernel or command line was changed.",
    }
}
