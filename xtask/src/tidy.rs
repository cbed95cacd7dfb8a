//! The structure that the documents promise, checked: arrows between rooms, cycles between
//! modules, lengths and names of files, and that documents name what exists.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde_json::Value;

/// The only allowed arrows between rooms. A new one is a design decision, so it shows up here.
const ARROWS: &[(&str, &[&str])] = &[
    ("tombolo-model", &[]),
    ("tombolo-crds", &["tombolo-model"]),
    ("tombolo-runtime", &[]),
    ("tombolo-tls", &["tombolo-model"]),
    ("tombolo-ca", &["tombolo-model", "tombolo-tls", "tombolo-runtime"]),
    ("tombolo-xds", &["tombolo-runtime"]),
    (
        "tombolo-control",
        &[
            "tombolo-model",
            "tombolo-crds",
            "tombolo-runtime",
            "tombolo-tls",
            "tombolo-ca",
            "tombolo-xds",
        ],
    ),
    ("tombolo-proxy", &["tombolo-model", "tombolo-runtime", "tombolo-tls", "tombolo-xds"]),
    (
        "tombolo-agent",
        &["tombolo-model", "tombolo-runtime", "tombolo-tls", "tombolo-xds", "tombolo-proxy"],
    ),
    (
        "tombolo-install",
        &["tombolo-model", "tombolo-crds", "tombolo-runtime", "tombolo-tls", "tombolo-ca"],
    ),
    // The lab knows its API server only by the public API, so that a real one can take its place.
    ("tombolo-apiserver", &["tombolo-runtime"]),
    (
        "tombolo-lab",
        &["tombolo-model", "tombolo-crds", "tombolo-runtime", "tombolo-tls", "tombolo-ca"],
    ),
    (
        "tombolo",
        &[
            "tombolo-model",
            "tombolo-crds",
            "tombolo-runtime",
            "tombolo-tls",
            "tombolo-ca",
            "tombolo-xds",
            "tombolo-control",
            "tombolo-proxy",
            "tombolo-agent",
            "tombolo-install",
            "tombolo-lab",
            "tombolo-apiserver",
        ],
    ),
    ("xtask", &[]),
];

/// Kubernetes client code never enters the data plane.
const BANNED: &[(&str, &[&str])] =
    &[("tombolo-proxy", &["kube", "k8s-openapi"]), ("tombolo-agent", &["kube", "k8s-openapi"])];

/// Lines of code, comments and tests not counted, that a file may have.
const MOST_LINES: usize = 500;

/// What is built on each machine and not on a fresh clone.
const BUILT: &[&str] = &["tools/kubernetes/bin"];

/// Names that say nothing.
const EMPTY_NAMES: &[&str] =
    &["util", "utils", "common", "misc", "helper", "helpers", "core", "imp", "manager", "handler"];

/// Runs every check and reports all that is wrong.
pub(crate) fn run() -> anyhow::Result<()> {
    let mut problems = arrows()?;
    for file in sources(Path::new("crates"))?.iter().chain(&sources(Path::new("xtask"))?) {
        let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        problems.extend(check_file(file, &text));
    }
    for entry in fs::read_dir("crates").context("list crates")? {
        let source = entry?.path().join("src");
        problems.extend(cycles(&source)?);
    }
    problems.extend(documents()?);
    ensure!(problems.is_empty(), "tidy found problems:\n  {}", problems.join("\n  "));
    Ok(())
}

/// Compares the workspace's dependencies with what is allowed.
fn arrows() -> anyhow::Result<Vec<String>> {
    let output = Command::new("cargo")
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
        .output()
        .context("run cargo metadata")?;
    ensure!(
        output.status.success(),
        "cargo metadata failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).context("read cargo metadata")?;
    let mut problems = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = ARROWS.iter().find(|(known, _)| *known == name) else {
            problems.push(format!("{name} is not in the list of rooms (xtask/src/tidy.rs)"));
            continue;
        };
        let banned =
            BANNED.iter().find(|(known, _)| *known == name).map_or(&[][..], |(_, banned)| banned);
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let to = dependency["name"].as_str().unwrap_or_default();
            let ours = to == "tombolo" || to.starts_with("tombolo-");
            if (ours && !allowed.contains(&to)) || banned.contains(&to) {
                problems.push(format!("{name} -> {to}: this arrow is not allowed"));
            }
        }
    }
    Ok(problems)
}

/// All Rust files below a folder, sorted.
fn sources(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The lines before the tests that are neither empty nor comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    // `#[cfg(test)] mod tests;` may stand anywhere; only an inline test module ends the code.
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text[..end].lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//"))
}

fn is_test(file: &Path) -> bool {
    file.components().any(|part| part.as_os_str() == "tests")
        || file.file_name().is_some_and(|name| name == "tests.rs")
}

fn check_file(file: &Path, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let name = file.display();
    let lines = code(text).count();
    if !is_test(file) && lines > MOST_LINES {
        problems
            .push(format!("{name}: {lines} lines of code; split it ({MOST_LINES} is the limit)"));
    }
    if file
        .file_stem()
        .and_then(|stem| stem.to_str())
        .is_some_and(|stem| EMPTY_NAMES.contains(&stem))
    {
        problems.push(format!("{name}: this name says nothing; say what it does"));
    }
    let in_source = file.components().any(|part| part.as_os_str() == "src");
    if in_source && !is_test(file) && !text.starts_with("//!") {
        problems.push(format!("{name}: the first lines must say what the file is for (`//!`)"));
    }
    problems
}

