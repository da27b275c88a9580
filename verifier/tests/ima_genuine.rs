//! Genuine IMA lists: every one is read and replays to the value it is published with, and the recorded boots' lists to
//! the register their own TPM quoted.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

use crate::common;

use std::collections::BTreeMap;

use common::Boot;
use touchstone_vectors::genuine;
use touchstone_verifier::eventlog::RegisterValue;
use touchstone_verifier::ima::{
    EntryKind, ImaError, ImaKey, ImaList, ImaPrefix, SignedBy, Template, from_ascii, is_ascii, replay, signed_by,
};
use touchstone_verifier::tpm::HashAlg;
use touchstone_verifier::x509::key::KeyError;

/// The list in binary, whatever form the file has.
fn binary(bytes: Vec<u8>) -> Vec<u8> {
    if is_ascii(&bytes) {
        from_ascii(&bytes).unwrap()
    } else {
        bytes
    }
}

/// Register 10 after the list, extended anew in `bank`, or with padded SHA-1 digests.
fn register(list: &[u8], bank: HashAlg, padded: bool) -> Vec<u8> {
    let mut value = RegisterValue::initial(bank, 10, 0);
    for entry in ImaList::parse(list).unwrap().entries() {
        let mut digest = match (entry.is_violation(), padded) {
            (true, _) => vec![0xFF; bank.digest_len()],
            (false, false) => entry.hash(bank).as_ref().to_vec(),
            (false, true) => entry.template_digest.to_vec(),
        };
        digest.resize(bank.digest_len(), 0);
        value.extend(bank, &digest);
    }
    value.as_bytes().to_vec()
}

/// File, entries, violations, bytes after the last entry, and the registers of SHA-1, SHA-256 hashed anew and SHA-256
/// padded, as far as they are published.
type Row = (
    &'static str,
    usize,
    usize,
    usize,
    &'static str,
    &'static str,
    &'static str,
);

const LISTS: [Row; 11] = [
    (
        "fedora-ascii_runtime_measurements",
        826,
        0,
        0,
        "82231c67a69da98dc5b3aa10f6343d33109225fc",
        "",
        "",
    ),
    (
        "guard-h12ssl.ascii",
        2380,
        2,
        0,
        "5cd6fd5308dd67bd03a2d35e786e2a4ff17972f2",
        "",
        "",
    ),
    (
        "guard-sr630.binary",
        3696,
        154,
        0,
        "7217e1a2f3cfaa5849e8d44dc7f95433c71606bf",
        "03b5f69b957885c5e872dcef0d3dd23ed50244761fb96feab1fc6930ac27e0ee",
        "f2e73cb74ba58726660db21b32cb7376bf2ba0a69b82f574907507ce6768a88b",
    ),
    (
        "ibmtss-imatest.bin",
        17,
        1,
        0,
        "0ff68e1da514770e85581bffe693809776302a63",
        "af02ae09413721fddb71250ae26383de73cc78d5df37fbebadacedeaeacddb18",
        "2c88e99f2fdead0294a140f5361eb64d968be82ff42f6e7871f94e9ec530210a",
    ),
    (
        "keylime-ima-log-sha1.txt",
        2,
        1,
        0,
        "62e5bdf4783228f7deec959f0a89a4739af79ac5",
        "",
        "",
    ),
    (
        "keylime-ima-log-sha256.txt",
        2,
        0,
        0,
        "8adcb4304b78ee782bbba3733b191591e75dc83d",
        "",
        "",
    ),
    (
        "keylime-measurements.txt",
        3,
        0,
        0,
        "dff39e2db052e00d11f45770bb127c4053e14f32",
        "",
        "",
    ),
    (
        "keylime-signatures.txt",
        2,
        0,
        0,
        "5bfd7d5ca54868d443d09b9e3c4fca6d7d2c1d15",
        "",
        "",
    ),
    (
        "tss-sml-ima-ng-sha1.bin",
        6,
        0,
        1,
        "ef2a20de2a84a4780f92ab11d5c4934c709dff00",
        "700a1bb47bc2bc005f2d8e23d80e2a1e301733c1d29023c52d1d7d149719eb64",
        "f4059058172c2d1d279b7ce206ce9373249786f9a9dc59a2af279e0eaed14a26",
    ),
    (
        "tss-sml-ima-sha1.bin",
        12,
        0,
        1,
        "062a05a9d18d1a51775ff8162bf6964b8dd23eb4",
        // Published is a9d64707…, hashed over the name as it stands. The kernel pads it to 256 bytes in every bank alike
        // (ima_crypto.c, ima_calc_field_array_hash_tfm), and this list's own SHA-1 digests confirm the padding.
        "239ba8e6f20ecfec961d771036c68f02dbeb771678b64c18cba81363e8e7139a",
        "fe965aa7a38d566f153dbefe5841c37c4494d93f0716e53b3617343d801fd349",
    ),
    (
        "tss-sml-ima-sig-sha256.bin",
        9,
        0,
        6,
        "b44019405884709ca410b0c30b48159d3a556622",
        "a7e76625386d3dc6248552e44a3b2b1bebb6f2ff3acc9bd220821ad22f7a9d6a",
        "9795c7da414424d16efd3821f51d88fd39d64ec382ce36a28ca650a3e9f69c18",
    ),
];

