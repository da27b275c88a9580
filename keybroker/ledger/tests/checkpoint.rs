//! Signed notes and checkpoints: golden bytes, and what must not be believed.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use proptest::prelude::*;
use touchstone_cose::key::{Algorithm, SignError, Signer, SigningKey, VerifyingKey};
use touchstone_ledger::checkpoint::{CheckpointError, VerifiedCheckpoint, sign_checkpoint};
use touchstone_ledger::note::{MAX_NOTE_LEN, MAX_SIGNATURES, NoteError, NoteKey};
use touchstone_ledger::tree::{empty_root, leaf_hash};

const ORIGIN: &str = "ledger.example/eu-1";

fn log() -> (SigningKey, NoteKey) {
    let key = SigningKey::from_seed([0x42; 32]);
    let public = NoteKey::new(ORIGIN, &key.verifying_key()).unwrap();
    (key, public)
}

/// A note that says anything, with a right signature.
fn note(text: &str) -> String {
    let (key, log) = log();
    log.sign(text, &key).unwrap()
}

fn checkpoint() -> String {
    let (key, log) = log();
    sign_checkpoint(&log, 42, &leaf_hash(b"x"), &key).unwrap()
}

/// The example in the documentation of Go's `sumdb/note`, where signed notes come from, with its published key.
#[test]
fn the_published_note_verifies_and_is_made_again_byte_for_byte() {
    const VKEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const SEED: &str = "810a1402d5146c8d84f2443330f54080ebf98ee17d9c74f6252fc5d5c7283173";
    const TEXT: &str =
        "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
    const SIGNATURE: &str =
        "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=";

    let known = NoteKey::parse(VKEY).unwrap();
    assert_eq!((known.name(), known.to_vkey().as_str()), ("PeterNeumann", VKEY));
    let note = format!("{TEXT}\n\u{2014} PeterNeumann {SIGNATURE}\n");
    assert_eq!(known.open(note.as_bytes()), Ok(TEXT));

    let key = SigningKey::from_seed(hex::decode(SEED).unwrap().try_into().unwrap());
    assert_eq!(NoteKey::new("PeterNeumann", &key.verifying_key()), Ok(known.clone()));
    assert_eq!(known.sign(TEXT, &key), Ok(note));
}

#[test]
fn a_checkpoint_has_these_bytes() {
    let (_, log) = log();
    assert_eq!(
        log.to_vkey(),
        "ledger.example/eu-1+753e35fe+ASFS+NGbeR0kRTJC4V8uq2y3z/p7al7TAJeWDgaYgdsS"
    );
    let expected = "\
ledger.example/eu-1
42
PH6byTDck/AfppmF7yQtn56GHzxTVaokzl70tLinDMs=

\u{2014} ledger.example/eu-1 dT41/qpUNBSP7bJf7ebrMuR8zud5bxQ3KsJ6Lmzut3lfxPN+ppxLAqpZatv0anOU4oO5ZdFBENCRW49Gdocti6e8ZAE=
";
    assert_eq!(checkpoint(), expected);
    let open = VerifiedCheckpoint::open(expected.as_bytes(), &log).unwrap();
    assert_eq!(
        (open.origin(), open.size(), open.root()),
        (ORIGIN, 42, &leaf_hash(b"x"))
    );
}

#[test]
fn an_empty_log_and_extension_lines_are_read() {
    let (key, log) = log();
    let sign = |size, root: &[u8; 32]| sign_checkpoint(&log, size, root, &key).unwrap();
    assert_eq!(
        VerifiedCheckpoint::open(sign(0, &empty_root()).as_bytes(), &log)
            .unwrap()
            .size(),
        0
    );
    assert_eq!(
        VerifiedCheckpoint::open(sign(u64::MAX, &[9; 32]).as_bytes(), &log)
            .unwrap()
            .size(),
        u64::MAX
    );
    assert_eq!(
        VerifiedCheckpoint::open(sign(0, &[9; 32]).as_bytes(), &log),
        Err(CheckpointError::Malformed("root of an empty log"))
    );
    let extended = note(&format!("{ORIGIN}\n42\n{ROOT}\nanything\nat all\n"));
    assert_eq!(VerifiedCheckpoint::open(extended.as_bytes(), &log).unwrap().size(), 42);
}

const ROOT: &str = "PH6byTDck/AfppmF7yQtn56GHzxTVaokzl70tLinDMs=";

