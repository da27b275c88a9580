use std::path::PathBuf;

use ::corim::builder::{ComidBuilder, CorimBuilder};
use ::corim::types::common::TagIdChoice;
use ::corim::types::corim::CorimId;
use ::corim::types::environment::ClassMap;
use ::corim::types::measurement::IntegrityRegisters;
use ::corim::types::triples::ReferenceTriple;
use touchstone_cose::key::SigningKey;
use touchstone_cose::sign1::{self, Protected};

use super::*;
use crate::reason::AppraisalCode;

const NOW: i64 = 1_800_000_000;
const ISSUER: &str = "ACME firmware";

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed([seed; 32])
}

fn vendor(seed: u8, issuer: &str) -> VendorSigner {
    VendorSigner {
        name: "acme".into(),
        issuer: issuer.into(),
        key: key(seed).verifying_key(),
        not_after: None,
    }
}

fn measurement(mkey: Option<MeasuredElement>, fill: impl FnOnce(&mut MeasurementValuesMap)) -> MeasurementMap {
    let mut mval = MeasurementValuesMap::new();
    fill(&mut mval);
    MeasurementMap {
        mkey,
        mval,
        authorized_by: None,
    }
}

fn registers(values: &[(u64, u8)]) -> MeasurementMap {
    let registers = values
        .iter()
        .map(|(pcr, value)| (IntegrityRegisterId::Uint(*pcr), vec![Digest::new(1, vec![*value; 32])]));
    measurement(None, |values| {
        values.integrity_registers = Some(IntegrityRegisters(registers.collect()))
    })
}

fn numbered(pcr: u64, digests: Vec<Digest>) -> MeasurementMap {
    measurement(Some(MeasuredElement::Uint(pcr)), |values| {
        values.digests = Some(digests)
    })
}

fn unsigned(profile: Option<&str>, measurements: Vec<MeasurementMap>) -> Vec<u8> {
    let environment = EnvironmentMap::for_class("ACME", "Server 7");
    in_environment(profile, environment, measurements)
}

fn in_environment(profile: Option<&str>, environment: EnvironmentMap, measurements: Vec<MeasurementMap>) -> Vec<u8> {
    let comid = ComidBuilder::new(TagIdChoice::Text("acme/7".into()))
        .add_reference_triple(ReferenceTriple::new(environment, measurements))
        .build()
        .unwrap();
    let mut corim = CorimBuilder::new(CorimId::Text("acme".into()))
        .add_comid_tag(comid)
        .unwrap();
    if let Some(profile) = profile {
        corim = corim.set_profile(ProfileChoice::Uri(profile.into()));
    }
    corim
        .set_validity(Some(NOW - 10), NOW + 10)
        .unwrap()
        .build_bytes()
        .unwrap()
}

fn meta(issuer: &str, not_after: i64) -> Value {
    let time = |seconds| Value::tag(TAG_TIME, Value::int(seconds));
    let signer = Value::map([(0, Value::text(issuer))]);
    let validity = Value::map([(0, time(NOW - 100)), (1, time(not_after))]);
    Value::bytes(cbor::encode(&Value::map([(0, signer), (1, validity)])))
}

fn signed_with(payload: &[u8], content_type: &str, extra: Vec<(i64, Value)>) -> Vec<u8> {
    let protected = Protected {
        typ: None,
        content_type: Some(content_type.into()),
        extra,
    };
    sign1::sign(&key(1), &protected, payload, &[]).unwrap()
}

fn signed(payload: &[u8]) -> Vec<u8> {
    signed_with(payload, CONTENT_TYPE, vec![(CORIM_META, meta(ISSUER, NOW + 5))])
}

fn verify(bytes: &[u8]) -> Result<VerifiedCorim, CorimError> {
    UntrustedCorim::new(bytes).verify_vendor(&[vendor(1, ISSUER)], NOW)
}

fn code(bytes: &[u8]) -> Option<AppraisalCode> {
    verify(bytes).err().map(|error| error.code())
}

