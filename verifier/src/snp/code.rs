//! The stable codes of every refusal of an SEV-SNP report.

touchstone_cose::reason_codes! {
    /// Why an SEV-SNP attestation report, or the key that signed it, was refused.
    pub enum SnpCode {
        ReportMalformed = "snp-report-malformed":
            "The bytes are not an attestation report of version 2 to 5, or a reserved field holds something. Send the 1184 bytes as the guest device gave them.",
        VekMalformed = "snp-vek-malformed":
            "The certificate of the signing key lacks what AMD puts into it, or has it twice, or has something unknown. Fetch it again from AMD.",
        VekMissing = "snp-vek-missing":
            "The report came without the certificate of the key that signed it, or with several that could be it. Send the chip's VCEK or the provider's VLEK (evidence pack --snp-cert).",
        VekIssuer = "snp-vek-issuer":
            "The certificate of the signing key was issued by another authority than that of its product and kind.",
        SigningKey = "snp-signing-key-mismatch":
            "The report says that another kind of key signed it (VCEK or VLEK) than the one whose certificate came. Send the matching certificate.",
        SignatureInvalid = "snp-signature-invalid":
            "The report's signature does not verify under the certified key: it was altered, or the certificate is another chip's.",
        ProductMismatch = "snp-product-mismatch":
            "The processor that the report names is of another product line than the certificate.",
        TcbMismatch = "snp-tcb-mismatch":
            "The certificate is for other security versions than the report names. Fetch the certificate for the reported versions.",
        ChipMismatch = "snp-chip-mismatch":
            "The certificate is another chip's than the one the report names.",
        ReportData = "snp-report-data-mismatch":
            "The report answers another challenge: it is old, replayed or meant for someone else. Ask for a report over the challenge.",
        Debug = "snp-debug-enabled":
            "The guest was launched so that the host may debug it: its memory is readable. Launch it without.",
        Vmpl = "snp-vmpl":
            "The report was asked for from a less privileged level than the policy allows. Ask for it at VMPL 0.",
        MigrationAgent = "snp-migration-agent":
            "A migration agent may move the guest to another machine, and the policy allows none.",
        AliasCheck = "snp-alias-check":
            "The platform does not show that its memory was checked for aliases (BadRAM, AMD-SB-3015). Update the firmware; reports before version 3 can not show it.",
        TcbBelowFloor = "snp-tcb-below-floor":
            "A component of the platform is older than the policy allows. Update firmware or microcode.",
        TcbFloorMissing = "snp-tcb-floor-missing":
            "Neither the matched reference nor the policy says how old the platform may be. Make the reference from golden evidence, give reference compute its --tcb, or set snp.floors for the product.",
        ProductRefused = "snp-product-refused":
            "The policy accepts no chips of this product line.",
        ChipDenied = "snp-chip-denied":
            "The policy lists this very chip as one that is not to be trusted.",
        ChipUnlisted = "snp-chip-unlisted":
            "The policy lists the chips it trusts, and this one is not among them or is masked.",
        ProviderRefused = "snp-provider-refused":
            "The report was signed with a key that AMD made for a cloud provider whom the policy does not name.",
        ChipMasked = "snp-chip-masked":
            "The platform hides which chip it is, and the policy does not accept that. Have the host show the chip id, or set snp.masked_chips = allow.",
        PlatformSetting = "snp-platform-setting":
            "The platform is set up in a way that the policy does not accept.",
        GuestPolicy = "snp-guest-policy":
            "The guest was launched under a policy with bits that the domain, or the reference, does not accept. Launch it with the right policy.",
        Measurement = "snp-measurement-mismatch":
            "What the guest was launched from (firmware, and kernel, initrd and command line where they are measured) is in no signed reference. Add it with reference add or reference compute.",
        GuestIdentity = "snp-guest-identity":
            "The guest's host data, ID key, author key, family, image or version is not what the reference or the policy names.",
    }
}
