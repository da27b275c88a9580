//! The inventory: which machines belong to the domain, and by which hardware they are known.
//!
//! An identity that two entries claim is nobody's: it is looked up as [`Lookup::Ambiguous`], and denied.

mod cvm;
mod enrolled;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

pub use cvm::{CvmIdentity, CvmIdentityError, GuestId, Platform};
pub use enrolled::{CertifiedKey, CvmKind, EnrolledCvm, EnrolledNode, EnrolledRoot, EnrolledTpm};

use crate::bootstrap::Volume;
use crate::x509::iak_certificate::DeviceId;

/// Identity of an endorsement key: SHA-256 of its SubjectPublicKeyInfo (DER).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EkId(pub [u8; 32]);

impl fmt::Display for EkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for EkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One machine of the domain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its region.
    pub region: String,
    /// Its zone within the region.
    pub zone: Option<String>,
    /// What it is for.
    pub roles: Vec<String>,
    /// Whose it is.
    pub owner: Option<String>,
    /// Endorsement keys of its TPM (one TPM has several: RSA, P-256, P-384).
    pub ek: Vec<EkId>,
    /// TPM Names of attestation keys that the author tied to it from evidence (`node add --from`).
    pub ak_names: Vec<Vec<u8>>,
    /// Attestation keys known by key alone (`node add --ak`): SHA-256 of the SubjectPublicKeyInfo.
    pub ak_keys: Vec<[u8; 32]>,
    /// Device identities (IDevID, LDevID) of the machine: what its IAK certificate may state.
    pub devices: Vec<DeviceId>,
    /// Confidential VMs that are this node.
    pub platforms: Vec<CvmIdentity>,
    /// Its GPUs: serial numbers of their device certificates, hexadecimal.
    pub gpus: Vec<String>,
    /// Its encrypted disk, where it gets the key of one.
    pub volume: Option<Volume>,
    /// Who signed this entry.
    pub authority: String,
}

/// Answer to a look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup<'a> {
    /// Nobody claims it.
    Unknown,
    /// One node claims it.
    Node(&'a Node),
    /// More than one entry claims it: denied.
    Ambiguous,
}

/// Whose an identity is: a node's position, or more than one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    One(usize),
    Many,
}

/// The machines of the domain, with an index by every identity. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    listed: Arc<Listed>,
    /// A machine that no entry lists ([`Inventory::with_unlisted`]).
    unlisted: Option<Arc<Node>>,
}

#[derive(Debug, Default)]
struct Listed {
    nodes: Vec<Node>,
    by_name: BTreeMap<String, Claim>,
    by_ek: BTreeMap<EkId, Claim>,
    by_ak_name: BTreeMap<Vec<u8>, Claim>,
    by_ak_key: BTreeMap<[u8; 32], Claim>,
    by_device: BTreeMap<DeviceId, Claim>,
    by_cvm: BTreeMap<CvmIdentity, Claim>,
    by_gpu: BTreeMap<String, Claim>,
    /// Platforms that more than one authority or region claims a part of, so that one would name the other's guests.
    disputed: BTreeSet<Platform>,
}

impl Inventory {
    /// Indexes the entries. Nothing is refused here: a name, endorsement key or attestation key that two entries claim
    /// makes exactly that look-up ambiguous, and a node whose *name* is claimed twice is found by nothing.
    pub fn new(nodes: Vec<Node>) -> Self {
        let mut inventory = Listed {
            nodes,
            ..Listed::default()
        };
        for (position, node) in inventory.nodes.iter().enumerate() {
            claim(&mut inventory.by_name, node.name.clone(), position);
            node.ek.iter().for_each(|ek| claim(&mut inventory.by_ek, *ek, position));
            node.ak_names
                .iter()
                .for_each(|name| claim(&mut inventory.by_ak_name, name.clone(), position));
            node.ak_keys
                .iter()
                .for_each(|key| claim(&mut inventory.by_ak_key, *key, position));
            node.devices
                .iter()
                .for_each(|device| claim(&mut inventory.by_device, device.clone(), position));
            node.platforms
                .iter()
                .for_each(|cvm| claim(&mut inventory.by_cvm, cvm.clone(), position));
            node.gpus
                .iter()
                .for_each(|serial| claim(&mut inventory.by_gpu, serial.to_ascii_lowercase(), position));
        }
        inventory.disputed = disputed(&inventory.nodes);
        Self {
            listed: Arc::new(inventory),
            unlisted: None,
        }
    }

    /// The same with a machine that no entry lists, found by its name and its endorsement keys alone. Entries go before
    /// it: where one has its name or its endorsement key, it changes no answer about that entry, and is itself nobody.
    #[must_use]
    pub fn with_unlisted(&self, node: Node) -> Self {
        Self {
            listed: Arc::clone(&self.listed),
            unlisted: Some(Arc::new(node)),
        }
    }

