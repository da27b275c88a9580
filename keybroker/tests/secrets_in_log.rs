//! What the log says of keys, at its most talkative. A program of its own: a log is one for a whole process.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::sync::{Arc, Mutex};

use common::{Domain, command};
use hyper::Method;
use touchstone_keybroker::key_files::write_new;

/// Printable, so that it would be found in a log.
const SECRET: &str = "the-launch-codes-0123456789abcdef";

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_secret_is_in_the_log_of_a_live_broker() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .init();
    let domain = Domain::new(&[], &[]);
    let file = domain.path("passphrase");
    write_new(&file, b"correct horse battery staple\n").unwrap();
    let domain = domain.with_more(&format!("[keys]\nkek = {{ passphrase_file = {file:?} }}\n"));
    let broker = domain.start().await;
    command(&domain, Method::POST, "/keys?name=a", SECRET).await;
    command(&domain, Method::POST, "/keys/rotate?name=a", &format!("{SECRET}-2")).await;
    command(&domain, Method::POST, "/keys?name=a", SECRET).await;
    command(&domain, Method::POST, "/keys?name=BAD", SECRET).await;
    command(&domain, Method::GET, "/keys", "").await;
    broker.shutdown().await.unwrap();
    tracing::trace!("the log is written to its end");
    let said = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(
        said.contains("tough::") && said.contains("the log is written to its end"),
        "{said}"
    );
    assert!(!said.contains("launch-codes"), "{said}");
    assert!(!said.contains("battery"), "{said}");
    assert!(!said.contains(&hex::encode(SECRET)), "{said}");
}
