//! A static web server for one folder, as honest as a test wants it.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "test support; each test uses its part"
)]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// How a request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// With the file, or 404.
    Honest,
    /// With a status line and nothing else.
    Status(u16),
    /// With a redirect to the file itself.
    Redirect,
    /// With bytes for ever, without a length.
    Endless,
    /// With the file, a byte each of these milliseconds.
    Slow(u64),
    /// With half of the file, and an end.
    Cut,
    /// With the file, said to be compressed.
    Encoded,
    /// Not at all.
    Silent,
    /// With the file, and then the connection is closed without a word of it.
    Close,
}

/// A server that runs until it is dropped.
pub struct Web {
    pub url: String,
    /// The paths that were asked for.
    pub asked: Arc<Mutex<Vec<String>>>,
    _stop: tokio::sync::oneshot::Sender<()>,
}

impl Web {
    pub fn honest(folder: &Path) -> Self {
        Self::new(folder, |_| Manner::Honest)
    }

    /// Serves `folder` on a thread of its own; `manner` looks at the path.
    pub fn new(folder: &Path, manner: impl Fn(&str) -> Manner + Send + Sync + 'static) -> Self {
        let (folder, manner) = (folder.to_owned(), Arc::new(manner));
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let heard = Arc::clone(&asked);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                let serving = async {
                    loop {
                        let (stream, _) = listener.accept().await.unwrap();
                        let (folder, manner, heard) = (folder.clone(), Arc::clone(&manner), Arc::clone(&heard));
                        tokio::spawn(async move { serve(stream, &folder, &*manner, &heard).await });
                    }
                };
                tokio::select! { () = serving => {}, _ = stopped => {} }
            });
        });
        Self {
            url,
            asked,
            _stop: stop,
        }
    }

    /// How many requests there were since the last time this was asked.
    pub fn count(&self) -> usize {
        std::mem::take(&mut *self.asked.lock().unwrap()).len()
    }
}

async fn serve(
    mut stream: TcpStream,
    folder: &Path,
    manner: &(dyn Fn(&str) -> Manner + Send + Sync),
    asked: &Mutex<Vec<String>>,
) -> Option<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).ok()?;
        let path = head.split(' ').nth(1)?.trim_start_matches('/').to_owned();
        asked.lock().unwrap().push(path.clone());
        let file: PathBuf = folder.join(&path);
        let body = std::fs::read(&file).ok();
        let ok = |length: usize, more: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{more}\r\n");
        let mut send = Vec::new();
        match (manner(&path), body) {
            (Manner::Status(status), _) => {
                send.extend(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n").bytes());
            }
            (Manner::Redirect, _) => {
                let line = format!("HTTP/1.1 302 Found\r\nLocation: /{path}\r\nContent-Length: 0\r\n\r\n");
                send.extend(line.bytes());
            }
            (Manner::Endless, _) => {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
                    .await
                    .ok()?;
                loop {
                    stream.write_all(&[b' '; 65_536]).await.ok()?;
                }
            }
            (Manner::Silent, _) => {
                tokio::time::sleep(Duration::from_secs(3_600)).await;
            }
            (_, None) => send.extend(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
            (Manner::Slow(ms), Some(body)) => {
                stream.write_all(ok(body.len(), "").as_bytes()).await.ok()?;
                for byte in body {
                    tokio::time::sleep(Duration::from_millis(ms)).await;
                    stream.write_all(&[byte]).await.ok()?;
                }
            }
            (Manner::Cut, Some(body)) => {
                send.extend(ok(body.len(), "").bytes());
                send.extend(&body[..body.len() / 2]);
                stream.write_all(&send).await.ok()?;
                return None;
            }
            (Manner::Encoded, Some(body)) => {
                send.extend(ok(body.len(), "Content-Encoding: gzip\r\n").bytes());
                send.extend(body);
            }
            (Manner::Honest | Manner::Close, Some(body)) => {
                send.extend(ok(body.len(), "").bytes());
                send.extend(body);
            }
        }
        stream.write_all(&send).await.ok()?;
        if manner(&path) == Manner::Close {
            return None;
        }
    }
}
