//! EFI_SIGNATURE_LIST: what PK, KEK, db and dbx hold (UEFI 2.10, 32.4.1).
//!
//! A database is lists one after the other. A list has a type (GUID), its length, the length of a header, the length of
//! one signature, the header, and signatures: an owner (GUID), then a certificate or a digest. Nothing is copied.

use super::bytes::Reader;
use super::efi;
use super::guid::{Guid, guid};
use crate::tpm::HashAlg;
use crate::x509::Certificate;

/// Most lists in one database.
pub const MAX_SIGNATURE_LISTS: usize = 1024;
/// Length of a list before its header.
const LIST_HEADER: usize = 28;
/// Length of an owner.
const OWNER: usize = 16;

/// What a signature is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SignatureKind {
    /// A DER certificate.
    X509,
    /// A digest of an image.
    Digest(HashAlg),
    /// A SHA-224 digest of an image.
    Sha224,
    /// An RSA-2048 modulus.
    Rsa2048,
    /// A signature over an image's SHA-1 digest.
    Rsa2048Sha1,
    /// A signature over an image's SHA-256 digest.
    Rsa2048Sha256,
    /// A digest of a certificate's signed part, and a time of revocation.
    X509Digest(HashAlg),
    /// A PKCS #7 signature.
    Pkcs7,
    /// The platform keeps its keys elsewhere.
    ExternalManagement,
    /// A type the specification does not name.
    Other(Guid),
}

const KINDS: &[(Guid, SignatureKind)] = &[
    (
        guid(0xA5C0_59A1, 0x94E4, 0x4AA7, *b"\x87\xB5\xAB\x15\x5C\x2B\xF0\x72"),
        SignatureKind::X509,
    ),
    (
        guid(0xC1C4_1626, 0x504C, 0x4092, *b"\xAC\xA9\x41\xF9\x36\x93\x43\x28"),
        SignatureKind::Digest(HashAlg::Sha256),
    ),
    (
        guid(0x826C_A512, 0xCF10, 0x4AC9, *b"\xB1\x87\xBE\x01\x49\x66\x31\xBD"),
        SignatureKind::Digest(HashAlg::Sha1),
    ),
    (
        guid(0xFF3E_5307, 0x9FD0, 0x48C9, *b"\x85\xF1\x8A\xD5\x6C\x70\x1E\x01"),
        SignatureKind::Digest(HashAlg::Sha384),
    ),
    (
        guid(0x093E_0FAE, 0xA6C4, 0x4F50, *b"\x9F\x1B\xD4\x1E\x2B\x89\xC1\x9A"),
        SignatureKind::Digest(HashAlg::Sha512),
    ),
    (
        guid(0x0B6E_5233, 0xA65C, 0x44C9, *b"\x94\x07\xD9\xAB\x83\xBF\xC8\xBD"),
        SignatureKind::Sha224,
    ),
    (
        guid(0x3C57_66E8, 0x269C, 0x4E34, *b"\xAA\x14\xED\x77\x6E\x85\xB3\xB6"),
        SignatureKind::Rsa2048,
    ),
    (
        guid(0x67F8_444F, 0x8743, 0x48F1, *b"\xA3\x28\x1E\xAA\xB8\x73\x60\x80"),
        SignatureKind::Rsa2048Sha1,
    ),
    (
        guid(0xE2B3_6190, 0x879B, 0x4A3D, *b"\xAD\x8D\xF2\xE7\xBB\xA3\x27\x84"),
        SignatureKind::Rsa2048Sha256,
    ),
    (
        guid(0x3BD2_A492, 0x96C0, 0x4079, *b"\xB4\x20\xFC\xF9\x8E\xF1\x03\xED"),
        SignatureKind::X509Digest(HashAlg::Sha256),
    ),
    (
        guid(0x7076_876E, 0x80C2, 0x4EE6, *b"\xAA\xD2\x28\xB3\x49\xA6\x86\x5B"),
        SignatureKind::X509Digest(HashAlg::Sha384),
    ),
    (
        guid(0x446D_BF63, 0x2502, 0x4CDA, *b"\xBC\xFA\x24\x65\xD2\xB0\xFE\x9D"),
        SignatureKind::X509Digest(HashAlg::Sha512),
    ),
    (
        guid(0x4AAF_D29D, 0x68DF, 0x49EE, *b"\x8A\xA9\x34\x7D\x37\x56\x65\xA7"),
        SignatureKind::Pkcs7,
    ),
    (
        guid(0x452E_8CED, 0xDFFF, 0x4B8C, *b"\xAE\x01\x51\x18\x86\x2E\x68\x2C"),
        SignatureKind::ExternalManagement,
    ),
];

