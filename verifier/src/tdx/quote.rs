//! The quote's bytes, read in place.

use super::attributes::TdAttributes;

/// Longest quote with its padding, in bytes. Guest devices give buffers of at most 8 KiB, some 16.
pub const MAX_QUOTE: usize = 32 << 10;
/// Longest certificate chain of the provisioning key, in bytes.
pub const MAX_PCK_CHAIN: usize = 16 << 10;
/// Length of a register or measurement, in bytes: SHA-384.
pub const MEASUREMENT: usize = 48;

const HEADER: usize = 48;
const TEE_TDX: u32 = 0x81;
const ECDSA_P256: u16 = 2;
/// Intel's quoting enclaves.
const VENDOR: [u8; 16] = [
    0x93, 0x9A, 0x72, 0x33, 0xF7, 0x9C, 0x4C, 0xA9, 0x94, 0x0A, 0x0D, 0xB3, 0x95, 0x7F, 0x06, 0x07,
];
const QE_REPORT: usize = 384;
const QE_AUTHENTICATION_DATA: usize = 32;
const CERTIFICATION_QE_REPORT: u16 = 6;
const CERTIFICATION_PCK_LEAF: u16 = 4;
const CERTIFICATION_PCK_CHAIN: u16 = 5;
/// Kinds of inner certification data that name the platform without a certificate, and their length: PPID (16 bytes in
/// plain, or encrypted for RSA-2048 or RSA-3072), CPUSVN (16), PCESVN (2), PCEID (2).
const CERTIFICATION_ID: [(u16, usize); 3] = [(1, 36), (2, 276), (3, 404)];

/// Why bytes are not a quote that is read here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuoteError {
    /// It ends too early, or is over the limit.
    #[error("expected {expected}, found {found} bytes")]
    Length {
        /// What was expected.
        expected: &'static str,
        /// How many bytes are there.
        found: usize,
    },
    /// A field with a value that is not read here.
    #[error("{field}: expected {expected}, found {found:#x}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is read.
        expected: &'static str,
        /// What is there.
        found: u64,
    },
    /// Another enclave's quote than Intel's.
    #[error("expected Intel's quoting enclave, found vendor {found}")]
    Vendor {
        /// The vendor's id, hexadecimal.
        found: String,
    },
    /// A length inside that does not fill what it should.
    #[error("{field}: expected {expected} bytes, found {found}")]
    Inner {
        /// The field.
        field: &'static str,
        /// Its length.
        expected: usize,
        /// What is there.
        found: usize,
    },
    /// Something other than zeros after the quote.
    #[error("expected nothing but zeros after the quote, found something at offset {offset}")]
    Trailing {
        /// Where.
        offset: usize,
    },
}

/// Which report the quote holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BodyKind {
    /// TDX 1.0: 584 bytes.
    Td10,
    /// TDX 1.5: 64 bytes more.
    Td15,
    /// TDX 1.5 with service TD and device fields: 885 bytes.
    Td15Ex,
}

impl BodyKind {
    /// Its length, in bytes.
    pub const fn len(self) -> usize {
        match self {
            BodyKind::Td10 => 584,
            BodyKind::Td15 => 648,
            BodyKind::Td15Ex => 885,
        }
    }

    /// Never: every report has fields.
    pub const fn is_empty(self) -> bool {
        false
    }

    /// Its name: `td-1.0`, `td-1.5`, `td-1.5-ex`.
    pub const fn as_str(self) -> &'static str {
        match self {
            BodyKind::Td10 => "td-1.0",
            BodyKind::Td15 => "td-1.5",
            BodyKind::Td15Ex => "td-1.5-ex",
        }
    }
}

