//! The stable codes of everything this crate refuses.

crate::reason_codes! {
    /// Why bytes, a key or a signature were refused.
    pub enum Code {
        CborLimit = "cbor-limit": "The CBOR is larger, deeper or has more items than the format allows. Send less.",
        CborTruncated = "cbor-truncated": "The CBOR ends too early, or a length in it says more than there is. Send it whole.",
        CborTrailing = "cbor-trailing": "Bytes follow the end of the CBOR item. Send exactly one item.",
        CborDuplicateKey = "cbor-duplicate-key": "A map names a key twice, so two readers could see two values. Encode it once.",
        CborNotDeterministic = "cbor-not-deterministic": "The CBOR is not in deterministic form (RFC 8949 section 4.2.1). Encode with shortest forms, definite lengths and sorted keys.",
        CborUnsupported = "cbor-unsupported": "The CBOR has a float, an unknown simple value, a reserved byte or text that is not UTF-8. None of our formats has them.",
        ShapeMismatch = "shape-mismatch": "A structure lacks a member, has one too many, or has one of another type or length. Compare it with the format named in the message.",
        KeyInvalid = "key-invalid": "A key is not a valid public key of its type. Make a new one.",
        KeyUnsupported = "key-unsupported": "The type, curve or algorithm of a key is not one we use. Use Ed25519, P-256 or P-384.",
        SignatureInvalid = "signature-invalid": "The signature does not verify under the key. The bytes were changed, or another key signed them.",
        SigningFailed = "signing-failed": "The signing key could not sign. Look at the device or file that holds it.",
        CoseMalformed = "cose-malformed": "The object is not a COSE_Sign1 as our profile wants it. Compare it with the message.",
        CoseHeaderRefused = "cose-header-refused": "A COSE header parameter is unknown, in the wrong bucket, in both, or marked critical. Leave it out.",
        CoseAlgorithmMismatch = "cose-algorithm-mismatch": "The algorithm in the header is not the one of the key. Sign with the key's own algorithm.",
        CoseKidMismatch = "cose-kid-mismatch": "The object names another key than the one it was checked with. Look the key up by its id.",
        CoseTypeMismatch = "cose-type-mismatch": "The object was signed for another purpose (header 16 or 3). Send the right kind of object.",
        CoseEncryptMalformed = "cose-encrypt-malformed": "The object is not a COSE_Encrypt for one recipient as our profile wants it. Compare it with the message.",
        KeyAgreementFailed = "key-agreement-failed": "The receive key could not agree on a secret. On a TPM node: its boot registers are no longer those the key was made for, or the TPM was reset; attest again.",
        EncryptionFailed = "encryption-failed": "The secret could not be encrypted: it is too large, or the library failed. Look at the message.",
        DecryptionFailed = "decryption-failed": "The secret does not open: the answer was changed, or it is for another key or another statement. Ask the broker again.",
        TokenNotYetValid = "token-not-yet-valid": "The token is not valid yet. Compare the clocks of maker and reader.",
        TokenExpired = "token-expired": "The token has expired. Fetch a new one.",
        StatusListInvalid = "status-list-invalid": "The status list is unreadable, too large or of another width. Fetch it again from its issuer.",
        StatusIndexOutOfRange = "status-index-out-of-range": "The status index lies outside the list, so the status is unknown. Fetch a new token.",
        StatusListMismatch = "status-list-mismatch": "The status list is not the one that the token names. Fetch the right list.",
        ReceiptInvalid = "receipt-invalid": "The receipt's proof does not lead to the root that the log signed. Ask the log for a new one.",
    }
}
