//! The trust-state stream: server-sent events whose data is one base64url frame each.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use crate::ClientError;
use crate::connection::{Connection, MAX_ANSWER};

/// Frames as they arrive. Ends with an error when the broker closes the stream: whoever follows must resynchronise.
pub struct EventStream {
    // Held so that the connection lives as long as the stream.
    _connection: Connection,
    body: Incoming,
    buffer: Vec<u8>,
}

impl EventStream {
    pub(crate) fn new(connection: Connection, body: Incoming) -> Self {
        Self {
            _connection: connection,
            body,
            buffer: Vec::new(),
        }
    }

    /// The next frame (the bytes of a `TrustFrame`).
    ///
    /// # Errors
    /// [`ClientError::Answer`] when the stream ended, is malformed or sends an event over the size limit.
    pub async fn next(&mut self) -> Result<Vec<u8>, ClientError> {
        loop {
            if let Some(frame) = take_event(&mut self.buffer)? {
                return Ok(frame);
            }
            if self.buffer.len() > MAX_ANSWER {
                return Err(malformed(format!("an event over {MAX_ANSWER} bytes")));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                Some(Err(error)) => return Err(malformed(error.to_string())),
                None => return Err(malformed("the end of the stream".into())),
            }
        }
    }
}

fn malformed(found: String) -> ClientError {
    ClientError::Answer {
        path: "/v1/trust-state/stream",
        expected: "frame events, one after another",
        found,
    }
}

/// Takes one whole event off the front of `buffer`, if there is one with data; comments (keep-alives) are passed over.
fn take_event(buffer: &mut Vec<u8>) -> Result<Option<Vec<u8>>, ClientError> {
    while let Some(end) = buffer.windows(2).position(|pair| pair == b"\n\n") {
        let event: Vec<u8> = buffer.drain(..end + 2).collect();
        let text = std::str::from_utf8(&event).map_err(|_| malformed("bytes that are not UTF-8".into()))?;
        let data: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("data:"))
            .map(str::trim)
            .collect();
        if !data.is_empty() {
            let frame = URL_SAFE_NO_PAD
                .decode(data.concat())
                .map_err(|error| malformed(error.to_string()))?;
            return Ok(Some(frame));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_taken_whole_and_in_order() {
        let mut buffer = b": keep-alive\n\nevent: frame\ndata: AQI\n\nevent: frame\ndata: Aw\n\nevent: fr".to_vec();
        assert_eq!(take_event(&mut buffer), Ok(Some(vec![1, 2])));
        assert_eq!(take_event(&mut buffer), Ok(Some(vec![3])));
        assert_eq!(take_event(&mut buffer), Ok(None));
        assert_eq!(buffer, b"event: fr");
    }

    #[test]
    fn malformed_data_ends_the_stream() {
        assert!(take_event(&mut b"data: !!!\n\n".to_vec()).is_err());
        assert!(take_event(&mut b"data: \xff\n\n".to_vec()).is_err());
    }
}
