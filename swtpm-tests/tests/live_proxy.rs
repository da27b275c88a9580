//! The example of the AI agent as a user runs it: `examples/ai-agent/agent.py` with a key in a software TPM, before it a real
//! NGINX with the shipped configuration, a guard that follows a whole broker. Two tools answer, the third does not; when the
//! node is tampered with, nothing answers any more.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests: what is not as it must be fails"
)]

use crate::server;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use server::{Nginx, free_port};
use sha2::{Digest as _, Sha256};
use swtpm_tests::boots::{Boot, boots};
use swtpm_tests::domain::{Domain, Founding, add_node, recorded};
use swtpm_tests::node::Node;
use touchstone_attest::agent::socket::{AgentSocket, Request, Response, ask};
use touchstone_attest::agent::workloads::Wanted;
use touchstone_enforcer::ext_authz::{ExtAuthz, Proxy, router};
use touchstone_enforcer::layer::{Credentials, RouteMap, Target};

const GUARD: &str = "tools";
const CONFIGURATION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/nginx/touchstone.conf");
const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/ai-agent");
const TOOLS: &str = "[\"delegate:tools/search\", \"execute:tools/search\", \"delegate:tools/mail\", \"execute:tools/mail\", \
                     \"execute:tools/payments\"]";

fn domain() -> Domain {
    Domain::found(&Founding {
        anchors: &["swtpm-localca-rootca-cert.pem", "issuercert.pem"].map(|file| boots().join("ca").join(file)),
        nodes: &[],
        golden: &recorded(&Boot::GOOD),
        settings: &[],
        limits: &[],
        stage: &|repo: &Path| {
            add_node(repo, "node-1", &Boot::GOOD).unwrap();
            let path = repo.join("staged/settings.toml");
            let text = std::fs::read_to_string(&path).unwrap();
            let line = text.lines().find(|line| line.starts_with("scopes = ")).unwrap();
            std::fs::write(&path, text.replace(line, &format!("scopes = {TOOLS}"))).unwrap();
        },
    })
}

/// The interpreter itself: what the kernel shows of a script that runs.
fn python() -> Option<PathBuf> {
    let words = "import os, sys; print(os.path.realpath(sys.executable))";
    let output = Command::new("python3").args(["-c", words]).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().into())
}

fn rule(label: &str, executable: &Path) -> String {
    let digest = hex::encode(Sha256::digest(std::fs::read(executable).unwrap()));
    let uid = own_uid();
    format!(
        "[[workloads.rule]]\nlabel = \"{label}\"\nuid = {uid}\nexecutable = \"{digest}\"\n\
         scopes = [\"execute:tools/search\", \"execute:tools/mail\"]\n"
    )
}

fn own_uid() -> u32 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").unwrap().uid()
}

async fn serve(app: axum::Router) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, app).await });
    port
}

/// A tool that says who asked.
fn tools() -> axum::Router {
    axum::Router::new().fallback(|request: axum::extract::Request| async move {
        let subject = request
            .headers()
            .get("touchstone-subject")
            .map(|name| name.to_str().unwrap().to_owned());
        format!("done for {}", subject.unwrap_or_default())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_agent_has_two_tools_behind_nginx_until_its_node_is_tampered_with() {
    let Some(python) = python() else {
        touchstone_vectors::lacking("python3: not installed");
        return;
    };
    let domain = domain();
    let broker = domain.broker().await;
    let (mut node, mut client) = (Node::start(&Boot::GOOD).await, domain.client());
    let granted = node.attest(&mut client).await.unwrap().authorization.unwrap();
    let own = std::env::current_exe().unwrap();
    let rules = format!("[workloads]\n{}{}", rule("ai-agent", &python), rule("own", &own));
    let desk = Arc::new(node.desk_with(&domain, granted, &rules));
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("workload.sock");
    let _serving = AgentSocket::bind_for_workloads(&socket, Arc::clone(&desk)).unwrap();
    let guard = domain.guard(GUARD).await;

    let port = free_port();
    let authority = format!("127.0.0.1:{port}");
    let routes = std::fs::read_to_string(format!("{EXAMPLE}/routes.toml")).unwrap();
    let endpoint = router(ExtAuthz {
        guard: Arc::clone(&guard.guard),
        routes: Box::new(RouteMap::parse(&routes.replace("127.0.0.1:8080", &authority)).unwrap()),
        proxy: Proxy::Nginx { declared_bodies: false },
        max_body: 0,
        tell: Arc::new(|_| ()),
    });
    let ports = (serve(endpoint).await, serve(tools()).await);
    let Some(nginx) = Nginx::start(CONFIGURATION, port, ports, |configuration| configuration).await else {
        return;
    };
    let run = || {
        let mut agent = Command::new(&python);
        agent
            .arg(format!("{EXAMPLE}/agent.py"))
            .arg("--socket")
            .arg(&socket)
            .args(["--proxy", &authority]);
        let output = tokio::task::block_in_place(|| agent.output().unwrap());
        let words = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&words).into_owned())
    };
    let (code, said) = run();
    for line in [
        "authorized as ai-agent@node-1, key in: tpm",
        "search: 200 done for ai-agent@node-1",
        "mail: 200 done for ai-agent@node-1",
        "payments: 403 scope-not-granted",
    ] {
        assert!(
            said.lines().any(|found| found == line),
            "{line}: {said} {}",
            nginx.log()
        );
    }
    assert_eq!(code, Some(0), "{said}");

    // A request whose proof was made before, by another workload of the node, and one that passes.
    let wanted = Wanted {
        label: "own".into(),
        scopes: vec!["execute:tools/search".into()],
        life: None,
        region: None,
        purpose: None,
        delegation_depth: 0,
        offline: false,
        key: None,
        depends_on: Vec::new(),
        renew: None,
    };
    assert!(matches!(
        ask(&socket, &Request::Workload(wanted)).await.unwrap(),
        Response::Workload { .. }
    ));
    let request = async || {
        let digest = Target::new("GET", &authority, "/search")
            .unwrap()
            .digest(&Sha256::digest([]).into());
        let present = Request::WorkloadPresent {
            label: "own".into(),
            audience: GUARD.into(),
            challenge: None,
            request: Some(hex::encode(digest)),
            action: "execute".into(),
            resource: "tools/search".into(),
        };
        let Response::Presentation { authorization, proof } = ask(&socket, &present).await.unwrap() else {
            panic!("no presentation");
        };
        let credentials = Credentials {
            chain: STANDARD.decode(authorization).unwrap(),
            proof: STANDARD.decode(proof).unwrap(),
        };
        let [(_, authorization), (_, proof)] = credentials.headers();
        format!(
            "GET /search HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\nAuthorization: {authorization}\r\n\
             Touchstone-Proof: {proof}\r\n\r\n"
        )
    };
    assert_eq!(nginx.send(&request().await).await.0, 200);
    let ahead = request().await;

    node.swtpm.extend(4, [9; 32]).unwrap();
    assert!(!node.attest(&mut client).await.unwrap().allowed);
    guard.reaches(broker.app().trust.epoch()).await;
    let (status, reason, _) = nginx.send(&ahead).await;
    assert_eq!(status, 403);
    assert!(
        reason.split(", ").any(|code| code == "authorization-revoked"),
        "{reason}"
    );
    let (code, said) = run();
    assert_ne!(code, Some(0), "{said}");
    assert!(!said.contains(": 200"), "{said}");
    broker.shutdown().await.unwrap();
}
