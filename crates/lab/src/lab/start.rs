//! Starting the lab's supervisor when none runs, and waiting for its end.

use std::ffi::OsStr;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::unistd::{getgid, getuid};
use tokio::time::Instant;

use crate::lab::{Lab, LabError, Progress};
use crate::preflight;

/// How long a supervisor may take to end after its last cluster.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// How often to look whether it did.
const END_PAUSE: Duration = Duration::from_millis(10);

impl Lab {
    /// Whether a supervisor lives.
    pub(super) fn is_running(&self) -> Result<bool, LabError> {
        let directory = &self.settings.directory;
        if !directory.path().exists() {
            return Ok(false);
        }
        // Taking the lock shows that nobody has it; it is free again at once.
        Ok(directory.lock_supervisor().map_err(|source| self.start_failed(source))?.is_none())
    }

    /// Starts a supervisor if none runs, after removing what a dead one left.
    pub(super) async fn ensure_started(
        &self,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<(), LabError> {
        let directory = self.settings.directory.clone();
        directory.make().map_err(|source| self.start_failed(source))?;
        // Only one client at a time starts a lab; the others find it running.
        let locked = tokio::task::spawn_blocking(move || directory.lock_start());
        let locked = locked.await.map_err(io::Error::other);
        let _starting = locked.flatten().map_err(|source| self.start_failed(source))?;
        if self.is_running()? {
            return Ok(());
        }
        self.remove_remains_locked().await?;
        let lab = self.clone();
        let launched = tokio::task::spawn_blocking(move || lab.launch()).await;
        let notes = launched.map_err(io::Error::other).flatten();
        for note in notes.map_err(|source| self.start_failed(source))? {
            progress(Progress::Note(note));
        }
        Ok(())
    }

    /// Starts the launcher and talks to it until the supervisor is ready; returns what to tell.
    fn launch(&self) -> io::Result<Vec<String>> {
        let settings = &self.settings;
        let mut launcher = Command::new(&settings.program)
            .args(["lab", "supervisor", "--folder"])
            .arg(settings.directory.path())
            .env("PATH", preflight::search_path(&settings.path))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let told = talk(&mut launcher, &settings.path);
        let ended = launcher.wait()?;
        match told {
            Ok(notes) if ended.success() => Ok(notes),
            Ok(_) => Err(io::Error::other(format!("the launcher {ended}"))),
            Err(error) => Err(self.explain(error)),
        }
    }

    /// Adds the end of the supervisor's log to an error that does not explain itself.
    fn explain(&self, error: io::Error) -> io::Error {
        if error.kind() != io::ErrorKind::UnexpectedEof {
            return error;
        }
        let log = std::fs::read_to_string(self.settings.directory.log()).unwrap_or_default();
        let last = log.lines().last().unwrap_or("its log is empty");
        io::Error::other(format!("the supervisor ended before it was ready: {last}"))
    }

    /// Returns when the supervisor is gone or has clusters left.
    pub(super) async fn wait_for_the_end(&self) -> Result<(), LabError> {
        let give_up = Instant::now() + END_PATIENCE;
        while self.is_running()? {
            // A supervisor that still answers with clusters does not end now.
            if matches!(self.clusters().await, Ok(clusters) if !clusters.is_empty()) {
                return Ok(());
            }
            if Instant::now() > give_up {
                let source = io::Error::other("the supervisor did not end with its last cluster");
                return Err(self.start_failed(source));
            }
            tokio::time::sleep(END_PAUSE).await;
        }
        Ok(())
    }

    pub(super) fn start_failed(&self, source: io::Error) -> LabError {
        LabError::Start { folder: self.settings.directory.path().to_owned(), source }
    }
}

fn talk(launcher: &mut Child, path: &OsStr) -> io::Result<Vec<String>> {
    let pid = launcher.id();
    let (Some(mut input), Some(output)) = (launcher.stdin.take(), launcher.stdout.take()) else {
        return Err(io::Error::other("the launcher has no pipes"));
    };
    let mut notes = Vec::new();
    for line in BufReader::new(output).lines() {
        let line = line?;
        match line.split_once(' ').unwrap_or((line.as_str(), "")) {
            ("map", _) => {
                map_user_ids(pid, path)?;
                writeln!(input, "mapped")?;
            }
            ("note", text) => notes.push(text.to_owned()),
            ("ready", _) => return Ok(notes),
            (_, text) => return Err(io::Error::other(text.to_owned())),
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

/// Maps the caller to root in the launcher's user namespace, and the caller's subordinate ids to
/// the rest: pods run as several users, so the caller's id alone is not enough.
fn map_user_ids(pid: u32, path: &OsStr) -> io::Result<()> {
    let (user, group) = (getuid().as_raw(), getgid().as_raw());
    let name = nix::unistd::User::from_uid(getuid())?.map(|user| user.name);
    for (program, file, own) in
        [("newuidmap", "/etc/subuid", user), ("newgidmap", "/etc/subgid", group)]
    {
        let Some(full) = preflight::find_program(path, program) else {
            return Err(io::Error::other(format!(
                "program `{program}` is not installed: without root the lab needs it to give pods \
                 users of their own; on Debian run `apt-get install uidmap`"
            )));
        };
        let ranges = std::fs::read_to_string(file).unwrap_or_default();
        let Some((first, count)) = subordinate_range(&ranges, name.as_deref(), user) else {
            let name = name.unwrap_or_else(|| user.to_string());
            return Err(io::Error::other(format!(
                "{file} gives user `{name}` no range of subordinate ids (65536 are needed): as \
                 root run `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}`"
            )));
        };
        let output = Command::new(full)
            .args([pid, 0, own, 1, 1, first, count].map(|number| number.to_string()))
            .output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(io::Error::other(format!("`{program}` failed: {said}")));
        }
    }
    Ok(())
}

/// The first range of at least 65536 ids that a user has in `/etc/subuid` or `/etc/subgid`.
fn subordinate_range(text: &str, name: Option<&str>, id: u32) -> Option<(u32, u32)> {
    const NEEDED: u32 = 65536;
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let (owner, first, count) = (fields.next()?, fields.next()?, fields.next()?);
        let mine = Some(owner) == name || owner.parse() == Ok(id);
        let count: u32 = count.parse().ok()?;
        (mine && count >= NEEDED).then_some((first.parse().ok()?, NEEDED))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_belongs_to_a_name_or_a_number_and_is_large_enough() {
        let text = "root:1:65536\nann:100000:1000\nann:200000:65536\n1005:300000:70000\nbad\n";
        assert_eq!(subordinate_range(text, Some("ann"), 7), Some((200_000, 65536)));
        assert_eq!(subordinate_range(text, None, 1005), Some((300_000, 65536)));
        assert_eq!(subordinate_range(text, Some("bob"), 8), None);
    }
}
