//! One function a parser: hostile bytes in; it must neither panic nor hang, and what it accepts must hold together.
//!
//! `fuzz_targets/` has one binary each (`cargo fuzz run NAME` works, and so does `setup/fuzz.sh NAME SECONDS`).

pub mod delegation;
pub mod events;
pub mod policy;

use touchstone_artefacts::fuzz as artefacts;
use touchstone_authorization::token::UntrustedAuthorization;
use touchstone_authorization::{StatusArray, TrustFrame, UntrustedProof};
use touchstone_cose::cbor::{self, Limits, Value};
use touchstone_cose::encrypt::{Sealed, SoftwareReceiveKey};
use touchstone_cose::key::SigningKey;
use touchstone_cose::receipt::Receipt;
use touchstone_cose::sign1::{self, Protected, ThirdParty, Unverified, label};
use touchstone_evidence::collection::Collection;
use touchstone_evidence::message::{Answer, Challenge, Hello, Submission};
use touchstone_evidence::pcr_values;
use touchstone_ledger::checkpoint::VerifiedCheckpoint;
use touchstone_ledger::cosignature::CosignerKey;
use touchstone_ledger::note::NoteKey;
use touchstone_ledger::statement::{self, VerifiedStatement};
use touchstone_ledger::witness::Request;
use touchstone_verifier::corim::vendor::VendorSigner;
use touchstone_verifier::corim::{TrustedSigner, UntrustedCorim, sign_corim};
use touchstone_verifier::ear::Ear;
use touchstone_verifier::eventlog::{BootStory, EventLog, Vouched};
use touchstone_verifier::gpu::{Details, GpuReport, Kind, VerifiedGpu};
use touchstone_verifier::hcl::HclReport;
use touchstone_verifier::ima::{ImaList, ImaPrefix, canonical, decode_chunk, encode_chunk, from_ascii, reference_files, replay};
use touchstone_verifier::snp::{Report, VerifiedVek};
use touchstone_verifier::svsm::Manifest as SvsmManifest;
use touchstone_verifier::tdx::check::check_guest;
use touchstone_verifier::tdx::{Collateral, Quote, TdxReference, VerifiedQuote, replay as replay_ccel};
use touchstone_verifier::tpm::signature::Signature;
use touchstone_verifier::tpm::{Attest, HashAlg, Public};
use touchstone_verifier::x509::ek_certificate::read_ek_chain;
use touchstone_verifier::x509::{Certificate, CertificateStore, Crl, CrlRule, Expiry, verify_ek_certificate};

/// A time at which the goldens are in force, Unix seconds.
const NOW: i64 = 1_700_000_000;
const LIMITS: Limits = Limits { max_bytes: 1 << 20, max_depth: 16, max_items: 1 << 14 };

/// The strict CBOR gate: what it lets through is already the one encoding of its value.
pub fn cbor(data: &[u8]) {
    if let Ok(value) = cbor::decode(data, LIMITS) {
        assert_eq!(cbor::encode(&value), data, "accepted bytes are deterministic");
        assert!(cbor::gate(data, LIMITS).is_ok(), "gate and decoder agree");
    }
}

/// COSE_Sign1, our own strict form and third parties'.
pub fn cose_sign1(data: &[u8]) {
    drop(Unverified::parse(data, LIMITS));
    drop(ThirdParty::parse(data, LIMITS));
}

/// COSE_Encrypt: what is read may still not open, whatever key it is asked of.
pub fn cose_encrypt(data: &[u8]) {
    let Ok(sealed) = Sealed::parse(data) else { return };
    if let Ok(key) = SoftwareReceiveKey::from_scalar(&[0x11; 32]) {
        drop(sealed.open(&key, *b"sender-1", "application/touchstone-key+cose", &[0x55; 32]));
    }
}

/// COSE receipts.
pub fn receipt(data: &[u8]) {
    drop(Receipt::parse(data));
}

/// Status lists: the inflated length is what was said.
pub fn status_list(data: &[u8]) {
    let entries = u32::try_from(data.len()).unwrap_or(0).saturating_mul(4);
    if let Ok(list) = StatusArray::from_bytes(entries, data) {
        assert_eq!(list.to_bytes(), data);
    }
    drop(touchstone_cose::status_list::StatusList::from_bytes(data.to_vec()));
}

/// Authorizations, proofs of possession.
pub fn authorization(data: &[u8]) {
    drop(UntrustedAuthorization::parse(data));
    drop(UntrustedProof::parse(data));
    delegation::claims(data);
}

/// Trust-state frames.
pub fn trust_frame(data: &[u8]) {
    if let Ok(frame) = TrustFrame::parse(data) {
        assert_eq!(frame.encode(), data);
    }
}