#[test]
fn a_vendors_registers_are_taken_with_its_name_and_end() {
    let sha384 = Digest::new(7, vec![9; 48]);
    let payload = unsigned(
        None,
        vec![
            registers(&[(0, 1), (7, 2)]),
            numbered(2, vec![Digest::new(1, vec![3; 32]), sha384]),
        ],
    );
    let claims = Value::map([(claim::ISS, Value::text(ISSUER)), (claim::EXP, Value::int(NOW + 6))]);
    for bytes in [
        signed(&payload),
        signed_with(&payload, OLD_CONTENT_TYPE, vec![(CORIM_META, meta(ISSUER, NOW + 5))]),
        signed_with(&payload, CONTENT_TYPE, vec![(label::CWT_CLAIMS, claims)]),
    ] {
        let verified = verify(&bytes).unwrap();
        assert_eq!((verified.signer(), verified.not_after()), ("acme", NOW + 5));
        let [reference] = verified.references() else {
            panic!("one reference")
        };
        assert_eq!(reference.name, "ACME Server 7");
        assert_eq!(reference.register(HashAlg::Sha256, 0), Some(&[1; 32][..]));
        assert_eq!(reference.register(HashAlg::Sha256, 2), Some(&[3; 32][..]));
        assert_eq!(reference.register(HashAlg::Sha384, 2), Some(&[9; 48][..]));
        assert_eq!(reference.register(HashAlg::Sha384, 0), None);
    }
    // A domain's own signer is not found in it, and a vendor's key makes no reference of ours valid.
    assert!(UntrustedCorim::new(&signed(&payload)).verify(&[], NOW).is_err());
}

#[test]
fn what_no_listed_vendor_signed_or_is_not_in_force_is_refused() {
    let payload = unsigned(None, vec![registers(&[(0, 1)])]);
    let good = signed(&payload);
    let mut altered = good.clone();
    let at = good.windows(3).position(|w| w == [1, 1, 1]).unwrap();
    altered[at] ^= 1;
    let two = vec![
        (CORIM_META, meta(ISSUER, NOW + 5)),
        (label::CWT_CLAIMS, Value::map([(claim::ISS, Value::text("another"))])),
    ];
    let mut late = unsigned(None, vec![registers(&[(0, 1)])]);
    let time = late
        .windows(4)
        .rposition(|w| w == (NOW as u32 + 10).to_be_bytes())
        .unwrap();
    late[time..time + 4].copy_from_slice(&(NOW as u32 - 5).to_be_bytes());
    for (attack, bytes, expected) in [
        ("unsigned", payload.clone(), AppraisalCode::ReferenceUnsigned),
        ("altered", altered, AppraisalCode::ReferenceSignatureInvalid),
        (
            "signed in another's name",
            signed_with(&payload, CONTENT_TYPE, vec![(CORIM_META, meta("another", NOW + 5))]),
            AppraisalCode::ReferenceSignerUnknown,
        ),
        (
            "signed by nobody",
            signed_with(&payload, CONTENT_TYPE, vec![]),
            AppraisalCode::ReferenceSignerUnknown,
        ),
        (
            "two makers",
            signed_with(&payload, CONTENT_TYPE, two),
            AppraisalCode::ReferenceSignerUnknown,
        ),
        (
            "another content type",
            signed_with(&payload, "application/cbor", vec![(CORIM_META, meta(ISSUER, NOW + 5))]),
            AppraisalCode::ReferenceUnreadable,
        ),
        (
            "an expired signature",
            signed_with(&payload, CONTENT_TYPE, vec![(CORIM_META, meta(ISSUER, NOW - 1))]),
            AppraisalCode::ReferenceExpired,
        ),
        ("expired contents", signed(&late), AppraisalCode::ReferenceExpired),
        (
            "too large",
            [good.as_slice(), &vec![0; MAX_VENDOR_CORIM]].concat(),
            AppraisalCode::ReferenceSignerUnknown,
        ),
        ("nothing", Vec::new(), AppraisalCode::ReferenceSignerUnknown),
    ] {
        assert_eq!(code(&bytes), Some(expected), "{attack}");
    }
    assert!(verify(&good).is_ok());
    let other_key = UntrustedCorim::new(&good)
        .verify_vendor(&[vendor(2, ISSUER)], NOW)
        .unwrap_err();
    assert_eq!(other_key.code(), AppraisalCode::ReferenceSignatureInvalid);
    // Of two keys of one vendor, the one that signed counts.
    assert!(
        UntrustedCorim::new(&good)
            .verify_vendor(&[vendor(2, ISSUER), vendor(1, ISSUER)], NOW)
            .is_ok()
    );
    let ended = VendorSigner {
        not_after: Some(NOW - 1),
        ..vendor(1, ISSUER)
    };
    let error = UntrustedCorim::new(&good).verify_vendor(&[ended], NOW).unwrap_err();
    assert_eq!(error.code(), AppraisalCode::ReferenceSignerExpired);
}

