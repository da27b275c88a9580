//! What `touchstone guard run` does beside deciding for local services: it answers proxies, and watches over containers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args as ClapArgs, ValueEnum};
use touchstone_enforcer::ext_authz::{ExtAuthz, Proxy, router};
use touchstone_enforcer::guard::Guard;
use touchstone_enforcer::layer::{MAX_BODY, RouteMap, Tell};
use touchstone_enforcer::oci::Watchman;
use touchstone_enforcer::oci::watchman::{ContainerEvent, TellContainer};

use crate::output::{self, Failure, say};

/// Whom a guard serves.
#[derive(ClapArgs)]
pub struct Beside {
    /// Answer a proxy (NGINX auth_request, Envoy ext_authz) here; loopback only
    #[arg(long, requires = "routes")]
    proxy: Option<SocketAddr>,
    /// Which proxy asks
    #[arg(long, value_enum, default_value = "nginx", requires = "proxy")]
    proxy_kind: ProxyKind,
    /// routes.toml: which right a request needs
    #[arg(long)]
    routes: Option<PathBuf>,
    /// Let a request with a body through NGINX on the Content-Digest that its proof is over; the service behind must hold
    /// the body against Touchstone-Body-Digest
    #[arg(long, requires = "proxy")]
    declared_bodies: bool,
    /// The largest body that Envoy may send, in bytes
    #[arg(long, default_value_t = MAX_BODY)]
    max_body: usize,
    /// Watch over containers: the socket for `touchstone oci-hook`
    #[arg(long, requires = "agent")]
    oci: Option<PathBuf>,
    /// The socket of this node's agent, which presents the authorization that containers run under
    #[arg(long)]
    agent: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ProxyKind {
    Nginx,
    Envoy,
}

/// What serves, bound and ready.
pub struct Serving {
    proxy: Option<(tokio::net::TcpListener, axum::Router)>,
    oci: Option<(Arc<Watchman>, PathBuf)>,
}

impl Beside {
    /// Refuses what cannot be served, before anything else is done.
    pub fn check(&self) -> Result<(), Failure> {
        match self.proxy {
            Some(address) if !address.ip().is_loopback() => {
                Err(Failure::new(format!("{address} is not a loopback address"))
                    .hint("a guard speaks plain HTTP to a proxy of its own machine"))
            }
            _ => Ok(()),
        }
    }

    /// Reads the routes and binds.
    pub async fn open(self, guard: &Arc<Guard>, id: &str, tell: &Tell, json: bool) -> Result<Serving, Failure> {
        let proxy = match (self.proxy, &self.routes) {
            (Some(address), Some(routes)) => {
                let text = std::fs::read_to_string(routes)
                    .map_err(|error| Failure::new(format!("{}: {error}", routes.display())))?;
                let routes =
                    RouteMap::parse(&text).map_err(|error| Failure::new(format!("{}: {error}", routes.display())))?;
                let proxy = match self.proxy_kind {
                    ProxyKind::Envoy => Proxy::Envoy,
                    ProxyKind::Nginx => Proxy::Nginx {
                        declared_bodies: self.declared_bodies,
                    },
                };
                let listener = tokio::net::TcpListener::bind(address).await?;
                let address = listener.local_addr()?;
                if json {
                    output::json(&serde_json::json!({ "event": "proxy-listening", "address": address.to_string() }));
                } else {
                    say!("answering a proxy on http://{address}");
                }
                let endpoint = ExtAuthz {
                    guard: Arc::clone(guard),
                    routes: Box::new(routes),
                    proxy,
                    max_body: self.max_body,
                    tell: Arc::clone(tell),
                };
                Some((listener, router(endpoint)))
            }
            _ => None,
        };
        let oci = self.oci.zip(self.agent).map(|(socket, agent)| {
            let tell: TellContainer = Arc::new(move |event| tell_of(&event, json));
            (Watchman::new(Arc::clone(guard), id, &agent, tell), socket)
        });
        Ok(Serving { proxy, oci })
    }
}

impl Serving {
    /// Serves until something breaks.
    pub async fn serve(self) -> Result<(), Failure> {
        let proxy = async {
            match self.proxy {
                Some((listener, router)) => Ok(axum::serve(listener, router).await?),
                None => std::future::pending().await,
            }
        };
        let oci = async {
            match self.oci {
                Some((watchman, socket)) => match watchman.serve(&socket).await {
                    Ok(never) => match never {},
                    Err(error) => Err(Failure::new(format!("{}: {error}", socket.display()))),
                },
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = proxy => ended,
            ended = oci => ended,
        }
    }

    /// Containers are left to their keepers when the guard is asked to stop: the next one takes them over.
    pub fn watchman(&self) -> Option<Arc<Watchman>> {
        self.oci.as_ref().map(|(watchman, _)| Arc::clone(watchman))
    }
}

fn tell_of(event: &ContainerEvent, json: bool) {
    if json {
        output::json(&serde_json::to_value(event).unwrap_or_default());
        return;
    }
    match event {
        ContainerEvent::ContainerAdmitted {
            container,
            subject,
            scope,
            ..
        } => say!("container {container} may start: {subject} may {scope}"),
        ContainerEvent::ContainerRefused { container, reasons, .. } => {
            say!("container {container} may not start: {}", reasons.join("; "));
        }
        ContainerEvent::ContainerFrozen { container, reasons, .. } => {
            say!("container {container} stands still: {}", reasons.join("; "));
        }
        ContainerEvent::ContainerThawed { container, .. } => say!("container {container} goes on"),
        ContainerEvent::ContainerKilled { container, reasons, .. } => {
            say!("container {container} was ended: {}", reasons.join("; "));
        }
        ContainerEvent::ContainerEnded { container, .. } => say!("container {container} has ended"),
    }
}
