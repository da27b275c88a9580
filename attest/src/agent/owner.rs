//! One thread owns the machine's hardware; everybody else sends it jobs and waits for their results.

use std::sync::mpsc;

use tokio::sync::oneshot;

use super::attester::AttesterError;
use super::machine::Machine;

type Job = Box<dyn FnOnce(&mut Machine) + Send>;

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
    pub async fn start<M: Into<Machine>>(
        open: impl FnOnce() -> Result<M, AttesterError> + Send + 'static,
    ) -> Result<Result<Self, AttesterError>, OwnerGone> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (opened, when_opened) = oneshot::channel();
        std::thread::Builder::new()
            .name("tpm".into())
            .spawn(move || match open() {
                Ok(opened_machine) => {
                    let mut machine = opened_machine.into();
                    if opened.send(Ok(())).is_ok() {
                        for job in queue {
                            job(&mut machine);
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

    /// One whose thread has ended.
    #[cfg(test)]
    pub(super) fn gone() -> Self {
        Self {
            jobs: mpsc::channel().0,
        }
    }

    /// Runs `job` on the owner's thread.
    ///
    /// # Errors
    /// [`OwnerGone`].
    pub async fn run<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Machine) -> R + Send + 'static,
    ) -> Result<R, OwnerGone> {
        let (done, when_done) = oneshot::channel();
        let job: Job = Box::new(move |machine| {
            // Whoever asked may have gone; the job was done all the same.
            let _ = done.send(job(machine));
        });
        self.jobs.send(job).map_err(|_| OwnerGone)?;
        when_done.await.map_err(|_| OwnerGone)
    }
}