/// What the quote itself says of the key that certified the quoting enclave (Intel SGX ECDSA Quote Library Reference,
/// "QE Certification Data": inner types 1 to 5). No signature of the quote covers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PckData<'a> {
    /// No certificate: the platform's id and security versions, by which one is asked for (1 to 3).
    Id,
    /// The provisioning key's certificate alone (4).
    Leaf(&'a [u8]),
    /// That certificate with those above it, PEM (5).
    Chain(&'a [u8]),
}

/// A quote that is well formed. Whether it is true is said by [`super::VerifiedQuote`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote<'a> {
    bytes: &'a [u8],
    version: u16,
    kind: BodyKind,
    signed: &'a [u8],
    body: &'a [u8],
    signature: &'a [u8; 64],
    attestation_key: &'a [u8; 64],
    qe_report: &'a [u8; QE_REPORT],
    qe_signature: &'a [u8; 64],
    qe_authentication_data: &'a [u8],
    pck: PckData<'a>,
}

/// Cuts pieces off the front of bytes.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], QuoteError> {
        let (piece, rest) = self.rest.split_at_checked(len).ok_or(QuoteError::Length {
            expected: what,
            found: self.rest.len(),
        })?;
        self.rest = rest;
        Ok(piece)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<&'a [u8; N], QuoteError> {
        let found = self.rest.len();
        self.take(N, what)?
            .try_into()
            .map_err(|_| QuoteError::Length { expected: what, found })
    }

    fn u16(&mut self, what: &'static str) -> Result<u16, QuoteError> {
        Ok(u16::from_le_bytes(*self.array(what)?))
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, QuoteError> {
        Ok(u32::from_le_bytes(*self.array(what)?))
    }

    fn sized(&mut self, what: &'static str) -> Result<&'a [u8], QuoteError> {
        let len = usize::try_from(self.u32(what)?).unwrap_or(usize::MAX);
        self.take(len, what)
    }
}

fn must_be(field: &'static str, expected: &'static str, found: u64, wanted: u64) -> Result<(), QuoteError> {
    if found == wanted {
        return Ok(());
    }
    Err(QuoteError::Field { field, expected, found })
}

fn filled(field: &'static str, rest: &[u8], whole: usize) -> Result<(), QuoteError> {
    if rest.is_empty() {
        return Ok(());
    }
    Err(QuoteError::Inner {
        field,
        expected: whole.saturating_sub(rest.len()),
        found: whole,
    })
}

/// What inner certification data of this type are.
fn pck_data(kind: u16, data: &[u8]) -> Result<PckData<'_>, QuoteError> {
    if data.len() > MAX_PCK_CHAIN {
        return Err(QuoteError::Inner {
            field: "certificate chain",
            expected: MAX_PCK_CHAIN,
            found: data.len(),
        });
    }
    match (kind, CERTIFICATION_ID.iter().find(|(id, _)| *id == kind)) {
        (CERTIFICATION_PCK_CHAIN, _) => Ok(PckData::Chain(data)),
        (CERTIFICATION_PCK_LEAF, _) => Ok(PckData::Leaf(data)),
        (_, Some((_, len))) if *len == data.len() => Ok(PckData::Id),
        (_, Some((_, len))) => Err(QuoteError::Inner {
            field: "the platform's id",
            expected: *len,
            found: data.len(),
        }),
        _ => Err(QuoteError::Field {
            field: "inner certification data type",
            expected: "1 to 3 (id of the platform), 4 (certificate of the provisioning key) or 5 (its chain)",
            found: kind.into(),
        }),
    }
}

