//! Sends our own repository and trust state to a domain that cannot open connections to us.
//!
//! What is sent is what anybody may fetch here, signed as it is; who receives it verifies it like what it fetched. The
//! stream of frames is our own: a revocation goes out with the frame that carries it.

use std::sync::Arc;
use std::time::Duration;

use touchstone_client::{BrokerClient, backoff_ms};
use touchstone_ledger::checkpoint::sign_checkpoint;
use touchstone_ledger::note::NoteKey;

use super::bundle::Bundle;
use super::keep::{COPY_PERIOD, endpoints, tls_of};
use super::peer::Peer;
use crate::app::App;

/// How long to wait until there is something to do.
const IDLE: Duration = Duration::from_secs(1);

/// The route that takes frames.
#[must_use]
pub fn frame_path(domain: &str) -> String {
    format!("/v1/federation/{domain}/frame")
}

/// The route that takes bundles.
#[must_use]
pub fn bundle_path(domain: &str) -> String {
    format!("/v1/federation/{domain}/bundle")
}

/// What we show others now.
///
/// # Errors
/// In words.
pub async fn own_bundle(app: &App) -> Result<Bundle, String> {
    let copy = app.federation.own_copy().await.map_err(|e| e.to_string())?;
    let head = app.head();
    let key = &app.keys.checkpoint;
    let note = NoteKey::new(&app.origin, &key.verifying_key()).map_err(|e| e.to_string())?;
    let checkpoint = sign_checkpoint(&note, head.size, &head.root, &**key).map_err(|e| e.to_string())?;
    Ok(Bundle {
        domain: app.policy().domain.clone(),
        copy,
        frame: app.trust.full().to_vec(),
        checkpoint: Some(checkpoint),
    })
}

/// Pushes for as long as our policy says so.
pub(super) async fn push(app: Arc<App>, peer: Arc<Peer>) {
    let mut failures = 0u32;
    loop {
        if !peer.entry().push {
            tokio::time::sleep(COPY_PERIOD).await;
            continue;
        }
        let Err(error) = push_once(&app, &peer, &mut failures).await else {
            continue;
        };
        failures = failures.saturating_add(1);
        tracing::info!(target: "touchstone::federation", domain = peer.name(), error, "our state could not be sent");
        let pause = backoff_ms(failures, getrandom::u64().unwrap_or(0));
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}

/// One connection: everything first, then every frame as it is made, and the repository whenever it changes.
async fn push_once(app: &App, peer: &Peer, failures: &mut u32) -> Result<(), String> {
    let Some(held) = peer.held() else {
        tokio::time::sleep(IDLE).await;
        return Ok(());
    };
    let own = app.policy().domain.clone();
    let mut client = BrokerClient::new(endpoints(&peer.entry().brokers)?, tls_of(&held)?);
    let (first, mut frames) = app.trust.subscribe();
    let mut sent = send_bundle(app, &mut client, &own).await?;
    post(&mut client, &frame_path(&own), first.bytes.to_vec()).await?;
    *failures = 0;
    let mut looked = tokio::time::Instant::now();
    loop {
        if !peer.entry().push || peer.held() != Some(Arc::clone(&held)) {
            return Ok(());
        }
        match tokio::time::timeout(IDLE, frames.recv()).await {
            Ok(Ok(frame)) => post(&mut client, &frame_path(&own), frame.bytes.to_vec()).await?,
            // Fallen behind: from the beginning.
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => {}
        }
        if looked.elapsed() >= COPY_PERIOD {
            looked = tokio::time::Instant::now();
            let published = app.federation.own_timestamp().await;
            if published.is_some_and(|published| published != sent) {
                sent = send_bundle(app, &mut client, &own).await?;
            }
        }
    }
}

async fn send_bundle(app: &App, client: &mut BrokerClient, own: &str) -> Result<Vec<u8>, String> {
    let bundle = own_bundle(app).await?;
    post(client, &bundle_path(own), bundle.encode()).await?;
    Ok(bundle.copy.timestamp().unwrap_or_default().to_vec())
}

async fn post(client: &mut BrokerClient, path: &str, body: Vec<u8>) -> Result<(), String> {
    client.post(path, body).await.map(|_| ()).map_err(|e| e.to_string())
}
