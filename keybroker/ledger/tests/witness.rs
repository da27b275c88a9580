//! Witnesses: the bytes of cosignatures, and what is never cosigned.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use proptest::prelude::*;
use touchstone_cose::key::SigningKey;
use touchstone_ledger::checkpoint::{VerifiedCheckpoint, sign_checkpoint};
use touchstone_ledger::cosignature::{Cosigned, CosignerKey};
use touchstone_ledger::note::{NoteError, NoteKey};
use touchstone_ledger::tree::{Frontier, Hash, MemoryTree, ProofError, consistency_proof, leaf_hash, root_at};
use touchstone_ledger::witness::{MAX_PROOF_LINES, Request, Seen, WitnessError, observe, witness};

const ORIGIN: &str = "eu.example/ledger";
const WITNESS: &str = "witness.example/w1";
/// The checkpoint in the specification's own example.
const TEXT: &str = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
const TIME: u64 = 1_679_315_147;
const VKEY: &str = "witness.example/w1+aa4a09d1+BOpKbGPinFIKvvVQexMuxfmVR3auvr57kkIe6mkURtIs";
const LINE: &str = "\u{2014} witness.example/w1 qkoJ0QAAAABkGFDLWr4Jea05CAgwNVtwky0Jgz6WfX0QJgM//FkB/W9BoT9TX0DkTxG+2cT4p/ViKNhUM/SnUwFcYQzugGFQ15LwDw==";

fn cosigner() -> (SigningKey, CosignerKey) {
    let key = SigningKey::from_seed([0x07; 32]);
    let public = CosignerKey::new(WITNESS, &key.verifying_key()).unwrap();
    (key, public)
}

fn log() -> (SigningKey, NoteKey) {
    let key = SigningKey::from_seed([0x42; 32]);
    let public = NoteKey::new(ORIGIN, &key.verifying_key()).unwrap();
    (key, public)
}

fn leaf(n: u64) -> Hash {
    leaf_hash(&n.to_be_bytes())
}

fn tree(leaves: impl IntoIterator<Item = Hash>) -> MemoryTree {
    let mut tree = MemoryTree::new();
    for leaf in leaves {
        tree.append(leaf).unwrap();
    }
    tree
}

fn checkpoint(tree: &MemoryTree, size: u64) -> String {
    let (key, log) = log();
    sign_checkpoint(&log, size, &root_at(size, tree).unwrap(), &key).unwrap()
}

fn request(tree: &MemoryTree, old: u64, new: u64) -> Request {
    let proof = match old {
        0 => Vec::new(),
        old => consistency_proof(old, new, tree).unwrap(),
    };
    Request {
        old,
        proof,
        checkpoint: checkpoint(tree, new),
    }
}

fn seen(tree: &MemoryTree, size: u64) -> Seen {
    Seen {
        size,
        root: root_at(size, tree).unwrap(),
    }
}

/// Made with another implementation of Ed25519 and SHA-256, by the words of the specification.
#[test]
fn a_cosignature_has_these_bytes() {
    let (key, public) = cosigner();
    assert_eq!(public.to_vkey(), VKEY);
    assert_eq!(CosignerKey::parse(VKEY), Ok(public.clone()));
    assert_eq!(public.cosign(TEXT, TIME, &key).unwrap(), format!("{LINE}\n"));
    let note = format!("{TEXT}\n{LINE}\n");
    assert_eq!(public.open(note.as_bytes()), Ok(Some(Cosigned { time: TIME })));
}

/// A key of a witness that runs, as its operator publishes it: the key id is over type 0x04.
#[test]
fn the_key_of_a_public_witness_is_read() {
    const REMORA: &str = "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2";
    assert_eq!(CosignerKey::parse(REMORA).unwrap().to_vkey(), REMORA);
    assert!(NoteKey::parse(REMORA).is_err(), "no key of a log");
    let (_, log) = log();
    assert!(CosignerKey::parse(&log.to_vkey()).is_err(), "no key of a witness");
    assert!(CosignerKey::parse(&REMORA.replace("da77ade7", "da77ade8")).is_err());
}