    /// Every entry, in the order given.
    pub fn nodes(&self) -> &[Node] {
        &self.listed.nodes
    }

    /// The node of this name.
    pub fn by_name(&self, name: &str) -> Lookup<'_> {
        match (self.listed.by_name.get(name), &self.unlisted) {
            (None, Some(node)) if node.name == name => Lookup::Node(node),
            (claim, _) => self.answer(claim),
        }
    }

    /// The node with this endorsement key.
    pub fn by_ek(&self, ek: &EkId) -> Lookup<'_> {
        match (self.listed.by_ek.get(ek), &self.unlisted) {
            (None, Some(node)) if node.ek.contains(ek) => match self.listed.by_name.get(&node.name) {
                None => Lookup::Node(node),
                Some(_) => Lookup::Ambiguous,
            },
            (claim, _) => self.answer(claim),
        }
    }

    /// The node the author tied this attestation key's TPM Name to.
    pub fn by_ak_name(&self, name: &[u8]) -> Lookup<'_> {
        self.answer(self.listed.by_ak_name.get(name))
    }

    /// The node that lists this very attestation key (SHA-256 of its SubjectPublicKeyInfo).
    pub fn by_ak_key(&self, key: &[u8; 32]) -> Lookup<'_> {
        self.answer(self.listed.by_ak_key.get(key))
    }

    /// The node with these device identities, all those that a certificate states: one of them must be listed, and none
    /// by another node.
    pub fn by_device(&self, devices: &[DeviceId]) -> Lookup<'_> {
        let mut found = Lookup::Unknown;
        for device in devices {
            found = match (found, self.answer(self.listed.by_device.get(device))) {
                (before, Lookup::Unknown) => before,
                (Lookup::Unknown, now) => now,
                (before, now) if before == now => before,
                _ => return Lookup::Ambiguous,
            };
        }
        found
    }

    /// The node that a confidential VM on `platform` is, which shows `guests`: every value by which its report names it.
    ///
    /// Entries that name platform and guest come before those that name the platform alone; two nodes of the same rank
    /// are nobody. Beside the node the identity by which it is listed.
    pub fn by_cvm(&self, platform: &Platform, guests: &[GuestId]) -> (Lookup<'_>, Option<&CvmIdentity>) {
        if self.listed.disputed.contains(platform) {
            return (Lookup::Ambiguous, None);
        }
        let listed = |guest: Option<&GuestId>| {
            let identity = CvmIdentity {
                platform: platform.clone(),
                guest: guest.cloned(),
            };
            self.listed.by_cvm.get_key_value(&identity)
        };
        let (mut found, mut identity) = (Lookup::Unknown, None);
        for (key, claim) in guests.iter().filter_map(|guest| listed(Some(guest))) {
            (found, identity) = match (found, self.answer(Some(claim))) {
                (Lookup::Unknown, now) => (now, Some(key)),
                (before, now) if before == now => (before, identity.min(Some(key))),
                _ => return (Lookup::Ambiguous, None),
            };
        }
        if found == Lookup::Unknown
            && let Some((key, claim)) = listed(None)
        {
            (found, identity) = (self.answer(Some(claim)), Some(key));
        }
        (found, identity.filter(|_| matches!(found, Lookup::Node(_))))
    }

    /// The node that lists a GPU with this serial number (hexadecimal).
    pub fn by_gpu(&self, serial: &str) -> Lookup<'_> {
        self.answer(self.listed.by_gpu.get(&serial.to_ascii_lowercase()))
    }

    fn answer(&self, claim: Option<&Claim>) -> Lookup<'_> {
        let node = match claim {
            None => return Lookup::Unknown,
            Some(Claim::Many) => return Lookup::Ambiguous,
            Some(Claim::One(position)) => match self.listed.nodes.get(*position) {
                Some(node) => node,
                None => return Lookup::Unknown,
            },
        };
        match self.listed.by_name.get(&node.name) {
            Some(Claim::One(_)) => Lookup::Node(node),
            _ => Lookup::Ambiguous,
        }
    }
}

/// The regions and authorities that name a platform, and whether one of them names no guest.
type NamedBy<'a> = (BTreeSet<(&'a str, &'a str)>, bool);