#[test]
fn what_is_not_understood_whole_is_refused_whole() {
    let good = || registers(&[(0, 1)]);
    let digest = || vec![Digest::new(1, vec![3; 32])];
    let named = measurement(None, |values| {
        let register = (IntegrityRegisterId::Text("boot".into()), digest());
        values.integrity_registers = Some(IntegrityRegisters([register].into()));
    });
    let raw = measurement(Some(MeasuredElement::Uint(3)), |values| {
        values.digests = Some(digest());
        values.serial_number = Some("7".into());
    });
    for (what, measurements) in [
        ("a register with a name", vec![good(), named]),
        ("register 24", vec![good(), registers(&[(24, 1)])]),
        ("a register beyond all", vec![good(), numbered(u64::MAX, digest())]),
        (
            "an unknown algorithm",
            vec![numbered(0, vec![Digest::new(99, vec![3; 32])])],
        ),
        (
            "an algorithm truncated to 128 bits",
            vec![numbered(0, vec![Digest::new(2, vec![3; 16])])],
        ),
        (
            "a digest too short",
            vec![numbered(0, vec![Digest::new(1, vec![3; 31])])],
        ),
        ("two values for one register", vec![good(), numbered(0, digest())]),
        ("no value", vec![numbered(0, vec![])]),
        (
            "digests of something without a number",
            vec![good(), measurement(None, |v| v.digests = Some(digest()))],
        ),
        (
            "digests under a name",
            vec![
                good(),
                measurement(Some(MeasuredElement::Text("bios".into())), |v| {
                    v.digests = Some(digest())
                }),
            ],
        ),
        ("another kind of value besides", vec![good(), raw]),
    ] {
        let payload = unsigned(None, measurements);
        assert_eq!(
            code(&signed(&payload)),
            Some(AppraisalCode::ReferenceUnreadable),
            "{what}"
        );
    }
    let profile = unsigned(Some("tag:acme.example,2026:corim"), vec![good()]);
    assert_eq!(code(&signed(&profile)), Some(AppraisalCode::ReferenceProfileUnknown));
    let class = |vendor: Option<&str>| ClassMap {
        vendor: vendor.map(Into::into),
        ..EnvironmentMap::for_class("", "").class.unwrap()
    };
    let nameless = EnvironmentMap {
        class: Some(ClassMap {
            vendor: None,
            model: None,
            layer: Some(1),
            ..class(None)
        }),
        instance: None,
        group: None,
    };
    let payload = in_environment(None, nameless, vec![good()]);
    assert_eq!(
        code(&signed(&payload)),
        Some(AppraisalCode::ReferenceUnreadable),
        "a class without a name"
    );
}

