//! Authorizations of another domain: what lets them in, and everything that does not.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use common::*;
use touchstone_authorization::token::KeyKind;
use touchstone_authorization::{
    Admitted, Authorization, ChannelPolicy, Enforcer, Foreign, Link, ListHead, Narrowing, OfflineLimits, Presented,
    Refusal, RefusalCode, ReplayMemory, Request, RequestChannel, RevokedIds, Scope, Status, TrustFrame, TrustHead,
    TrustStateError, TrustView, decide_among, redecide_among,
};
use touchstone_cose::key::SigningKey;

const A: &str = "a.example";
const B: &str = "b.example";
const C: &str = "c.example";
const PREFIX: &str = "partners/b";
const WANTED: &str = "execute:partners/b/render";
const A_WINDOW_MS: u64 = 4_000;
const B_WINDOW_MS: u64 = 10_000;

fn a_keys() -> SigningKey {
    SigningKey::from_seed([0xa1; 32])
}

fn b_keys() -> SigningKey {
    SigningKey::from_seed([0xb1; 32])
}

fn c_keys() -> SigningKey {
    SigningKey::from_seed([0xc1; 32])
}

/// Everything that the decision in A about an authorization of B depends on, good until a row changes it.
struct Row {
    authorization: Authorization,
    signer: SigningKey,
    wanted: &'static str,
    status: Vec<(u32, Status)>,
    head: TrustHead,
    head_received_ms: u64,
    view: bool,
    home_domain: &'static str,
    home_received_ms: u64,
    link: Link<'static>,
    scopes: &'static [&'static str],
    key_kinds: Vec<KeyKind>,
    path: Vec<(Link<'static>, TrustHead)>,
    known: bool,
    also: Option<(&'static str, SigningKey)>,
    now_ms: u64,
}

fn head_of(domain: &str) -> TrustHead {
    TrustHead {
        domain: domain.into(),
        fresh_until_ms: NOW_MS - 500 + B_WINDOW_MS,
        ..head(&lists(&[]))
    }
}

fn link(domain: &'static str) -> Link<'static> {
    Link {
        domain,
        view: None,
        window_ms: B_WINDOW_MS,
        keyset_version: 3,
        policy_expires_ms: NOW_MS + 3_600_000,
        max_state_age_ms: None,
    }
}

impl Default for Row {
    fn default() -> Self {
        Self {
            authorization: Authorization {
                issuer: B.into(),
                audience: A.into(),
                scopes: vec![scope(WANTED), scope("execute:partners/b/other")],
                ..authorization()
            },
            signer: b_keys(),
            wanted: WANTED,
            status: Vec::new(),
            head: head_of(B),
            head_received_ms: NOW_MS - 400,
            view: true,
            home_domain: A,
            home_received_ms: NOW_MS - 100,
            link: link(B),
            scopes: &[WANTED],
            key_kinds: vec![KeyKind::Tpm, KeyKind::Tee],
            path: Vec::new(),
            known: true,
            also: None,
            now_ms: NOW_MS,
        }
    }
}

fn view(head: &TrustHead, status: &[(u32, Status)], received_ms: u64) -> TrustView {
    let lists = lists(status);
    let head = TrustHead {
        lists: ListHead::of(&lists),
        ..head.clone()
    };
    let frame = full_frame(&head, &lists);
    TrustView::accept(None, &frame, &ring(&[&trust_key()]), &head.domain, received_ms).unwrap()
}

impl Row {
    fn run<T>(&self, run: impl FnOnce(&Enforcer<'_>, &TrustView, &[Foreign<'_>]) -> T) -> T {
        let home_keys = ring(&[&a_keys()]);
        let enforcer = Enforcer {
            id: ENFORCER,
            domain: self.home_domain,
            keys: &home_keys,
            skew_ms: SKEW_MS,
            window_ms: A_WINDOW_MS,
            requires_channel: ChannelPolicy::Challenge,
            region: None,
            purpose: None,
            offline: OfflineLimits::MOST,
        };
        let home = TrustHead {
            domain: self.home_domain.into(),
            fresh_until_ms: self.home_received_ms + A_WINDOW_MS,
            ..head(&lists(&[]))
        };
        let home = view(&home, &[], self.home_received_ms);
        let foreign_view = view(&self.head, &self.status, self.head_received_ms);
        let path_views: Vec<TrustView> = self
            .path
            .iter()
            .map(|(_, head)| view(head, &[], NOW_MS - 300))
            .collect();
        let path: Vec<Link<'_>> = self
            .path
            .iter()
            .zip(&path_views)
            .map(|((link, _), view)| Link {
                view: Some(view),
                ..*link
            })
            .collect();
        let narrowing = Narrowing::new(
            self.scopes.iter().map(|text| scope(text)),
            PREFIX,
            self.key_kinds.iter().copied(),
            self.link.max_state_age_ms,
        )
        .unwrap();
        let keys = ring(&[&b_keys()]);
        let other_keys = self.also.as_ref().map(|(_, key)| ring(&[key]));
        let mut foreign = Vec::new();
        if let (Some((domain, _)), Some(keys)) = (&self.also, &other_keys) {
            foreign.push(Foreign {
                link: Link {
                    view: Some(&foreign_view),
                    ..link(domain)
                },
                keys,
                narrowing: &narrowing,
                path: &[],
            });
        }
        if self.known {
            foreign.push(Foreign {
                link: Link {
                    view: self.view.then_some(&foreign_view),
                    ..self.link
                },
                keys: &keys,
                narrowing: &narrowing,
                path: &path,
            });
        }
        run(&enforcer, &home, &foreign)
    }

    fn decide(&self) -> Result<Admitted, Vec<Refusal>> {
        let token = self.authorization.encode_signed(&self.signer).unwrap();
        let wanted = Scope::parse(self.wanted).unwrap();
        let proof = touchstone_authorization::Proof {
            authorization_digest: sha256(&token),
            scope: wanted.clone(),
            ..proof()
        };
        let proof = proof.encode_signed(&HolderKey::new(7)).unwrap();
        let request = Request {
            authorization: Presented::Bytes(&token),
            proof: &proof,
            action: wanted.action().as_str(),
            resource: wanted.resource(),
            request_digest: None,
            channel: RequestChannel::Challenge(CHALLENGE),
        };
        self.run(|enforcer, home, foreign| {
            decide_among(
                &request,
                Some(home),
                foreign,
                enforcer,
                ReplayMemory::new(0),
                self.now_ms,
            )
            .0
        })
    }

    fn codes(&self) -> Vec<&'static str> {
        names(self.decide().map(|_| ()))
    }

    fn again(&self, admitted: &Admitted) -> Vec<&'static str> {
        names(self.run(|enforcer, home, foreign| redecide_among(admitted, Some(home), foreign, enforcer, self.now_ms)))
    }
}

