//! The quote in an envelope: what it holds, and whether it vouches for the values and the log beside it.
//!
//! For people who want to see. Whose key signed it, and over which nonce, only `touchstone verify` judges.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use touchstone_evidence::collection::{Collection, Label};
use touchstone_evidence::pcr_values;
use touchstone_verifier::eventlog::{EventLog, PrefixError, Vouched};
use touchstone_verifier::tpm::{Attest, AttestationKey, HashAlg, Public};
use touchstone_verifier::x509::SubjectKey;

/// IMA's register: its history is another log.
const IMA: u8 = 10;

/// Registers by bank and number.
type Registers = BTreeMap<(HashAlg, u8), Vec<u8>>;

/// What is known of the quote.
pub(super) struct Quote {
    /// Words for people, and the same for machines.
    pub(super) lines: Vec<String>,
    pub(super) json: Value,
    /// The quoted registers: none unless the values are those that were quoted.
    registers: Registers,
}

impl Quote {
    /// Reads what there is; nothing here fails.
    pub(super) fn read(collection: &Collection) -> Self {
        let mut quote = Self {
            lines: Vec::new(),
            json: Value::Null,
            registers: Registers::new(),
        };
        let Some(bytes) = collection.get(Label::TpmQuote) else {
            quote
                .lines
                .push("no quote: nothing vouches for what follows".to_owned());
            return quote;
        };
        match Attest::parse(bytes) {
            Ok(attest) => quote.read_attest(collection, bytes, &attest),
            Err(error) => quote.lines.push(format!("the quote cannot be read: {error}")),
        }
        quote
    }

    /// Register 10 of every quoted bank: what the IMA list must replay to.
    pub(super) fn ima_registers(&self) -> Vec<(HashAlg, Vec<u8>)> {
        let of_ima = self.registers.iter().filter(|((_, register), _)| *register == IMA);
        of_ima.map(|((bank, _), value)| (*bank, value.clone())).collect()
    }

    fn read_attest(&mut self, collection: &Collection, bytes: &[u8], attest: &Attest<'_>) {
        let clock = attest.clock;
        let safe = if clock.safe { "" } else { " (not vouched for)" };
        let (seconds, millis) = (clock.clock / 1000, clock.clock % 1000);
        self.lines
            .push(format!("qualifying data (nonce) {}", hex::encode(attest.extra_data)));
        self.lines.push(format!(
            "TPM firmware {:#018x}; reset {} times, restarted {} times since; clock {seconds}.{millis:03} s{safe}",
            attest.firmware_version, clock.reset_count, clock.restart_count,
        ));
        let Ok(info) = attest.quote() else {
            self.lines.push("what was signed is no quote".to_owned());
            return;
        };
        self.lines.push(format!("registers {}", info.selection));
        let signature = signature(collection, bytes);
        self.lines.push(match &signature {
            Ok(()) => {
                "signed by the attestation key in this evidence (whose key that is, touchstone verify judges)".into()
            }
            Err(fault) => format!("NOT SIGNED by the attestation key in this evidence: {fault}"),
        });
        let values = collection.get(Label::TpmPcrValues).map(pcr_values::decode);
        let values = values.and_then(Result::ok).unwrap_or_default();
        let value = |bank: HashAlg, register: u8| values.get(&(bank.tpm_id(), register)).map(Vec::as_slice);
        let matches = quoted_values(collection, bytes, &values);
        self.lines.push(match &matches {
            Ok(()) => "the register values beside it are the quoted ones".to_owned(),
            Err(fault) => format!("the register values beside it are NOT the quoted ones: {fault}"),
        });
        if signature.is_ok() && matches.is_ok() {
            self.registers = info
                .selection
                .iter()
                .filter_map(|(bank, register)| Some(((bank, register), value(bank, register)?.to_vec())))
                .collect();
        }
        self.json = json!({
            "qualifying_data": hex::encode(attest.extra_data),
            "registers": info.selection.to_string(),
            "pcr_digest": hex::encode(info.pcr_digest),
            "tpm_firmware": format!("{:#018x}", attest.firmware_version),
            "reset_count": clock.reset_count,
            "restart_count": clock.restart_count,
            "clock_ms": clock.clock,
            "clock_safe": clock.safe,
            "signed_by_key_in_evidence": signature.is_ok(),
            "values_are_quoted": matches.is_ok(),
        });
    }

    /// The bank to tell the log in, and what the quote vouches for in it. None where it vouches for nothing.
    pub(super) fn vouches(&mut self, log: &EventLog<'_>) -> Option<(HashAlg, Vouched)> {
        let mut banks: Vec<HashAlg> = self.registers.keys().map(|(bank, _)| *bank).collect();
        banks.dedup();
        // The strongest bank first: the weakest says least.
        for bank in banks.into_iter().rev() {
            let quoted: Vec<(u32, &[u8])> = self
                .registers
                .iter()
                .filter(|((of, register), _)| *of == bank && *register != IMA)
                .map(|((_, register), value)| (u32::from(*register), value.as_slice()))
                .filter(|(register, _)| *register < log.format().registers())
                .collect();
            match log.match_prefix(bank, &quoted) {
                Ok(matched) => {
                    let registers = quoted.iter().fold(0, |mask, (register, _)| mask | 1 << register);
                    let later = match matched.ignored {
                        0 => String::new(),
                        ignored => format!("; {ignored} events came after the quote"),
                    };
                    self.lines
                        .push(format!("the event log replays to the quoted {bank} registers{later}"));
                    let vouched = Vouched {
                        events: matched.events,
                        registers,
                    };
                    return Some((bank, vouched));
                }
                Err(PrefixError::Diverged { registers }) => {
                    let registers: Vec<String> = registers.iter().map(|(register, _)| register.to_string()).collect();
                    self.lines.push(format!(
                        "the event log does NOT replay to the quoted {bank} registers: {} differ",
                        registers.join(", ")
                    ));
                }
                Err(error) => self.lines.push(error.to_string()),
            }
        }
        None
    }
}

/// Whether the key that came along signed the quote.
fn signature(collection: &Collection, quote: &[u8]) -> Result<(), String> {
    let key = key(collection)?;
    let signature = collection.get(Label::TpmQuoteSignature).ok_or("no signature")?;
    key.verify_quote(quote, signature)
        .map(|_| ())
        .map_err(|error| error.to_string())
}

fn quoted_values(collection: &Collection, quote: &[u8], values: &BTreeMap<(u16, u8), Vec<u8>>) -> Result<(), String> {
    let signature = collection.get(Label::TpmQuoteSignature).ok_or("no signature")?;
    let quote = key(collection)?
        .verify_quote(quote, signature)
        .map_err(|error| error.to_string())?;
    quote
        .check_values(|bank, register| values.get(&(bank.tpm_id(), register)).map(Vec::as_slice))
        .map_err(|error| error.to_string())
}

fn key(collection: &Collection) -> Result<AttestationKey, String> {
    if let Some(bytes) = collection.get(Label::TpmAkPublic) {
        let public = Public::from_tpm2b_or_tpmt(bytes).map_err(|error| error.to_string())?;
        return Ok(AttestationKey::without_attributes(public.subject_key()));
    }
    let pem = collection.get(Label::TpmAkPem).ok_or("no attestation key")?;
    let pem = pem::parse(pem).map_err(|error| error.to_string())?;
    let key = SubjectKey::from_spki_der(pem.contents()).map_err(|error| error.to_string())?;
    Ok(AttestationKey::without_attributes(key))
}
