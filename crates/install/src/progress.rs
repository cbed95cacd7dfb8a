//! Progress of long work: a live list of steps on a terminal, plain lines elsewhere.
//!
//! Everything goes to standard error, so that standard output stays a document.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// How often a spinner moves.
const TICK: Duration = Duration::from_millis(120);

/// Where steps are shown. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Progress {
    live: Option<MultiProgress>,
    quiet: bool,
}

/// One step that is under way. Dropped unfinished, it shows as interrupted.
#[derive(Debug)]
pub struct Step {
    progress: Progress,
    bar: Option<ProgressBar>,
    title: String,
    started: Instant,
    finished: bool,
}

impl Progress {
    /// A live list where standard error is a terminal, plain lines where it is not.
    pub fn new() -> Self {
        Self { live: stderr().is_terminal().then(MultiProgress::new), quiet: false }
    }

    /// Shows nothing.
    pub fn quiet() -> Self {
        Self { live: None, quiet: true }
    }

    /// Starts a step. `subject` is what it happens to, usually a cluster.
    pub fn step(&self, subject: &str, action: &str) -> Step {
        let title =
            if subject.is_empty() { action.to_owned() } else { format!("{subject}: {action}") };
        let bar = self.live.as_ref().map(|live| {
            let bar = live.add(ProgressBar::new_spinner().with_message(title.clone()));
            bar.set_style(style("{spinner} {wide_msg} {elapsed}"));
            bar.enable_steady_tick(TICK);
            bar
        });
        if bar.is_none() {
            self.line(&format!("...   {title}"));
        }
        Step { progress: self.clone(), bar, title, started: Instant::now(), finished: false }
    }

    /// Says something that is not a step, such as where to look next.
    pub fn say(&self, text: &str) {
        self.line(text);
    }

    fn line(&self, text: &str) {
        if self.quiet {
            return;
        }
        match &self.live {
            // A terminal that went away is no reason to stop the work.
            Some(live) => drop(live.println(text)),
            None => drop(writeln!(stderr(), "{text}")),
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Step {
    /// Shows what the step waits for now.
    pub fn waits_for(&self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{} ({what})", self.title));
        }
    }

    /// The step is done; `result` may name what came of it.
    pub fn done(mut self, result: &str) {
        let text = if result.is_empty() {
            self.title.clone()
        } else {
            format!("{}: {result}", self.title)
        };
        self.finish("ok   ", &text);
    }

    /// The step failed.
    pub fn failed(mut self, why: &str) {
        let text = format!("{}: {why}", self.title);
        self.finish("FAIL ", &text);
    }

    fn finish(&mut self, mark: &str, text: &str) {
        self.finished = true;
        let seconds = self.started.elapsed().as_secs_f64();
        match &self.bar {
            Some(bar) => {
                bar.set_style(style("{wide_msg}"));
                bar.finish_with_message(format!("{mark} {text} ({seconds:.1} s)"));
            }
            None => self.progress.line(&format!("{mark} {text} ({seconds:.1} s)")),
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.finished {
            let title = self.title.clone();
            self.finish("stop ", &title);
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}
