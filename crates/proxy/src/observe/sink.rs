//! Writes access log lines to files, in the background and in batches.
//!
//! A line is never waited for. When a file cannot be written as fast as lines come, lines are
//! dropped and counted; the count is reported in the process's log.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tombolo_runtime::shutdown::Shutdown;

use crate::observe::access_log::AccessLog;
use crate::observe::record::Record;

/// Lines are written at least this often.
const INTERVAL: Duration = Duration::from_secs(1);
/// Lines are written at once when this much has gathered.
const BATCH: usize = 64 * 1024;
/// What does not fit here is dropped.
const MOST: usize = 1 << 20;

/// All access logs of the process, by path. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sinks {
    files: Arc<Mutex<HashMap<String, Arc<File>>>>,
    shutdown: Shutdown,
}

#[derive(Debug)]
struct File {
    path: String,
    gathered: Mutex<String>,
    full: Notify,
    dropped: AtomicU64,
}

impl Sinks {
    /// No file is open yet.
    pub fn new(shutdown: Shutdown) -> Self {
        Self { files: Arc::default(), shutdown }
    }

    /// Logs a record wherever it is wanted.
    pub fn log(&self, logs: &[AccessLog], record: &Record) {
        for log in logs.iter().filter(|log| log.wants(record)) {
            self.file(&log.path).add(&log.line(record));
        }
    }

    fn file(&self, path: &str) -> Arc<File> {
        if let Some(file) = self.files.lock().get(path) {
            return file.clone();
        }
        let file = Arc::new(File {
            path: path.to_owned(),
            gathered: Mutex::default(),
            full: Notify::new(),
            dropped: AtomicU64::new(0),
        });
        let mut files = self.files.lock();
        if let Some(first) = files.get(path) {
            return first.clone();
        }
        files.insert(path.to_owned(), file.clone());
        drop(files);
        let (writer, shutdown) = (file.clone(), self.shutdown.clone());
        self.shutdown.spawn("access log", async move { writer.write_on(&shutdown).await });
        file
    }
}

impl File {
    fn add(&self, line: &str) {
        let mut gathered = self.gathered.lock();
        if gathered.len() + line.len() > MOST {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        gathered.push_str(line);
        if gathered.len() >= BATCH {
            self.full.notify_one();
        }
    }

    /// Writes until the process has drained.
    async fn write_on(self: Arc<Self>, shutdown: &Shutdown) {
        loop {
            let draining = tokio::select! {
                () = self.full.notified() => false,
                () = tokio::time::sleep(INTERVAL) => false,
                () = shutdown.draining() => true,
            };
            self.write_gathered().await;
            if draining {
                // Connections that drain still end, each with a line.
                while shutdown.running().iter().any(|task| task.starts_with("downstream")) {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    self.write_gathered().await;
                }
                return;
            }
        }
    }

    async fn write_gathered(self: &Arc<Self>) {
        let lines = std::mem::take(&mut *self.gathered.lock());
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            tracing::warn!(path = self.path, dropped, "access log lines were dropped");
        }
        if lines.is_empty() {
            return;
        }
        let file = self.clone();
        let written = tokio::task::spawn_blocking(move || file.append(lines.as_bytes())).await;
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(path = self.path, %error, "access log was not written");
            }
            Err(error) => tracing::warn!(path = self.path, %error, "access log writer failed"),
        }
    }

    fn append(&self, lines: &[u8]) -> std::io::Result<()> {
        match self.path.as_str() {
            // Opening these by name fails where they are sockets or belong to another user.
            "/dev/stdout" => {
                let mut stdout = std::io::stdout().lock();
                stdout.write_all(lines)?;
                stdout.flush()
            }
            "/dev/stderr" => std::io::stderr().lock().write_all(lines),
            path => {
                std::fs::OpenOptions::new().create(true).append(true).open(path)?.write_all(lines)
            }
        }
    }
}