/// Evidence envelopes.
pub fn collection(data: &[u8]) {
    if let Ok(collection) = Collection::decode(data) {
        assert_eq!(collection.encode(), data);
    }
}

/// Messages between node and broker.
pub fn messages(data: &[u8]) {
    if let Ok(hello) = Hello::decode(data) {
        assert_eq!(hello.encode(), data);
    }
    if let Ok(challenge) = Challenge::decode(data) {
        assert_eq!(challenge.encode(), data);
    }
    if let Ok(submission) = Submission::decode(data) {
        assert_eq!(submission.encode(), data);
    }
    if let Ok(answer) = Answer::decode(data) {
        assert_eq!(answer.encode(), data);
    }
}

/// Register values.
pub fn pcr_values(data: &[u8]) {
    if let Ok(values) = pcr_values::decode(data) {
        assert_eq!(pcr_values::encode(&values), data);
    }
}

/// TPM structures.
pub fn tpm_structures(data: &[u8]) {
    drop(Attest::parse(data).map(|attest| attest.quote().is_ok()));
    drop(Signature::parse(data));
    if let Ok(public) = Public::from_tpm2b_or_tpmt(data) {
        drop(public.check_ak());
    }
}

/// IMA lists, binary and text, and what is kept of them between rounds.
pub fn ima_list(data: &[u8]) {
    if let Ok(list) = ImaList::parse(data) {
        let end = list.entries().last().map_or(0, |entry| entry.end);
        assert_eq!(end + list.trailing(), data.len());
        for entry in list.entries() {
            assert!(!entry.path_words().contains(['\0', '\n', '\x1b']));
            std::hint::black_box(entry.hash(HashAlg::Sha256));
        }
        drop(reference_files(list.entries()));
    }
    if let Ok(binary) = from_ascii(data) {
        assert_eq!(ImaList::parse(&binary).map(|list| list.trailing()), Ok(0), "text becomes whole records");
    }
    if let Ok(canonical) = canonical(data.to_vec())
        && canonical != data
    {
        assert_eq!(ImaList::parse(&canonical).map(|list| list.trailing()), Ok(0), "whole records");
    }
    drop(replay(&ImaPrefix::default(), data, &[(HashAlg::Sha256, &[0; 32])]));
    if let Ok(prefix) = ImaPrefix::decode(data) {
        assert_eq!(prefix.encode(), data);
    }
    if let Ok(entries) = decode_chunk(data) {
        assert_eq!(encode_chunk(&entries), data);
    }
}

/// Firmware event logs: parsed, described and replayed.
pub fn event_log(data: &[u8]) {
    let Ok(log) = EventLog::parse(data) else { return };
    for bank in [HashAlg::Sha1, HashAlg::Sha256, HashAlg::Sha384, HashAlg::Sha512] {
        drop(log.replay(bank));
        for event in log.events() {
            event.check_data(bank);
        }
        let story = BootStory::tell(&log, bank, Vouched::WHOLE_LOG);
        assert_eq!(story.checks.len(), log.events().len());
        drop((story.chapters(), story.claims()));
    }
    for event in log.events() {
        assert!(event.describe().len() <= touchstone_verifier::eventlog::MAX_DESCRIPTION);
    }
}

/// X.509 certificates of endorsement keys and their authorities.
pub fn certificate(data: &[u8]) {
    drop(Certificate::from_der(data));
    drop(read_ek_chain(data));
    let nobody = CertificateStore::default();
    assert!(verify_ek_certificate(data, &[], &nobody, NOW, Expiry::IgnoreWithClaim).is_err());
}

/// Certificate revocation lists.
pub fn crl(data: &[u8]) {
    if let Ok(list) = Crl::from_der(data) {
        assert!(CertificateStore::default().add_crl(list).is_err(), "a list of nobody's counts for nothing");
    }
}

/// Reference values: the bytes as a whole file, and as a payload that a listed signer has signed.
pub fn corim(data: &[u8]) {
    let key = SigningKey::from_seed([7; 32]);
    let signer = TrustedSigner { name: "fuzz".into(), key: key.verifying_key(), not_after: None };
    assert!(UntrustedCorim::new(data).verify(&[], NOW).is_err(), "without a signer nothing is accepted");
    if let Ok(signed) = sign_corim(data, &key, "fuzz", None) {
        let vendor = VendorSigner { name: "fuzz".into(), issuer: "fuzz".into(), key: key.verifying_key(), not_after: None };
        drop(UntrustedCorim::new(&signed).verify_vendor(&[vendor], NOW));
        drop(UntrustedCorim::new(&signed).verify(&[signer], NOW));
    }
}

/// PE images: Authenticode digests, unified kernel images, GRUB's module area.
pub fn pe_image(data: &[u8]) {
    artefacts::image(data);
}

/// Initrds (cpio, compressed) and Debian packages.
pub fn archive(data: &[u8]) {
    artefacts::archive(data);
}