#[test]
fn a_vendor_may_sign_our_profile() {
    let reference = MachineReference {
        name: "golden".into(),
        banks: [(
            HashAlg::Sha256,
            BankValues {
                registers: [(0, vec![1; 32])].into(),
                events: Vec::new(),
            },
        )]
        .into(),
        ..MachineReference::default()
    };
    let verified = verify(&signed(&reference.to_corim_unsigned().unwrap())).unwrap();
    assert_eq!(verified.references(), [reference]);
}

fn jwk_coordinate(jwk: &str, name: &str) -> [u8; 32] {
    let text = jwk
        .split(&format!("\"{name}\": \""))
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    let mut bits = 0u32;
    let mut count = 0;
    let mut out = Vec::new();
    for c in text.bytes() {
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let value = alphabet.iter().position(|known| *known == c).unwrap();
        bits = bits << 6 | value as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    out.try_into().unwrap()
}

fn vector(name: &str) -> Option<PathBuf> {
    touchstone_vectors::genuine(&format!("corim/corim/testcases/{name}"))
}

/// Files of another maker's test suite, signed with P-256 and corim-meta: the signatures hold, and each is refused for
/// what it says; falsified, for the signature.
#[test]
fn genuine_signed_files_are_verified_and_judged() {
    let Some(path) = vector("src/ec-p256.jwk") else { return };
    let jwk = std::fs::read_to_string(path).unwrap();
    let acme = VendorSigner {
        name: "acme".into(),
        issuer: "ACME Ltd signing key".into(),
        key: VerifyingKey::p256(jwk_coordinate(&jwk, "x"), jwk_coordinate(&jwk, "y")).unwrap(),
        not_after: None,
    };
    // 2023-11-14, within the validity of all three.
    let time = 1_700_000_000;
    let result = |bytes: &[u8]| {
        UntrustedCorim::new(bytes)
            .verify_vendor(std::slice::from_ref(&acme), time)
            .map_err(|e| e.code())
    };
    for (name, expected) in [
        ("signed-good-corim.cbor", AppraisalCode::ReferenceUnreadable),
        ("signed-example-corim.cbor", AppraisalCode::ReferenceProfileUnknown),
        (
            "signed-corim-with-extensions.cbor",
            AppraisalCode::ReferenceProfileUnknown,
        ),
    ] {
        let Some(path) = vector(name) else { return };
        let bytes = std::fs::read(path).unwrap();
        let found = result(&bytes).map(|verified| verified.references().len());
        assert!(
            found == Err(expected)
                || (name != "signed-good-corim.cbor" && found == Err(AppraisalCode::ReferenceUnreadable)),
            "{name}: {found:?}"
        );
        let late = UntrustedCorim::new(&bytes)
            .verify_vendor(std::slice::from_ref(&acme), NOW)
            .map_err(|e| e.code());
        assert_eq!(
            late.unwrap_err(),
            AppraisalCode::ReferenceExpired,
            "{name}: after its end"
        );
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 0x01;
            assert!(result(&altered).is_err(), "{name}: byte {at}");
        }
        let mut signature = bytes.clone();
        *signature.last_mut().unwrap() ^= 1;
        assert_eq!(
            result(&signature).unwrap_err(),
            AppraisalCode::ReferenceSignatureInvalid,
            "{name}"
        );
    }
    for name in [
        "unsigned-good-corim.cbor",
        "unsigned-example-corim.cbor",
        "corim-1.cbor",
    ] {
        let Some(path) = vector(name) else { return };
        let found = result(&std::fs::read(path).unwrap()).map(|verified| verified.references().len());
        assert_eq!(found, Err(AppraisalCode::ReferenceUnsigned), "{name}");
    }
}

