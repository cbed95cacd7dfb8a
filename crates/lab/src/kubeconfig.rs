//! Users' kubeconfigs: a cluster's entries are merged in and taken out as kind does it.
//!
//! Guarantees: entries of other tools are kept as they are; a file is replaced as a whole or not
//! at all; kubectl's own lock (`FILE.lock`) is held meanwhile, so kubectl never loses a change.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::directory::{private_folder, write_private};
use crate::spec::ClusterName;

/// How long to wait for another program that changes the same file.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// How often to look whether the lock is free.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// What a kubeconfig must hold to reach a cluster as one user.
pub struct Access {
    /// The name of the context, the cluster and the user.
    pub context: String,
    /// The API server's URL.
    pub server: String,
    /// The authority's certificate, PEM.
    pub authority: String,
    /// The user's certificate, PEM.
    pub certificate: String,
    /// The user's key, PEM.
    pub key: String,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access")
            .field("context", &self.context)
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

impl Access {
    /// A kubeconfig with nothing else in it.
    pub fn document(&self) -> String {
        let mut document = Value::Object(Map::new());
        merge(&mut document, self);
        to_yaml(&document)
    }
}

/// Which files hold a user's contexts, in kubectl's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubeconfigFiles(Vec<PathBuf>);

impl KubeconfigFiles {
    /// The explicit file, else the list in `KUBECONFIG`, else `~/.kube/config`.
    pub fn find(
        explicit: Option<PathBuf>,
        listed: Option<OsString>,
        home: Option<OsString>,
    ) -> Option<Self> {
        if let Some(path) = explicit {
            return Some(Self(vec![path]));
        }
        let mut files: Vec<PathBuf> = Vec::new();
        for path in std::env::split_paths(&listed.unwrap_or_default()) {
            if !path.as_os_str().is_empty() && !files.contains(&path) {
                files.push(path);
            }
        }
        if files.is_empty() {
            files.push(PathBuf::from(home?).join(".kube/config"));
        }
        Some(Self(files))
    }

    /// The file that gets new entries: the first that exists, else the last of the list.
    pub fn target(&self) -> Option<&Path> {
        let existing = self.0.iter().find(|file| file.exists());
        existing.or(self.0.last()).map(PathBuf::as_path)
    }

    /// All files of the list.
    pub fn all(&self) -> &[PathBuf] {
        &self.0
    }
}

/// Why a kubeconfig could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// It cannot be read or written.
    #[error("{action} the kubeconfig {}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    /// It is not YAML.
    #[error("the kubeconfig {} is not valid; mend it or name another with --kubeconfig: {reason}", path.display())]
    Parse { path: PathBuf, reason: String },
    /// Another program holds its lock.
    #[error(
        "{} is locked by another program for too long; if none runs, remove {}.lock", path.display(), path.display()
    )]
    Locked { path: PathBuf },
}

/// Adds or replaces a cluster's entries in `file` and makes its context the current one.
///
/// # Errors
/// When the file cannot be locked, read or written; it is unchanged then.
pub async fn add(file: &Path, access: &Access) -> Result<(), KubeconfigError> {
    change(file, |document| {
        merge(document, access);
        true
    })
    .await
}

/// Takes a cluster's entries out of `file`; a file without them is not touched.
///
/// # Errors
/// When the file cannot be locked, read or written; it is unchanged then.
pub async fn remove(file: &Path, cluster: &ClusterName) -> Result<(), KubeconfigError> {
    if !file.exists() {
        return Ok(());
    }
    change(file, |document| take_out(document, &cluster.context())).await
}

async fn change(file: &Path, edit: impl FnOnce(&mut Value) -> bool) -> Result<(), KubeconfigError> {
    let failed =
        |action| move |source| KubeconfigError::File { action, path: file.to_owned(), source };
    if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        private_folder(folder).map_err(failed("make the folder of"))?;
    }
    let _lock = Lock::take(file).await?;
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        text => text.map_err(failed("read"))?,
    };
    let mut document = parse(file, &text)?;
    if !edit(&mut document) {
        return Ok(());
    }
    // A link stays a link: what it leads to is replaced.
    let target = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let mut fresh = target.clone().into_os_string();
    fresh.push(".tombolo-new");
    let fresh = PathBuf::from(fresh);
    write_private(&fresh, &to_yaml(&document)).map_err(failed("write"))?;
    fs::rename(&fresh, &target).map_err(failed("replace"))
}

fn parse(file: &Path, text: &str) -> Result<Value, KubeconfigError> {
    let bad = |reason: String| KubeconfigError::Parse { path: file.to_owned(), reason };
    if text.trim().is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    match serde_saphyr::from_str::<Value>(text).map_err(|error| bad(error.to_string()))? {
        Value::Null => Ok(Value::Object(Map::new())),
        document @ Value::Object(_) => Ok(document),
        _ => Err(bad("it is not a map".to_owned())),
    }
}

fn to_yaml(document: &Value) -> String {
    // A value that came from YAML or from `json!` can always be written as YAML.
    serde_saphyr::to_string(document).unwrap_or_else(|_| document.to_string())
}

/// The three lists of a kubeconfig, each with named entries.
const LISTS: [&str; 3] = ["clusters", "contexts", "users"];

