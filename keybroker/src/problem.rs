//! Refusals before authentication, as RFC 9457 problem documents with a stable code.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

touchstone_cose::reason_codes! {
    /// Why the broker refused a request before it knew who asked. None of these touches the state of any node.
    pub enum RefusalCode {
        BodyTooLarge = "request-body-too-large": "The request body is over the route's limit. Send less.",
        BodyTooSlow = "request-body-too-slow": "The request body did not arrive in time. Send it again.",
        BodyUnreadable = "request-body-unreadable": "The request body broke off or cannot be read. Send it again.",
        ContentType = "request-content-type": "The request body must be application/cbor. Set Content-Type.",
        MessageMalformed = "request-message-malformed": "The message is not a strict encoding of what the route takes. Use a client of this protocol version.",
        KindUnsupported = "request-kind-unsupported": "None of the kinds of evidence offered is one this broker appraises. Offer tpm.",
        RouteUnknown = "request-route-unknown": "There is no such route. See the protocol page of the documentation.",
        MethodUnknown = "request-method-unknown": "The route does not take this method. See the protocol page of the documentation.",
        ParameterMalformed = "request-parameter-malformed": "A parameter of the request is missing or malformed. Correct it.",
        NotFound = "request-not-found": "What was asked for does not exist here. Ask for something that does.",
        SourceLimited = "source-rate-limited": "Too many refused requests came from this source prefix. Wait and try again.",
        SessionUnknown = "session-unknown": "The session does not exist, has expired, has been used, or belongs to another connection. Say hello again.",
        IdentityMalformed = "identity-malformed": "The keys in the hello are not what a node of this kind presents. See the attributes in the protocol page.",
        IdentityUnknown = "identity-unknown": "No node of this identity is enrolled in this domain. Present the full identity, or add the node to policy.",
        EvidenceRefused = "evidence-refused": "The evidence is not authentic for this session, so nothing was decided on it. The reasons say what was found.",
        EvidenceUnreadable = "evidence-not-accepted": "The evidence is not an envelope that can be read, or not one made for a session. Send what the agent of this version makes.",
        LogsIncomplete = "logs-incomplete": "The logs do not reach what was quoted, or continue something that does not count any more. Nothing was decided; say hello again and send them whole.",
        EnrolmentConflict = "enrolment-conflict": "Another identity was tied to this name, or this identity to another name, before. Ask the operator.",
        NodeDecommissioned = "node-decommissioned": "An operator has decommissioned this node: it does not enrol and does not attest. touchstone node reinstate takes that back.",
        NodeStale = "node-stale": "The node has not attested within its deadline, so nothing that hangs below its authorization is granted or renewed, no key is released and nothing issued for another domain. It comes right by itself with the node's next good evidence.",
        TenantLimited = "tenant-rate-limited": "The nodes of this tenant have been granted as much as signed policy allows for now. Other tenants go on. Wait, or raise requests_per_minute in tenants.toml.",
        TenantKeysFull = "tenant-keys-full": "As many keys are kept for this tenant as signed policy allows. Raise keys in tenants.toml.",
        FirstUseOver = "first-use-over": "No entry of the inventory lists this machine, and none may enrol on first use now: it is not the time, or there are as many as may. Add it to the inventory.",
        ChannelNotEndToEnd = "channel-not-end-to-end": "The connection gives no TLS exporter, or the evidence was bound to another one. Remove the proxy that ends TLS.",
        SubscribersFull = "subscribers-full": "Too many trust-state streams are open. Try another replica or wait.",
        AckNotAccepted = "ack-not-accepted": "The acknowledgement is not one that an enforcer of signed policy makes of a trust state of this domain. Compare the enforcer's key and id with enforcers.toml; the reason says what was found.",
        StatusHistory = "status-list-history": "Only the present status list is served. Ask without time, or look at the ledger for the past.",
        NotAcceptable = "request-not-acceptable": "The answer has none of the types that the Accept header names. Name the type in the detail, or none.",
        UpstreamAway = "upstream-away": "This relay reaches no broker of the domain now, or has heard nothing yet. What its site holds counts until its signed end; look at the site's link.",
        UpstreamRefused = "upstream-refused": "The broker that this relay asked refused. The detail is the broker's own.",
        BrokerBusy = "broker-busy": "Too many decisions are waiting for the disk. Try again.",
        BrokerStopping = "broker-stopping": "The broker is stopping or has lost its store. Try again later.",
        PolicyExpired = "policy-expired-at-broker": "The broker's policy has expired and no newer one is published. The operator must publish.",
        PolicyRefused = "policy-refused": "The policy repository was not taken over; the policy in force goes on. The detail says what is wrong with it.",
        PolicyChanged = "policy-changed-meanwhile": "Policy or state changed again and again while this was decided. Try again.",
        KeysNotConfigured = "keys-not-configured": "This broker keeps no keys. Add a [keys] section to broker.toml and start it again.",
        KeyExists = "key-exists": "There is a key of this name already. Rotate it, or choose another name.",
        KeyNotAccepted = "key-not-accepted": "The key's name, settings or secret are not ones that can be kept. The detail says which.",
        ReleaseRefused = "release-not-authenticated": "The authorization or the proof of possession does not hold on this connection, so nothing was decided and nothing is told of any key. The reasons say what was found.",
        ReleaseUnavailable = "release-unavailable": "This broker has no key in the signed keyset to sign released keys with. Run broker init again, stage keyset.json and publish.",
        KeySourceFailed = "key-source-failed": "The store or token that keeps the secrets failed, or what it keeps does not open. The broker's log says more.",
        Diverged = "broker-diverged": "This broker differs from the majority of its domain's brokers, or sees no majority, and grants nothing until it agrees again. Ask another one; its status says in what it differs.",
        PeerUnknown = "peer-not-authenticated": "The request is not of another broker of this domain, made on this connection. Compare [[peers]] in broker.toml and the signed keyset.",
        EventRefused = "security-event-refused": "The Security Event Token was not taken: it is none, is not by a detector of signed policy, or says what that detector may not report. The description says which; nothing was done.",
        NotWitnessed = "not-witnessed": "The checkpoint was not cosigned, or the cosignature is none that counts here. The detail says why.",
        WitnessUnavailable = "witness-unavailable": "This broker has no key in the signed keyset to cosign with. Run broker init again, stage keyset.json and publish.",
        FederationUnknown = "federation-unknown": "The signed policy of this domain names no such other domain. Run federation trust and publish.",
        FederationNothingYet = "federation-nothing-yet": "Nothing of that domain has come here yet. Look at federation list, or import a bundle.",
        FederationRefused = "federation-refused": "What was sent of another domain does not verify, is older than what is held, or is not of that domain. What is held stays; the detail says why.",
        FederationNotAuthenticated = "federation-not-authenticated": "The authorization or the proof of possession does not hold on this connection, so nothing was decided. The reasons say what was found.",
        SetChanged = "command-set-changed": "What the command would take has changed since it was shown. Look at it again and command anew.",
        CommandUnsigned = "command-unsigned": "Signed policy lists operators, so no command counts without the signature of one of them, also none from this machine. Sign it: --operator and --operator-key.",
        CommandRefused = "command-not-accepted": "The command is not one of an operator of this domain that counts now, so nothing was done. The reasons say what was found.",
        CommandNotPermitted = "command-not-permitted": "Signed policy does not let this operator command this, or not there. Look at operators.toml and at the Cedar policies for administer.",
        CommandReplayed = "command-replayed": "The command was carried out before: each counts once. Look at what it would do now, and sign another one.",
        SubjectSuspended = "subject-suspended": "The workload, its node, its zone or the domain is suspended, so nothing is granted or renewed under this name. touchstone lift takes that back.",
        HoldsFull = "holds-full": "As many quarantines and containments stand as are kept at once. Lift one, or revoke instead.",
        BarsFull = "bars-full": "As many references and signers are barred as are kept at once. Withdraw them from policy and lift their bars.",
        TakenBackFull = "taken-back-full": "As many off-line delegations are taken back one by one as are kept at once. Revoke the authorization that they hang below.",
        HolderNotAuthenticated = "holder-not-authenticated": "The authorization or the proof of possession does not hold on this connection, so nothing was decided. The reasons say what was found.",
        EnforcerUnknown = "enforcer-not-listed": "The report is not signed by an enforcer that enforcers.toml lists, or not for this domain. Add the enforcer's key with policy enforcer add, and publish.",
        Internal = "broker-internal": "The broker failed in a way it did not expect, and denied. Its log says more.",
    }
}