impl<'a> Quote<'a> {
    /// Reads a quote, with or without the zeros that fill the buffer it came in.
    ///
    /// # Errors
    /// [`QuoteError`] for another version, kind of report, key or certification data, and for lengths that do not fit
    /// into each other exactly.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, QuoteError> {
        if bytes.len() > MAX_QUOTE {
            return Err(QuoteError::Length {
                expected: "at most 32 KiB",
                found: bytes.len(),
            });
        }
        let mut reader = Reader { rest: bytes };
        let version = reader.u16("a header")?;
        let key_type = reader.u16("a header")?;
        let tee = reader.u32("a header")?;
        // Four bytes of security versions that version 3 had, reserved here; signed, and nothing depends on them.
        reader.take(4, "a header")?;
        let vendor: &[u8; 16] = reader.array("a header")?;
        reader.take(20, "a header")?;
        must_be("TEE type", "0x81 (TDX)", tee.into(), TEE_TDX.into())?;
        must_be(
            "attestation key type",
            "2 (ECDSA P-256)",
            key_type.into(),
            ECDSA_P256.into(),
        )?;
        if *vendor != VENDOR {
            return Err(QuoteError::Vendor {
                found: hex::encode(vendor),
            });
        }
        let (kind, start) = match version {
            4 => (BodyKind::Td10, HEADER),
            5 => {
                let kind = match reader.u16("the type of the body")? {
                    2 => BodyKind::Td10,
                    3 => BodyKind::Td15,
                    4 => BodyKind::Td15Ex,
                    found => {
                        return Err(QuoteError::Field {
                            field: "body type",
                            expected: "2 (TDX 1.0), 3 (TDX 1.5) or 4 (TDX 1.5 extended)",
                            found: found.into(),
                        });
                    }
                };
                let len = usize::try_from(reader.u32("the length of the body")?).unwrap_or(usize::MAX);
                if len != kind.len() {
                    return Err(QuoteError::Inner {
                        field: "body",
                        expected: kind.len(),
                        found: len,
                    });
                }
                (kind, HEADER + 6)
            }
            found => {
                return Err(QuoteError::Field {
                    field: "version",
                    expected: "4 or 5",
                    found: found.into(),
                });
            }
        };
        let body = reader.take(kind.len(), "a report")?;
        let signed = bytes.get(..start + kind.len()).unwrap_or_default();
        let authentication = reader.sized("the signature data")?;
        if let Some(offset) = reader.rest.iter().position(|byte| *byte != 0) {
            let offset = bytes.len() - reader.rest.len() + offset;
            return Err(QuoteError::Trailing { offset });
        }
        let mut reader = Reader { rest: authentication };
        let signature = reader.array("a signature")?;
        let attestation_key = reader.array("an attestation key")?;
        let outer = reader.u16("certification data")?;
        must_be(
            "certification data type",
            "6 (report of the quoting enclave)",
            outer.into(),
            CERTIFICATION_QE_REPORT.into(),
        )?;
        let certification = reader.sized("certification data")?;
        filled("signature data", reader.rest, authentication.len())?;
        let mut reader = Reader { rest: certification };
        let qe_report = reader.array("the quoting enclave's report")?;
        let qe_signature = reader.array("the quoting enclave's signature")?;
        let len = usize::from(reader.u16("authentication data")?);
        if len != QE_AUTHENTICATION_DATA {
            return Err(QuoteError::Inner {
                field: "authentication data",
                expected: QE_AUTHENTICATION_DATA,
                found: len,
            });
        }
        let qe_authentication_data = reader.take(len, "authentication data")?;
        let inner = reader.u16("the provisioning key's certificate")?;
        let data = reader.sized("the provisioning key's certificate")?;
        filled("certification data", reader.rest, certification.len())?;
        let pck = pck_data(inner, data)?;
        Ok(Self {
            bytes,
            version,
            kind,
            signed,
            body,
            signature,
            attestation_key,
            qe_report,
            qe_signature,
            qe_authentication_data,
            pck,
        })
    }

    fn field<const N: usize>(&self, offset: usize) -> &'a [u8; N] {
        // A body that is shorter than its kind cannot be parsed, so the zeros are never seen.
        self.body
            .get(offset..)
            .and_then(|rest| rest.first_chunk())
            .unwrap_or(&[0; N])
    }

    /// Every byte, padding included.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Version of the quote: 4 or 5.
    pub fn version(&self) -> u16 {
        self.version
    }

    /// Which report it holds.
    pub fn kind(&self) -> BodyKind {
        self.kind
    }

    /// The bytes that the attestation key signed.
    pub fn signed(&self) -> &'a [u8] {
        self.signed
    }

    /// The report, as signed.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// The attestation key's signature, r ‖ s.
    pub fn signature(&self) -> &'a [u8; 64] {
        self.signature
    }

    /// The attestation key, x ‖ y on P-256.
    pub fn attestation_key(&self) -> &'a [u8; 64] {
        self.attestation_key
    }

    /// The quoting enclave's own report, which vouches for the attestation key.
    pub fn qe_report(&self) -> &'a [u8; QE_REPORT] {
        self.qe_report
    }

    /// The provisioning key's signature over that report, r ‖ s.
    pub fn qe_signature(&self) -> &'a [u8; 64] {
        self.qe_signature
    }

    /// What the quoting enclave hashed behind the attestation key.
    pub fn qe_authentication_data(&self) -> &'a [u8] {
        self.qe_authentication_data
    }

    /// What it says of the provisioning key.
    pub fn pck(&self) -> PckData<'a> {
        self.pck
    }

    /// TEE_TCB_SVN: security versions of the TDX module ([1] its version, [0] its minor one) and of the microcode ([2]).
    pub fn tee_tcb_svn(&self) -> &'a [u8; 16] {
        self.field(0)
    }

    /// MRSEAM: measurement of the TDX module.
    pub fn mr_seam(&self) -> &'a [u8; MEASUREMENT] {
        self.field(16)
    }

    /// MRSIGNERSEAM: zero for Intel's module.
    pub fn mr_signer_seam(&self) -> &'a [u8; MEASUREMENT] {
        self.field(64)
    }

    /// SEAMATTRIBUTES.
    pub fn seam_attributes(&self) -> u64 {
        u64::from_le_bytes(*self.field(112))
    }

    /// TDATTRIBUTES.
    pub fn attributes(&self) -> TdAttributes {
        TdAttributes(u64::from_le_bytes(*self.field(120)))
    }

    /// XFAM: which extended processor state the guest may use.
    pub fn xfam(&self) -> u64 {
        u64::from_le_bytes(*self.field(128))
    }

    /// MRTD: measurement of what the guest was launched with.
    pub fn mrtd(&self) -> &'a [u8; MEASUREMENT] {
        self.field(136)
    }

    /// MRCONFIGID: what the owner called the configuration.
    pub fn mr_config_id(&self) -> &'a [u8; MEASUREMENT] {
        self.field(184)
    }

    /// MROWNER.
    pub fn mr_owner(&self) -> &'a [u8; MEASUREMENT] {
        self.field(232)
    }

    /// MROWNERCONFIG.
    pub fn mr_owner_config(&self) -> &'a [u8; MEASUREMENT] {
        self.field(280)
    }

    /// A run-time measurement register, 0 to 3.
    pub fn rtmr(&self, index: u8) -> Option<&'a [u8; MEASUREMENT]> {
        (index < 4).then(|| self.field(328 + MEASUREMENT * usize::from(index)))
    }

    /// REPORTDATA: what the guest asked to have signed.
    pub fn report_data(&self) -> &'a [u8; 64] {
        self.field(520)
    }

    /// TEE_TCB_SVN2: the security versions now, where the module was updated under the running guest (TDX 1.5).
    pub fn tee_tcb_svn_now(&self) -> Option<&'a [u8; 16]> {
        (self.kind >= BodyKind::Td15).then(|| self.field(584))
    }

    /// MRSERVICETD: hash of the service TDs bound to the guest (TDX 1.5); zero without any.
    pub fn mr_service_td(&self) -> Option<&'a [u8; MEASUREMENT]> {
        (self.kind >= BodyKind::Td15).then(|| self.field(600))
    }

    /// VMID: 0 for a guest that is not partitioned, or for its own monitor (TDX 1.5 extended).
    pub fn vm_id(&self) -> Option<u8> {
        let [id] = *self.field::<1>(648);
        (self.kind == BodyKind::Td15Ex).then_some(id)
    }

    /// Hash of the service TDs bound now (TDX 1.5 extended).
    pub fn current_service_td(&self) -> Option<&'a [u8; MEASUREMENT]> {
        (self.kind == BodyKind::Td15Ex).then(|| self.field(829))
    }
}
