//! One thread owns the machine's hardware; everybody else sends it jobs and waits for their results.

use std::sync::{Arc, mpsc};

use tokio::sync::{Mutex, oneshot};

use super::attester::AttesterError;
use super::machine::Machine;

type Job = Box<dyn FnOnce(&mut Machine) + Send>;

/// A handle to the thread that owns the TPM. Jobs run one after another, in the order they were sent.
#[derive(Debug, Clone)]
pub struct TpmOwner {
    jobs: mpsc::Sender<Job>,
    /// Held by the one job of a workload that is in the queue.
    turn: Arc<Mutex<()>>,
    for_workloads: bool,
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
        Ok(when_opened.await.map_err(|_| OwnerGone)?.map(|()| Self::of(jobs)))
    }

    fn of(jobs: mpsc::Sender<Job>) -> Self {
        Self {
            jobs,
            turn: Arc::default(),
            for_workloads: false,
        }
    }

    /// The same for what workloads ask for: one job of all of them is in the queue at a time. However many they ask for, the
    /// node's own attestation waits for one of them at most, and meets its deadline.
    #[must_use]
    pub fn for_workloads(&self) -> Self {
        Self {
            for_workloads: true,
            ..self.clone()
        }
    }

    /// One whose thread has ended.
    #[cfg(test)]
    pub(super) fn gone() -> Self {
        Self::of(mpsc::channel().0)
    }

    /// Runs `job` on the owner's thread.
    ///
    /// # Errors
    /// [`OwnerGone`].
    pub async fn run<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Machine) -> R + Send + 'static,
    ) -> Result<R, OwnerGone> {
        let turn = match self.for_workloads {
            true => Some(Arc::clone(&self.turn).lock_owned().await),
            false => None,
        };
        let (done, when_done) = oneshot::channel();
        let job: Job = Box::new(move |machine| {
            // Whoever asked may have gone; the job was done all the same.
            let _ = done.send(job(machine));
            drop(turn);
        });
        self.jobs.send(job).map_err(|_| OwnerGone)?;
        when_done.await.map_err(|_| OwnerGone)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn however_much_workloads_ask_for_the_node_itself_waits_for_one_of_them_at_most() {
        // A machine that is slow: what is asked for stays in the queue.
        let (jobs, queue) = mpsc::channel();
        let owner = TpmOwner::of(jobs);
        let workloads = owner.for_workloads();
        let asking: Vec<_> = (0..64)
            .map(|_| {
                let workloads = workloads.clone();
                tokio::spawn(async move { workloads.run(|_| ()).await })
            })
            .collect();
        let mut served = 0;
        while served < asking.len() {
            let first = next(&queue).await;
            // All of them have asked by now, or will: none is in the queue beside it.
            for _ in 0..2 * asking.len() {
                tokio::task::yield_now().await;
            }
            assert!(queue.try_recv().is_err(), "a second one, after {served}");
            let own = owner.clone();
            let own = tokio::spawn(async move { own.run(|_| ()).await });
            drop(next(&queue).await);
            assert_eq!(own.await.unwrap(), Err(OwnerGone), "the node's own was the next");
            drop(first);
            served += 1;
        }
        for asked in asking {
            assert_eq!(asked.await.unwrap(), Err(OwnerGone), "nobody has done it");
        }
    }

    async fn next(queue: &mpsc::Receiver<Job>) -> Job {
        let coming = async {
            loop {
                match queue.try_recv() {
                    Ok(job) => return job,
                    Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), coming)
            .await
            .expect("a job")
    }
}
