//! Benchmarks that anyone can run again. They print figures and never judge them.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

const MODELS: &[&str] = &[
    "primary-remote",
    "multi-primary",
    "primary-remote-multi-network",
    "multi-primary-multi-network",
];

/// How long a model may take before it counts as hung.
const LIMIT: Duration = Duration::from_secs(300);
/// How long a mesh rests before its memory is taken again.
const REST: Duration = Duration::from_secs(20);

/// Brings each model up, and prints the time from start to verified and the memory of every
/// process of the lab: at that moment, when hundreds of requests have just gone through it, and
/// after a rest.
#[expect(clippy::print_stdout, reason = "figures are this program's result")]
pub(crate) fn up(models: &[&str]) -> anyhow::Result<()> {
    let status = Command::new("cargo")
        .args(["build", "--release", "--locked", "--bin", "tombolo"])
        .status()?;
    ensure!(status.success(), "the release build failed");
    println!("{}", machine());
    let models = if models.is_empty() { MODELS } else { models };
    for model in models {
        let file = format!("examples/{model}.yaml");
        ensure!(Path::new(&file).exists(), "there is no {file}");
        run(model, &file)?;
    }
    Ok(())
}

/// The machine in one line.
fn machine() -> String {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = field(&read("/proc/meminfo"), "MemTotal:").unwrap_or(0) / 1024;
    let kernel = read("/proc/sys/kernel/osrelease");
    let processor = read("/proc/cpuinfo");
    let processor =
        processor.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let processor = processor.map_or("unknown processor", |(_, name)| name);
    format!("machine: {cores} cores ({processor}), {memory} MiB, Linux {}", kernel.trim())
}

#[expect(clippy::print_stdout, reason = "figures are this program's result")]
fn run(model: &str, file: &str) -> anyhow::Result<()> {
    // A lab of its own, so that others on this machine are neither touched nor counted.
    let folder = std::env::temp_dir().join(format!("tombolo-bench-{}", std::process::id()));
    fs::create_dir_all(&folder).context("make a folder for the lab")?;
    let started = Instant::now();
    let mut child = Command::new("target/release/tombolo")
        .args(["up", file, "-o", "json"])
        .env("TOMBOLO_LAB_DIR", folder.join("lab"))
        .env("XDG_STATE_HOME", folder.join("state"))
        .env("KUBECONFIG", folder.join("kubeconfig"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()
        .context("start tombolo up")?;
    let mut stderr = child.stderr.take().context("read progress")?;
    let progress = std::thread::spawn(move || {
        let mut text = String::new();
        // What cannot be read of the progress is missed only in an error message.
        let _ = stderr.read_to_string(&mut text);
        text
    });
    let mut lines = BufReader::new(child.stdout.take().context("read the report")?).lines();
    let report = lines.next();
    let seconds = started.elapsed().as_secs_f64();
    let busy = memory(&folder);
    if report.is_some() {
        std::thread::sleep(REST);
    }
    let idle = memory(&folder);
    Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .context("stop tombolo up")?;
    while child.try_wait()?.is_none() {
        if started.elapsed() > LIMIT {
            bail!("tombolo up {file} did not end");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    fs::remove_dir_all(&folder).context("remove the lab's folder")?;
    let Some(report) = report else {
        bail!("tombolo up {file} failed:\n{}", progress.join().unwrap_or_default());
    };
    let report: Value = serde_json::from_str(&report?).context("read the report")?;
    println!("\nmodel {model}: verified {} after {seconds:.1} s", report["ok"]);
    for (when, memory) in [("then", busy), ("at rest", idle)] {
        let (role, processes) = (format!("role, {when}"), "processes");
        println!("  {role:24} {processes:>9}  resident MiB (proportional MiB), one by one");
        for (role, mut sizes) in memory {
            sizes.sort_unstable();
            let list: Vec<_> = sizes.iter().map(ToString::to_string).collect();
            println!("  {role:24} {:9}  {}", sizes.len(), list.join("  "));
        }
    }
    Ok(())
}

/// What a process has in memory, in KiB. Pages that several processes share count whole for each
/// as resident, and in shares as proportional.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Size {
    resident: u64,
    proportional: u64,
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mebibytes = |kibibytes: u64| format!("{:.1}", kibibytes as f64 / 1024.0);
        write!(f, "{} ({})", mebibytes(self.resident), mebibytes(self.proportional))
    }
}

/// The memory of every process below the lab's first one, by what it does.
fn memory(folder: &Path) -> BTreeMap<String, Vec<Size>> {
    let mut found: BTreeMap<String, Vec<Size>> = BTreeMap::new();
    let processes = processes();
    let lab = folder.display().to_string();
    let mut inside: Vec<u32> = processes
        .iter()
        .filter(|(_, process)| process.words.iter().any(|word| word == "--inside"))
        .filter(|(_, process)| process.words.iter().any(|word| word.starts_with(&lab)))
        .map(|(pid, _)| *pid)
        .collect();
    while let Some(pid) = inside.pop() {
        inside.extend(processes.iter().filter(|(_, it)| it.parent == pid).map(|(pid, _)| *pid));
        let Some(process) = processes.get(&pid) else { continue };
        let rollup = fs::read_to_string(process.folder.join("smaps_rollup")).unwrap_or_default();
        if let (Some(resident), Some(proportional)) =
            (field(&rollup, "Rss:"), field(&rollup, "Pss:"))
        {
            found.entry(process.role()).or_default().push(Size { resident, proportional });
        }
    }
    found
}

struct Process {
    folder: PathBuf,
    parent: u32,
    words: Vec<String>,
}

impl Process {
    /// The subcommand of our own program, the name of any other.
    fn role(&self) -> String {
        let program = self.words.first().map_or("", |word| word.rsplit('/').next().unwrap_or(word));
        if program != "tombolo" && program != "exe" {
            return program.to_owned();
        }
        let words = self.words.iter().skip(1).take_while(|word| !word.starts_with('-')).take(2);
        words.cloned().collect::<Vec<_>>().join(" ")
    }
}

fn processes() -> BTreeMap<u32, Process> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let folder = entry.path();
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let status = fs::read_to_string(folder.join("status")).unwrap_or_default();
        let Some(parent) = field(&status, "PPid:").and_then(|id| u32::try_from(id).ok()) else {
            continue;
        };
        let words = fs::read(folder.join("cmdline")).unwrap_or_default();
        let words = words
            .split(|byte| *byte == 0)
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        found.insert(pid, Process { folder, parent, words });
    }
    found
}

/// The number after a name at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}
