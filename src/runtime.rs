//! The async runtime, where a subcommand needs one.

use std::future::Future;

use crate::output::Failure;

/// Runs `future` to its end on a multi-threaded runtime.
pub fn block_on<F: Future>(future: F) -> Result<F::Output, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    Ok(runtime.block_on(future))
}

/// Lets this process hold as many files, connections above all, as the system allows it: systems begin with 1,024.
pub fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        // Where it is refused, connections beyond the limit wait, and the log says so.
        let _ = setrlimit(Resource::Nofile, limit);
    }
}

/// Completes when the process is asked to stop (SIGINT or SIGTERM).
pub async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        }
        // Without handlers the signals end the process by themselves.
        Err(_) => std::future::pending().await,
    }
}
