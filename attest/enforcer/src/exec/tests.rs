use std::os::unix::fs::PermissionsExt as _;

use touchstone_authorization::{Channel, Status};

use super::*;
use crate::common::{Wanted, World, authorization, child, delegated_from, holder, proof};
use crate::guard::Shown;

/// A stage that does nothing but wait: for its beginning, and for its network. Then it says so, as a workload would run.
const STAGE: &str =
    "#!/bin/sh\nrun=$3\nIFS=,\nset -- $2\n[ $(head -c 2 < /proc/self/fd/$2 | wc -c) -eq 2 ] && : > $run\n";
const SCOPE: (&str, &str) = ("execute", "tool-search");

/// What is held while its stage waits for the network, when this status arrives; and whether the workload was started.
async fn begins_after(status: Status) -> (Option<Ending>, bool) {
    let world = World::new().await;
    let chain = authorization(600);
    let challenge = world.guard.challenge().unwrap();
    let wanted = Wanted {
        scope: "execute:tool-search",
        request: None,
        channel: Channel::Challenge(challenge.to_vec()),
    };
    let shown = Shown {
        authorization: &chain,
        proof: &proof(&chain, &wanted).encode_signed(&holder()).unwrap(),
        challenge: &challenge,
        action: SCOPE.0,
        resource: SCOPE.1,
    };
    let hold = world.guard.hold(&shown).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (program, ran) = (folder.path().join("stage"), folder.path().join("ran"));
    std::fs::write(&program, STAGE).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
    let plan = Plan {
        program: program.clone(),
        command: vec![ran.clone().into()],
        network: true,
        user: None,
        silence_ms: 10_000,
    };
    let (cage, _reports) = Cage::start(&plan, None).unwrap();
    let exec = Exec {
        action: SCOPE.0.into(),
        resource: SCOPE.1.into(),
        agent: PathBuf::new(),
        holder: Holder::Node,
        program,
        command: plan.command,
        user: None,
        uses: None,
        network: true,
        end_when_suspended: false,
    };
    let mut held = Held {
        exec: &exec,
        guard: &world.guard,
        hold: &hold,
        cage,
        segmented: true,
        segment: None,
        frozen: false,
        tell: &|_| (),
    };
    if status != Status::Valid {
        let mut changes = hold.standing();
        world.publish(status, crate::common::LONG_MS);
        let changed = changes.wait_for(|standing| !standing.reasons().is_empty());
        tokio::time::timeout(Duration::from_secs(60), changed)
            .await
            .unwrap()
            .unwrap();
    }
    let ending = held.begin();
    while held.cage.ended().unwrap().is_none() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    (ending, ran.exists())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_or_suspended_while_the_network_is_made_is_not_started() {
    assert_eq!(
        begins_after(Status::Valid).await,
        (None, true),
        "who may still go on begins"
    );
    for (status, code) in [
        (Status::Invalid, "authorization-revoked"),
        (Status::Suspended, "authorization-suspended"),
    ] {
        let (ending, ran) = begins_after(status).await;
        let Some(Ending::Lost { reasons }) = ending else {
            panic!("{code}: {ending:?}");
        };
        assert!(reasons.iter().any(|reason| reason.starts_with(code)), "{reasons:?}");
        assert!(!ran, "{code}: it was started");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_started_before_policy_had_segments_does_not_go_on_beside_them() {
    let world = World::new().await;
    let chain = authorization(600);
    let challenge = world.guard.challenge().unwrap();
    let wanted = Wanted {
        scope: "execute:tool-search",
        request: None,
        channel: Channel::Challenge(challenge.to_vec()),
    };
    let proof = proof(&chain, &wanted).encode_signed(&holder()).unwrap();
    let hold = world.guard.hold(&shown(&chain, &proof, &challenge)).unwrap();
    let plan = Plan {
        program: "/bin/true".into(),
        command: vec!["true".into()],
        network: false,
        user: None,
        silence_ms: 10_000,
    };
    let (cage, _reports) = Cage::start(&plan, None).unwrap();
    let exec = Exec {
        action: SCOPE.0.into(),
        resource: SCOPE.1.into(),
        agent: PathBuf::new(),
        holder: Holder::Node,
        program: plan.program,
        command: plan.command,
        user: None,
        uses: None,
        network: false,
        end_when_suspended: false,
    };
    let mut held = Held {
        exec: &exec,
        guard: &world.guard,
        hold: &hold,
        cage,
        segmented: false,
        segment: None,
        frozen: false,
        tell: &|_| (),
    };
    assert_eq!(held.follow_policy(), Ok(()), "policy has none");
    // Of another scope: then this one is to reach nothing.
    world.with_network("[[segment]]\nscope = \"execute:other\"\nallow = [\"tcp 10.0.0.5:5432\"]\n");
    assert!(held.follow_policy().is_err());
    held.segmented = true;
    assert_eq!(held.follow_policy(), Ok(()), "its own is being made");
}

fn shown<'a>(chain: &'a [u8], proof: &'a [u8], challenge: &'a [u8]) -> Shown<'a> {
    Shown {
        authorization: chain,
        proof,
        challenge,
        action: SCOPE.0,
        resource: SCOPE.1,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_offline_delegation_does_not_go_on_in_the_place_of_its_sibling() {
    let world = World::new().await;
    let parent = authorization(600);
    let (first, second) = (delegated_from(&parent, [1; 16]), delegated_from(&parent, [2; 16]));
    let proven = |chain: &[u8]| {
        let challenge = world.guard.challenge().unwrap();
        let wanted = Wanted {
            scope: "execute:tool-search",
            request: None,
            channel: Channel::Challenge(challenge.to_vec()),
        };
        (proof(chain, &wanted).encode_signed(&child()).unwrap(), challenge)
    };
    let (proof, challenge) = proven(&first);
    let hold = world.guard.hold(&shown(&first, &proof, &challenge)).unwrap();
    let (proof, challenge) = proven(&first);
    assert!(world.guard.extend(&hold, &shown(&first, &proof, &challenge)).is_ok());
    // One label, one key, one entry of the trust state, and an id of its own by which it is revoked.
    let (proof, challenge) = proven(&second);
    let refused = world
        .guard
        .extend(&hold, &shown(&second, &proof, &challenge))
        .unwrap_err();
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(refused[0].code.as_str(), "proof-authorization");
    let (proof, challenge) = proven(&second);
    assert!(
        world.guard.hold(&shown(&second, &proof, &challenge)).is_ok(),
        "a place of its own it has"
    );
}
