//! Benchmarks that anyone can run again. They print figures and never judge them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
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

/// Brings each model up, and prints the time from start to verified and the resident memory of
/// every process of the lab at that moment.
pub(crate) fn up(models: &[&str]) -> anyhow::Result<()> {
    let status = Command::new("cargo")
        .args(["build", "--release", "--locked", "--bin", "tombolo"])
        .status()?;
    ensure!(status.success(), "the release build failed");
    let models = if models.is_empty() { MODELS } else { models };
    for model in models {
        let file = format!("examples/{model}.yaml");
        ensure!(Path::new(&file).exists(), "there is no {file}");
        run(model, &file)?;
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "figures are this program's result")]
fn run(model: &str, file: &str) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut child = Command::new("target/release/tombolo")
        .args(["up", file, "-o", "json"])
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
    let memory = resident();
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
    let Some(report) = report else {
        bail!("tombolo up {file} failed:\n{}", progress.join().unwrap_or_default());
    };
    let report: Value = serde_json::from_str(&report?).context("read the report")?;
    println!("model {model}: verified {} after {seconds:.1} s", report["ok"]);
    for (role, mut sizes) in memory {
        sizes.sort_unstable();
        let megabytes = |kib: &u64| {
            format!("{:.1}", f64::from(u32::try_from(*kib).unwrap_or(u32::MAX)) / 1024.0)
        };
        let list: Vec<_> = sizes.iter().map(megabytes).collect();
        println!("  {role:16} {:2} processes, resident MiB: {}", sizes.len(), list.join(" "));
    }
    Ok(())
}

/// Resident memory in KiB of every process of ours, by what it does.
fn resident() -> BTreeMap<String, Vec<u64>> {
    let mut found: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let Ok(processes) = fs::read_dir("/proc") else { return found };
    for process in processes.flatten() {
        let folder = process.path();
        let Ok(command) = fs::read(folder.join("cmdline")) else { continue };
        let words: Vec<String> = command
            .split(|byte| *byte == 0)
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        let Some(program) = words.first().filter(|word| word.ends_with("tombolo")) else {
            continue;
        };
        if program.is_empty() {
            continue;
        }
        let role = words
            .iter()
            .skip(1)
            .take_while(|word| !word.starts_with('-'))
            .take(2)
            .cloned()
            .collect::<Vec<_>>();
        let Ok(status) = fs::read_to_string(folder.join("status")) else { continue };
        let size = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok());
        if let Some(size) = size {
            found.entry(role.join(" ")).or_default().push(size);
        }
    }
    found
}
