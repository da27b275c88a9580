//! The records a collection may hold: their labels, media types and what authenticates each.

/// How a record is authenticated, and so how it stands in the manifest (`docs/protocol.md` 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Signed over the binder itself: not in the manifest.
    Fresh,
    /// Authenticated by a quoted register and read after the quote: in the manifest without a digest.
    Quoted,
    /// Authenticated by nothing else: in the manifest with its SHA-256.
    Plain,
}

macro_rules! labels {
    ($($variant:ident = $label:literal, $media:literal, $class:ident, $doc:literal;)+) => {
        /// A record of a collection.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Label {
            $(#[doc = $doc] $variant,)+
        }

        impl Label {
            /// Every label.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The label as it travels.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $label),+ }
            }

            /// The media type of the record's bytes.
            #[must_use]
            pub const fn media_type(self) -> &'static str {
                match self { $(Self::$variant => $media),+ }
            }

            /// What authenticates the record.
            #[must_use]
            pub const fn class(self) -> Class {
                match self { $(Self::$variant => Class::$class),+ }
            }

            /// The label that travels as `text`.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|label| label.as_str() == text)
            }
        }
    };
}

labels! {
    TpmEkCertificate = "tpm/ek-certificate", "application/pkix-cert", Plain,
        "The endorsement key's X.509 certificate, DER.";
    TpmEkPublic = "tpm/ek-public", "application/vnd.touchstone.tpmt-public", Plain,
        "The endorsement key's public area, TPMT_PUBLIC.";
    TpmAkPublic = "tpm/ak-public", "application/vnd.touchstone.tpmt-public", Plain,
        "The attestation key's public area, TPMT_PUBLIC.";
    TpmAkPem = "tpm/ak-pem", "application/x-pem-file", Plain,
        "The attestation key as PEM, without TPM attributes; in unbound evidence only.";
    TpmQuote = "tpm/quote", "application/vnd.touchstone.tpms-attest", Fresh,
        "The quote, TPMS_ATTEST: exactly the signed bytes.";
    TpmQuoteSignature = "tpm/quote-signature", "application/vnd.touchstone.tpmt-signature", Fresh,
        "The quote's signature, TPMT_SIGNATURE.";
    TpmPcrValues = "tpm/pcr-values", "application/vnd.touchstone.pcr-values+cbor", Quoted,
        "The values of the quoted registers (see `pcr_values`).";
    TpmSessionKey = "tpm/session-key", "application/vnd.touchstone.tpmt-public", Plain,
        "The session signing key's public area, TPMT_PUBLIC.";
    TpmSessionKeyCertify = "tpm/session-key-certify", "application/vnd.touchstone.tpms-attest", Fresh,
        "The attestation key's certification of the session key, TPMS_ATTEST.";
    TpmSessionKeyCertifySignature = "tpm/session-key-certify-signature", "application/vnd.touchstone.tpmt-signature", Fresh,
        "That certification's signature, TPMT_SIGNATURE.";
    FirmwareEventLog = "firmware/event-log", "application/vnd.touchstone.tcg-event-log", Quoted,
        "The firmware's event log (TCG PC Client PFP), as the kernel gives it.";
    ImaLog = "ima/log", "application/vnd.touchstone.ima-log", Quoted,
        "The kernel's IMA measurement list, binary form.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_unique_and_parse_back() {
        for label in Label::ALL {
            assert_eq!(Label::parse(label.as_str()), Some(*label));
        }
        assert_eq!(Label::parse("tpm/unknown"), None);
    }
}