impl SignatureKind {
    fn of(wire: &Guid) -> Self {
        KINDS
            .iter()
            .find(|(known, _)| known == wire)
            .map_or(SignatureKind::Other(*wire), |(_, kind)| *kind)
    }

    /// The only length its data may have; none where any length is good.
    fn data_len(self) -> Option<usize> {
        /// EFI_TIME.
        const TIME: usize = 16;
        match self {
            SignatureKind::Digest(hash) => Some(hash.digest_len()),
            SignatureKind::Sha224 => Some(28),
            SignatureKind::Rsa2048 | SignatureKind::Rsa2048Sha1 | SignatureKind::Rsa2048Sha256 => Some(256),
            SignatureKind::X509Digest(hash) => Some(hash.digest_len() + TIME),
            SignatureKind::ExternalManagement => Some(1),
            SignatureKind::X509 | SignatureKind::Pkcs7 | SignatureKind::Other(_) => None,
        }
    }

    /// In words, for many of them.
    pub fn plural(self) -> String {
        match self {
            SignatureKind::X509 => "certificates".into(),
            SignatureKind::Digest(hash) => format!("{hash} digests of images"),
            SignatureKind::Sha224 => "sha224 digests of images".into(),
            SignatureKind::Rsa2048 => "RSA-2048 keys".into(),
            SignatureKind::Rsa2048Sha1 | SignatureKind::Rsa2048Sha256 => "RSA-2048 signatures".into(),
            SignatureKind::X509Digest(hash) => format!("{hash} digests of certificates"),
            SignatureKind::Pkcs7 => "PKCS #7 signatures".into(),
            SignatureKind::ExternalManagement => "external management markers".into(),
            SignatureKind::Other(guid) => {
                format!("signatures of type {}", efi::guid(&guid).unwrap_or_default())
            }
        }
    }
}

/// Why a database could not be read. Offsets are in bytes from its start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureListError {
    /// A list ends beyond the database, or is shorter than its own header.
    #[error("the signature list at offset {offset} says it has {found} bytes; {left} are left")]
    ListLength {
        /// Where the list begins.
        offset: usize,
        /// The declared length.
        found: u32,
        /// What is left.
        left: usize,
    },
    /// The signatures do not fill the list exactly, or have a length their type cannot have.
    #[error("the signature list at offset {offset} has {found} bytes of signatures of {size} bytes each")]
    SignatureSize {
        /// Where the list begins.
        offset: usize,
        /// The declared length of one signature.
        size: u32,
        /// What the list has for signatures.
        found: usize,
    },
    /// More than [`MAX_SIGNATURE_LISTS`].
    #[error("the database has more than {limit} signature lists")]
    TooMany {
        /// The limit.
        limit: usize,
    },
}

/// One signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signature<'a> {
    /// What it is.
    pub kind: SignatureKind,
    /// Who put it there: a GUID as it lies in memory. Not part of the key; anyone may write anything.
    pub owner: &'a [u8],
    /// The certificate or digest.
    pub data: &'a [u8],
}

impl Signature<'_> {
    /// SHA-256 of the certificate; none for what is no certificate.
    pub fn certificate_sha256(&self) -> Option<[u8; 32]> {
        (self.kind == SignatureKind::X509).then(|| sha256(self.data))
    }
}

