//! Private keys in files: Ed25519 in PKCS#8 PEM (RFC 8410), plain or encrypted (PBES2 with scrypt, RFC 8018, RFC 7914).

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use pkcs8::der::SecretDocument;
use pkcs8::der::pem::PemLabel;
use pkcs8::pkcs5::EncryptionScheme;
use pkcs8::pkcs5::pbes2::{Kdf, Parameters};
use pkcs8::pkcs5::scrypt;
use pkcs8::{EncryptedPrivateKeyInfoRef, LineEnding, PrivateKeyInfoRef};
use touchstone_cose::key::{SigningKey, VerifyingKey};
use zeroize::Zeroizing;

use super::passphrase::{MIN_PASSPHRASE_LEN, Passphrase};
use super::private_file::{invalid, read_private};
use crate::error::{PolicyCode, PolicyError};

/// Cost of scrypt for the keys that are made here: 128 MiB and some tenths of a second a guess.
pub const SCRYPT_LOG_N: u8 = 17;
/// Most memory that opening a key may take, bytes: whoever wrote the file chose the cost.
pub const MAX_SCRYPT_MEMORY: u64 = 1 << 30;
/// Most rounds of PBKDF2 that opening a key may take.
pub const MAX_PBKDF2_ROUNDS: u32 = 10_000_000;

const SCRYPT_R: u32 = 8;
const SCRYPT_P: u32 = 1;

/// Reads a key, opening it where it is encrypted.
pub(super) fn read(path: &Path, passphrase: &Passphrase) -> Result<SigningKey, PolicyError> {
    let pem = read_private(path)?;
    let plain = if is_encrypted_pem(&pem) {
        decrypt(path, &pem, passphrase)?
    } else {
        pem
    };
    SigningKey::from_pkcs8_pem(&plain).map_err(|e| invalid(path, &e.to_string()))
}

/// Whether the key in this file is encrypted.
pub(super) fn is_encrypted(path: &Path) -> Result<bool, PolicyError> {
    Ok(is_encrypted_pem(&read_private(path)?))
}

fn is_encrypted_pem(pem: &str) -> bool {
    pem.trim_start()
        .starts_with(&format!("-----BEGIN {}-----", EncryptedPrivateKeyInfoRef::PEM_LABEL))
}

/// Makes a key, encrypted where there is a passphrase, and writes it where no file is. Returns its public half.
pub(super) fn make(path: &Path, name: &str, passphrase: &Passphrase) -> Result<VerifyingKey, PolicyError> {
    let failed = |found: String| PolicyError::new(PolicyCode::Io, path.display(), "a key to write", found);
    let mut seed = Zeroizing::new([0u8; 32]);
    getrandom::fill(seed.as_mut()).map_err(|e| failed(e.to_string()))?;
    let key = SigningKey::from_seed(*seed);
    let plain = key.to_pkcs8_pem().map_err(|e| failed(e.to_string()))?;
    let pem = match passphrase.of(path)? {
        None => plain,
        Some(words) if words.len() < MIN_PASSPHRASE_LEN => {
            let expected = format!("a passphrase of at least {MIN_PASSPHRASE_LEN} bytes");
            return Err(PolicyError::new(
                PolicyCode::KeyPassphrase,
                name,
                expected,
                format!("{} bytes", words.len()),
            ));
        }
        Some(words) => encrypt(&plain, &words).map_err(|e| failed(e.to_string()))?,
    };
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| failed(e.to_string()))?;
    file.write_all(pem.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(|e| failed(e.to_string()))?;
    Ok(key.verifying_key())
}

fn encrypt(plain: &str, words: &str) -> Result<Zeroizing<String>, pkcs8::Error> {
    let broken = |_| pkcs8::Error::KeyMalformed(pkcs8::KeyError::Invalid);
    let (mut salt, mut iv) = ([0; 16], [0; 16]);
    getrandom::fill(&mut salt).map_err(broken)?;
    getrandom::fill(&mut iv).map_err(broken)?;
    let cost = scrypt::Params::new(SCRYPT_LOG_N, SCRYPT_R, SCRYPT_P);
    let cost = cost.map_err(|_| pkcs8::Error::KeyMalformed(pkcs8::KeyError::Invalid))?;
    let scheme = Parameters::generate_scrypt_aes256cbc(cost, &salt, iv)?;
    let (_, document) = SecretDocument::from_pem(plain)?;
    let info = document.decode_msg::<PrivateKeyInfoRef<'_>>()?;
    let sealed = info.encrypt_with_params(scheme, words)?;
    Ok(sealed.to_pem(EncryptedPrivateKeyInfoRef::PEM_LABEL, LineEnding::LF)?)
}

