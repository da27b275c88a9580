use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

const ANNOTATIONS: &str = r#"{"touchstone.action":"execute","touchstone.resource":"workloads"}"#;

struct Bundle(tempfile::TempDir);

impl Bundle {
    fn new(config: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        std::fs::write(&file, config).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        Self(folder)
    }

    fn good() -> Self {
        Self::new(format!(r#"{{"ociVersion":"1.0.2","annotations":{ANNOTATIONS}}}"#).as_bytes())
    }

    /// Its real path: a temporary folder may itself lie behind a link.
    fn path(&self) -> String {
        self.0.path().canonicalize().unwrap().display().to_string()
    }

    fn state(&self) -> Value {
        serde_json::json!({
            "ociVersion": "1.0.2", "id": "c1", "status": "creating", "pid": 4711, "bundle": self.path(),
            "annotations": serde_json::from_str::<Value>(ANNOTATIONS).unwrap(),
        })
    }
}

fn judged(state: &Value) -> Result<Created, &'static str> {
    created(state.to_string().as_bytes()).map_err(|refused| refused.code.as_str())
}

#[test]
fn a_bundle_that_names_a_right() {
    let created = judged(&Bundle::good().state()).unwrap();
    assert_eq!((created.id.as_str(), created.pid), ("c1", 4711));
    assert_eq!(created.scope.to_string(), "execute:workloads");
}

#[test]
fn hostile_states() {
    let bundle = Bundle::good();
    let with = |name: &str, value: Value| {
        let mut state = bundle.state();
        state.as_object_mut().unwrap().insert(name.into(), value);
        state
    };
    let without = |name: &str| {
        let mut state = bundle.state();
        state.as_object_mut().unwrap().remove(name);
        state
    };
    let right =
        |action: &str, resource: &str| with("annotations", serde_json::json!({ ACTION: action, RESOURCE: resource }));
    let long = "a".repeat(MAX_ID + 1);
    for (attack, state, code) in [
        ("no id", without("id"), "container-state-malformed"),
        (
            "an id that is a path",
            with("id", "../../etc".into()),
            "container-id-invalid",
        ),
        ("an id with dots", with("id", "a..b".into()), "container-id-invalid"),
        ("an id with a slash", with("id", "a/b".into()), "container-id-invalid"),
        (
            "an id with a newline",
            with("id", "a\nb".into()),
            "container-id-invalid",
        ),
        (
            "an id with an escape",
            with("id", "a\u{1b}[31m".into()),
            "container-id-invalid",
        ),
        ("an empty id", with("id", "".into()), "container-id-invalid"),
        (
            "an id that begins with a hyphen",
            with("id", "--socket=x".into()),
            "container-id-invalid",
        ),
        ("an id too long", with("id", long.into()), "container-id-invalid"),
        (
            "an id that is a number",
            with("id", 1.into()),
            "container-state-malformed",
        ),
        ("no pid", without("pid"), "container-state-malformed"),
        ("pid of nobody", with("pid", 0.into()), "container-state-malformed"),
        (
            "pid of the machine's init",
            with("pid", 1.into()),
            "container-state-malformed",
        ),
        ("a negative pid", with("pid", (-1).into()), "container-state-malformed"),
        (
            "a pid that wraps",
            with("pid", 4_294_967_297_u64.into()),
            "container-state-malformed",
        ),
        (
            "a pid that is text",
            with("pid", "4711".into()),
            "container-state-malformed",
        ),
        (
            "running already",
            with("status", "running".into()),
            "container-state-malformed",
        ),
        ("no status", without("status"), "container-state-malformed"),
        ("no annotations", without("annotations"), "container-right-missing"),
        (
            "empty annotations",
            with("annotations", serde_json::json!({})),
            "container-right-missing",
        ),
        (
            "no resource",
            with("annotations", serde_json::json!({ ACTION: "execute" })),
            "container-right-missing",
        ),
        ("a wildcard", right("execute", "*"), "container-right-malformed"),
        ("any action", right("*", "workloads"), "container-right-malformed"),
        (
            "two scopes in one",
            right("execute", "a execute:b"),
            "container-right-malformed",
        ),
        (
            "an action that is a list",
            with("annotations", serde_json::json!({ ACTION: ["execute"], RESOURCE: "a" })),
            "container-right-malformed",
        ),
        (
            "another right than the bundle's",
            right("execute", "other"),
            "bundle-differs",
        ),
        ("no bundle", without("bundle"), "container-state-malformed"),
        ("a relative bundle", with("bundle", "bundle".into()), "bundle-path"),
        (
            "dot segments",
            with("bundle", format!("{}/../x", bundle.path()).into()),
            "bundle-path",
        ),
        (
            "a dot segment",
            with("bundle", format!("{}/./", bundle.path()).into()),
            "bundle-path",
        ),
        ("a NUL", with("bundle", "/a\0b".into()), "bundle-path"),
        (
            "a bundle that is not there",
            with("bundle", "/nowhere/at/all".into()),
            "bundle-unreadable",
        ),
    ] {
        assert_eq!(judged(&state).err(), Some(code), "{attack}");
    }
    let text = bundle.state().to_string();
    let twice = text.replacen('{', r#"{"pid":1,"#, 1);
    let other_case = text.replacen('{', r#"{"Pid":1,"#, 1);
    let huge = format!("{text}{}", " ".repeat(MAX_STATE));
    for (attack, bytes, code) in [
        ("nothing", &b""[..], "container-state-malformed"),
        ("a key twice", twice.as_bytes(), "container-state-malformed"),
        (
            "a key twice in another case",
            other_case.as_bytes(),
            "container-state-malformed",
        ),
        ("huge", huge.as_bytes(), "container-state-too-large"),
        ("not text", &[0xff; 64], "container-state-malformed"),
    ] {
        let refused = created(bytes).map_err(|refused| refused.code.as_str());
        assert_eq!(refused.err(), Some(code), "{attack}");
    }
    for end in 0..text.len() {
        assert!(created(&text.as_bytes()[..end]).is_err(), "cut at {end}");
    }
}

#[test]
fn hostile_bundles() {
    let right = format!(r#""annotations":{ANNOTATIONS}"#);
    let deep = format!(r#"{{{right},"x":{}{}}}"#, "[".repeat(4_000), "]".repeat(4_000));
    let huge = format!("{{{right}}}{}", " ".repeat(MAX_CONFIG));
    let twice = format!(r#"{{"annotations":{{}},{right}}}"#);
    let twice_inside = r#"{"annotations":{"touchstone.action":"execute","touchstone.resource":"workloads","touchstone.resource":"other"}}"#;
    let other_case =
        format!(r#"{{{right},"Annotations":{{"touchstone.action":"execute","touchstone.resource":"other"}}}}"#);
    for (attack, config, code) in [
        ("empty", "", "bundle-malformed"),
        ("no JSON", "runc", "bundle-malformed"),
        ("cut", &right, "bundle-malformed"),
        ("deep", &deep, "bundle-malformed"),
        ("huge", &huge, "bundle-too-large"),
        ("annotations twice", &twice, "bundle-malformed"),
        ("the resource twice", twice_inside, "bundle-malformed"),
        ("annotations in another case", &other_case, "bundle-malformed"),
        ("no annotations", r#"{"ociVersion":"1.0.2"}"#, "container-right-missing"),
        (
            "annotations that are a list",
            r#"{"annotations":["touchstone.action"]}"#,
            "container-right-missing",
        ),
        (
            "another right",
            r#"{"annotations":{"touchstone.action":"execute","touchstone.resource":"other"}}"#,
            "bundle-differs",
        ),
    ] {
        let bundle = Bundle::new(config.as_bytes());
        assert_eq!(judged(&bundle.state()).err(), Some(code), "{attack}");
    }
}

#[test]
fn bundles_that_could_change_or_lie_elsewhere() {
    let bundle = Bundle::good();
    let elsewhere = tempfile::tempdir().unwrap();
    let base = elsewhere.path().canonicalize().unwrap();
    symlink(bundle.path(), base.join("link")).unwrap();
    let mut state = bundle.state();
    state["bundle"] = base.join("link").display().to_string().into();
    assert_eq!(judged(&state).err(), Some("bundle-path"), "a bundle behind a link");

    std::fs::create_dir(base.join("real")).unwrap();
    symlink(format!("{}/config.json", bundle.path()), base.join("real/config.json")).unwrap();
    state["bundle"] = base.join("real").display().to_string().into();
    assert_eq!(
        judged(&state).err(),
        Some("bundle-path"),
        "a configuration behind a link"
    );

    std::fs::create_dir_all(base.join("folder/config.json")).unwrap();
    state["bundle"] = base.join("folder").display().to_string().into();
    assert_eq!(
        judged(&state).err(),
        Some("bundle-unreadable"),
        "a configuration that is a folder"
    );

    for mode in [0o646, 0o664, 0o666] {
        let open = Bundle::good();
        let file = Path::new(&open.path()).join("config.json");
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(judged(&open.state()).err(), Some("bundle-open-to-others"), "{mode:o}");
    }
}
