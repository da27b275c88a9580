//! How `tough` reads a copy that is in memory.

use std::sync::Arc;

use tough::{Bytes, Transport, TransportError, TransportErrorKind, TransportStream};
use url::Url;

use super::copy::RepositoryCopy;
use crate::layout;

/// The files of one copy.
#[derive(Debug, Clone)]
pub(super) struct MemoryFiles {
    copy: Arc<RepositoryCopy>,
}

impl MemoryFiles {
    pub fn new(copy: &RepositoryCopy) -> Self {
        Self {
            copy: Arc::new(copy.clone()),
        }
    }

    fn find(&self, url: &Url) -> Option<Bytes> {
        let path = url.path().strip_prefix('/')?;
        // As in a folder: the digest stands before the last component.
        let name = match path.strip_prefix("targets/").and_then(|name| name.split_once('.')) {
            Some((digest, rest)) if digest.len() == 64 && !digest.contains('/') => {
                format!("{}/{}", layout::TARGETS, layout::digest_name(rest, digest))
            }
            _ => path.to_owned(),
        };
        self.copy.file(&name).map(Bytes::copy_from_slice)
    }
}

#[tough::async_trait]
impl Transport for MemoryFiles {
    async fn fetch(&self, url: Url) -> Result<TransportStream, TransportError> {
        let item = self
            .find(&url)
            .ok_or_else(|| TransportError::new_with_cause(TransportErrorKind::FileNotFound, url, "not in the copy"));
        Ok(Box::pin(futures_util::stream::iter([item])))
    }
}
