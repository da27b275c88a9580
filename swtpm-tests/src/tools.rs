//! tpm2-tools as a second opinion: what our code makes is checked by other code, and the other way round.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "test support: what is not as it must be fails the test"
)]

use std::path::Path;
use std::process::Command;

use touchstone_attest::tpm::Attestation;

/// Whether tpm2_checkquote accepts a quote over this nonce by this key (a TPMT_PUBLIC).
///
/// # Panics
/// When the tools are not installed or a scratch file cannot be written.
#[must_use]
pub fn check_quote(ak_public: &[u8], quote: &Attestation, nonce: &[u8]) -> bool {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        path
    };
    let mut tpm2b = u16::try_from(ak_public.len()).expect("short").to_be_bytes().to_vec();
    tpm2b.extend_from_slice(ak_public);
    let public = file("ak.pub", &tpm2b);
    let pem = folder.path().join("ak.pem");
    run(
        Command::new("tpm2_print")
            .args(["-t", "TPM2B_PUBLIC", "-f", "pem"])
            .arg(&public),
        Some(&pem),
    );
    Command::new("tpm2_checkquote")
        .args(["-g", "sha256", "-q", &hex::encode(nonce)])
        .arg("-u")
        .arg(&pem)
        .arg("-m")
        .arg(file("quote.msg", &quote.attested))
        .arg("-s")
        .arg(file("quote.sig", &quote.signature))
        .output()
        .expect("tpm2_checkquote is installed")
        .status
        .success()
}

/// Runs a program to its end and keeps its output in a file if asked to.
///
/// # Panics
/// When it is not installed or fails.
pub fn run(command: &mut Command, output_to: Option<&Path>) {
    let output = command.output().expect("an installed program");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    if let Some(path) = output_to {
        std::fs::write(path, output.stdout).expect("written");
    }
}

/// A credential made by tpm2-tools: magic and version, then TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET.
/// Returns both, each with its length.
///
/// # Panics
/// When it is no credential file.
#[must_use]
pub fn tpm2_credential(file: &[u8]) -> (Vec<u8>, Vec<u8>) {
    assert_eq!(file[..8], [0xBA, 0xDC, 0xC0, 0xDE, 0, 0, 0, 1]);
    let size = |at: usize| usize::from(u16::from_be_bytes([file[at], file[at + 1]]));
    let blob_end = 10 + size(8);
    let secret_end = blob_end + 2 + size(blob_end);
    assert_eq!(secret_end, file.len());
    (file[8..blob_end].to_vec(), file[blob_end..].to_vec())
}
