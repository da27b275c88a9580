//! The key folder that a ceremony works with, and what opens the encrypted keys in it.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args as ClapArgs;
use touchstone_policies::keys::{KeyDir, Passphrase};
use zeroize::Zeroizing;

#[derive(ClapArgs)]
pub(super) struct KeyDirArgs {
    /// Where the keys are (`<role>-<n>.pem`, mode 0600, or `<role>-<n>.pkcs11`)
    #[arg(long, value_name = "KEYDIR")]
    keys: PathBuf,
    /// A file, mode 0600, with the passphrase of encrypted keys in its first line; without it a terminal is asked
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

impl KeyDirArgs {
    /// The folder, for signing.
    pub(super) fn open(&self) -> KeyDir {
        dir(self.keys.clone(), self.passphrase_file.clone())
    }

    /// The folder, for making keys: encrypted where a passphrase file was given, or where `encrypt` asks for it.
    pub(super) fn make(&self, encrypt: bool) -> KeyDir {
        match (&self.passphrase_file, encrypt) {
            (Some(_), _) => self.open().encrypting(),
            (None, true) => KeyDir::new(self.keys.clone()).with_passphrase(twice()).encrypting(),
            (None, false) => self.open(),
        }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &std::path::Path {
        &self.keys
    }
}

/// A key folder whose encrypted keys are opened with words from the file, or from a terminal.
pub(super) fn dir(keys: PathBuf, passphrase_file: Option<PathBuf>) -> KeyDir {
    let passphrase = match passphrase_file {
        Some(file) => Passphrase::File(file),
        None if std::io::stdin().is_terminal() => Passphrase::Ask(Arc::new(|key: &str| ask("passphrase", key))),
        None => Passphrase::None,
    };
    KeyDir::new(keys).with_passphrase(passphrase)
}

/// New words are asked for twice: a slip would lock the key for good.
fn twice() -> Passphrase {
    Passphrase::Ask(Arc::new(|key: &str| {
        let first = ask("new passphrase", key)?;
        let second = ask("the same once more", key)?;
        if *first == *second {
            Ok(first)
        } else {
            Err("two passphrases that differ".to_owned())
        }
    }))
}

fn ask(what: &str, key: &str) -> Result<Zeroizing<String>, String> {
    let words = rpassword::prompt_password(format!("{what} of {key}: "));
    words.map(Zeroizing::new).map_err(|e| e.to_string())
}
