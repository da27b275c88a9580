//! Who gets nothing while a hold stands.

use touchstone_cose::cbor::Value;
use touchstone_policies::Extent;
use touchstone_verifier::inventory::Node;

/// Who gets nothing while a hold stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Over {
    /// A node, or a workload as `<label>@<node>`.
    Subject(String),
    /// All nodes of a zone, of a region, or of the domain.
    Nodes(Extent),
}

impl Over {
    /// Its kind in statements: "subject", "zone", "region" or "cluster".
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Subject(_) => "subject",
            Self::Nodes(Extent::Zone { .. }) => "zone",
            Self::Nodes(Extent::Region(_)) => "region",
            Self::Nodes(Extent::Cluster) => "cluster",
        }
    }

    /// Whose; empty for the whole domain, and for nodes without a zone.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Subject(name) | Self::Nodes(Extent::Region(name)) => name,
            Self::Nodes(Extent::Zone { zone, .. }) => zone.as_deref().unwrap_or_default(),
            Self::Nodes(Extent::Cluster) => "",
        }
    }

    /// The region a zone is meant in, where it is not meant in all.
    #[must_use]
    pub fn within(&self) -> &str {
        match self {
            Self::Nodes(Extent::Zone { region, .. }) => region.as_deref().unwrap_or_default(),
            _ => "",
        }
    }

    /// Whether it is over this node or workload; `node` is the entry of the node, where policy lists it.
    #[must_use]
    pub fn is_over(&self, subject: &str, node: Option<&Node>) -> bool {
        let name = subject.split_once('@').map_or(subject, |(_, node)| node);
        match self {
            Self::Subject(held) => held == subject || held == name,
            Self::Nodes(extent) => node.map_or(*extent == Extent::Cluster, |node| extent.covers(node)),
        }
    }

    /// Whether a command to lift `commanded` lifts this: a zone in every region, and with the whole domain everything but
    /// quarantines.
    #[must_use]
    pub fn is_lifted_by(&self, commanded: &Self) -> bool {
        match (self, commanded) {
            (
                Self::Nodes(Extent::Zone { zone, .. }),
                Self::Nodes(Extent::Zone {
                    zone: named,
                    region: None,
                }),
            ) => zone == named,
            (Self::Nodes(_), Self::Nodes(Extent::Cluster)) => true,
            _ => self == commanded,
        }
    }

    /// As it is written in statements and rows: [kind, name, region].
    #[must_use]
    pub fn value(&self) -> Value {
        Value::array([self.kind(), self.name(), self.within()].map(Value::text))
    }

    pub(super) fn read(value: &Value) -> Option<Self> {
        let [kind, name, within] = value.as_array()? else {
            return None;
        };
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let (name, within) = (name.as_text()?, within.as_text()?);
        match (kind.as_text()?, some(name), some(within)) {
            ("subject", Some(name), None) => Some(Self::Subject(name)),
            ("zone", zone, region) => Some(Self::Nodes(Extent::Zone { zone, region })),
            ("region", Some(name), None) => Some(Self::Nodes(Extent::Region(name))),
            ("cluster", None, None) => Some(Self::Nodes(Extent::Cluster)),
            _ => None,
        }
    }
}