fn names(result: Result<(), Vec<Refusal>>) -> Vec<&'static str> {
    let refusals = result.err().unwrap_or_default();
    refusals.iter().map(|refusal| refusal.code.as_str()).collect()
}

fn row(change: impl FnOnce(&mut Row)) -> Row {
    let mut row = Row::default();
    change(&mut row);
    row
}

#[test]
fn a_foreign_authorization_is_let_in_under_its_domains_name() {
    let admitted = Row::default().decide().unwrap();
    assert_eq!(admitted.subject, "b.example/node-1");
    assert_eq!(admitted.authority.as_deref(), Some(B));
    assert_eq!(admitted.state_age_ms, None);
    assert_eq!(admitted.allowed.scope, scope(WANTED));
    assert_eq!(admitted.allowed.until_ms, (NOW_S + 110) * 1_000);
}

#[test]
fn this_domains_own_are_decided_as_before() {
    let own = row(|r| {
        r.authorization.issuer = A.into();
        r.signer = a_keys();
    });
    let admitted = own.decide().unwrap();
    assert_eq!((admitted.subject.as_str(), admitted.authority), ("node-1", None));
}

/// One attack a row, and exactly the reasons it is refused with.
#[test]
fn attacks() {
    let rows: Vec<(&str, Row, &[&str])> = vec![
        (
            "meant for another domain",
            row(|r| r.authorization.audience = C.into()),
            &["authorization-audience"],
        ),
        (
            "meant for its own domain only",
            row(|r| r.authorization.audience = B.into()),
            &["authorization-audience"],
        ),
        (
            "B issues in this domain's name",
            row(|r| r.authorization.issuer = A.into()),
            &["authorization-issuer"],
        ),
        (
            "B issues in the name of another domain that is let in",
            row(|r| {
                r.authorization.issuer = C.into();
                r.also = Some((C, c_keys()));
            }),
            &["authorization-issuer"],
        ),
        (
            "signed by nobody that is known",
            row(|r| r.signer = SigningKey::from_seed([9; 32])),
            &["authorization-key-unknown"],
        ),
        (
            "of a domain that only B trusts",
            row(|r| {
                r.authorization.issuer = C.into();
                r.signer = c_keys();
            }),
            &["authorization-key-unknown"],
        ),
        (
            "B is not let in",
            row(|r| r.known = false),
            &["authorization-key-unknown"],
        ),
        (
            "this domain's own, replayed at an enforcer of B",
            row(|r| {
                r.home_domain = B;
                r.authorization.issuer = A.into();
                r.signer = c_keys();
                r.also = Some((A, c_keys()));
                r.known = false;
            }),
            &["authorization-audience", "federated-state-domain"],
        ),
        (
            "no trust state of B",
            row(|r| r.view = false),
            &["federated-state-missing"],
        ),
        (
            "the trust state of another domain",
            row(|r| r.head.domain = C.into()),
            &["federated-state-domain"],
        ),
        (
            "B has been silent for its window",
            row(|r| {
                r.now_ms = NOW_MS - 500 + B_WINDOW_MS;
                r.home_received_ms = r.now_ms - 1;
            }),
            &["federated-domain-stale"],
        ),
        (
            "held back on the way",
            row(|r| r.head_received_ms = NOW_MS - B_WINDOW_MS),
            &["federated-domain-stale"],
        ),
        (
            "fresh for longer than B's signed window",
            row(|r| {
                r.head.fresh_until_ms += 3_600_000;
                r.head_received_ms = NOW_MS + 8_000;
                r.now_ms = NOW_MS - 500 + B_WINDOW_MS;
                r.home_received_ms = r.now_ms - 1;
            }),
            &["federated-domain-stale"],
        ),
        (
            "made in the future",
            row(|r| {
                r.head.issued_at_ms = NOW_MS + SKEW_MS + 1;
                r.head.fresh_until_ms = NOW_MS + B_WINDOW_MS;
            }),
            &["federated-clock"],
        ),
        (
            "received in the future: the clock stepped back",
            row(|r| r.head_received_ms = NOW_MS + 501),
            &["federated-domain-stale"],
        ),
        (
            "an older keyset of B than its state names",
            row(|r| r.link.keyset_version = 2),
            &["federated-keyset-older"],
        ),
        (
            "a copy of B's policy that has run out",
            row(|r| r.link.policy_expires_ms = NOW_MS),
            &["federated-policy-expired"],
        ),
        (
            "this domain's own trust state is stale",
            row(|r| r.home_received_ms = NOW_MS - A_WINDOW_MS),
            &["trust-state-stale"],
        ),
        (
            "revoked in B",
            row(|r| r.status = vec![(STATUS.index, Status::Invalid)]),
            &["authorization-revoked"],
        ),
        (
            "suspended in B",
            row(|r| r.status = vec![(STATUS.index, Status::Suspended)]),
            &["authorization-suspended"],
        ),
        (
            "of an older generation of B",
            row(|r| r.authorization.status.generation = 1),
            &["authorization-generation"],
        ),
        (
            "of a newer generation of B",
            row(|r| r.authorization.status.generation = 3),
            &["authorization-generation"],
        ),
        (
            "younger than B's trust state",
            row(|r| r.authorization.epoch += 1),
            &["authorization-epoch-ahead"],
        ),
        (
            "under a policy that B's trust state does not know",
            row(|r| r.authorization.policy_version += 1),
            &["authorization-policy-unknown"],
        ),
        (
            "issued under a policy that B has since changed",
            row(|r| r.head.policy_version += 1),
            &["federated-policy-superseded"],
        ),
        (
            "a status list that B does not have",
            row(|r| r.authorization.status.list = 9),
            &["authorization-list-unknown"],
        ),
        (
            "an index beyond the list",
            row(|r| r.authorization.status.index = ENTRIES),
            &["authorization-index"],
        ),
        (
            "run out",
            row(|r| {
                r.authorization.expires = NOW_S;
                r.now_ms = NOW_MS + SKEW_MS;
            }),
            &["authorization-expired"],
        ),
        (
            "not begun",
            row(|r| r.authorization.not_before = NOW_S + 10),
            &["authorization-not-yet-valid"],
        ),
        (
            "a scope that B granted and this domain does not take",
            row(|r| r.wanted = "execute:partners/b/other"),
            &["federated-scope-not-permitted"],
        ),
        (
            "a scope that this domain takes and B did not grant",
            row(|r| r.authorization.scopes = vec![scope("execute:partners/b/other")]),
            &["scope-not-granted"],
        ),
        (
            "this domain's own workloads",
            row(|r| {
                r.authorization.scopes = vec![scope("execute:workloads")];
                r.wanted = "execute:workloads";
            }),
            &["federated-scope-not-permitted"],
        ),
        (
            "a neighbour of the prefix",
            row(|r| {
                r.authorization.scopes = vec![scope("execute:partners/bad")];
                r.wanted = "execute:partners/bad";
            }),
            &["federated-scope-not-permitted"],
        ),
        (
            "the way up out of the prefix",
            row(|r| {
                r.authorization.scopes = vec![scope("execute:partners/b/../a")];
                r.wanted = "execute:partners/b/../a";
            }),
            &["federated-scope-not-permitted"],
        ),
        (
            "administer",
            row(|r| {
                r.authorization.scopes = vec![scope("administer:partners/b/render")];
                r.wanted = "administer:partners/b/render";
            }),
            &["federated-scope-not-permitted"],
        ),
        (
            "a key in software",
            row(|r| r.authorization.key_kind = KeyKind::Software),
            &["federated-key-kind"],
        ),
        (
            "a name that leaves no room for its domain's",
            row(|r| r.authorization.subject = "n".repeat(128)),
            &["federated-name"],
        ),
        (
            "a domain on the way is stale",
            row(|r| {
                let head = TrustHead {
                    fresh_until_ms: NOW_MS,
                    ..head_of(C)
                };
                r.path = vec![(link(C), head)];
            }),
            &["federated-domain-stale"],
        ),
        (
            "a domain on the way shows another's state",
            row(|r| r.path = vec![(link(C), head_of("d.example"))]),
            &["federated-state-domain"],
        ),
        (
            "a domain on the way has a newer keyset",
            row(|r| {
                let head = TrustHead {
                    keyset_version: 4,
                    ..head_of(C)
                };
                r.path = vec![(link(C), head)];
            }),
            &["federated-keyset-older"],
        ),
        (
            "carried by hand, and too old",
            row(|r| {
                r.link.max_state_age_ms = Some(60_000);
                r.now_ms = NOW_MS + 60_000;
                r.home_received_ms = r.now_ms - 1;
            }),
            &["federated-state-too-old"],
        ),
        (
            "carried by hand, revoked",
            row(|r| {
                r.link.max_state_age_ms = Some(60_000);
                r.now_ms = NOW_MS + 30_000;
                r.home_received_ms = r.now_ms - 1;
                r.status = vec![(STATUS.index, Status::Invalid)];
            }),
            &["authorization-revoked"],
        ),
        (
            "carried by hand, its policy had run out by then",
            row(|r| {
                r.link.max_state_age_ms = Some(60_000);
                r.link.policy_expires_ms = NOW_MS - 500;
                r.now_ms = NOW_MS + 30_000;
                r.home_received_ms = r.now_ms - 1;
            }),
            &["federated-policy-expired"],
        ),
    ];
    for (attack, row, expected) in rows {
        assert_eq!(row.codes(), expected, "{attack}");
    }
}