/// The text is signed as it should be, and yet is no checkpoint.
#[test]
fn signed_texts_that_are_not_checkpoints_are_refused() {
    let rows = [
        ("another log", "other.example\n42\n{ROOT}\n", "other"),
        (
            "origin that begins alike",
            "ledger.example/eu-10\n42\n{ROOT}\n",
            "other",
        ),
        ("no origin", "\n42\n{ROOT}\n", "origin"),
        ("leading zero", "{ORIGIN}\n042\n{ROOT}\n", "size"),
        ("double zero", "{ORIGIN}\n00\n{ROOT}\n", "size"),
        ("plus sign", "{ORIGIN}\n+42\n{ROOT}\n", "size"),
        ("minus sign", "{ORIGIN}\n-42\n{ROOT}\n", "size"),
        ("space before the size", "{ORIGIN}\n 42\n{ROOT}\n", "size"),
        ("hexadecimal size", "{ORIGIN}\n0x2a\n{ROOT}\n", "size"),
        ("size over 64 bits", "{ORIGIN}\n18446744073709551616\n{ROOT}\n", "size"),
        ("no size", "{ORIGIN}\n\n{ROOT}\n", "size"),
        ("nothing but an origin", "{ORIGIN}\n", "size"),
        ("no root", "{ORIGIN}\n42\n", "root"),
        (
            "short root",
            "{ORIGIN}\n42\nPH6byTDck/AfppmF7yQtn56GHzxTVaokzl70tLinDA==\n",
            "root",
        ),
        (
            "root without padding",
            "{ORIGIN}\n42\nPH6byTDck/AfppmF7yQtn56GHzxTVaokzl70tLinDMs\n",
            "root",
        ),
        (
            "root with stray bits",
            "{ORIGIN}\n42\nPH6byTDck/AfppmF7yQtn56GHzxTVaokzl70tLinDMt=\n",
            "root",
        ),
        (
            "root in the URL alphabet",
            "{ORIGIN}\n42\nPH6byTDck_AfppmF7yQtn56GHzxTVaokzl70tLinDMs=\n",
            "root",
        ),
        ("empty extension line", "{ORIGIN}\n42\n{ROOT}\n\nmore\n", "extension"),
        ("empty line at the end", "{ORIGIN}\n42\n{ROOT}\n\n", "extension"),
    ];
    let (_, log) = log();
    for (name, text, expected) in rows {
        let note = note(&text.replace("{ORIGIN}", ORIGIN).replace("{ROOT}", ROOT));
        let found = match VerifiedCheckpoint::open(note.as_bytes(), &log) {
            Err(CheckpointError::Malformed(what)) => what,
            Err(CheckpointError::OtherOrigin { .. }) => "other",
            found => panic!("{name}: {found:?}"),
        };
        assert_eq!(found, expected, "{name}");
    }
}

/// What happens to the note around a good text.
#[test]
fn bent_notes_are_refused() {
    let (key, log) = log();
    let good = checkpoint();
    let (text, line) = good.split_once("\n\n").unwrap();
    let line = line.trim_end();
    let other_key = SigningKey::from_seed([1; 32]);
    let other = NoteKey::new(ORIGIN, &other_key.verifying_key()).unwrap();
    let by_other = sign_checkpoint(&other, 42, &leaf_hash(b"x"), &other_key).unwrap();
    let named_other = NoteKey::new("other.example", &key.verifying_key()).unwrap();
    let by_other_name = named_other.sign(&format!("{text}\n"), &key).unwrap();
    let bad_line = {
        let mut bytes = line.to_owned().into_bytes();
        // The last letter before the padding carries bits of the signature.
        let at = bytes.len() - 4;
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(bytes).unwrap()
    };
    let not_signed = NoteError::NotSigned {
        expected: ORIGIN.into(),
    };
    let bad = NoteError::BadSignature { name: ORIGIN.into() };
    let rows = [
        ("size changed", good.replacen("42", "43", 1), bad.clone()),
        ("root changed", good.replacen("PH6b", "PH6c", 1), bad.clone()),
        ("signature changed", format!("{text}\n\n{bad_line}\n"), bad.clone()),
        (
            "a right signature and a wrong one",
            format!("{good}{bad_line}\n"),
            bad.clone(),
        ),
        (
            "a wrong signature and a right one",
            format!("{text}\n\n{bad_line}\n{line}\n"),
            bad,
        ),
        ("another key under this name", by_other, not_signed.clone()),
        ("this key under another name", by_other_name, not_signed),
        (
            "no signature",
            format!("{text}\n\n"),
            NoteError::Incomplete("signatures"),
        ),
        (
            "no blank line",
            format!("{text}\n{line}\n"),
            NoteError::Incomplete("blank line"),
        ),
        (
            "no final newline",
            good.trim_end().into(),
            NoteError::Incomplete("final newline"),
        ),
        (
            "hyphen for dash",
            good.replace('\u{2014}', "-"),
            NoteError::MalformedSignature(1),
        ),
        (
            "signature without padding",
            good.replace("AE=", "AE"),
            NoteError::MalformedSignature(1),
        ),
        (
            "key id alone",
            format!("{text}\n\n\u{2014} {ORIGIN} dT41/g==\n"),
            NoteError::MalformedSignature(1),
        ),
        ("carriage returns", good.replace('\n', "\r\n"), NoteError::NotText),
        ("zero byte", good.replacen("42", "4\x002", 1), NoteError::NotText),
        ("empty", String::new(), NoteError::Incomplete("blank line")),
        (
            "endless signatures",
            format!("{good}{}", format!("{line}\n").repeat(MAX_SIGNATURES)),
            NoteError::TooManySignatures { limit: MAX_SIGNATURES },
        ),
        (
            "endless text",
            format!("{}{good}", "x".repeat(MAX_NOTE_LEN)),
            NoteError::TooLong {
                limit: MAX_NOTE_LEN,
                found: MAX_NOTE_LEN + good.len(),
            },
        ),
    ];
    for (name, note, expected) in rows {
        let found = VerifiedCheckpoint::open(note.as_bytes(), &log);
        assert_eq!(found, Err(CheckpointError::Note(expected)), "{name}");
    }
    assert_eq!(log.open(b"\xff\n\n\xff\n"), Err(NoteError::NotText));
}