/// Every unsigned file of the vectors, signed by a listed vendor: none is mistaken for values of TPM registers.
#[test]
fn genuine_contents_of_other_technologies_are_refused() {
    let Some(folder) = touchstone_vectors::genuine("corim") else {
        return;
    };
    let (mut open, mut seen) = (vec![folder], 0);
    while let Some(path) = open.pop() {
        for entry in std::fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            // One of them is what AMD's profile is read for: see `amd_profile`.
            if !bytes.starts_with(&UNSIGNED) || path.ends_with("corim-sevsnp-valid.cbor") {
                continue;
            }
            seen += 1;
            let found = code(&signed(&bytes));
            assert!(
                matches!(
                    found,
                    Some(
                        AppraisalCode::ReferenceUnreadable
                            | AppraisalCode::ReferenceProfileUnknown
                            | AppraisalCode::ReferenceExpired
                    )
                ),
                "{}: {found:?}",
                path.display()
            );
        }
    }
    assert!(seen > 20, "{seen} files");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(256))]

    #[test]
    fn no_altered_file_is_verified(position in proptest::prelude::any::<proptest::sample::Index>(), bit in 0u8..8) {
        let mut bytes = signed(&unsigned(None, vec![registers(&[(0, 1)])]));
        let position = position.index(bytes.len());
        bytes[position] ^= 1 << bit;
        proptest::prop_assert!(verify(&bytes).is_err(), "byte {}", position);
    }

    #[test]
    fn no_contents_make_the_reader_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200), at in proptest::prelude::any::<proptest::sample::Index>(), value in proptest::prelude::any::<u8>()) {
        let _ = verify(&signed(&bytes));
        let mut payload = unsigned(None, vec![registers(&[(0, 1), (7, 2)])]);
        let at = at.index(payload.len());
        payload[at] = value;
        let _ = verify(&signed(&payload));
    }
}

mod amd_profile {
    use ::corim::types::common::ClassIdChoice;
    use ::corim::types::environment::ClassMap;
    use ::corim::types::measurement::{RawValueChoice, SvnChoice};

    use super::*;
    use crate::snp::{GuestPolicyBits, PackedFloor, RawField};

    const PROFILE: &str = "tag:amd.com,2025:snp-corim-profile";
    const CLASS: [u8; 9] = [0x2B, 0x06, 0x01, 0x04, 0x01, 0x9C, 0x78, 0x03, 0x01];

    fn class(oid: &[u8]) -> EnvironmentMap {
        EnvironmentMap {
            class: Some(ClassMap {
                class_id: Some(ClassIdChoice::Oid(oid.to_vec())),
                vendor: None,
                model: None,
                ..EnvironmentMap::for_class("", "").class.unwrap()
            }),
            instance: None,
            group: None,
        }
    }

    fn field(key: u64, fill: impl FnOnce(&mut MeasurementValuesMap)) -> MeasurementMap {
        measurement(Some(MeasuredElement::Uint(key)), fill)
    }

    fn raw(key: u64, bytes: &[u8]) -> MeasurementMap {
        field(key, |map| map.raw_value = Some(RawValueChoice::Bytes(bytes.to_vec())))
    }

    fn least(key: u64, packed: u64) -> MeasurementMap {
        field(key, |map| map.svn = Some(SvnChoice::MinValue(packed)))
    }

    fn launched_from(byte: u8) -> MeasurementMap {
        numbered(641, vec![Digest::new(7, vec![byte; 48])])
    }

    fn verify(measurements: Vec<MeasurementMap>) -> Result<VerifiedCorim, CorimError> {
        let payload = in_environment(Some(PROFILE), class(&CLASS), measurements);
        UntrustedCorim::new(&signed(&payload)).verify_vendor(&[vendor(1, ISSUER)], NOW)
    }