/// One list of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct List<'a> {
    kind: SignatureKind,
    size: usize,
    signatures: &'a [u8],
}

/// A database: PK, KEK, db or dbx.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SignatureLists<'a> {
    lists: Vec<List<'a>>,
}

impl<'a> SignatureLists<'a> {
    /// Reads a variable's value. An empty one is an empty database.
    ///
    /// # Errors
    /// [`SignatureListError`], with the offset.
    pub fn parse(value: &'a [u8]) -> Result<Self, SignatureListError> {
        let mut lists = Vec::new();
        let mut reader = Reader::at(value, 0);
        while reader.left() > 0 {
            if lists.len() == MAX_SIGNATURE_LISTS {
                return Err(SignatureListError::TooMany {
                    limit: MAX_SIGNATURE_LISTS,
                });
            }
            lists.push(List::parse(&mut reader)?);
        }
        Ok(Self { lists })
    }

    /// Every signature, in order.
    pub fn signatures(&self) -> impl Iterator<Item = Signature<'a>> + '_ {
        self.lists.iter().flat_map(|list| {
            list.signatures.chunks(list.size).filter_map(|entry| {
                let (owner, data) = entry.split_at_checked(OWNER)?;
                Some(Signature {
                    kind: list.kind,
                    owner,
                    data,
                })
            })
        })
    }