#[test]
fn a_domain_that_lists_anothers_key_takes_nothing_over() {
    // C has put B's public key into its own keyset.
    let listed = row(|r| r.also = Some((C, b_keys())));
    assert_eq!(listed.decide().unwrap().subject, "b.example/node-1");
    let in_its_name = row(|r| {
        r.also = Some((C, b_keys()));
        r.known = false;
    });
    assert!(in_its_name.codes().contains(&"authorization-issuer"));
}

#[test]
fn every_domain_on_the_way_must_be_fresh() {
    let row = row(|r| r.path = vec![(link(C), head_of(C))]);
    assert_eq!(row.codes(), [""; 0]);
}

#[test]
fn what_is_carried_by_hand_counts_by_its_age_and_says_so() {
    let by_hand = row(|r| {
        r.link.max_state_age_ms = Some(60_000);
        r.now_ms = NOW_MS + 30_000;
        r.home_received_ms = r.now_ms - 1;
        r.authorization.epoch += 5;
    });
    assert_eq!(by_hand.decide().unwrap().state_age_ms, Some(30_500));
    let live = row(|r| r.link.max_state_age_ms = Some(60_000));
    assert_eq!(live.decide().unwrap().state_age_ms, None);
}

#[test]
fn what_is_open_is_looked_at_again() {
    let admitted = Row::default().decide().unwrap();
    assert_eq!(Row::default().again(&admitted), [""; 0]);
    for (attack, row, expected) in [
        (
            "revoked in B",
            row(|r| r.status = vec![(STATUS.index, Status::Invalid)]),
            "authorization-revoked",
        ),
        (
            "B fell silent",
            row(|r| {
                r.now_ms = NOW_MS - 500 + B_WINDOW_MS;
                r.home_received_ms = r.now_ms - 1;
            }),
            "federated-domain-stale",
        ),
        (
            "dropped from policy",
            row(|r| r.known = false),
            "federated-domain-unknown",
        ),
        (
            "narrowed further",
            row(|r| r.scopes = &["execute:partners/b/other"]),
            "federated-scope-not-permitted",
        ),
        (
            "this domain's own state is stale",
            row(|r| r.home_received_ms = NOW_MS - A_WINDOW_MS),
            "trust-state-stale",
        ),
    ] {
        assert_eq!(row.again(&admitted), [expected], "{attack}");
    }
}