    #[test]
    fn every_field_is_taken_over_as_it_is_compared() {
        let measurements = vec![
            launched_from(7),
            raw(2, &0x3_0000u64.to_be_bytes()),
            field(2 + 5, |map| {
                map.raw_value = Some(RawValueChoice::Masked {
                    value: 0x20u64.to_be_bytes().to_vec(),
                    mask: 0x20u64.to_be_bytes().to_vec(),
                });
            }),
            raw(642, &[9; 32]),
            least(647, 0xDB18_0000_0000_0004),
        ];
        let corim = verify(measurements).unwrap();
        let snp = corim.references()[0].snp.clone().unwrap();
        assert_eq!((snp.measurement, snp.host_data), ([7; 48], Some([9; 32])));
        let bits = GuestPolicyBits {
            value: 0x3_0000,
            mask: u64::MAX,
        };
        assert_eq!(snp.policy, Some(bits));
        assert_eq!(snp.raw[0].field, RawField::PlatformInfo);
        assert_eq!((snp.raw[0].value[0], snp.raw[0].mask[0]), (0x20, 0x20));
        let floor = PackedFloor {
            field: RawField::ReportedTcb,
            least: 0xDB18_0000_0000_0004,
        };
        assert_eq!(snp.packed, [floor]);
    }

    #[test]
    fn what_the_profile_does_not_say_is_refused() {
        for (what, measurements) in [
            ("no measurement", vec![raw(642, &[9; 32])]),
            ("a field twice", vec![launched_from(7), launched_from(8)]),
            ("a field that is not known", vec![launched_from(7), raw(999, &[0])]),
            (
                "host data as a digest",
                vec![launched_from(7), numbered(642, vec![Digest::new(7, vec![9; 48])])],
            ),
            ("host data of 48 bytes", vec![launched_from(7), raw(642, &[9; 48])]),
            ("another hash", vec![numbered(641, vec![Digest::new(8, vec![7; 64])])]),
            (
                "a little-endian policy",
                vec![launched_from(7), raw(2, &0x3_0000u64.to_le_bytes())],
            ),
            (
                "a version in words",
                vec![launched_from(7), field(647, |map| map.name = Some("new".into()))],
            ),
            (
                "a key that is text",
                vec![
                    launched_from(7),
                    measurement(Some(MeasuredElement::Text("tcb".into())), |map| {
                        map.svn = Some(SvnChoice::MinValue(1));
                    }),
                ],
            ),
        ] {
            let error = verify(measurements).map(|_| ()).unwrap_err();
            assert_eq!(error.code(), AppraisalCode::ReferenceUnreadable, "{what}");
        }
        let header = [&[0x06, 0x09][..], &CLASS].concat();
        for (what, environment) in [
            ("a class with its DER header", class(&header)),
            ("another class", class(&[0x2B, 0x06])),
            ("a class with a model", EnvironmentMap::for_class("AMD", "Milan")),
        ] {
            let payload = in_environment(Some(PROFILE), environment, vec![launched_from(7)]);
            assert_eq!(
                code(&signed(&payload)),
                Some(AppraisalCode::ReferenceUnreadable),
                "{what}"
            );
        }
    }

    /// Files of the field, signed here for the test: one to be read, one to be refused.
    #[test]
    fn files_of_the_field_have_their_verdicts() {
        let Some(dir) = touchstone_vectors::genuine("corim/services/sevsnp/test/corim") else {
            return;
        };
        let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
        let judge = |payload: &[u8]| UntrustedCorim::new(&signed(payload)).verify_vendor(&[vendor(1, ISSUER)], NOW);
        let corim = judge(&read("corim-sevsnp-valid.cbor")).unwrap();
        let snp = corim.references()[0].snp.clone().unwrap();
        assert!(hex::encode(snp.measurement).starts_with("7699e6ac12ccdfd1dfac70e6"));
        let bits = GuestPolicyBits {
            value: 0x3_0000,
            mask: u64::MAX,
        };
        assert_eq!((snp.policy, snp.guest_svn), (Some(bits), Some(0)));
        let refused = judge(&read("corim-sevsnp-bad-refval-key.cbor")).unwrap_err();
        assert_eq!(refused.code(), AppraisalCode::ReferenceUnreadable);
        // Unsigned, as they lie there, neither counts.
        let bare = read("corim-sevsnp-valid.cbor");
        let unsigned = UntrustedCorim::new(&bare).verify_vendor(&[vendor(1, ISSUER)], NOW);
        assert_eq!(unsigned.unwrap_err(), CorimError::Unsigned);
    }
}
