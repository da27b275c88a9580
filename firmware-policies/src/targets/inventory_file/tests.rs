use touchstone_verifier::x509::HardwareModuleName;
use touchstone_verifier::x509::cloud_ak::GceInstance;
use touchstone_verifier::x509::iak_certificate::DeviceId;

use super::identities::device;
use super::*;

const EK: &str = "00000000000000000000000000000000000000000000000000000000000000aa";

fn parse(json: &str) -> Result<Node, PolicyCode> {
    let node = NodeFile::parse("nodes/a.json", "a", json.as_bytes()).and_then(|n| n.to_node("nodes/a.json"));
    node.map_err(|e| e.code())
}

#[test]
fn a_node_is_read_and_written() {
    let json = format!(r#"{{"name":"a","region":"eu-1","zone":"z","roles":["web"],"ek":["{EK}"]}}"#);
    let node = parse(&json).unwrap();
    assert_eq!(
        (node.region.as_str(), node.authority.as_str(), node.ek.len()),
        ("eu-1", AUTHORITY, 1)
    );
    let file = NodeFile::parse("", "a", json.as_bytes()).unwrap();
    assert_eq!(NodeFile::parse("", "a", &file.to_json()).unwrap(), file);
    assert_eq!(
        NodeFile::parse_all("", format!(r#"{{"nodes":[{json}]}}"#).as_bytes()).unwrap(),
        [file]
    );
}

#[test]
fn devices_are_read_as_they_are_written() {
    let all = [
        DeviceId::Key([7; 32]),
        DeviceId::Serial("SN:1 2".into()),
        DeviceId::Gce(GceInstance {
            project: 117_473_819_753,
            instance: u64::MAX,
        }),
        DeviceId::Hardware(HardwareModuleName {
            hardware_type: "2.23.133.1.2".into(),
            serial: b"x1".to_vec(),
        }),
    ];
    for id in all {
        assert_eq!(device(&device_text(&id)), Some(id));
    }
    for bad in [
        "",
        "key:00",
        "serial:",
        "hardware:2.23",
        "hardware::00",
        "hardware:2.x:00",
        "hardware:2.2:",
        "mac:1",
        "gce:1",
        "gce:01/2",
        "gce:1/+2",
    ] {
        assert_eq!(device(bad), None, "{bad}");
    }
    let node = parse(r#"{"name":"a","region":"eu-1","devices":["serial:1"]}"#).unwrap();
    assert_eq!(node.devices, [DeviceId::Serial("1".into())]);
    let bad = r#"{"name":"a","region":"eu-1","devices":["mac:1"]}"#;
    assert_eq!(parse(bad), Err(PolicyCode::NodeUnreadable));
}

#[test]
fn a_volume_is_read_or_refused() {
    const UUID: &str = "4878cbe9-f3c5-4d20-82da-b2bb10ae2940";
    let with = |uuid: &str, pcr15: &str| {
        parse(&format!(
            r#"{{"name":"a","region":"eu-1","ek":["{EK}"],"volume":{{"luks_uuid":"{uuid}","pcr15":"{pcr15}"}}}}"#
        ))
    };
    let volume = with(UUID, EK).unwrap().volume.unwrap();
    assert_eq!((volume.luks_uuid.as_str(), volume.register.len()), (UUID, 32));
    assert_eq!(with(UUID, &"ab".repeat(48)).unwrap().volume.unwrap().register.len(), 48);
    let zeros = "00".repeat(32);
    for (uuid, pcr15) in [
        ("", EK),
        (&UUID.to_uppercase(), EK),
        (&UUID.replace('-', ""), EK),
        (&format!("{UUID}0"), EK),
        ("4878cbe9-f3c5-4d20-82da-b2bb10ae294g", EK),
        ("../../../../etc/passwd", EK),
        (UUID, ""),
        (UUID, "aa"),
        (UUID, &zeros),
        (UUID, &format!("{EK}aa")),
    ] {
        assert_eq!(with(uuid, pcr15), Err(PolicyCode::NodeUnreadable), "{uuid} {pcr15}");
    }
    let more = format!(r#"{{"name":"a","region":"eu-1","ek":["{EK}"],"volume":{{"luks_uuid":"{UUID}"}}}}"#);
    assert_eq!(parse(&more), Err(PolicyCode::NodeUnreadable));
}

#[test]
fn hostile_names_name_nothing() {
    for name in crate::targets::node_name::hostile() {
        let shown: String = name.chars().take(40).collect();
        for (key, node) in [
            (
                "name",
                NodeFile {
                    name: name.clone(),
                    ..good()
                },
            ),
            (
                "region",
                NodeFile {
                    region: name.clone(),
                    ..good()
                },
            ),
            (
                "zone",
                NodeFile {
                    zone: Some(name.clone()),
                    ..good()
                },
            ),
            (
                "owner",
                NodeFile {
                    owner: Some(name.clone()),
                    ..good()
                },
            ),
            (
                "roles",
                NodeFile {
                    roles: vec![name.clone()],
                    ..good()
                },
            ),
        ] {
            let refused = node.to_node("nodes/a.json").unwrap_err();
            assert_eq!(refused.code(), PolicyCode::SettingsName, "{key} {shown:?}");
            // What is told of it cannot write to the terminal it is told on.
            let told = refused.to_string();
            assert!(
                told.len() < 8192 && !told.chars().any(|c| c.is_control() && c != '\n'),
                "{key} {shown:?}"
            );
        }
    }
}

fn good() -> NodeFile {
    NodeFile {
        name: "a".into(),
        region: "eu-1".into(),
        ek: vec![EK.into()],
        ..NodeFile::default()
    }
}

#[test]
fn a_place_names_its_own_nodes_and_no_others() {
    let eu = Place {
        region: Some("eu-1"),
        authority: "eu-1",
    };
    assert_eq!(
        (eu.name_of("web"), Place::WHOLE.name_of("web")),
        ("eu-1/web".into(), "web".into())
    );
    for (place, name, region, good) in [
        (eu, "eu-1/web", "eu-1", true),
        (eu, "eu-1/web", "us-1", false),
        (eu, "us-1/web", "eu-1", false),
        (eu, "us-1/web", "us-1", false),
        (eu, "web", "eu-1", false),
        (Place::WHOLE, "web", "us-1", true),
        (Place::WHOLE, "eu-1/web", "eu-1", false),
    ] {
        let node = NodeFile {
            name: name.into(),
            region: region.into(),
            ..self::good()
        };
        let read = node.to_node_at("file", place);
        match read {
            Ok(node) => assert!(good && node.authority == place.authority, "{name} {region}"),
            Err(error) => assert!(
                !good && error.code() == PolicyCode::NodeOutsideRegion,
                "{name} {region}"
            ),
        }
    }
}

#[test]
fn what_is_wrong_is_refused() {
    use PolicyCode::*;
    let rows = [
        (
            format!(r#"{{"name":"a","region":"eu-1","ek":["{EK}"],"admin":true}}"#),
            NodeUnreadable,
        ),
        (
            format!(r#"{{"name":"b","region":"eu-1","ek":["{EK}"]}}"#),
            NodeUnreadable,
        ),
        (format!(r#"{{"name":"a","ek":["{EK}"]}}"#), NodeUnreadable),
        (format!(r#"{{"name":"a","region":"EU","ek":["{EK}"]}}"#), SettingsName),
        (
            format!(r#"{{"name":"a","region":"eu-1","roles":["a b"],"ek":["{EK}"]}}"#),
            SettingsName,
        ),
        (
            format!(r#"{{"name":"a","region":"eu-1","zone":"","ek":["{EK}"]}}"#),
            SettingsName,
        ),
        (r#"{"name":"a","region":"eu-1"}"#.to_owned(), NodeIdentityMissing),
        (
            r#"{"name":"a","region":"eu-1","ek":[]}"#.to_owned(),
            NodeIdentityMissing,
        ),
        (r#"{"name":"a","region":"eu-1","ek":["00"]}"#.to_owned(), NodeUnreadable),
        (
            format!(r#"{{"name":"a","region":"eu-1","ak_names":["{EK}"]}}"#),
            NodeUnreadable,
        ),
        ("[]".to_owned(), NodeUnreadable),
        (String::new(), NodeUnreadable),
    ];
    for (json, code) in rows {
        assert_eq!(parse(&json), Err(code), "{json}");
    }
    assert!(NodeFile::parse_all("inventory.json", br#"{"nodes":[]}"#).is_err());
    assert!(NodeFile::parse_all("inventory.json", br#"{"nodes":[],"x":1}"#).is_err());
}