/// B's head is signed: who relays it cannot make it fresh again, and nobody's head passes for another's.
#[test]
fn a_relayed_head_cannot_be_stamped_anew() {
    let lists = lists(&[]);
    let keys = ring(&[&trust_key()]);
    let honest = TrustHead {
        lists: ListHead::of(&lists),
        ..head_of(B)
    };
    let restamped = TrustHead {
        issued_at_ms: NOW_MS + 60_000,
        fresh_until_ms: NOW_MS + 70_000,
        ..honest.clone()
    };
    let relay = TrustFrame::full(&restamped.encode_signed(&a_keys()).unwrap(), &lists, RevokedIds::none()).encode();
    let refused = TrustView::accept(None, &relay, &keys, B, NOW_MS + 60_000).unwrap_err();
    assert_eq!(refused.code(), RefusalCode::TrustStateKeyUnknown);
    let other = TrustHead {
        domain: C.into(),
        ..honest.clone()
    };
    let refused = TrustView::accept(None, &full_frame(&other, &lists), &keys, B, NOW_MS).unwrap_err();
    assert!(matches!(refused, TrustStateError::Domain { .. }));
    // The same head again, later: its receipt is not renewed.
    let frame = full_frame(&honest, &lists);
    let first = TrustView::accept(None, &frame, &keys, B, NOW_MS).unwrap();
    let again = TrustView::accept(Some(&first), &frame, &keys, B, NOW_MS + 9_000).unwrap();
    assert_eq!(again.received_at_ms(), NOW_MS);
}