    /// How many signatures there are.
    pub fn len(&self) -> usize {
        self.lists.iter().map(|list| list.signatures.len() / list.size).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The certificates among them, DER.
    pub fn certificates(&self) -> impl Iterator<Item = &'a [u8]> + '_ {
        self.signatures()
            .filter(|signature| signature.kind == SignatureKind::X509)
            .map(|signature| signature.data)
    }

    /// How many there are of each kind, certificates too.
    pub fn counts(&self) -> std::collections::BTreeMap<SignatureKind, usize> {
        let mut counts = std::collections::BTreeMap::new();
        for list in &self.lists {
            *counts.entry(list.kind).or_default() += list.signatures.len() / list.size;
        }
        counts
    }
}

impl<'a> List<'a> {
    /// Reads one list; its `size` is never 0.
    fn parse(reader: &mut Reader<'a>) -> Result<Self, SignatureListError> {
        let (offset, left) = (reader.offset(), reader.left());
        let too_short = |found| SignatureListError::ListLength { offset, found, left };
        let bytes = reader.rest();
        let (Some(kind), Some([list_len, header_len, size])) = (bytes.first_chunk::<OWNER>(), lengths(bytes)) else {
            return Err(too_short(0));
        };
        let kind = SignatureKind::of(kind);
        let list = reader.take(list_len as usize).map_err(|_| too_short(list_len))?;
        let signatures = (header_len as usize)
            .checked_add(LIST_HEADER)
            .and_then(|start| list.get(start..))
            .ok_or_else(|| too_short(list_len))?;
        let data_len = (size as usize).checked_sub(OWNER).filter(|len| *len > 0);
        let fits = data_len.is_some_and(|len| kind.data_len().is_none_or(|expected| expected == len))
            && signatures.len().is_multiple_of(size as usize);
        if !fits {
            return Err(SignatureListError::SignatureSize {
                offset,
                size,
                found: signatures.len(),
            });
        }
        Ok(Self {
            kind,
            size: size as usize,
            signatures,
        })
    }
}

/// The three lengths after the type: of the list, its header, one signature.
fn lengths(list: &[u8]) -> Option<[u32; 3]> {
    let mut reader = Reader::at(list.get(OWNER..)?, OWNER);
    Some([reader.u32().ok()?, reader.u32().ok()?, reader.u32().ok()?])
}

/// The subject of a DER certificate, safe to show; what is wrong with it where it cannot be read.
pub fn certificate_name(der: &[u8]) -> String {
    match Certificate::from_der(der) {
        Ok(certificate) if certificate.subject().is_empty() => "a certificate without a name".to_owned(),
        Ok(certificate) => certificate.subject().to_owned(),
        Err(error) => format!("a certificate that cannot be read ({error})"),
    }
}

/// SHA-256 as an array.
pub(super) fn sha256(data: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (byte, value) in bytes.iter_mut().zip(HashAlg::Sha256.digest([data]).as_ref()) {
        *byte = *value;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(kind: &Guid, header: &[u8], size: u32, signatures: &[u8]) -> Vec<u8> {
        let mut list = kind.to_vec();
        list.extend(((LIST_HEADER + header.len() + signatures.len()) as u32).to_le_bytes());
        list.extend((header.len() as u32).to_le_bytes());
        list.extend(size.to_le_bytes());
        list.extend(header);
        list.extend(signatures);
        list
    }

    #[test]
    fn lists_are_read_one_after_the_other() {
        let digests = [[7; 48], [9; 48]].concat();
        let bytes = [
            list(&KINDS[0].0, b"", 16 + 3, &[&[1; 16][..], b"der"].concat()),
            list(&KINDS[1].0, b"hdr", 48, &digests),
            list(&[0x55; 16], b"", 17, &[3; 17]),
            list(&KINDS[2].0, b"", 36, b""),
        ]
        .concat();
        let lists = SignatureLists::parse(&bytes).unwrap();
        assert_eq!(lists.len(), 4);
        assert_eq!(lists.certificates().collect::<Vec<_>>(), [b"der"]);
        let all: Vec<_> = lists.signatures().collect();
        assert_eq!((all[1].owner, all[1].data), (&[7; 16][..], &[7; 32][..]));
        assert_eq!(all[0].certificate_sha256(), Some(sha256(b"der")));
        assert_eq!(all[1].certificate_sha256(), None);
        assert_eq!(lists.counts()[&SignatureKind::Digest(HashAlg::Sha256)], 2);
        assert_eq!(lists.counts()[&SignatureKind::Other([0x55; 16])], 1);
        assert!(SignatureLists::parse(b"").unwrap().is_empty());
        for len in 1..bytes.len() {
            match SignatureLists::parse(&bytes[..len]) {
                Ok(cut) => assert!(cut.len() < 4 || len == bytes.len() - LIST_HEADER, "{len}"),
                Err(SignatureListError::ListLength { offset, left, .. }) => assert_eq!(offset + left, len),
                Err(other) => panic!("{len}: {other}"),
            }
        }
    }

    #[test]
    fn odd_lists_are_refused() {
        let size = |kind: usize, size, signatures: &[u8]| list(&KINDS[kind].0, b"", size, signatures);
        for (what, bytes) in [
            ("no room for a signature", size(0, 16, &[0; 16])),
            ("size 0", size(0, 0, &[0; 16])),
            ("not filled exactly", size(0, 20, &[0; 41])),
            ("a SHA-256 digest of 31 bytes", size(1, 47, &[0; 47])),
        ] {
            assert!(
                matches!(
                    SignatureLists::parse(&bytes),
                    Err(SignatureListError::SignatureSize { .. })
                ),
                "{what}"
            );
        }
        let mut short = size(1, 48, &[0; 48]);
        short[16..20].copy_from_slice(&27u32.to_le_bytes());
        let mut huge_header = size(1, 48, &[0; 48]);
        huge_header[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
        for bytes in [short, huge_header] {
            assert!(matches!(
                SignatureLists::parse(&bytes),
                Err(SignatureListError::ListLength { .. })
            ));
        }
        let many = size(0, 20, b"").repeat(MAX_SIGNATURE_LISTS + 1);
        assert_eq!(
            SignatureLists::parse(&many),
            Err(SignatureListError::TooMany {
                limit: MAX_SIGNATURE_LISTS
            })
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 0..KINDS.len(), size in 0u32..80) {
            for bytes in [bytes.clone(), list(&KINDS[kind].0, b"", size, &bytes)] {
                if let Ok(lists) = SignatureLists::parse(&bytes) {
                    prop_assert_eq!(lists.signatures().count(), lists.len());
                }
                let _ = certificate_name(&bytes);
            }
        }
    }
}