#[test]
fn signatures_by_others_are_carried_and_ignored() {
    // A key is known by its name and its id: sharing one of them is not enough to be asked.
    for other in [
        "witness.example AAAAAAECAwQ=",
        "witness.example dT41/gECAwQ=",
        "ledger.example/eu-1 AAAAAAECAwQ=",
    ] {
        carried_and_ignored(&format!("\u{2014} {other}\n"));
    }
}

fn carried_and_ignored(witness: &str) {
    let (_, log) = log();
    let good = checkpoint();
    let (text, line) = good.split_once("\n\n").unwrap();
    for note in [format!("{good}{witness}"), format!("{text}\n\n{witness}{line}")] {
        assert!(VerifiedCheckpoint::open(note.as_bytes(), &log).is_ok());
    }
}

/// A key that cannot be reached.
struct Broken;

impl Signer for Broken {
    fn algorithm(&self) -> Algorithm {
        Algorithm::Ed25519
    }
    fn kid(&self) -> [u8; 8] {
        [0; 8]
    }
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, SignError> {
        Err(SignError::Device("unplugged".into()))
    }
}

#[test]
fn what_a_signer_returns_is_checked_before_it_goes_out() {
    let (key, log) = log();
    let other = SigningKey::from_seed([1; 32]);
    let wrong = sign_checkpoint(&log, 1, &[0; 32], &other);
    assert_eq!(
        wrong,
        Err(CheckpointError::Note(NoteError::BadSignature { name: ORIGIN.into() }))
    );
    let broken = SignError::Device("unplugged".into());
    assert_eq!(log.sign("x\n", &Broken), Err(NoteError::Signing(broken)));
    assert_eq!(
        log.sign("no newline", &key),
        Err(NoteError::Incomplete("final newline"))
    );
    assert_eq!(log.sign("a\rb\n", &key), Err(NoteError::NotText));
}

#[test]
fn malformed_keys_and_names_are_refused() {
    let (_, log) = log();
    let vkey = log.to_vkey();
    for (name, vkey) in [
        ("nothing", String::new()),
        ("two parts", "a+b".into()),
        ("id of another key", vkey.replace("753e35fe", "753e35ff")),
        ("upper-case id", vkey.replace("753e35fe", "753E35FE")),
        ("another name", vkey.replace("eu-1", "eu-2")),
        ("another type", vkey.replace("+AS", "+BS")),
        ("a short key", vkey[..vkey.len() - 4].into()),
        ("not base64", vkey.replace("+AS", "+?S")),
    ] {
        assert!(NoteKey::parse(&vkey).is_err(), "{name}");
    }
    let (key, _) = self::log();
    for name in ["", "a b", "a+b", "a\u{2003}b", "a\nb", "a\u{7}b", &"x".repeat(256)] {
        assert_eq!(
            NoteKey::new(name, &key.verifying_key()),
            Err(NoteError::MalformedName),
            "{name:?}"
        );
    }
    let mut identity = [0; 32];
    identity[0] = 1;
    let unusable = NoteError::MalformedKey("not a usable Ed25519 public key");
    assert_eq!(
        NoteKey::new("a", &VerifyingKey::Ed25519(identity)),
        Err(unusable),
        "of small order"
    );
    let p256 = VerifyingKey::P256 { x: [1; 32], y: [2; 32] };
    assert_eq!(
        NoteKey::new("a", &p256),
        Err(NoteError::MalformedKey("not of type Ed25519"))
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_byte_never_yields_another_head(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let (_, log) = log();
        let good = checkpoint().into_bytes();
        let head = VerifiedCheckpoint::open(&good, &log).unwrap();
        let mut bent = good.clone();
        let at = at.index(bent.len());
        bent[at] = byte;
        if let Ok(found) = VerifiedCheckpoint::open(&bent, &log) {
            prop_assert_eq!(found, head);
        }
    }

    #[test]
    fn noise_is_refused_without_panic(noise in prop::collection::vec(any::<u8>(), 0..300)) {
        let (_, log) = log();
        prop_assert!(VerifiedCheckpoint::open(&noise, &log).is_err());
        let _ = NoteKey::parse(&String::from_utf8_lossy(&noise));
    }
}
