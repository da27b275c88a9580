//! A folder's files for a reference: every regular file below it, by its path in the folder.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use touchstone_policies::compute::{FileList, MAX_FILE};

use crate::output::{self, Failure};

/// Deepest folder that is looked into.
const MAX_DEPTH: usize = 64;

/// Adds every regular file below `folder`. Symbolic links are not followed: what they point to is in the tree itself, or
/// no part of it.
pub fn add(folder: &Path, files: &mut FileList) -> Result<(), Failure> {
    let mut open = vec![(folder.to_owned(), 0)];
    while let Some((path, depth)) = open.pop() {
        let named = |error: std::io::Error| Failure::new(format!("{}: {error}", path.display()));
        if depth > MAX_DEPTH {
            return Err(Failure::new(format!(
                "{}: deeper than {MAX_DEPTH} folders",
                path.display()
            )));
        }
        for entry in std::fs::read_dir(&path).map_err(named)? {
            let entry = entry.map_err(named)?;
            let kind = entry.file_type().map_err(named)?;
            let path = entry.path();
            if kind.is_dir() {
                open.push((path, depth + 1));
            } else if kind.is_file() {
                if entry.metadata().map_err(named)?.len() > MAX_FILE as u64 {
                    return Err(Failure::new(format!(
                        "{}: over the limit of {MAX_FILE} bytes",
                        path.display()
                    )));
                }
                let below = path.strip_prefix(folder).unwrap_or(&path);
                let added = files.add(below.as_os_str().as_bytes(), &output::read(&path)?);
                added.map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
            }
        }
    }
    Ok(())
}