/// A machine whose IMA policy measures into register 11 as well.
const OTHER_REGISTER: &str = "guard-sr630.binary";

#[test]
fn every_genuine_list_replays_to_its_published_value() {
    let Some(dir) = genuine("ima") else { return };
    for (name, entries, violations, trailing, sha1, sha256, padded) in LISTS {
        let list = binary(std::fs::read(dir.join(name)).unwrap());
        let parsed = ImaList::parse(&list).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(parsed.entries().len(), entries, "{name}");
        let found = parsed.entries().iter().filter(|entry| entry.is_violation()).count();
        assert_eq!((found, parsed.trailing()), (violations, trailing), "{name}");
        let values = [
            (HashAlg::Sha1, false, sha1),
            (HashAlg::Sha256, false, sha256),
            (HashAlg::Sha256, true, padded),
        ];
        for (bank, padded, value) in values.into_iter().filter(|(.., value)| !value.is_empty()) {
            let value = hex::decode(value).unwrap();
            assert_eq!(register(&list, bank, padded), value, "{name} {bank}");
            let replayed = replay(&ImaPrefix::default(), &list, &[(bank, &value)]);
            if name == OTHER_REGISTER {
                // Published as if all were one register's; a quote of register 10 alone does not vouch for the others.
                let (entry, register) = (2, 11);
                assert_eq!(replayed, Err(ImaError::OtherRegister { entry, register }), "{name}");
            } else if padded {
                assert_eq!(replayed, Err(ImaError::BankWeak { bank }), "{name}");
            } else {
                let replayed = replayed.unwrap_or_else(|e| panic!("{name}: {e}"));
                assert_eq!((replayed.entries.len(), replayed.ignored), (entries, 0), "{name}");
            }
        }
    }
}

#[test]
fn every_template_is_told_apart() {
    let Some(dir) = genuine("ima") else { return };
    let list = std::fs::read(dir.join("ibmtss-imatest.bin")).unwrap();
    let parsed = ImaList::parse(&list).unwrap();
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    for entry in parsed.entries() {
        *names.entry(entry.template.name()).or_default() += 1;
    }
    let expected = [
        ("d-ng|sig", 1),
        ("evm-sig", 1),
        ("ima", 1),
        ("ima-buf", 1),
        ("ima-modsig", 2),
        ("ima-ng", 1),
        ("ima-ngv2", 1),
        ("ima-sig", 3),
        ("ima-sigv2", 1),
        ("n", 1),
        ("n-ng|d-ng", 1),
        ("n-ng|sig", 1),
        ("n-ng|sig|d-ng", 1),
        ("sig", 1),
    ];
    assert_eq!(names, expected.map(|(name, count)| (name.to_owned(), count)).into());
    let of = |template| {
        parsed
            .entries()
            .iter()
            .find(|entry| entry.template == template)
            .unwrap()
    };
    let key = of(Template::ImaBuf);
    assert_eq!(
        (key.kind(), key.path()),
        (EntryKind::Buffer, &b".builtin_trusted_keys"[..])
    );
    let digest = HashAlg::Sha256.digest([key.buffer().unwrap()]);
    assert_eq!(
        key.file_digest().unwrap().digest,
        digest.as_ref(),
        "the buffer's digest"
    );
    let verity = of(Template::ImaSigV2).file_digest().unwrap();
    assert_eq!((verity.algorithm, verity.verity), ("sha256", false));
    assert!(of(Template::EvmSig).signature().is_some());
}

