//! A copy of the policy repository, fetched over plain HTTP into memory: the initramfs cannot hold it, because it holds the
//! reference that is made of the initramfs.
//!
//! Nothing that comes is believed here. The names of files are checked, so that none can be written beside the folder, and
//! their sizes bounded; whether they are the domain's is for the loader, which verifies every byte under the pinned root
//! (TUF 1.0.34, 5). Who serves them can only keep them back.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use touchstone_policies::layout::{METADATA, TargetKind, target_path};

/// Most versions of the root that are asked for.
const MAX_ROOTS: u64 = 256;
/// Largest version of the root.
const MAX_ROOT: u64 = 128 << 10;
/// Largest file of the metadata.
const MAX_METADATA: u64 = 32 << 20;
/// Most bytes of all targets: an initramfs has not much memory.
const MAX_TARGETS: u64 = 128 << 20;
/// Most targets.
const MAX_TARGET_FILES: usize = 80_000;
/// A server that takes longer for one file is gone.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Where a repository is served: `http://host[:port][/path]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryUrl {
    host: String,
    port: u16,
    path: String,
}

impl RepositoryUrl {
    /// Reads it; nothing where it is not of that form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("http://")?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
            _ => (authority, 80),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let in_host = |b: u8| b.is_ascii_alphanumeric() || b".-:".contains(&b);
        let in_path = |b: u8| b.is_ascii_alphanumeric() || b"/._~-".contains(&b);
        let sound = !host.is_empty() && host.bytes().all(in_host) && path.bytes().all(in_path);
        sound.then(|| Self {
            host: host.to_owned(),
            port,
            path: path.trim_end_matches('/').to_owned(),
        })
    }
}

/// Why there is no copy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MirrorError {
    /// No connection, no answer, or another status.
    #[error("policy repository at {host}: {cause}")]
    Unreachable {
        /// The server.
        host: String,
        /// Why.
        cause: String,
    },
    /// What came is no metadata, or names a file that no repository has.
    #[error("policy repository at {host}: {file}: {cause}")]
    Unreadable {
        /// The server.
        host: String,
        /// Which file.
        file: String,
        /// Why.
        cause: String,
    },
    /// The copy cannot be written.
    #[error("{}: {cause}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
}

#[derive(Deserialize)]
struct Signed<T> {
    signed: T,
}

/// Timestamp and snapshot (TUF 1.0.34, 4.4 and 4.6).
#[derive(Deserialize)]
struct Versions {
    meta: std::collections::BTreeMap<String, Meta>,
}

#[derive(Deserialize)]
struct Meta {
    version: u64,
}

/// The list of targets (TUF 1.0.34, 4.5).
#[derive(Deserialize)]
struct Targets {
    targets: std::collections::BTreeMap<String, Target>,
}

#[derive(Deserialize)]
struct Target {
    length: u64,
    hashes: Hashes,
}

#[derive(Deserialize)]
struct Hashes {
    sha256: String,
}

/// Copies the repository at `url` to the folder `to`, which it makes. The timestamp is written last.
///
/// # Errors
/// [`MirrorError`]; what was there before may be older files and newer ones, and is used only if it verifies.
pub async fn copy(url: &RepositoryUrl, to: &Path) -> Result<(), MirrorError> {
    let mut server = Server::connect(url).await?;
    let metadata = |file: &str| to.join(METADATA).join(file);
    for version in 1..=MAX_ROOTS {
        let file = format!("{version}.root.json");
        match server.get(&format!("{METADATA}/{file}"), MAX_ROOT).await? {
            Some(bytes) => write(&metadata(&file), &bytes)?,
            None => break,
        }
    }
    let timestamp = server
        .required(&format!("{METADATA}/timestamp.json"), MAX_METADATA)
        .await?;
    let version = server.version(&timestamp, "timestamp.json", "snapshot.json")?;
    let file = format!("{version}.snapshot.json");
    let snapshot = server.required(&format!("{METADATA}/{file}"), MAX_METADATA).await?;
    write(&metadata(&file), &snapshot)?;
    let version = server.version(&snapshot, &file, "targets.json")?;
    let file = format!("{version}.targets.json");
    let listed = server.required(&format!("{METADATA}/{file}"), MAX_METADATA).await?;
    write(&metadata(&file), &listed)?;
    let Targets { targets } = server.read(&listed, &file)?;
    let total = targets
        .values()
        .fold(0u64, |sum, target| sum.saturating_add(target.length));
    if targets.len() > MAX_TARGET_FILES || total > MAX_TARGETS {
        let cause = format!("{} targets of {total} bytes are too many for a copy", targets.len());
        return Err(server.unreadable(&file, cause));
    }
    for (name, target) in targets {
        let digest = hex::decode(&target.hashes.sha256).unwrap_or_default();
        // A name of the layout has no way out of the folder.
        if TargetKind::of(&name).is_none() || digest.len() != 32 {
            return Err(server.unreadable(&name, "no target of a policy repository".into()));
        }
        let path = target_path(to, &name, &digest);
        let unchanged = std::fs::metadata(&path).is_ok_and(|found| found.len() == target.length);
        if unchanged {
            continue;
        }
        let remote = target_path(Path::new(""), &name, &digest);
        let bytes = server.required(&remote.to_string_lossy(), target.length).await?;
        write(&path, &bytes)?;
    }
    write(&metadata("timestamp.json"), &timestamp)
}