#[test]
fn what_is_no_cosignature_of_this_checkpoint() {
    let (_, public) = cosigner();
    let good = format!("{TEXT}\n{LINE}\n");
    let (_, encoded) = LINE.rsplit_once(' ').unwrap();
    let bad = Err(NoteError::BadSignature { name: WITNESS.into() });
    for (name, note, expected) in [
        ("another size", good.replacen("20852163", "20852164", 1), bad.clone()),
        ("another origin", good.replacen("behind", "before", 1), bad.clone()),
        (
            "an extension line added",
            good.replacen("q2I=\n", "q2I=\nmore\n", 1),
            bad.clone(),
        ),
        ("another name", good.replace(WITNESS, "witness.example/w2"), Ok(None)),
        (
            "a right one and a wrong one",
            format!("{good}{}\n", LINE.replacen(encoded, &flipped(encoded, 40), 1)),
            bad.clone(),
        ),
        (
            "a time moved",
            good.replacen(encoded, &flipped(encoded, 11), 1),
            bad.clone(),
        ),
        (
            "a time beyond 63 bits",
            good.replacen(encoded, &flipped(encoded, 4), 1),
            bad.clone(),
        ),
        ("cut short", good.replacen(encoded, &cut(encoded), 1), bad),
    ] {
        assert_eq!(public.open(note.as_bytes()), expected, "{name}");
    }
}

fn decoded(encoded: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(encoded).unwrap()
}

