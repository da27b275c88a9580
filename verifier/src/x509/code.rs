//! The stable codes of every refusal of a certificate or chain.

touchstone_cose::reason_codes! {
    /// Why a certificate, or the chain above it, was refused.
    pub enum CertificateCode {
        Malformed = "certificate-malformed":
            "A certificate could not be read. Send the DER bytes as they are in the TPM, padding allowed.",
        KeyUnsupported = "certificate-key-unsupported":
            "A certificate's public key is of a kind that is not supported.",
        AlgorithmRefused = "certificate-algorithm-refused":
            "A certificate is signed with SHA-1 or with an algorithm that is not supported, so its signature proves nothing.",
        SignatureInvalid = "certificate-signature-invalid":
            "A certificate's signature does not verify under its issuer's key: it was altered, or made by someone with the same name.",
        IssuerUnknown = "certificate-issuer-unknown":
            "No trust anchor of this domain issued the certificate, directly or through a known intermediate. Add the maker's CA with trust add.",
        PathTooLong = "certificate-path-too-long":
            "The chain has more certificates than allowed, here or by a CA's own path length.",
        NotACa = "certificate-not-a-ca":
            "A certificate that issued another one is not a CA, or may not sign certificates.",
        ExtensionUnknown = "certificate-extension-unknown":
            "A certificate has a critical extension that is not understood, so what it demands cannot be honoured.",
        NotYetValid = "certificate-not-yet-valid":
            "A certificate is not valid yet at the time of the appraisal.",
        Expired = "certificate-expired":
            "A certificate has expired. Many endorsement certificates in the field have: a policy may say ek-expiry = ignore-with-claim.",
        NameConstrained = "certificate-name-constrained":
            "A CA above the certificate may not issue for its names.",
        Revoked = "ek-certificate-revoked":
            "The endorsement certificate, or a CA above it, was revoked by its issuer. Do not trust this TPM; ask its maker why.",
        CrlNotCurrent = "certificate-crl-not-current":
            "The domain has a revocation list of an issuer in the chain, but none in force at the time of the appraisal. Import the issuer's newest list with policy trust crl.",
        CrlMissing = "certificate-crl-missing":
            "The policy requires revocation lists (crl = required), and an issuer in the chain has none. Import it with policy trust crl.",
        UsageWrong = "certificate-usage-wrong":
            "The certificate is not for an endorsement key: its key usage or extended key usage says something else.",
        Role = "certificate-is-a-ca":
            "A CA certificate was presented as a device's own.",
        TpmNameMissing = "certificate-tpm-name-missing":
            "The endorsement certificate does not name its TPM's manufacturer, model and version as the TCG profile demands, so it is no statement about a TPM.",
        KeyWeak = "certificate-key-weak":
            "The certified key is an RSA key below 2048 bits.",
        KeyRoca = "key-roca-weak":
            "The RSA key was made by the faulty generator of CVE-2017-15361 (ROCA): its private half can be computed. Update the TPM's firmware and make new keys; an endorsement key of this kind never counts.",
        NotAnAttestationKey = "iak-certificate-not-attestation":
            "The certificate does not say that its key is a restricted key made in a TPM (policy tcg-cap-verifiedTPMRestricted), so its key may sign anything. That of a cloud's virtual TPM counts below an authority listed for it (policy trust add --purpose cloud-ak).",
        OtherKey = "iak-certificate-other-key":
            "The certificate is for another key than the attestation key that signed the quote.",
    }
}