/// One refused request: what the client sees and what is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The stable code.
    pub code: RefusalCode,
    /// What was expected and found, in one sentence without secrets; shown to the client.
    pub detail: String,
    /// Reasons of an appraisal that was not authentic.
    pub reasons: Vec<ReasonLine>,
}

/// One reason in a problem document.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ReasonLine {
    /// The stable code.
    pub code: String,
    /// What it is about.
    pub claim: String,
    /// What would have been accepted.
    pub expected: String,
    /// What was there.
    pub found: String,
}

impl Refusal {
    /// A refusal with one sentence of detail.
    #[must_use]
    pub fn new(code: RefusalCode, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            reasons: Vec::new(),
        }
    }

    /// The same with the reasons of an appraisal.
    #[must_use]
    pub fn with_reasons(mut self, reasons: Vec<ReasonLine>) -> Self {
        self.reasons = reasons;
        self
    }

    /// The HTTP status of the code.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        use RefusalCode as C;
        match self.code {
            C::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            C::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            C::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            C::BodyUnreadable | C::MessageMalformed | C::KindUnsupported => StatusCode::BAD_REQUEST,
            C::EventRefused => StatusCode::BAD_REQUEST,
            C::ParameterMalformed | C::IdentityMalformed | C::KeyNotAccepted => StatusCode::BAD_REQUEST,
            C::SetChanged | C::CommandReplayed | C::BarsFull | C::TakenBackFull => StatusCode::CONFLICT,
            // Not for ever: who reports it tries again.
            C::HoldsFull => StatusCode::SERVICE_UNAVAILABLE,
            C::CommandUnsigned | C::CommandRefused | C::CommandNotPermitted => StatusCode::FORBIDDEN,
            C::RouteUnknown | C::NotFound | C::FederationUnknown | C::FederationNothingYet => StatusCode::NOT_FOUND,
            C::FederationRefused => StatusCode::UNPROCESSABLE_ENTITY,
            C::FederationNotAuthenticated | C::HolderNotAuthenticated | C::EnforcerUnknown => StatusCode::UNAUTHORIZED,
            C::MethodUnknown => StatusCode::METHOD_NOT_ALLOWED,
            C::SourceLimited | C::TenantLimited => StatusCode::TOO_MANY_REQUESTS,
            C::SubjectSuspended
            | C::NodeStale
            | C::SessionUnknown
            | C::EnrolmentConflict
            | C::LogsIncomplete
            | C::NodeDecommissioned => StatusCode::CONFLICT,
            C::FirstUseOver | C::PeerUnknown | C::AckNotAccepted => StatusCode::UNAUTHORIZED,
            C::IdentityUnknown | C::EvidenceRefused | C::ChannelNotEndToEnd | C::ReleaseRefused => {
                StatusCode::UNAUTHORIZED
            }
            C::EvidenceUnreadable => StatusCode::UNPROCESSABLE_ENTITY,
            C::SubscribersFull | C::BrokerBusy | C::BrokerStopping | C::PolicyExpired => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            C::PolicyChanged | C::Diverged => StatusCode::SERVICE_UNAVAILABLE,
            C::PolicyRefused | C::KeyExists | C::TenantKeysFull => StatusCode::CONFLICT,
            C::KeysNotConfigured | C::ReleaseUnavailable | C::WitnessUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            C::NotWitnessed => StatusCode::FORBIDDEN,
            C::StatusHistory => StatusCode::NOT_IMPLEMENTED,
            C::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
            C::UpstreamAway => StatusCode::SERVICE_UNAVAILABLE,
            C::UpstreamRefused => StatusCode::BAD_GATEWAY,
            C::Internal | C::KeySourceFailed => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = self.status();
        let code = self.code;
        let body = json!({
            "type": format!("tag:touchstone.dev,2026:problem/{}", self.code),
            "title": self.code.meaning(),
            "status": status.as_u16(),
            "code": self.code.as_str(),
            "detail": self.detail,
            "reasons": self.reasons,
        });
        let mut response = (status, body.to_string()).into_response();
        // Found again where refusals are counted.
        response.extensions_mut().insert(self);
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            // A place on the stream is free when somebody leaves, and one among the holds when somebody lifts: not in a moment.
            let seconds = match code {
                RefusalCode::SubscribersFull => "5",
                RefusalCode::HoldsFull => "60",
                _ => "1",
            };
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_an_error_status() {
        for code in RefusalCode::ALL {
            let status = Refusal::new(*code, "").status();
            assert!(status.is_client_error() || status.is_server_error(), "{code}");
        }
    }

    #[tokio::test]
    async fn the_document_is_a_problem_document() {
        let response = Refusal::new(RefusalCode::SourceLimited, "203.0.113.0/24").into_response();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        let body = axum::body::to_bytes(response.into_body(), 4_096).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["code"], "source-rate-limited");
        assert_eq!(body["status"], 429);
        assert_eq!(body["detail"], "203.0.113.0/24");
    }
}
