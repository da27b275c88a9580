//! One thread owns the TPM; everybody else sends it jobs and waits for their results.

use std::sync::mpsc;

use tokio::sync::oneshot;

use super::attester::{Attester, AttesterError};

type Job = Box<dyn FnOnce(&mut Attester) + Send>;

/// A handle to the thread that owns the TPM. Jobs run one after another, in the order they were sent.
#[derive(Debug, Clone)]
pub struct TpmOwner {
    jobs: mpsc::Sender<Job>,
}

/// The thread that owned the TPM is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the thread that owns the TPM has ended")]
pub struct OwnerGone;

impl TpmOwner {
    /// Starts the thread and opens the TPM on it.
    ///
    /// # Errors
    /// What `open` gave, or [`OwnerGone`] when no thread could be had.
    pub async fn start(
        open: impl FnOnce() -> Result<Attester, AttesterError> + Send + 'static,
    ) -> Result<Result<Self, AttesterError>, OwnerGone> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (opened, when_opened) = oneshot::channel();
        std::thread::Builder::new()
            .name("tpm".into())
            .spawn(move || match open() {
                Ok(mut attester) => {
                    if opened.send(Ok(())).is_ok() {
                        for job in queue {
                            job(&mut attester);
                        }
                    }
                }
                Err(error) => {
                    let _ = opened.send(Err(error));
                }
            })
            .map_err(|_| OwnerGone)?;
        Ok(when_opened.await.map_err(|_| OwnerGone)?.map(|()| Self { jobs }))
    }

    /// Runs `job` on the owner's thread.
    ///
    /// # Errors
    /// [`OwnerGone`].
    pub async fn run<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Attester) -> R + Send + 'static,
    ) -> Result<R, OwnerGone> {
        let (done, when_done) = oneshot::channel();
        let job: Job = Box::new(move |attester| {
            // Whoever asked may have gone; the job was done all the same.
            let _ = done.send(job(attester));
        });
        self.jobs.send(job).map_err(|_| OwnerGone)?;
        when_done.await.map_err(|_| OwnerGone)
    }
}