fn encoded(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn flipped(text: &str, at: usize) -> String {
    let mut bytes = decoded(text);
    bytes[at] ^= 0x80;
    encoded(&bytes)
}

fn cut(text: &str) -> String {
    let bytes = decoded(text);
    encoded(&bytes[..bytes.len() - 1])
}

#[test]
fn growth_is_cosigned_and_the_log_is_still_the_logs() {
    let tree = tree((0..70).map(leaf));
    let (key, public) = cosigner();
    let (_, log) = log();
    let mut last = None;
    for (n, size) in [1, 2, 3, 3, 8, 9, 64, 65, 70].into_iter().enumerate() {
        let old = last.map_or(0, |seen: Seen| seen.size);
        let asked = request(&tree, old, size);
        let asked = Request::decode(asked.encode().as_bytes()).unwrap();
        let keys = [log.clone()];
        let (now, line) = witness(last.as_ref(), &asked, &keys, (&public, &key), TIME + n as u64).unwrap();
        assert_eq!(now, seen(&tree, size));
        let cosigned = format!("{}{line}", asked.checkpoint);
        assert_eq!(public.open(cosigned.as_bytes()).unwrap().unwrap().time, TIME + n as u64);
        assert!(VerifiedCheckpoint::open(cosigned.as_bytes(), &log).is_ok());
        last = Some(now);
    }
}

#[test]
fn what_a_witness_never_cosigns() {
    let good = tree((0..20).map(leaf));
    // The same log with its third entry replaced, signed by its own key.
    let rewritten = tree((0..20).map(|n| if n == 2 { leaf(99) } else { leaf(n) }));
    let (_, log) = log();
    let stranger = SigningKey::from_seed([0x43; 32]);
    let strangers = NoteKey::new(ORIGIN, &stranger.verifying_key()).unwrap();
    let forged = Request {
        checkpoint: sign_checkpoint(&strangers, 20, &root_at(20, &good).unwrap(), &stranger).unwrap(),
        ..request(&good, 10, 20)
    };
    let elsewhere = Request {
        checkpoint: TEXT.to_owned() + "\n\u{2014} example.com/behind-the-sofa AAAAAAAA\n",
        ..request(&good, 10, 20)
    };
    let with = |change: fn(&mut Request)| {
        let mut asked = request(&good, 10, 20);
        change(&mut asked);
        asked
    };
    type Row = (&'static str, Request, u16, &'static str);
    let rows: [Row; 12] = [
        (
            "a rewritten log of the same size",
            {
                Request {
                    checkpoint: checkpoint(&rewritten, 10),
                    proof: Vec::new(),
                    old: 10,
                }
            },
            409,
            "ledger-rewritten",
        ),
        (
            "a rewritten log that grew, with its own proof",
            request(&rewritten, 10, 20),
            422,
            "ledger-proof-root",
        ),
        (
            "a log that grew, with the proof of the true one",
            {
                Request {
                    checkpoint: checkpoint(&rewritten, 20),
                    ..request(&good, 10, 20)
                }
            },
            422,
            "ledger-proof-root",
        ),
        ("a log that lost entries", request(&good, 4, 9), 409, "witness-old-size"),
        ("a log begun anew", request(&rewritten, 0, 20), 409, "witness-old-size"),
        (
            "a proof from an older head",
            request(&good, 4, 20),
            409,
            "witness-old-size",
        ),
        (
            "an old size above the new",
            with(|r| r.old = 21),
            400,
            "witness-request-malformed",
        ),
        ("no proof", with(|r| r.proof.clear()), 422, "ledger-proof-length"),
        (
            "a hash too many",
            with(|r| r.proof.push([7; 32])),
            422,
            "ledger-proof-length",
        ),
        ("a hash changed", with(|r| r.proof[0][0] ^= 1), 422, "ledger-proof-root"),
        ("signed by a stranger", forged, 403, "ledger-note-signature"),
        ("another log", elsewhere, 404, "witness-origin-unknown"),
    ];
    let last = seen(&good, 10);
    for (name, asked, status, code) in rows {
        let refused = observe(Some(&last), &asked, std::slice::from_ref(&log)).unwrap_err();
        assert_eq!(
            (refused.http_status(), refused.code()),
            (status, code),
            "{name}: {refused}"
        );
    }
    let nothing_yet = observe(None, &request(&good, 10, 20), std::slice::from_ref(&log)).unwrap_err();
    assert_eq!(nothing_yet, WitnessError::OldSize { seen: 0, old: 10 });
    let with_proof = Request {
        proof: vec![[7; 32]],
        ..request(&good, 0, 20)
    };
    assert!(matches!(
        observe(None, &with_proof, &[log]),
        Err(WitnessError::Proof(ProofError::TooLong { found: 1 }))
    ));
}

#[test]
fn requests_that_are_none() {
    let good = request(&tree((0..20).map(leaf)), 10, 20).encode();
    let most = (0..MAX_PROOF_LINES)
        .map(|_| format!("{}\n", encoded(&[7; 32])))
        .collect::<String>();
    let note = checkpoint(&tree((0..20).map(leaf)), 20);
    assert!(Request::decode(format!("old 1\n{most}\n{note}").as_bytes()).is_ok());
    let one_more = format!("old 1\n{most}{}\n\n{note}", encoded(&[7; 32]));
    for (name, bytes) in [
        ("a proof line too many", one_more.as_str()),
        ("nothing", ""),
        ("a leading zero", "old 01\n\nx"),
        ("no old size", "10\n\nx"),
        ("a sign", "old +1\n\nx"),
        ("a short hash", "old 1\nAAAA\n\nx"),
        ("no empty line", "old 1\n"),
    ] {
        assert!(
            matches!(Request::decode(bytes.as_bytes()), Err(WitnessError::Malformed(_))),
            "{name}"
        );
    }
    // Cut anywhere it is no request, or one whose checkpoint does not open.
    let (_, log) = log();
    for end in 0..good.len() - 1 {
        if let Ok(cut) = Request::decode(&good.as_bytes()[..end]) {
            assert!(observe(None, &cut, std::slice::from_ref(&log)).is_err(), "cut at {end}");
        }
    }
}

/// Every pair of sizes: what the proof holds is the right edge of the old tree, and appending to it gives the new root.
#[test]
fn an_old_right_edge_is_found_in_every_proof() {
    let tree = tree((0..40).map(leaf));
    for new in 1..=40 {
        for old in 1..=new {
            let old_root = root_at(old, &tree).unwrap();
            let proof = consistency_proof(old, new, &tree).unwrap();
            let found = Frontier::from_consistency(old, &old_root, new, &proof);
            if old == new && !old.is_power_of_two() {
                assert!(found.is_err(), "an empty proof holds nothing");
                continue;
            }
            let mut edge = found.unwrap();
            for n in old..new {
                edge.append(leaf(n), |_, _| {}).unwrap();
            }
            assert_eq!(edge.root(), root_at(new, &tree).unwrap(), "{old} to {new}");
            let mut other = old_root;
            other[0] ^= 1;
            let wrong = Frontier::from_consistency(old, &other, new, &proof);
            if !old.is_power_of_two() {
                assert!(matches!(wrong, Err(ProofError::WrongRoot { .. })), "{old} to {new}");
            }
        }
    }
}

proptest! {
    #[test]
    fn hostile_bytes_are_no_request_and_no_panic(bytes: Vec<u8>) {
        let (_, log) = log();
        if let Ok(request) = Request::decode(&bytes) {
            prop_assert!(observe(None, &request, &[log]).is_err());
        }
    }

    #[test]
    fn proofs_of_any_length_and_sizes_never_panic(
        old in 0u64..100, new in 0u64..100, proof in prop::collection::vec(any::<Hash>(), 0..8)
    ) {
        let _ = Frontier::from_consistency(old, &[1; 32], new, &proof);
    }
}
