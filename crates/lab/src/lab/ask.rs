//! One question to the supervisor: a connection of its own, a request, an answer.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use tokio::time::Instant;

use crate::control::{Answer, Request, frames};
use crate::lab::{Lab, LabError};

/// How long a supervisor that has started may take to listen.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// How often to try.
const CONNECT_PAUSE: Duration = Duration::from_millis(10);

impl Lab {
    /// Connects to the supervisor; one that is just starting is waited for.
    async fn connect(&self) -> io::Result<UnixStream> {
        let give_up = Instant::now() + CONNECT_PATIENCE;
        loop {
            match self.settings.directory.connect() {
                Err(error)
                    if Instant::now() > give_up || !matches!(self.is_running(), Ok(true)) =>
                {
                    return Err(error);
                }
                Err(_) => tokio::time::sleep(CONNECT_PAUSE).await,
                connected => return connected,
            }
        }
    }

    /// Sends one request on a connection of its own and waits for the answer.
    pub(super) async fn ask(
        &self,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Answer, LabError> {
        let failed = |source| {
            let folder = self.settings.directory.path().to_owned();
            LabError::Connection { folder, source }
        };
        let mut stream = self.connect().await.map_err(failed)?;
        frames::send(&mut stream, request, descriptors).map_err(failed)?;
        let received = tokio::task::spawn_blocking(move || frames::receive::<Answer>(&mut stream));
        let (answer, _) =
            received.await.map_err(io::Error::other).map_err(failed)?.map_err(failed)?;
        match answer {
            Answer::Failed(text) => Err(LabError::Refused(text)),
            answer => Ok(answer),
        }
    }
}