/// Reports top-level modules of a crate that refer to each other in a cycle.
fn cycles(source: &Path) -> anyhow::Result<Vec<String>> {
    let mut arrows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in sources(source)?.iter().filter(|file| !is_test(file)) {
        let Some(module) = module_of(source, file) else { continue };
        let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        for line in code(&text) {
            for to in line.split("crate::").skip(1).flat_map(modules) {
                if to != module {
                    arrows.entry(module.clone()).or_default().insert(to.to_owned());
                }
            }
        }
    }
    let mut problems = Vec::new();
    for start in arrows.keys() {
        if let Some(cycle) = cycle_from(&arrows, start)
            && cycle.iter().min() == Some(start)
        {
            problems.push(format!(
                "{}: modules in a cycle: {}",
                source.display(),
                cycle.join(" -> ")
            ));
        }
    }
    Ok(problems)
}

/// The modules that stand behind a `crate::`: one, or a list in braces on the same line.
fn modules(path: &str) -> Vec<&str> {
    let paths: Vec<&str> = match path.strip_prefix('{') {
        Some(list) => list.split('}').next().unwrap_or(list).split(',').collect(),
        None => vec![path],
    };
    let names = paths
        .into_iter()
        .filter_map(|path| path.trim().split(|c: char| !c.is_alphanumeric() && c != '_').next());
    names.filter(|name| !name.is_empty()).collect()
}

/// The top-level module that a file belongs to.
fn module_of(source: &Path, file: &Path) -> Option<String> {
    let first = file.strip_prefix(source).ok()?.components().next()?;
    let name = Path::new(&first).file_stem()?.to_str()?.to_owned();
    (name != "lib" && name != "main").then_some(name)
}

/// The shortest way from a module back to itself.
fn cycle_from(arrows: &BTreeMap<String, BTreeSet<String>>, start: &str) -> Option<Vec<String>> {
    let mut ways = vec![vec![start.to_owned()]];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            for to in way.last().and_then(|last| arrows.get(last)).into_iter().flatten() {
                if to == start {
                    return Some(way);
                }
                if seen.insert(to.clone()) {
                    longer.push(way.iter().cloned().chain([to.clone()]).collect());
                }
            }
        }
        ways = longer;
    }
    None
}

/// The map names every room, and the tours name only paths that exist.
fn documents() -> anyhow::Result<Vec<String>> {
    let mut problems = Vec::new();
    let map = fs::read_to_string("ARCHITECTURE.md").context("read ARCHITECTURE.md")?;
    for (name, _) in ARROWS {
        let room = name
            .strip_prefix("tombolo-")
            .map_or_else(|| (*name).to_owned(), |room| format!("crates/{room}"));
        if !map.contains(&room) {
            problems.push(format!("ARCHITECTURE.md does not name {room}"));
        }
    }
    for entry in fs::read_dir("docs").context("list docs")? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        for named in text.split('`').skip(1).step_by(2) {
            let is_path = ["crates/", "docs/", "examples/", "samples/", "tools/", "xtask/"]
                .iter()
                .any(|root| named.starts_with(root));
            let is_path = is_path && !BUILT.iter().any(|built| named.starts_with(built));
            if is_path && !named.contains(char::is_whitespace) && !Path::new(named).exists() {
                problems.push(format!("{} names {named}, which does not exist", path.display()));
            }
        }
    }
    Ok(problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_a_file_ends_at_its_inline_tests_only() {
        let text = "#[cfg(test)]\nmod tests;\n// why\n\nfn a() {}\n#[cfg(test)]\nmod tests {\n  fn b() {}\n}\n";
        assert_eq!(code(text).collect::<Vec<_>>(), ["#[cfg(test)]", "mod tests;", "fn a() {}"]);
    }

    #[test]
    fn modules_are_seen_alone_and_in_lists() {
        assert_eq!(modules("config::routes::Route;"), ["config"]);
        assert_eq!(modules("{http, tcp::serve};"), ["http", "tcp"]);
        assert_eq!(modules("{Ca, ca};"), ["Ca", "ca"]);
    }

    #[test]
    fn cycles_are_found_with_their_way() {
        let arrow = |from: &str, to: &[&str]| {
            (from.to_owned(), to.iter().map(|to| (*to).to_owned()).collect())
        };
        let arrows = BTreeMap::from([
            arrow("a", &["b"]),
            arrow("b", &["c"]),
            arrow("c", &["a"]),
            arrow("d", &["a"]),
        ]);
        assert_eq!(
            cycle_from(&arrows, "a"),
            Some(vec!["a".to_owned(), "b".to_owned(), "c".to_owned()])
        );
        assert_eq!(cycle_from(&arrows, "d"), None);
    }

    #[test]
    fn long_nameless_and_silent_files_are_reported() {
        let long = format!("//! What.\n{}", "let a = 1;\n".repeat(501));
        assert_eq!(
            check_file(Path::new("crates/x/src/utils.rs"), &long),
            [
                "crates/x/src/utils.rs: 501 lines of code; split it (500 is the limit)",
                "crates/x/src/utils.rs: this name says nothing; say what it does"
            ]
        );
        assert_eq!(check_file(Path::new("crates/x/src/a.rs"), "fn a() {}\n").len(), 1);
    }
}
