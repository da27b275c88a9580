//! Binary files as tools and services hand them out in text: hexadecimal (`xxd -p`, explorers of quotes), base64 of either
//! alphabet (services' JSON, configuration files).

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// With or without padding; the bits that stand for no byte must be zero.
const EITHER: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, EITHER);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, EITHER);
/// What begins and ends a block of PEM.
const PEM: &[u8] = b"-----";

/// The bytes that a file of text stands for, or the file itself where it is no such text.
///
/// Lines may be broken anywhere; hexadecimal may begin with `0x`. Text of hexadecimal digits alone is hexadecimal, also
/// where it could be base64. No format that is packed is all letters and digits in its binary form.
pub(super) fn binary(file: Vec<u8>) -> Vec<u8> {
    // What is no text is seen at its first bytes.
    if file
        .first()
        .is_none_or(|byte| !byte.is_ascii_graphic() && !byte.is_ascii_whitespace())
    {
        return file;
    }
    // PEM without its spaces may look like base64 of the other alphabet, whose signs are `-` and `_`.
    if file.windows(PEM.len()).any(|window| window == PEM) {
        return file;
    }
    let text: Vec<u8> = file
        .iter()
        .copied()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    let digits = text.strip_prefix(b"0x").unwrap_or(&text);
    if digits.is_empty() {
        return file;
    }
    hex::decode(digits)
        .ok()
        .or_else(|| STANDARD.decode(&text).ok())
        .or_else(|| URL_SAFE.decode(&text).ok())
        .unwrap_or(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_becomes_the_bytes_it_stands_for() {
        let bytes: Vec<u8> = (0..=255).cycle().skip(2).take(1001).collect();
        let (lower, upper) = (hex::encode(&bytes), hex::encode_upper(&bytes));
        let (standard, safe) = (STANDARD.encode(&bytes), URL_SAFE.encode(&bytes));
        let lines = |text: &str, end: &str| {
            let chunks: Vec<_> = text
                .as_bytes()
                .chunks(64)
                .map(|line| String::from_utf8_lossy(line))
                .collect();
            format!("{}{end}", chunks.join(end))
        };
        for text in [
            lower.clone(),
            upper,
            format!("0x{lower}\n"),
            lines(&lower, "\n"),
            standard.clone(),
            standard.trim_end_matches('=').to_owned(),
            lines(&standard, "\r\n"),
            safe.clone(),
            format!("\n {}\n", safe.trim_end_matches('=')),
        ] {
            assert_eq!(binary(text.clone().into_bytes()), bytes, "{text}");
        }
        assert_eq!(binary(bytes.clone()), bytes, "binary stays what it is");
    }

    #[test]
    fn what_is_no_such_text_stays() {
        for file in [
            &b""[..],
            b"\n",
            b"0x",
            b"{\"quote\": \"\"}",
            b"-----BEGIN CERTIFICATE-----",
            b"key of one\n-----BEGIN KEY-----\nAAAA\n-----END KEY-----\n",
            b"abc=d",
            b"AA==AA",
            b"0x0g!",
            b"\x30\x82\x01\x01",
            b"HCLA\x02\0\0\0",
        ] {
            assert_eq!(binary(file.to_vec()), file, "{file:?}");
        }
    }
}