/// A connection to who serves it.
struct Server<'a> {
    url: &'a RepositoryUrl,
    sender: SendRequest<Full<Bytes>>,
}

impl<'a> Server<'a> {
    async fn connect(url: &'a RepositoryUrl) -> Result<Self, MirrorError> {
        let unreachable = |cause: String| MirrorError::Unreachable {
            host: url.host.clone(),
            cause,
        };
        let connect = async {
            let stream = TcpStream::connect((url.host.as_str(), url.port)).await;
            let stream = stream.map_err(|error| unreachable(error.to_string()))?;
            let opened = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
            let (sender, driver) = opened.map_err(|error| unreachable(error.to_string()))?;
            tokio::spawn(driver);
            Ok(Self { url, sender })
        };
        tokio::time::timeout(ANSWER_TIMEOUT, connect)
            .await
            .unwrap_or_else(|_| Err(unreachable("no connection in time".into())))
    }

    /// A file of the repository, at most `limit` bytes; none where there is no such file.
    async fn get(&mut self, file: &str, limit: u64) -> Result<Option<Vec<u8>>, MirrorError> {
        let url = self.url;
        let unreachable = |cause: String| MirrorError::Unreachable {
            host: url.host.clone(),
            cause: format!("{file}: {cause}"),
        };
        let path = match url.path.as_str() {
            "" => format!("/{file}"),
            folder => format!("/{folder}/{file}"),
        };
        let exchange = async {
            let request = Request::get(path)
                .header(hyper::header::HOST, format!("{}:{}", url.host, url.port))
                .body(Full::default())
                .map_err(|error| unreachable(error.to_string()))?;
            self.sender
                .ready()
                .await
                .map_err(|error| unreachable(error.to_string()))?;
            let response = self.sender.send_request(request).await;
            let response = response.map_err(|error| unreachable(error.to_string()))?;
            let status = response.status();
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let body = Limited::new(response.into_body(), limit).collect().await;
            match (status, body) {
                (StatusCode::OK, Ok(body)) => Ok(Some(body.to_bytes().into())),
                (StatusCode::NOT_FOUND, _) => Ok(None),
                (StatusCode::OK, Err(error)) => Err(unreachable(error.to_string())),
                (other, _) => Err(unreachable(format!("status {other}"))),
            }
        };
        tokio::time::timeout(ANSWER_TIMEOUT, exchange)
            .await
            .unwrap_or_else(|_| Err(unreachable("no answer in time".into())))
    }

    async fn required(&mut self, file: &str, limit: u64) -> Result<Vec<u8>, MirrorError> {
        let found = self.get(file, limit).await?;
        found.ok_or_else(|| MirrorError::Unreachable {
            host: self.url.host.clone(),
            cause: format!("{file}: not there"),
        })
    }

    fn read<T: for<'de> Deserialize<'de>>(&self, bytes: &[u8], file: &str) -> Result<T, MirrorError> {
        let read: Result<Signed<T>, _> = serde_json::from_slice(bytes);
        read.map(|read| read.signed)
            .map_err(|error| self.unreadable(file, error.to_string()))
    }

    /// The version of `of` that the metadata `file` names.
    fn version(&self, bytes: &[u8], file: &str, of: &str) -> Result<u64, MirrorError> {
        let Versions { meta } = self.read(bytes, file)?;
        let named = meta.get(of).map(|meta| meta.version);
        named.ok_or_else(|| self.unreadable(file, format!("no {of}")))
    }

