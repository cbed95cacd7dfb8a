//! A running container, as the node agent holds it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;
use tokio::net::unix::pipe;
use tokio::process::Child;
use tokio::sync::{mpsc, watch};
use tombolo_runtime::shutdown::Shutdown;

use crate::node::container::logs::{Log, Stream};
use crate::node::container::order::{Order, Place};
use crate::node::container::spawn::{self, Output, StartError};
use crate::node::container::terminal::Terminal;
use crate::node::pod::record::Ended;
use crate::node::pod::work::Happening;

/// How long output may still come after a container has ended.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Where a container's files on the node are.
#[derive(Clone, Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(pod: &Path, container: &str) -> Self {
        Self(pod.join("containers").join(container))
    }

    pub(crate) fn scratch(&self) -> PathBuf {
        self.0.join("root")
    }

    pub(crate) fn log(&self, run: i32) -> PathBuf {
        self.0.join(format!("{run}.log"))
    }

    /// The numbers of the runs whose logs are here, in order.
    pub(crate) fn runs(&self) -> Vec<i32> {
        let names =
            fs::read_dir(&self.0).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let mut runs: Vec<i32> =
            names.filter_map(|name| name.to_str()?.strip_suffix(".log")?.parse().ok()).collect();
        runs.sort_unstable();
        runs
    }

    pub(crate) fn termination(&self) -> PathBuf {
        self.0.join("termination-log")
    }

    /// Makes the folder ready for run number `run`; only the log of the run before is kept.
    pub(crate) fn prepare(&self, run: i32) -> io::Result<()> {
        fs::create_dir_all(self.scratch())?;
        fs::write(self.termination(), "")?;
        for old in [self.log(run), self.log(run - 2)] {
            for file in [crate::node::container::logs::rotated(&old), old] {
                match fs::remove_file(file) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => (),
                }
            }
        }
        Ok(())
    }
}

/// What is typed into a container.
#[derive(Debug)]
pub(crate) enum Input {
    Pipe(pipe::Sender),
    Terminal(Terminal),
}

/// One run of a container.
#[derive(Debug)]
pub(crate) struct Process {
    pub id: String,
    pub pid: i32,
    /// What it was started with, for commands that join it.
    pub order: Order,
    pub log: Arc<Log>,
    /// Taken by whoever attaches first.
    pub input: Mutex<Option<Input>>,
    ended: watch::Receiver<bool>,
}

/// What a run needs besides its order.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    pub program: &'a Path,
    pub folder: &'a Folder,
    pub index: usize,
    pub run: i32,
    /// The container may be typed into.
    pub stdin: bool,
    pub namespace: Option<BorrowedFd<'a>>,
    pub happenings: mpsc::Sender<Happening>,
    /// Without a termination message, the end of the log becomes it.
    pub log_as_message: bool,
}

impl Process {
    /// Starts a container; its end will be a [`Happening::Ended`].
    pub(crate) async fn start(
        mut order: Order,
        launch: Launch<'_>,
        shutdown: &Shutdown,
    ) -> Result<Arc<Self>, StartError> {
        launch.folder.prepare(launch.run)?;
        let log = Arc::new(Log::create(launch.folder.log(launch.run))?);
        let mut hand_over: Vec<BorrowedFd<'_>> = Vec::new();
        if let (Place::New(room), Some(namespace)) = (&mut order.place, launch.namespace) {
            room.netns = Some(namespace.as_raw_fd());
            hand_over.push(namespace);
        }
        let terminal =
            if order.tty { Some(openpty(None, None).map_err(io::Error::from)?) } else { None };
        let typed = if launch.stdin && !order.tty { Some(io::pipe()?) } else { None };
        if let Some((read, _)) = &typed {
            order.stdin = Some(read.as_raw_fd());
            hand_over.push(read.as_fd());
        }
        let output = match &terminal {
            Some(terminal) => Output {
                stdout: terminal.slave.try_clone()?.into(),
                stderr: terminal.slave.try_clone()?.into(),
            },
            None => Output { stdout: Stdio::piped(), stderr: Stdio::piped() },
        };
        let mut child = spawn::start(launch.program, &order, output, &hand_over).await?;
        let pid = child
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .ok_or_else(|| io::Error::other("it ended at once"))?;
        let id = format!("tombolo://{}", uuid::Uuid::new_v4().simple());
        let mut sources: Vec<(Stream, Box<dyn tokio::io::AsyncRead + Send + Unpin>)> = Vec::new();
        let input = match terminal {
            Some(terminal) => {
                let terminal = Terminal::new(terminal.master)?;
                sources.push((Stream::Stdout, Box::new(terminal.clone())));
                Some(Input::Terminal(terminal))
            }
            None => match typed {
                Some((_, write)) => Some(Input::Pipe(pipe::Sender::from_owned_fd(write.into())?)),
                None => None,
            },
        };
        if let Some(stdout) = child.stdout.take() {
            sources.push((Stream::Stdout, Box::new(stdout)));
        }
        if let Some(stderr) = child.stderr.take() {
            sources.push((Stream::Stderr, Box::new(stderr)));
        }
        let (ending, ended) = watch::channel(false);
        let process = Arc::new(Self {
            id: id.clone(),
            pid,
            order,
            log: Arc::clone(&log),
            input: Mutex::new(input),
            ended,
        });
        let watched = Watched {
            child,
            sources,
            log,
            ending,
            happenings: launch.happenings,
            index: launch.index,
            id,
            since: Timestamp::now(),
            message: launch.folder.termination(),
            log_as_message: launch.log_as_message,
        };
        shutdown.spawn("container", watched.run(shutdown.clone()));
        Ok(process)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        if *self.ended.borrow() {
            return;
        }
        if let Err(error) = kill(Pid::from_raw(self.pid), signal) {
            tracing::debug!(pid = self.pid, %error, "container could not be signalled");
        }
    }