fn decrypt(path: &Path, pem: &str, passphrase: &Passphrase) -> Result<Zeroizing<String>, PolicyError> {
    let locked =
        |expected: &str, found: &str| PolicyError::new(PolicyCode::KeyPassphrase, path.display(), expected, found);
    let unreadable = |e: pkcs8::der::Error| invalid(path, &e.to_string());
    let (_, document) = SecretDocument::from_pem(pem).map_err(unreadable)?;
    let sealed = document
        .decode_msg::<EncryptedPrivateKeyInfoRef<'_>>()
        .map_err(unreadable)?;
    check_cost(&sealed.encryption_algorithm).map_err(|found| invalid(path, &found))?;
    let words = passphrase
        .of(path)?
        .ok_or_else(|| locked("a passphrase", "an encrypted key, and no passphrase was given"))?;
    let opened = sealed
        .decrypt(words.as_bytes())
        .map_err(|_| locked("the passphrase of this key", "another passphrase, or a damaged file"))?;
    opened
        .to_pem(PrivateKeyInfoRef::PEM_LABEL, LineEnding::LF)
        .map_err(unreadable)
}

/// Opening must end: the cost in the file is bounded before anything is computed.
fn check_cost(scheme: &EncryptionScheme) -> Result<(), String> {
    let Some(parameters) = scheme.pbes2() else {
        return Err("an encryption that is not PBES2 (RFC 8018)".into());
    };
    match &parameters.kdf {
        Kdf::Scrypt(cost) => {
            let n = cost.cost_parameter;
            let memory = n
                .checked_mul(u64::from(cost.block_size))
                .and_then(|m| m.checked_mul(128 * u64::from(cost.parallelization.max(1))));
            let fits = n.is_power_of_two() && n > 1 && memory.is_some_and(|m| m > 0 && m <= MAX_SCRYPT_MEMORY);
            fits.then_some(())
                .ok_or_else(|| format!("scrypt with n {n}, r {}, p {}", cost.block_size, cost.parallelization))
        }
        Kdf::Pbkdf2(cost) if cost.iteration_count <= MAX_PBKDF2_ROUNDS => Ok(()),
        Kdf::Pbkdf2(cost) => Err(format!("PBKDF2 with {} rounds", cost.iteration_count)),
        _ => Err("a key derivation that is neither scrypt nor PBKDF2".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn private(path: &Path, text: &str) {
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    #[test]
    fn an_encrypted_key_opens_with_its_words_only() {
        let dir = tempfile::tempdir().unwrap();
        let (file, key) = (dir.path().join("words"), dir.path().join("targets-1.pem"));
        private(&file, "correct horse battery\nnot this line\n");
        let words = Passphrase::File(file.clone());
        let public = make(&key, "targets-1", &words).unwrap();
        let pem = std::fs::read_to_string(&key).unwrap();
        assert!(pem.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----") && is_encrypted(&key).unwrap());
        assert_eq!(read(&key, &words).unwrap().verifying_key(), public);

        for n in 0..pem.len() - 1 {
            let cut = decrypt(&key, &pem[..n], &words).unwrap_err();
            assert_eq!(cut.code(), PolicyCode::KeyFileInvalid, "cut off at {n}");
        }
        let code = |passphrase: &Passphrase| read(&key, passphrase).unwrap_err().code();
        assert_eq!(code(&Passphrase::None), PolicyCode::KeyPassphrase);
        private(&file, "correct horse batterz\n");
        assert_eq!(code(&words), PolicyCode::KeyPassphrase);
        private(&file, "\n");
        assert_eq!(
            code(&words),
            PolicyCode::KeyPassphrase,
            "an empty line is no passphrase"
        );
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(code(&words), PolicyCode::KeyFileExposed);
        let ask = |words: &'static str| {
            Passphrase::Ask(std::sync::Arc::new(move |name: &str| {
                assert_eq!(name, "targets-1.pem");
                Ok(Zeroizing::new(words.to_owned()))
            }))
        };
        assert_eq!(
            read(&key, &ask("correct horse battery")).unwrap().verifying_key(),
            public
        );
        let told = read(&key, &ask("wrong horse batteries")).unwrap_err().to_string();
        assert!(!told.contains("wrong horse"), "{told}");
    }

    #[test]
    fn a_short_passphrase_makes_no_key() {
        let dir = tempfile::tempdir().unwrap();
        let (file, key) = (dir.path().join("words"), dir.path().join("targets-1.pem"));
        private(&file, "eleven-byte\n");
        let refused = make(&key, "targets-1", &Passphrase::File(file)).unwrap_err();
        assert_eq!(refused.code(), PolicyCode::KeyPassphrase);
        assert!(!key.exists());
    }

    #[test]
    fn the_cost_of_opening_is_bounded() {
        let cost = |n: u64, r: u16, p: u16| {
            let params = scrypt::Params::new(1, 1, 1).unwrap();
            let mut scheme = Parameters::generate_scrypt_aes256cbc(params, &[0; 16], [0; 16]).unwrap();
            if let Kdf::Scrypt(cost) = &mut scheme.kdf {
                (cost.cost_parameter, cost.block_size, cost.parallelization) = (n, r, p);
            }
            check_cost(&scheme.into()).is_ok()
        };
        assert!(cost(1 << 17, 8, 1) && cost(1 << 20, 8, 1));
        let refused = [
            (0, 8, 1),
            (1, 8, 1),
            (3, 8, 1),
            (1 << 17, 0, 1),
            (1 << 21, 8, 1),
            (1 << 17, 8, 9),
            (1 << 63, 8, 1),
            (1 << 63, u16::MAX, u16::MAX),
        ];
        for (n, r, p) in refused {
            assert!(!cost(n, r, p), "{n} {r} {p}");
        }
    }
}