fn merge(document: &mut Value, access: &Access) {
    let encode = |pem: &str| STANDARD.encode(pem);
    let entries = [
        json!({"name": access.context, "cluster": {
            "certificate-authority-data": encode(&access.authority), "server": access.server}}),
        json!({"name": access.context, "context": {
            "cluster": access.context, "user": access.context}}),
        json!({"name": access.context, "user": {
            "client-certificate-data": encode(&access.certificate),
            "client-key-data": encode(&access.key)}}),
    ];
    let Some(fields) = document.as_object_mut() else { return };
    fields.insert("apiVersion".into(), "v1".into());
    fields.insert("kind".into(), "Config".into());
    fields.entry("preferences").or_insert_with(|| json!({}));
    fields.insert("current-context".into(), access.context.clone().into());
    for (list, entry) in LISTS.into_iter().zip(entries) {
        let list = fields.entry(list).or_insert_with(|| json!([]));
        if !list.is_array() {
            *list = json!([]);
        }
        if let Some(list) = list.as_array_mut() {
            match list.iter_mut().find(|known| named(known, &access.context)) {
                Some(known) => *known = entry,
                None => list.push(entry),
            }
        }
    }
}

/// Returns whether anything was there to take out.
fn take_out(document: &mut Value, context: &str) -> bool {
    let Some(fields) = document.as_object_mut() else { return false };
    let mut changed = false;
    for list in LISTS {
        if let Some(list) = fields.get_mut(list).and_then(Value::as_array_mut) {
            let before = list.len();
            list.retain(|entry| !named(entry, context));
            changed |= list.len() != before;
        }
    }
    if fields.get("current-context").and_then(Value::as_str) == Some(context) {
        fields.insert("current-context".into(), "".into());
        changed = true;
    }
    changed
}

fn named(entry: &Value, name: &str) -> bool {
    entry.get("name").and_then(Value::as_str) == Some(name)
}

/// kubectl's lock on a kubeconfig: a file beside it that only one program can create.
struct Lock(PathBuf);

impl Lock {
    async fn take(file: &Path) -> Result<Self, KubeconfigError> {
        let mut lock = file.as_os_str().to_owned();
        lock.push(".lock");
        let lock = PathBuf::from(lock);
        let give_up = Instant::now() + LOCK_PATIENCE;
        loop {
            let mut options = OpenOptions::new();
            match options.write(true).create_new(true).mode(0o600).open(&lock) {
                Ok(_) => return Ok(Self(lock)),
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(KubeconfigError::File {
                        action: "lock",
                        path: file.to_owned(),
                        source: error,
                    });
                }
                Err(_) if Instant::now() > give_up => {
                    return Err(KubeconfigError::Locked { path: file.to_owned() });
                }
                Err(_) => tokio::time::sleep(LOCK_PAUSE).await,
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::warn!(lock = %self.0.display(), %error, "kubeconfig lock not removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(name: &str) -> Access {
        let text = |s: &str| s.to_owned();
        Access {
            context: text(name),
            server: text("https://127.0.0.1:1"),
            authority: text("ca"),
            certificate: text("crt"),
            key: text("key"),
        }
    }

    #[tokio::test]
    async fn other_entries_stay_as_they_are_when_a_cluster_comes_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("deep/config");
        add(&file, &access("kind-other")).await.unwrap();
        let mut document = parse(&file, &fs::read_to_string(&file).unwrap()).unwrap();
        document["contexts"][0]["context"]["namespace"] = json!("mine");
        document["extensions"] = json!([{"name": "010", "extension": "yes"}]);
        fs::write(&file, to_yaml(&document)).unwrap();

        add(&file, &access("kind-c1")).await.unwrap();
        add(&file, &access("kind-c1")).await.unwrap();
        let both = parse(&file, &fs::read_to_string(&file).unwrap()).unwrap();
        assert_eq!(both["current-context"], "kind-c1");
        assert_eq!(both["users"].as_array().unwrap().len(), 2);

        remove(&file, &"c1".parse().unwrap()).await.unwrap();
        document["current-context"] = json!("");
        assert_eq!(parse(&file, &fs::read_to_string(&file).unwrap()).unwrap(), document);
        assert_eq!(fs::read_dir(folder.path().join("deep")).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn parallel_changes_are_all_kept() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        let names: Vec<_> = (0..10).map(|n| format!("kind-c{n}")).collect();
        let changes = names.iter().map(async |name| add(&file, &access(name)).await.unwrap());
        futures::future::join_all(changes).await;
        let document = parse(&file, &fs::read_to_string(&file).unwrap()).unwrap();
        assert_eq!(document["contexts"].as_array().unwrap().len(), names.len());
    }

    #[tokio::test]
    async fn a_file_that_is_not_a_kubeconfig_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        fs::write(&file, "- a\n- b\n").unwrap();
        let error = add(&file, &access("kind-c1")).await.unwrap_err();
        assert!(error.to_string().ends_with("it is not a map"), "{error}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "- a\n- b\n");
    }

    #[test]
    fn the_target_follows_kubectls_rules() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        let listed = std::env::join_paths([&a, &b, &a]).unwrap();
        let files = KubeconfigFiles::find(None, Some(listed.clone()), None).unwrap();
        assert_eq!((files.all().len(), files.target().unwrap()), (2, b.as_path()));
        fs::write(&a, "").unwrap();
        assert_eq!(files.target().unwrap(), a);
        let explicit = KubeconfigFiles::find(Some("x".into()), Some(listed), None).unwrap();
        assert_eq!(explicit.target().unwrap(), Path::new("x"));
        let home = KubeconfigFiles::find(None, None, Some("/h".into())).unwrap();
        assert_eq!(home.target().unwrap(), Path::new("/h/.kube/config"));
        assert_eq!(KubeconfigFiles::find(None, Some("".into()), None), None);
    }
}
