//! The operator's commands about keys, on the admin socket.
//!
//! `GET /keys`; `POST /keys?name=…&resource=…&region=…&life=…&one_time=true` and `POST /keys/rotate?name=…`. The body is
//! the secret itself, or empty with `generate=N`. A body is wiped once it has been read; what the kernel and the HTTP
//! library held of it on the way is beyond our reach, which is why `generate` is the better choice.

use axum::body::Body;
use axum::extract::{RawQuery, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use http_body_util::BodyExt as _;
use serde_json::json;
use zeroize::{Zeroize as _, Zeroizing};

use super::keeper::{self, Changed, NewSecret};
use super::key::KeySettings;
use super::{MAX_KEY_REGIONS, MAX_SECRET_BYTES, Secret};
use crate::admin::Admin;
use crate::problem::{Refusal, RefusalCode};

/// The resource of a key that names none: the one of the default grants.
pub const DEFAULT_RESOURCE: &str = "keys";

/// Every key, without its secrets.
pub async fn list(State(Admin { app, .. }): State<Admin>) -> Result<Response, Refusal> {
    let listed = tokio::task::spawn_blocking(move || keeper::list(&*app.store)).await;
    Ok(answer(&listed.map_err(crate::hello::internal)??))
}

/// A new key.
pub async fn put(
    State(Admin { app, .. }): State<Admin>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Response, Refusal> {
    let command = Command::read(query.as_deref().unwrap_or_default())?;
    let secret = body(request.into_body()).await?;
    let settings = KeySettings {
        name: command.name,
        resource: command.resource.unwrap_or_else(|| DEFAULT_RESOURCE.to_owned()),
        regions: command.regions,
        life: command.life,
        one_time: command.one_time,
    };
    let secret = new_secret(secret, command.generate)?.ok_or_else(|| malformed("a secret or generate=N is needed"))?;
    // Runs to its end also when the operator's connection goes away.
    let putting = tokio::spawn(async move { keeper::put(&app, settings, secret).await });
    Ok(changed(&putting.await.map_err(crate::hello::internal)??))
}

/// A new version of a key.
pub async fn rotate(
    State(Admin { app, .. }): State<Admin>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Response, Refusal> {
    let command = Command::read(query.as_deref().unwrap_or_default())?;
    if command.resource.is_some() || !command.regions.is_empty() || command.life.is_some() || command.one_time {
        return Err(malformed(
            "a rotation changes the secret alone: the settings of a key are for ever",
        ));
    }
    let secret = new_secret(body(request.into_body()).await?, command.generate)?;
    let rotating = tokio::spawn(async move { keeper::rotate(&app, &command.name, secret).await });
    Ok(changed(&rotating.await.map_err(crate::hello::internal)??))
}

/// What a query says. Unknown parameters are refused.
#[derive(Debug, Default, PartialEq, Eq)]
struct Command {
    name: String,
    resource: Option<String>,
    regions: Vec<String>,
    life: Option<u64>,
    one_time: bool,
    generate: Option<usize>,
}

impl Command {
    /// Names and numbers need no percent-encoding, so there is none to read.
    fn read(query: &str) -> Result<Self, Refusal> {
        let mut command = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| malformed("parameters are key=value"))?;
            let number = || {
                value
                    .parse::<u64>()
                    .map_err(|_| malformed(&format!("{key} must be a number")))
            };
            match key {
                "name" if command.name.is_empty() => command.name = value.to_owned(),
                "resource" if command.resource.is_none() => command.resource = Some(value.to_owned()),
                "region" if command.regions.len() <= MAX_KEY_REGIONS => command.regions.push(value.to_owned()),
                "life" if command.life.is_none() => command.life = Some(number()?),
                "one_time" if value == "true" => command.one_time = true,
                "generate" if command.generate.is_none() => {
                    command.generate = Some(usize::try_from(number()?).unwrap_or(usize::MAX));
                }
                _ => {
                    return Err(malformed(&format!(
                        "{:?} is unknown, there twice, or has a value it cannot have",
                        key
                    )));
                }
            }
        }
        if command.name.is_empty() {
            return Err(malformed("name is needed"));
        }
        Ok(command)
    }
}

fn new_secret(secret: Secret, generate: Option<usize>) -> Result<Option<NewSecret>, Refusal> {
    match (secret.is_empty(), generate) {
        (true, generate) => Ok(generate.map(NewSecret::Generate)),
        (false, None) => Ok(Some(NewSecret::Given(secret))),
        (false, Some(_)) => Err(malformed("a secret and generate=N exclude each other")),
    }
}

/// The whole body, each piece wiped where nobody else holds it.
async fn body(mut body: Body) -> Result<Secret, Refusal> {
    let mut whole = Zeroizing::new(Vec::with_capacity(MAX_SECRET_BYTES));
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|_| Refusal::new(RefusalCode::BodyUnreadable, "the body broke off before its end"))?;
        let Ok(data) = frame.into_data() else { continue };
        let fits = whole.len() + data.len() <= MAX_SECRET_BYTES;
        if fits {
            whole.extend_from_slice(&data);
        }
        if let Ok(mut data) = data.try_into_mut() {
            data.as_mut().zeroize();
        }
        if !fits {
            let detail = format!("a secret has at most {MAX_SECRET_BYTES} bytes");
            return Err(Refusal::new(RefusalCode::BodyTooLarge, detail));
        }
    }
    Ok(whole)
}

fn changed(changed: &Changed) -> Response {
    answer(&json!({ "name": changed.name, "version": changed.version, "recorded": changed.recorded }))
}

fn answer(value: &serde_json::Value) -> Response {
    let json = [(header::CONTENT_TYPE, "application/json")];
    (StatusCode::OK, json, value.to_string()).into_response()
}

fn malformed(detail: &str) -> Refusal {
    Refusal::new(RefusalCode::ParameterMalformed, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_whole_or_not_at_all() {
        let command =
            Command::read("name=db/main&region=north&region=south&life=60&one_time=true&generate=32").unwrap();
        assert_eq!(command.name, "db/main");
        assert_eq!(command.regions, ["north", "south"]);
        assert_eq!(
            (command.life, command.one_time, command.generate),
            (Some(60), true, Some(32))
        );
        for query in [
            "",
            "name",
            "name=a&name=b",
            "name=a&lives=60",
            "name=a&life=x",
            "name=a&one_time=yes",
        ] {
            assert!(Command::read(query).is_err(), "{query}");
        }
    }

    #[test]
    fn a_secret_is_given_or_generated() {
        assert!(new_secret(Zeroizing::new(vec![1]), Some(32)).is_err());
        assert!(matches!(
            new_secret(Zeroizing::new(vec![1]), None),
            Ok(Some(NewSecret::Given(_)))
        ));
        assert!(matches!(
            new_secret(Secret::default(), Some(32)),
            Ok(Some(NewSecret::Generate(32)))
        ));
        assert!(matches!(new_secret(Secret::default(), None), Ok(None)));
    }
}