    /// Returns when the run has ended. Cancel safe.
    pub(crate) async fn ended(&self) {
        let mut ended = self.ended.clone();
        // An error means that the watching task is gone, and the container with it.
        let _gone = ended.wait_for(|ended| *ended).await;
    }

    /// Becomes true when the run has ended.
    pub(crate) fn ending(&self) -> watch::Receiver<bool> {
        self.ended.clone()
    }

    /// Whether SIGTERM means anything to it: process 1 of a PID namespace never receives a signal
    /// that it has not asked for.
    pub(crate) fn heeds_termination(&self) -> bool {
        const TERM: u64 = 1 << (15 - 1);
        let Ok(status) = fs::read_to_string(format!("/proc/{}/status", self.pid)) else {
            return false;
        };
        status.lines().any(|line| {
            let mask = line
                .strip_prefix("SigCgt:")
                .or_else(|| line.strip_prefix("SigBlk:"))
                .or_else(|| line.strip_prefix("SigIgn:"));
            mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
                .is_some_and(|mask| mask & TERM != 0)
        })
    }
}

/// A container's process together with everything that waits for its end.
struct Watched {
    child: Child,
    sources: Vec<(Stream, Box<dyn tokio::io::AsyncRead + Send + Unpin>)>,
    log: Arc<Log>,
    ending: watch::Sender<bool>,
    happenings: mpsc::Sender<Happening>,
    index: usize,
    id: String,
    since: Timestamp,
    message: PathBuf,
    log_as_message: bool,
}

impl Watched {
    async fn run(mut self, shutdown: Shutdown) {
        let log = &self.log;
        let mut reading = std::pin::pin!(futures::future::join_all(self.sources.drain(..).map(|(stream, source)| async move {
            if let Err(error) = log.record(stream, source).await {
                tracing::warn!(%error, path = %log.path().display(), "container log could not be written");
            }
        })));
        let mut read = false;
        let status = loop {
            tokio::select! {
                status = self.child.wait() => break status,
                _ = &mut reading, if !read => read = true,
                () = shutdown.draining() => {
                    // The agent ends, and its containers with it.
                    if let Err(error) = self.child.start_kill() {
                        tracing::debug!(%error, "container had ended already");
                    }
                    break self.child.wait().await;
                }
            }
        };
        if !read && tokio::time::timeout(LAST_WORDS, reading).await.is_err() {
            tracing::debug!(path = %self.log.path().display(), "container's output stayed open");
        }
        let code = status.as_ref().map_or(255, |status| {
            status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(255)
        });
        let ended = Ended {
            code,
            reason: if code == 0 { "Completed" } else { "Error" },
            message: self.last_message(code),
            started: Some(self.since),
            finished: Timestamp::now(),
            id: self.id,
        };
        self.ending.send_replace(true);
        // Nobody listens any more only when the pod is gone.
        let _unheard = self.happenings.send(Happening::Ended { index: self.index, ended }).await;
    }

    fn last_message(&self, code: i32) -> String {
        let text = fs::read(&self.message).unwrap_or_default();
        let text = String::from_utf8_lossy(text.get(..text.len().min(4096)).unwrap_or_default())
            .into_owned();
        if text.is_empty() && code != 0 && self.log_as_message {
            return crate::node::container::logs::tail(self.log.path(), 80, 2048);
        }
        text
    }
}