    fn unreadable(&self, file: &str, cause: String) -> MirrorError {
        MirrorError::Unreadable {
            host: self.url.host.clone(),
            file: touchstone_verifier::reason::sanitise(file, 128),
            cause,
        }
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), MirrorError> {
    let failed = |error: std::io::Error| MirrorError::Write {
        path: path.to_owned(),
        cause: error.to_string(),
    };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    std::fs::write(path, bytes).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn only_plain_addresses_are_read() {
        let parsed = |text: &str| RepositoryUrl::parse(text).map(|url| (url.host, url.port, url.path));
        let is = |host: &str, port: u16, path: &str| Some((host.to_owned(), port, path.to_owned()));
        assert_eq!(parsed("http://policy.example"), is("policy.example", 80, ""));
        assert_eq!(parsed("http://10.0.0.1:8080/a/b/"), is("10.0.0.1", 8080, "a/b"));
        assert_eq!(parsed("http://[fd00::1]:81/x"), is("fd00::1", 81, "x"));
        assert_eq!(parsed("http://[fd00::1]/x"), is("fd00::1", 80, "x"));
        for bad in [
            "",
            "https://a",
            "a:80",
            "http://",
            "http://a:b",
            "http://a b/",
            "http://a/?x",
            "http://a/\r\nX: y",
        ] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }

    /// Serves these files to one connection; others are not there.
    fn serve(files: Vec<(&'static str, String)>) -> RepositoryUrl {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut byte = [0];
            while stream.read(&mut byte).is_ok_and(|n| n == 1) {
                request.extend(byte);
                if !request.ends_with(b"\r\n\r\n") {
                    continue;
                }
                let text = String::from_utf8_lossy(&request).into_owned();
                let path = text
                    .split(' ')
                    .nth(1)
                    .unwrap_or_default()
                    .trim_start_matches('/')
                    .to_owned();
                let found = files.iter().find(|(name, _)| *name == path);
                let (status, body) = found.map_or(("404 Not Found", ""), |(_, body)| ("200 OK", body.as_str()));
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).unwrap();
                request.clear();
            }
        });
        RepositoryUrl::parse(&format!("http://127.0.0.1:{port}")).unwrap()
    }

    fn versions(of: &str) -> String {
        format!("{{\"signed\":{{\"meta\":{{\"{of}\":{{\"version\":1}}}}}}}}")
    }

    fn repository(name: &str, length: u64) -> Vec<(&'static str, String)> {
        let sha256 = "ab".repeat(32);
        let targets = format!(
            "{{\"signed\":{{\"targets\":{{\"{name}\":{{\"length\":{length},\"hashes\":{{\"sha256\":\"{sha256}\"}}}}}}}}}}"
        );
        vec![
            ("metadata/1.root.json", "root".into()),
            ("metadata/timestamp.json", versions("snapshot.json")),
            ("metadata/1.snapshot.json", versions("targets.json")),
            ("metadata/1.targets.json", targets),
            (
                "targets/abababababababababababababababababababababababababababababababab.keyset.json",
                "keys".into(),
            ),
        ]
    }

    #[tokio::test]
    async fn a_repository_is_copied_and_no_file_beside_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("policy");
        copy(&serve(repository("keyset.json", 4)), &to).await.unwrap();
        let target = target_path(&to, "keyset.json", &[0xab; 32]);
        assert_eq!(std::fs::read(target).unwrap(), b"keys");
        assert_eq!(std::fs::read(to.join("metadata/1.root.json")).unwrap(), b"root");
        assert!(to.join("metadata/timestamp.json").exists());
        for (what, files) in [
            ("a name with a way out", repository("../../evil", 4)),
            ("an absolute name", repository("/etc/passwd", 4)),
            ("a name of no target", repository("nodes/../keyset.json", 4)),
            ("more than the list says", repository("keyset.json", 3)),
            ("more than memory", repository("keyset.json", MAX_TARGETS + 1)),
            ("no list", repository("keyset.json", 4).into_iter().take(3).collect()),
            ("no JSON", vec![("metadata/timestamp.json", "{".into())]),
            ("nothing", Vec::new()),
        ] {
            let other = folder.path().join("other");
            let copied = copy(&serve(files), &other).await;
            assert!(copied.is_err(), "{what}");
            assert!(!other.join("metadata/timestamp.json").exists(), "{what}");
            let _ = std::fs::remove_dir_all(&other);
        }
        let names: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["policy"], "nothing beside it");
    }
}
