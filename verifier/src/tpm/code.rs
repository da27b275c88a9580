//! The stable codes of every refusal that has to do with a TPM's structures and keys.

touchstone_cose::reason_codes! {
    /// Why a TPM structure, key or signature was refused.
    pub enum TpmCode {
        StructureMalformed = "tpm-structure-malformed":
            "A TPM structure ends early, has bytes left over, or holds a value its type does not allow. Send the bytes exactly as the TPM returned them.",
        KeyTypeUnsupported = "tpm-key-type-unsupported":
            "The public area is of a type, curve or scheme that is not supported. Use an RSA-2048 or larger, P-256 or P-384 key.",
        HashUnsupported = "tpm-hash-unsupported":
            "A hash algorithm is unknown here. Use SHA-256, SHA-384 or SHA-512.",
        HashWeak = "tpm-hash-weak":
            "A signature or Name rests on SHA-1. Make the key with SHA-256 or better.",
        AttestMagic = "tpm-attest-magic":
            "The signed structure does not start with TPM_GENERATED, so no TPM made it. Only what a restricted key signed inside the TPM counts.",
        AttestType = "tpm-attest-type":
            "The TPM signed another type of attestation than the one asked for. Send a quote where a quote is asked, a certification where one is asked.",
        SignatureScheme = "tpm-signature-scheme":
            "The signature is of another scheme or hash than the key's own, or of one that is not supported. Sign with the key's scheme.",
        SignatureInvalid = "tpm-signature-invalid":
            "The signature does not verify under the key. The bytes were changed, or another key signed them.",
        SelectionMalformed = "pcr-selection-malformed":
            "A PCR selection names a bank twice, no bank or a register that does not exist.",
        SelectionMismatch = "pcr-selection-mismatch":
            "The quoted registers are not the ones asked for: banks, registers, count and order must be equal. Quote the selection of the challenge.",
        SelectionMissing = "pcr-selection-missing":
            "The quote lacks registers that the policy requires. Quote at least these.",
        RegisterResettable = "pcr-register-resettable":
            "A register that software can reset (16, 23) stands where a boot register is required.",
        ValueMissing = "pcr-value-missing":
            "The value of a quoted register was not sent, or has a length that its bank does not have.",
        DigestMismatch = "pcr-digest-mismatch":
            "The register values do not give the digest that the TPM signed. Values and quote are from different moments or were changed.",
        AkNotRestricted = "ak-not-restricted":
            "The attestation key is not restricted, so it would sign a forged quote as well.",
        AkNotSigning = "ak-not-signing":
            "The attestation key has no sign attribute.",
        AkDecrypts = "ak-decrypts":
            "The attestation key can decrypt as well; it must only sign.",
        AkNotFixed = "ak-not-fixed":
            "The attestation key lacks fixedTPM or fixedParent, so it can live in another TPM or in software.",
        AkOriginExternal = "ak-origin-external":
            "The attestation key lacks sensitiveDataOrigin: its secret may have been made outside the TPM.",
        AkSchemeNull = "ak-scheme-null":
            "The attestation key has no signing scheme of its own.",
        AkKeyWeak = "ak-key-weak":
            "The attestation key is too weak or on a curve that is not accepted. Use RSA-2048 or larger, P-256 or P-384.",
        AkNameHashWeak = "ak-name-hash-weak":
            "The attestation key's Name is made with a hash weaker than SHA-256.",
        CertifyName = "tpm-certify-name":
            "The certification names another key than the one presented.",
        SessionKeyAttributes = "session-key-attributes":
            "The session key's attributes are not those of a session key: fixedTPM, fixedParent, sensitiveDataOrigin set; restricted, userWithAuth, adminWithPolicy clear; exactly one usage.",
        SessionKeyPolicy = "session-key-policy":
            "The session key's authorization policy is not the PolicyPCR of the quoted boot registers.",
        SessionKeyType = "session-key-type":
            "The session key is not a P-256 key with a SHA-256 Name and a scheme that fits its usage.",
        EkTemplate = "ek-template-unknown":
            "The endorsement key does not follow a TCG template that is supported: L-1 RSA-2048, L-2 P-256 or H-3 P-384.",
        EkMismatch = "ek-certificate-key-mismatch":
            "The endorsement key presented is not the key in its certificate.",
        CredentialTooLong = "credential-too-long":
            "The secret is longer than the digest of the endorsement key's Name algorithm allows, or empty.",
        CredentialFailed = "credential-failed":
            "No credential could be made for this endorsement key: its public key is not a valid one.",
        ActivationWrong = "activation-wrong":
            "The answer to the MakeCredential challenge is not the right one: the attestation key is not in the TPM with that endorsement key.",
    }
}
