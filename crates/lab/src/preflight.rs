//! What the machine must have before a lab is made, and how to mend what is missing.
//!
//! Everything here only looks: nothing is created, so a failed check leaves nothing behind.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Folders where administration tools live, which are not always in a user's `PATH`.
const SYSTEM_FOLDERS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin"];

/// The programs that every lab calls, and the Debian package each comes from.
const PROGRAMS: [(&str, &str); 2] = [("ip", "iproute2"), ("nft", "nftables")];

/// The programs of a real Kubernetes API, in place of the embedded one.
const KUBERNETES: [&str; 3] = ["etcd", "kube-apiserver", "kube-controller-manager"];

/// One thing that is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// What is not there.
    pub what: String,
    /// How to mend it.
    pub remedy: String,
}

/// Everything that is missing; the display text is one line per thing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct PreflightError(pub Vec<Missing>);

impl fmt::Display for PreflightError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this machine cannot run lab clusters yet; nothing was created")?;
        for missing in &self.0 {
            write!(f, "\n  {}: {}", missing.what, missing.remedy)?;
        }
        Ok(())
    }
}

/// Checks the programs and the kernel features that every lab needs.
///
/// # Errors
/// Lists everything that is missing, not only the first.
pub fn check(path: &OsStr) -> Result<(), PreflightError> {
    let mut missing = missing_programs(path);
    missing.extend(missing_namespaces(Path::new("/proc/self/ns")));
    if missing.is_empty() { Ok(()) } else { Err(PreflightError(missing)) }
}

/// Finds the folder that holds the programs of a real Kubernetes API.
///
/// # Errors
/// When none of `folders` holds all of them.
pub fn kubernetes_programs(folders: &[PathBuf]) -> Result<PathBuf, PreflightError> {
    let complete =
        folders.iter().find(|folder| KUBERNETES.iter().all(|name| is_program(&folder.join(name))));
    complete.cloned().ok_or_else(|| {
        let looked: Vec<_> = folders.iter().map(|f| f.display().to_string()).collect();
        PreflightError(vec![Missing {
            what: format!("the programs {} are not together in any of {}", KUBERNETES.join(", "), looked.join(", ")),
            remedy: "set KUBEBUILDER_ASSETS to the folder that holds them (tools/kubernetes/build makes them), or use the embedded API server".to_owned(),
        }])
    })
}

/// The search path for child processes: `path`, then the folders of administration tools.
pub fn search_path(path: &OsStr) -> std::ffi::OsString {
    let mut folders: Vec<PathBuf> = std::env::split_paths(path).collect();
    for folder in SYSTEM_FOLDERS.map(PathBuf::from) {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    // Only a folder that holds `:` cannot be joined, and these came from splitting at it.
    std::env::join_paths(folders).unwrap_or_else(|_| path.to_owned())
}

/// The full path of `program`, looked up as a child process of the lab would.
pub fn find_program(path: &OsStr, program: &str) -> Option<PathBuf> {
    std::env::split_paths(&search_path(path))
        .map(|folder| folder.join(program))
        .find(|file| is_program(file))
}

fn missing_programs(path: &OsStr) -> Vec<Missing> {
    let absent = PROGRAMS.iter().filter(|(program, _)| find_program(path, program).is_none());
    absent
        .map(|(program, package)| Missing {
            what: format!("program `{program}` is not installed"),
            remedy: format!("install it, on Debian with `apt-get install {package}`"),
        })
        .collect()
}

fn missing_namespaces(folder: &Path) -> Vec<Missing> {
    let kinds = ["net", "mnt", "pid", "ipc", "uts", "user"];
    let absent = kinds.iter().filter(|kind| !folder.join(kind).exists());
    absent
        .map(|kind| Missing {
            what: format!("the kernel has no {kind} namespaces"),
            remedy: "use a kernel with CONFIG_NAMESPACES and all kinds of namespaces".to_owned(),
        })
        .collect()
}

fn is_program(file: &Path) -> bool {
    file.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_kernel_feature_and_its_remedy_are_named() {
        let folder = tempfile::tempdir().unwrap();
        for kind in ["net", "mnt", "pid", "ipc", "uts"] {
            std::fs::write(folder.path().join(kind), "").unwrap();
        }
        let missing = missing_namespaces(folder.path());
        assert_eq!(
            PreflightError(missing).to_string(),
            "this machine cannot run lab clusters yet; nothing was created\n  \
             the kernel has no user namespaces: use a kernel with CONFIG_NAMESPACES and all kinds of namespaces"
        );
    }

    #[test]
    fn an_incomplete_set_of_kubernetes_programs_says_where_it_looked() {
        let folder = tempfile::tempdir().unwrap();
        let error = kubernetes_programs(&[folder.path().to_owned()]).unwrap_err().to_string();
        assert!(error.contains(&folder.path().display().to_string()), "{error}");
        assert!(error.contains("KUBEBUILDER_ASSETS"), "{error}");
    }
}
