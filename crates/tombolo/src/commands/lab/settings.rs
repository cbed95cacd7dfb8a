//! What the lab commands read from the environment, in one place.

use std::path::PathBuf;

use anyhow::Context as _;
use tombolo_lab::directory::LabDirectory;
use tombolo_lab::kubeconfig::KubeconfigFiles;
use tombolo_lab::lab::{Lab, LabSettings, kubeconfig_files};

/// The lab that the environment names: `TOMBOLO_LAB_DIR`, else the user's own.
pub fn lab() -> anyhow::Result<Lab> {
    Ok(Lab::new(lab_settings()?))
}

/// The settings of that lab.
pub fn lab_settings() -> anyhow::Result<LabSettings> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let directory = match set("TOMBOLO_LAB_DIR") {
        Some(folder) => Some(LabDirectory::new(
            std::path::absolute(&folder).context("TOMBOLO_LAB_DIR is not a path")?,
        )),
        None => LabDirectory::by_default(set("XDG_STATE_HOME"), set("HOME")),
    };
    let mut kubernetes: Vec<PathBuf> =
        set("KUBEBUILDER_ASSETS").map(PathBuf::from).into_iter().collect();
    kubernetes.push(std::path::absolute("tools/kubernetes/bin")?);
    let path = set("PATH").unwrap_or_default();
    kubernetes.extend(std::env::split_paths(&path));
    Ok(LabSettings {
        directory: directory.context("no folder for the lab: set HOME or TOMBOLO_LAB_DIR")?,
        program: std::env::current_exe().context("find this program")?,
        path,
        kubernetes,
    })
}

/// The kubeconfig files that the environment names.
pub fn user_kubeconfig(explicit: Option<PathBuf>) -> anyhow::Result<KubeconfigFiles> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    Ok(kubeconfig_files(explicit, set("KUBECONFIG"), set("HOME"))?)
}