/// Platforms that two regions, or two authorities, say something about: a machine stands in one region. Of a provider's
/// machines, which are a class, each may name its own guests, and none all of them beside another's.
fn disputed(nodes: &[Node]) -> BTreeSet<Platform> {
    let mut claimed: BTreeMap<&Platform, NamedBy<'_>> = BTreeMap::new();
    for node in nodes {
        for identity in &node.platforms {
            let (by, alone) = claimed.entry(&identity.platform).or_default();
            by.insert((&node.region, &node.authority));
            *alone |= identity.guest.is_none();
        }
    }
    let disputed = |(platform, (by, alone)): (&Platform, NamedBy<'_>)| {
        let shared = matches!(platform, Platform::SnpProvider(_)) && !alone;
        (by.len() > 1 && !shared).then(|| platform.clone())
    };
    claimed.into_iter().filter_map(disputed).collect()
}

fn claim<K: Ord>(index: &mut BTreeMap<K, Claim>, key: K, position: usize) {
    index
        .entry(key)
        // One entry that lists a key twice claims it once.
        .and_modify(|claim| {
            if *claim != Claim::One(position) {
                *claim = Claim::Many
            }
        })
        .or_insert(Claim::One(position));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, ek: u8, ak: u8) -> Node {
        Node {
            name: name.into(),
            region: "north".into(),
            ek: vec![EkId([ek; 32])],
            ak_names: vec![vec![ak; 34]],
            ak_keys: vec![[ak; 32]],
            ..Node::default()
        }
    }

    #[test]
    fn an_identity_claimed_twice_is_nobodys() {
        let inventory = Inventory::new(vec![
            node("a", 1, 11),
            node("b", 2, 12),
            node("c", 2, 12),
            node("a", 4, 14),
        ]);
        assert_eq!(inventory.by_ek(&EkId([2; 32])), Lookup::Ambiguous);
        assert_eq!(inventory.by_ak_name(&[12; 34]), Lookup::Ambiguous);
        assert_eq!(inventory.by_ak_key(&[12; 32]), Lookup::Ambiguous);
        // The name is claimed twice, so its hardware says nothing either.
        assert_eq!(inventory.by_name("a"), Lookup::Ambiguous);
        assert_eq!(inventory.by_ek(&EkId([1; 32])), Lookup::Ambiguous);
        assert_eq!(inventory.by_ek(&EkId([9; 32])), Lookup::Unknown);
        assert!(matches!(inventory.by_name("b"), Lookup::Node(found) if found.name == "b"));
    }

    #[test]
    fn an_unlisted_machine_takes_nothing_from_those_that_are_listed() {
        let listed = Inventory::new(vec![
            node("a", 1, 11),
            node("b", 2, 12),
            node("c", 3, 13),
            node("c", 4, 14),
        ]);
        let with = |name: &str, ek: u8| listed.with_unlisted(node(name, ek, 15));
        let guest = with("new", 9);
        assert!(matches!(guest.by_ek(&EkId([9; 32])), Lookup::Node(found) if found.name == "new"));
        assert!(matches!(guest.by_name("new"), Lookup::Node(found) if found.ek == [EkId([9; 32])]));
        assert_eq!(
            (guest.by_ak_name(&[15; 34]), guest.by_ak_key(&[15; 32])),
            (Lookup::Unknown, Lookup::Unknown)
        );
        assert_eq!((guest.nodes().len(), listed.by_name("new")), (4, Lookup::Unknown));
        for (row, guest) in [("a listed name", with("a", 9)), ("a name listed twice", with("c", 9))] {
            assert_eq!(guest.by_ek(&EkId([9; 32])), Lookup::Ambiguous, "{row}");
            assert_eq!(guest.by_name("a"), listed.by_name("a"), "{row}");
            assert_eq!(guest.by_name("c"), Lookup::Ambiguous, "{row}");
        }
        let guest = with("new", 2);
        assert!(
            matches!(guest.by_ek(&EkId([2; 32])), Lookup::Node(found) if found.name == "b"),
            "a listed key"
        );
    }

    #[test]
    fn device_identities_of_one_certificate_must_agree() {
        let serial = |text: &str| DeviceId::Serial(text.into());
        let (mut a, mut b) = (node("a", 1, 11), node("b", 2, 12));
        a.devices = vec![serial("1"), DeviceId::Key([7; 32])];
        b.devices = vec![serial("2")];
        let inventory = Inventory::new(vec![a, b]);
        for (stated, name) in [
            (vec![serial("1")], Some("a")),
            (vec![serial("1"), DeviceId::Key([7; 32])], Some("a")),
            (vec![DeviceId::Key([8; 32]), serial("2")], Some("b")),
        ] {
            assert!(matches!(inventory.by_device(&stated), Lookup::Node(n) if Some(n.name.as_str()) == name));
        }
        assert_eq!(inventory.by_device(&[serial("1"), serial("2")]), Lookup::Ambiguous);
        assert_eq!(inventory.by_device(&[serial("3")]), Lookup::Unknown);
        assert_eq!(inventory.by_device(&[]), Lookup::Unknown);
    }

    #[test]
    fn a_guest_that_is_named_comes_before_its_platform() {
        let with = |name: &str, platforms: &[&str]| Node {
            name: name.into(),
            platforms: platforms.iter().map(|text| text.parse().unwrap()).collect(),
            ..Node::default()
        };
        let chip = "snp:0123456789abcdef";
        let data = |n: u8| GuestId::HostData(vec![n; 32]);
        let guest = |n: u8| format!("{chip}/{}", data(n));
        let inventory = Inventory::new(vec![
            with("host", &[chip]),
            with("guest", &[&guest(1), &guest(2)]),
            with("twin-a", &[&guest(3)]),
            with("twin-b", &[&guest(3)]),
            with("other", &[&guest(4)]),
        ]);
        let platform: Platform = chip.parse().unwrap();
        for (guests, name, listed) in [
            (vec![], Some("host"), chip.to_owned()),
            (vec![data(9)], Some("host"), chip.to_owned()),
            (vec![data(1)], Some("guest"), guest(1)),
            (vec![data(2), data(1)], Some("guest"), guest(1)),
            (vec![data(9), data(2)], Some("guest"), guest(2)),
            (vec![data(3)], None, String::new()),
            (vec![data(1), data(4)], None, String::new()),
        ] {
            let (found, identity) = inventory.by_cvm(&platform, &guests);
            match name {
                Some(name) => {
                    assert!(matches!(found, Lookup::Node(node) if node.name == name), "{guests:?}");
                    assert_eq!(identity.map(ToString::to_string), Some(listed));
                }
                None => assert_eq!((found, identity), (Lookup::Ambiguous, None), "{guests:?}"),
            }
        }
        let other: Platform = "snp:1123456789abcdef".parse().unwrap();
        assert_eq!(inventory.by_cvm(&other, &[data(1)]), (Lookup::Unknown, None));
    }

    #[test]
    fn a_platform_of_two_regions_is_nobodys() {
        let with = |name: &str, region: &str, authority: &str, platform: String| Node {
            name: name.into(),
            region: region.into(),
            authority: authority.into(),
            platforms: vec![platform.parse().unwrap()],
            ..Node::default()
        };
        let (chip, provider) = ("snp:0123456789abcdef", "snp-provider:cloud");
        let data = |n: u8| GuestId::HostData(vec![n; 32]);
        let guest = |platform: &str, n: u8| format!("{platform}/{}", data(n));
        let eu = |platform| with("eu/a", "eu", "eu", platform);
        for (attack, mine, theirs, denied) in [
            ("the same chip", chip.to_owned(), chip.to_owned(), true),
            ("a guest on another's chip", chip.to_owned(), guest(chip, 1), true),
            (
                "all of a chip with another's guest",
                guest(chip, 1),
                chip.to_owned(),
                true,
            ),
            ("other guests of one chip", guest(chip, 1), guest(chip, 2), true),
            (
                "a guest of another's provider",
                provider.to_owned(),
                guest(provider, 1),
                true,
            ),
            (
                "guests of one provider, each its own",
                guest(provider, 1),
                guest(provider, 2),
                false,
            ),
            (
                "the same guest of a provider",
                guest(provider, 1),
                guest(provider, 1),
                true,
            ),
        ] {
            for (region, authority) in [("us", "us"), ("us", "targets"), ("eu", "targets")] {
                let other = with("b", region, authority, theirs.clone());
                let inventory = Inventory::new(vec![eu(mine.clone()), other]);
                let platform = mine.parse::<CvmIdentity>().unwrap().platform;
                let (found, _) = inventory.by_cvm(&platform, &[data(1)]);
                assert_eq!(found == Lookup::Ambiguous, denied, "{attack}: {region} by {authority}");
            }
            // One authority of one region may list a chip and guests on it.
            let own = with("eu/b", "eu", "eu", theirs.clone());
            let inventory = Inventory::new(vec![eu(mine.clone()), own]);
            let platform = mine.parse::<CvmIdentity>().unwrap().platform;
            assert_eq!(
                inventory.by_cvm(&platform, &[data(1)]).0 == Lookup::Ambiguous,
                mine == theirs,
                "{attack}"
            );
        }
    }

    #[test]
    fn an_entry_may_list_a_key_twice() {
        let mut twice = node("a", 1, 11);
        twice.ek.push(EkId([1; 32]));
        assert!(matches!(
            Inventory::new(vec![twice]).by_ek(&EkId([1; 32])),
            Lookup::Node(_)
        ));
    }
}
