//! Every reason for which something from a ledger is not believed, as stable codes.

touchstone_cose::reason_codes! {
    /// Why a proof, a checkpoint, a statement or a receipt is refused.
    pub enum Code {
        ProofIndex = "ledger-proof-index":
            "The proof speaks of a leaf or of tree sizes that cannot be. Ask for a proof for this very entry and checkpoint.",
        ProofLength = "ledger-proof-length":
            "The proof has too few or too many hashes for its tree size. It was truncated or padded: ask for it again.",
        ProofRoot = "ledger-proof-root":
            "The proof leads to another root than the one that was signed. The entry is not in this log, or the log was rewritten: report it.",
        NodeMissing = "ledger-node-missing":
            "A hash that the proof needs is not in the store. Restore the ledger's store from a backup.",
        NoteMalformed = "ledger-note-malformed":
            "The bytes are not a signed note. Fetch the checkpoint again.",
        NoteSignature = "ledger-note-signature":
            "A signature by a known key does not verify, or none is by a known key. Do not use this checkpoint; compare the log's key with the signed keyset.",
        CheckpointMalformed = "ledger-checkpoint-malformed":
            "The text of the note is not a checkpoint. Fetch it again.",
        CheckpointOrigin = "ledger-checkpoint-origin":
            "The checkpoint is of another log. Ask the log that the domain's keyset names.",
        WitnessRequest = "witness-request-malformed":
            "The bytes are not a request to a witness. Send what C2SP tlog-witness describes.",
        WitnessOrigin = "witness-origin-unknown":
            "The witness does not watch this log. Configure the log's key at the witness.",
        WitnessSize = "witness-old-size":
            "The proof does not begin at the size the witness saw last. Ask with the size it names.",
        LedgerRewritten = "ledger-rewritten":
            "The log signed two histories, or fewer entries than before. Keep both checkpoints, trust nothing of this log, and report it.",
        SigningFailed = "ledger-signing-failed":
            "The ledger's signing key could not sign. Look at the device or file that holds it.",
        StatementMalformed = "statement-malformed":
            "The statement lacks a member, or has one that its format does not allow. Compare it with the message.",
        StatementTooLarge = "statement-too-large":
            "The statement does not fit a ledger entry of 65,535 bytes. Record digests instead of contents.",
        StatementHeader = "statement-header-mismatch":
            "The header of the statement names another issuer or subject than its payload. Do not use it; report who sent it.",
        ReceiptOrigin = "receipt-origin":
            "The receipt is from another log. Ask the log that the domain's keyset names.",
        ReceiptTreeSize = "receipt-tree-size":
            "A tree of one leaf has no receipts. Write the genesis leaf first, and ask again after the next entry.",
        ReasonsTruncated = "reasons-truncated":
            "There were more reasons than a statement holds, the last ones are left out. Fix the ones that are shown and attest again.",
    }
}
