//! A relay between nodes and a broker that counts the bytes on their way: what travels, not what is said to.
#![expect(
    clippy::expect_used,
    reason = "test support: what is not as it must be fails the test"
)]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use touchstone_attest::client::Endpoint;

/// A relay to one broker. TLS goes through it untouched.
pub struct Relay {
    address: SocketAddr,
    sent: Arc<AtomicU64>,
    cut: watch::Sender<bool>,
}

impl Relay {
    /// Listens, and passes everything on to `broker`.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn before(broker: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let sent = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&sent);
        let (cut, is_cut) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((node, _)) = listener.accept().await {
                if *is_cut.borrow() {
                    continue;
                }
                let Ok(broker) = TcpStream::connect(broker).await else {
                    continue;
                };
                let (node_read, node_write) = node.into_split();
                let (broker_read, broker_write) = broker.into_split();
                let there = pass(node_read, broker_write, Some(Arc::clone(&counter)));
                let back = pass(broker_read, node_write, None);
                let mut is_cut = is_cut.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        ((), ()) = async { tokio::join!(there, back) } => {}
                        _ = is_cut.wait_for(|cut| *cut) => {}
                    }
                });
            }
        });
        Self { address, sent, cut }
    }

    /// Where it listens.
    ///
    /// # Panics
    /// Never: the address is one.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::parse(&self.address.to_string()).expect("an endpoint")
    }

    /// Cuts every connection and takes no other, or takes them again.
    pub fn cut(&self, cut: bool) {
        self.cut.send_replace(cut);
    }

    /// Bytes that nodes have sent, encrypted, since this was asked last.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.swap(0, Ordering::SeqCst)
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    counter: Option<Arc<AtomicU64>>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        // Before it is passed on, so that whoever has an answer finds it counted.
        if let Some(counter) = &counter {
            counter.fetch_add(u64::try_from(count).unwrap_or(0), Ordering::SeqCst);
        }
        let Some(bytes) = buffer.get(..count) else { return };
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}