#[test]
fn the_recorded_boots_replay_to_their_register_and_text_and_binary_are_one_list() {
    for name in ["good", "cmdline-changed", "ima-unknown-exec", "uki"] {
        let boot = Boot::load(name);
        let list = boot.file("ima.bin");
        assert_eq!(from_ascii(&boot.file("ima.txt")).unwrap(), list, "{name}");
        let banks: Vec<(HashAlg, &[u8])> = [HashAlg::Sha1, HashAlg::Sha256]
            .iter()
            .map(|bank| (*bank, boot.registers[&(*bank, 10)].as_slice()))
            .collect();
        let replayed = replay(&ImaPrefix::default(), &list, &banks).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(replayed.bytes as usize, replayed.entries.last().unwrap().end, "{name}");
        assert_eq!(replayed.entries[0].kind(), EntryKind::BootAggregate, "{name}");
    }
}

/// Keys and signatures of a genuine keyring: each file is signed by the key that its signature names, and by no other
/// digest's.
#[test]
fn genuine_file_signatures_verify_under_their_keys_only() {
    use base64::Engine as _;
    let Some(dir) = genuine("ima") else { return };
    let ring: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.join("keylime-ima_keyring.json")).unwrap()).unwrap();
    let keys: Vec<Result<ImaKey, KeyError>> = ring["pubkeys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| {
            let der = base64::engine::general_purpose::STANDARD
                .decode(key.as_str().unwrap())
                .unwrap();
            ImaKey::from_spki_der("genuine", &der)
        })
        .collect();
    // The other is on secp256k1, a curve that is not judged here.
    assert!(
        matches!(&keys[..], [Ok(_), Err(KeyError::Unsupported { .. })]),
        "{keys:?}"
    );
    let keys: Vec<ImaKey> = keys.into_iter().flatten().collect();
    let list = binary(std::fs::read(dir.join("keylime-signatures.txt")).unwrap());
    let parsed = ImaList::parse(&list).unwrap();
    let by_other_key = &parsed.entries()[1];
    let (hash, signature) = (by_other_key.file_digest().unwrap(), by_other_key.signature().unwrap());
    let unknown = signed_by(&keys, signature, Some(HashAlg::Sha256), hash.digest, false);
    assert_eq!(unknown, SignedBy::UnknownKey([0x53, 0x1f, 0x40, 0x25]));
    for entry in &parsed.entries()[..1] {
        let (hash, signature) = (entry.file_digest().unwrap(), entry.signature().unwrap());
        let algorithm = HashAlg::from_name(hash.algorithm);
        let judge = |keys| signed_by(keys, signature, algorithm, hash.digest, false);
        assert!(
            matches!(judge(&keys), SignedBy::Key(_)),
            "{}: {:?}",
            entry.path_words(),
            judge(&keys)
        );
        assert!(matches!(judge(&[]), SignedBy::UnknownKey(_)));
        let other = signed_by(&keys, signature, algorithm, &[7; 32], false);
        assert!(matches!(other, SignedBy::Invalid(_)), "{other:?}");
        let mut altered = signature.to_vec();
        *altered.last_mut().unwrap() ^= 1;
        let altered = signed_by(&keys, &altered, algorithm, hash.digest, false);
        assert!(matches!(altered, SignedBy::Invalid(_)), "{altered:?}");
        let verity = signed_by(&keys, signature, algorithm, hash.digest, true);
        assert!(matches!(verity, SignedBy::Unsupported(_)), "{verity:?}");
        let weak = signed_by(&keys, signature, Some(HashAlg::Sha1), hash.digest, false);
        assert!(matches!(weak, SignedBy::Unsupported(_)), "{weak:?}");
    }
}

/// A list cut at any byte is read as a shorter list or refused, and never gives the value of the whole.
#[test]
fn a_list_cut_at_any_byte_never_gives_the_whole_lists_value() {
    let list = Boot::load("good").file("ima.bin");
    let whole = register(&list, HashAlg::Sha256, false);
    for len in 0..list.len() {
        let refused = replay(&ImaPrefix::default(), &list[..len], &[(HashAlg::Sha256, &whole)]);
        assert!(refused.is_err(), "{len}");
    }
    let Some(dir) = genuine("ima") else { return };
    let list = std::fs::read(dir.join("ibmtss-imatest.bin")).unwrap();
    let whole = register(&list, HashAlg::Sha256, false);
    assert_ne!(whole, register(&list, HashAlg::Sha256, true), "the two forms differ");
    for len in 0..list.len() {
        let refused = replay(&ImaPrefix::default(), &list[..len], &[(HashAlg::Sha256, &whole)]);
        assert!(refused.is_err(), "{len}");
    }
}