/// GRUB configurations.
pub fn grub_config(data: &[u8]) {
    artefacts::grub_config(data);
}

/// OVMF images with SEV metadata, and ID blocks.
pub fn snp_launch(data: &[u8]) {
    artefacts::snp_launch(data);
}

/// Attestation results.
pub fn ear(data: &[u8]) {
    drop(Ear::decode(data));
}

/// Ledger statements: the bytes as a payload under a good signature.
pub fn statement(data: &[u8]) {
    let key = SigningKey::from_seed([7; 32]);
    let protected = Protected {
        typ: Some(statement::TYP.into()),
        content_type: None,
        extra: vec![(label::CWT_CLAIMS, Value::map([(1, Value::text("fuzz")), (2, Value::text("fuzz"))]))],
    };
    if let Ok(signed) = sign1::sign(&key, &protected, data, &[]) {
        drop(VerifiedStatement::parse(&signed, &key.verifying_key()));
    }
}

/// What witnesses, peers and logs send each other: requests to cosign, keys, notes; and a checkpoint whose text the fuzzer
/// writes and the log's key signs.
pub fn witness(data: &[u8]) {
    if let Ok(request) = Request::decode(data) {
        assert_eq!(request.encode().as_bytes(), data);
    }
    let key = SigningKey::from_seed([7; 32]);
    let Ok(log) = NoteKey::new("fuzz.example/log", &key.verifying_key()) else { return };
    drop(VerifiedCheckpoint::open(data, &log));
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(read) = NoteKey::parse(text) {
        assert_eq!(read.to_vkey(), text);
    }
    if let Ok(read) = CosignerKey::parse(text) {
        assert_eq!(read.to_vkey(), text);
        drop(read.open(data));
    }
    if let Ok(note) = log.sign(text, &key) {
        if let Ok(opened) = log.open(note.as_bytes()) {
            assert_eq!(opened, text);
        }
        drop(VerifiedCheckpoint::open(note.as_bytes(), &log));
    }
}

/// SEV-SNP reports.
pub fn snp_report(data: &[u8]) {
    if let Ok(report) = Report::parse(data) {
        drop(report.signature());
        assert_eq!(report.signed(), &data[..0x2A0], "what is signed is what came");
    }
}

/// Certificates of SEV-SNP signing keys: nothing without an anchor is accepted.
pub fn vek_certificate(data: &[u8]) {
    assert!(VerifiedVek::verify(data, &[], &CertificateStore::default(), NOW, CrlRule::WhenPresent).is_err());
}

/// NVIDIA's measurement reports; nothing without an anchor is accepted.
pub fn spdm(data: &[u8]) {
    if let Ok(report) = GpuReport::parse(data) {
        let signature = report.signature().len();
        assert_eq!(report.signed(), &data[..data.len() - signature], "what is signed is what came");
        for kind in [Kind::Gpu, Kind::Switch] {
            drop(Details::read(report.opaque(), kind));
        }
        let store = CertificateStore::default();
        assert!(VerifiedGpu::verify(report, data, &store, NOW, CrlRule::WhenPresent).is_err());
    }
}

/// Azure's paravisor reports.
pub fn hcl_report(data: &[u8]) {
    drop(HclReport::parse(data).map(|hcl| hcl.is_bound_to(&[0; 64])));
}

/// TDX quotes: what is read is inside what was signed, and nothing is genuine without an anchor.
pub fn tdx_quote(data: &[u8]) {
    let Ok(quote) = Quote::parse(data) else { return };
    assert!(quote.signed().ends_with(quote.body()) && data.starts_with(quote.signed()));
    drop(check_guest(&quote));
    assert!(VerifiedQuote::verify(quote, None, &CertificateStore::default(), NOW).is_err());
    let reference = TdxReference::of(&quote, None);
    // A module that is older now than it was at the launch is below the floor that the launch gives.
    let older = |now: &[u8; 16]| now.iter().zip(quote.tee_tcb_svn()).any(|(now, launch)| now < launch);
    if !quote.tee_tcb_svn_now().is_some_and(older) {
        assert!(reference.differences("itself", &quote, 0..4, None).is_empty());
    }
    drop(replay_ccel(&quote, data));
}

/// What Intel says of platforms.
pub fn tdx_collateral(data: &[u8]) {
    if let Ok(collateral) = Collateral::parse(data) {
        assert!(collateral.parts().iter().all(|part| collateral.next_update() <= part.next_update));
    }
}

/// Manifests of secure VM service modules.
pub fn svsm_manifest(data: &[u8]) {
    if let Ok(manifest) = SvsmManifest::parse(data) {
        assert_eq!(manifest.bytes(), data);
        assert!(manifest.endorsement_key().check_ek().is_ok());
    }
}
