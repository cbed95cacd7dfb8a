//! A folder of certificates, made piece by piece as `make` does with Istio's two Makefiles: what
//! is there is not made again, what is missing or older than what it is made from is.
//!
//! ```text
//! root-key.pem root-ca.conf root-cert.csr root-cert.pem root-cert.srl
//! CLUSTER/ca-key.pem intermediate.conf cluster-ca.csr ca-cert.pem cert-chain.pem root-cert.pem
//! NAMESPACE/key.pem workload.conf workload.csr workload-cert.pem workload-cert-chain.pem
//!           ca-key.pem ca-cert.pem root-cert.pem
//! CONTEXT/k8s-root-cert.pem k8s-root-key.pem, copied to k8s-root-cert.pem k8s-root-key.pem
//! ```
//!
//! **Invariants**
//! * Keys are readable by their owner only, are never replaced and never leave by any other way.
//! * A file appears whole or not at all, and no symbolic link is followed to write one.
//! * Processes that work in one folder at the same time take turns, so `make -j` is safe.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tombolo_tls::key::PrivateKey;
use tombolo_tls::spiffe::SpiffeId;
use zeroize::Zeroizing;

use crate::authority::{Authority, Unusable};
use crate::bundle::Files;
use crate::offline::{self, Intermediate, Root, Settings, check_dns_name, paperwork, plain};

mod serial;

/// Why a folder could not be completed. What was made before stays and is used the next time.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{verb} {path}")]
    File { verb: &'static str, path: PathBuf, source: io::Error },
    #[error("make {path}")]
    Make { path: PathBuf, source: offline::Error },
    #[error("make a key for {path}")]
    Key { path: PathBuf, source: tombolo_tls::key::Error },
    #[error("{0} is not what `openssl x509 -CAcreateserial` writes: hexadecimal digits")]
    Serial(PathBuf),
    #[error(
        "{0} says otherwise than the settings given now; give the settings it was made with, or remove it to have it made anew"
    )]
    OtherSettings(PathBuf),
    #[error(
        "{key} is missing beside {certificate}; put it back, or make another root (`root-ca`), of which every cluster then needs an intermediate"
    )]
    KeyGone { key: PathBuf, certificate: PathBuf },
    #[error("{0} is missing; get it from a cluster first (`fetch-root-ca`)")]
    NotFetched(PathBuf),
    #[error("{path} cannot sign; remove its files to have them made anew")]
    Unusable { path: PathBuf, source: Unusable },
}

/// Which root signs: the names of its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Made here: `root-cert.pem`.
    SelfSigned,
    /// Fetched from a cluster: `k8s-root-cert.pem`.
    Kubernetes,
}

impl Origin {
    fn file(self, name: &str) -> String {
        match self {
            Self::SelfSigned => format!("root-{name}"),
            Self::Kubernetes => format!("k8s-root-{name}"),
        }
    }
}

/// What intermediates are made with.
#[derive(Clone, Debug)]
pub struct IntermediateSettings {
    pub settings: Settings,
    /// The DNS name of the control plane.
    pub dns_name: String,
}

impl IntermediateSettings {
    fn check(&self) -> Result<(), offline::Error> {
        self.settings.check()?;
        check_dns_name(&self.dns_name)
    }
}

/// What `clean` removes: root, requests and settings, but no folder of a cluster.
const CLEANED: &[&str] = &[
    "k8s-root-cert.pem",
    "k8s-root-cert.srl",
    "k8s-root-key.pem",
    "root-ca.conf",
    "root-cert.csr",
    "root-cert.pem",
    "root-cert.srl",
    "root-key.pem",
];

const SECRET: u32 = 0o600;
const PUBLIC: u32 = 0o644;

/// One run over a folder. It says which files it made.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    made: Vec<PathBuf>,
}

impl Folder {
    /// A run over `path`, which is made when something is put there.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), made: Vec::new() }
    }

    /// The files that this run made, in order.
    pub fn made(&self) -> &[PathBuf] {
        &self.made
    }

    /// Completes the self-signed root and returns it.
    ///
    /// # Errors
    /// When a file cannot be read or written, or what is there contradicts itself or `settings`.
    pub fn root(&mut self, settings: &Settings) -> Result<Root, Error> {
        good(&self.path.join("root-cert.pem"), settings.check())?;
        let _turn = turn(&self.path)?;
        let (key, certificate) = (self.path.join("root-key.pem"), self.path.join("root-cert.pem"));
        let (conf, csr) = (self.path.join("root-ca.conf"), self.path.join("root-cert.csr"));
        self.key(&key, settings)?;
        if stale(&certificate, &[&key, &conf, &csr])? {
            let failed = |source| Error::Make { path: certificate.clone(), source };
            let root = Root::certify(read_key(&key)?, settings).map_err(failed)?;
            if let Some(paperwork) = root.paperwork() {
                self.paperwork(paperwork, &conf, &csr, &key)?;
            }
            self.put(&certificate, &root.certificate_pem(), PUBLIC)?;
        }
        load_root(&certificate, &key)
    }

    /// Completes the folder of a cluster: its intermediate, signed by the root, which is made too
    /// when it is self-signed and not there.
    ///
    /// # Errors
    /// As [`Folder::root`], and when the root is not there and cannot be made.
    pub fn cacerts(
        &mut self,
        origin: Origin,
        root: &Settings,
        cluster: &str,
        settings: &IntermediateSettings,
    ) -> Result<(), Error> {
        let folder = self.named(cluster)?;
        good(&folder, settings.check())?;
        self.known_root(origin, root)?;
        let _turn = turn(&folder)?;
        let intermediate = self.intermediate(origin, cluster, settings)?;
        if let Some(paperwork) = intermediate.paperwork() {
            let (conf, csr) = (folder.join("intermediate.conf"), folder.join("cluster-ca.csr"));
            self.paperwork(paperwork, &conf, &csr, &folder.join("ca-key.pem"))?;
        }
        self.write_intermediate(&folder, &intermediate)?;
        let (authority, top) =
            (folder.join("ca-cert.pem"), self.path.join(origin.file("cert.pem")));
        self.copy_of_root(&folder, &top)?;
        let chain = folder.join("cert-chain.pem");
        if stale(&chain, &[&authority, &top])? {
            self.put(&chain, &(read(&authority)? + &read(&top)?), PUBLIC)?;
        }
        check(&folder, &chain)
    }

    /// Completes the folder of a namespace: an intermediate, and the certificate of a virtual
    /// machine with that namespace's service account, signed by the intermediate.
    ///
    /// # Errors
    /// As [`Folder::cacerts`].
    pub fn workload(
        &mut self,
        origin: Origin,
        root: &Settings,
        id: &SpiffeId,
        intermediate: &IntermediateSettings,
        settings: &Settings,
    ) -> Result<(), Error> {
        let folder = self.named(id.namespace())?;
        good(&folder, intermediate.check().and_then(|()| settings.check()))?;
        self.known_root(origin, root)?;
        let _turn = turn(&folder)?;
        let made = self.intermediate(origin, id.namespace(), intermediate)?;
        self.write_intermediate(&folder, &made)?;
        let top = self.path.join(origin.file("cert.pem"));
        self.copy_of_root(&folder, &top)?;
        let (authority, key) = (folder.join("ca-cert.pem"), folder.join("key.pem"));
        let (conf, csr) = (folder.join("workload.conf"), folder.join("workload.csr"));
        let certificate = folder.join("workload-cert.pem");
        self.key(&key, settings)?;
        if stale(&certificate, &[&key, &conf, &csr, &authority])? {
            let failed = |source| Error::Make { path: certificate.clone(), source };
            let workload = made.certify_workload(id, read_key(&key)?, settings).map_err(failed)?;
            self.paperwork(workload.paperwork(), &conf, &csr, &key)?;
            self.put(&certificate, &workload.certificate_pem(), PUBLIC)?;
        }
        let chain = folder.join("workload-cert-chain.pem");
        if stale(&chain, &[&certificate, &authority, &top])? {
            let text = read(&certificate)? + &read(&authority)? + &read(&top)?;
            self.put(&chain, &text, PUBLIC)?;
        }
        check(&folder, &top)
    }

    /// Keeps a root that was fetched from the cluster of `context` in that context's folder. It
    /// replaces one that was fetched before, also where that is used from.
    ///
    /// # Errors
    /// When the texts are no root, or a file cannot be written.
    pub fn fetched(&mut self, context: &str, certificate: &str, key: &str) -> Result<Root, Error> {
        let folder = self.path.join(context_folder(context));
        let failed = |source| Error::Make { path: folder.join("k8s-root-cert.pem"), source };
        let root = Root::from_pem(certificate, key).map_err(failed)?;
        let _turn = turn(&self.path)?;
        make_folder(&folder)?;
        let mut places = vec![folder];
        if self.has_fetched() {
            places.push(self.path.clone());
        }
        for place in places {
            self.put(&place.join("k8s-root-cert.pem"), certificate, PUBLIC)?;
            self.put(&place.join("k8s-root-key.pem"), key, SECRET)?;
        }
        Ok(root)
    }

    /// Takes the root in use from the folder of `context`. Says whether there is one.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn use_fetched(&mut self, context: &str) -> Result<bool, Error> {
        let folder = self.path.join(context_folder(context));
        let (certificate, key) =
            (folder.join("k8s-root-cert.pem"), folder.join("k8s-root-key.pem"));
        if !certificate.exists() || !key.exists() {
            return Ok(false);
        }
        let _turn = turn(&self.path)?;
        self.put(&self.path.join("k8s-root-cert.pem"), &read(&certificate)?, PUBLIC)?;
        self.put(&self.path.join("k8s-root-key.pem"), &read_secret(&key)?, SECRET)?;
        Ok(true)
    }

    /// Whether a fetched root is in use here.
    pub fn has_fetched(&self) -> bool {
        ["cert.pem", "key.pem"]
            .iter()
            .all(|name| self.path.join(Origin::Kubernetes.file(name)).exists())
    }

    /// Removes the root and what it was made from. Folders of clusters stay. Returns what was
    /// there.
    ///
    /// # Errors
    /// When a file is there and cannot be removed.
    pub fn clean(&self) -> Result<Vec<PathBuf>, Error> {
        let mut removed = Vec::new();
        for path in CLEANED.iter().map(|name| self.path.join(name)) {
            match fs::remove_file(&path) {
                Ok(()) => removed.push(path),
                Err(error) if error.kind() == io::ErrorKind::NotFound => (),
                Err(source) => return Err(Error::File { verb: "remove", path, source }),
            }
        }
        Ok(removed)
    }

    fn named(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.path.join(name);
        good(&path, plain(name))?;
        Ok(path)
    }

    /// Sees to it that the root's two files are there.
    fn known_root(&mut self, origin: Origin, settings: &Settings) -> Result<(), Error> {
        let (certificate, key) =
            (self.path.join(origin.file("cert.pem")), self.path.join(origin.file("key.pem")));
        match origin {
            // A new key would silently be a new root for the clusters that are made from now on.
            Origin::SelfSigned if certificate.exists() && !key.exists() => {
                Err(Error::KeyGone { key, certificate })
            }
            Origin::SelfSigned => self.root(settings).map(drop),
            Origin::Kubernetes if !certificate.exists() => Err(Error::NotFetched(certificate)),
            Origin::Kubernetes if !key.exists() => Err(Error::NotFetched(key)),
            Origin::Kubernetes => {
                let root = load_root(&certificate, &key)?;
                root.check().map_err(|source| Error::Make { path: certificate, source })
            }
        }
    }

    /// The intermediate of a folder: as it is there, or signed now. Its key is written if needed.
    fn intermediate(
        &mut self,
        origin: Origin,
        cluster: &str,
        settings: &IntermediateSettings,
    ) -> Result<Intermediate, Error> {
        let folder = self.path.join(cluster);
        let (root_certificate, root_key) =
            (self.path.join(origin.file("cert.pem")), self.path.join(origin.file("key.pem")));
        let (certificate, key) = (folder.join("ca-cert.pem"), folder.join("ca-key.pem"));
        let (conf, csr) = (folder.join("intermediate.conf"), folder.join("cluster-ca.csr"));
        let failed = |source| Error::Make { path: certificate.clone(), source };
        self.key(&key, &settings.settings)?;
        if !stale(&certificate, &[&key, &conf, &csr, &root_certificate, &root_key])? {
            let (text, key) = (read(&certificate)?, read_secret(&key)?);
            return Intermediate::from_pem(cluster, &text, &key, &read(&root_certificate)?)
                .map_err(failed);
        }
        let _turn = turn(&self.path)?;
        let root = load_root(&root_certificate, &root_key)?;
        let serial = serial::Serial::next(&self.path.join(origin.file("cert.srl")))?;
        let (settings, name) = (&settings.settings, &settings.dns_name);
        let key = read_key(&key)?;
        let made = root
            .certify_intermediate(cluster, key, settings, name, Some(serial.number()))
            .map_err(failed)?;
        self.put(&self.path.join(origin.file("cert.srl")), &serial.text(), PUBLIC)?;
        Ok(made)
    }

    /// Writes an intermediate that was signed now.
    fn write_intermediate(&mut self, folder: &Path, made: &Intermediate) -> Result<(), Error> {
        match made.paperwork() {
            Some(_) => self.put(&folder.join("ca-cert.pem"), &made.certificate_pem(), PUBLIC),
            None => Ok(()),
        }
    }

    fn copy_of_root(&mut self, folder: &Path, root: &Path) -> Result<(), Error> {
        let copy = folder.join("root-cert.pem");
        if stale(&copy, &[root])? {
            self.put(&copy, &read(root)?, PUBLIC)?;
        }
        Ok(())
    }

    /// Makes a key if there is none.
    fn key(&mut self, path: &Path, settings: &Settings) -> Result<(), Error> {
        if path.symlink_metadata().is_ok() {
            return Ok(());
        }
        let key = PrivateKey::generate(settings.key)
            .map_err(|source| Error::Key { path: path.to_owned(), source })?;
        self.put(path, &key.to_pem(), SECRET)
    }

    /// Writes the settings and the request of a certificate, unless they are there already.
    fn paperwork(
        &mut self,
        paperwork: &offline::Paperwork,
        conf: &Path,
        csr: &Path,
        key: &Path,
    ) -> Result<(), Error> {
        if !conf.exists() {
            self.put(conf, &paperwork.configuration, PUBLIC)?;
        } else if !paperwork::same(&read(conf)?, &paperwork.configuration) {
            return Err(Error::OtherSettings(conf.to_owned()));
        }
        if stale(csr, &[conf, key])? {
            self.put(csr, &paperwork.request, PUBLIC)?;
        }
        Ok(())
    }

    /// Writes a file whole, beside its place, and then moves it there.
    fn put(&mut self, path: &Path, text: &str, mode: u32) -> Result<(), Error> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{}", std::process::id()));
        let beside = PathBuf::from(beside);
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&beside)
            .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&beside, path));
        if let Err(source) = written {
            // The first error says more than this one could.
            let _ = fs::remove_file(&beside);
            return Err(Error::File { verb: "write", path: path.to_owned(), source });
        }
        self.made.push(path.to_owned());
        Ok(())
    }
}

/// Settings are looked at before anything is made.
fn good(path: &Path, settings: Result<(), offline::Error>) -> Result<(), Error> {
    settings.map_err(|source| Error::Make { path: path.to_owned(), source })
}

/// The folder of a context: its name, in which `/` is no separator.
pub fn context_folder(context: &str) -> String {
    let name = context.replace('/', "-");
    if matches!(name.as_str(), "" | "." | "..") { format!("context-{name}") } else { name }
}

/// Makes `folder` if needed and waits until no other process works there.
fn turn(folder: &Path) -> Result<File, Error> {
    make_folder(folder)?;
    let failed = |source| Error::File { verb: "lock", path: folder.to_owned(), source };
    let turn = File::open(folder).map_err(failed)?;
    turn.lock().map_err(failed)?;
    Ok(turn)
}

fn make_folder(folder: &Path) -> Result<(), Error> {
    let made = DirBuilder::new().recursive(true).mode(0o755).create(folder);
    made.map_err(|source| Error::File { verb: "make folder", path: folder.to_owned(), source })
}

/// Whether `target` is missing, or older than one of what it is made from. What of that is
/// missing does not count.
fn stale(target: &Path, made_from: &[&Path]) -> Result<bool, Error> {
    let Some(age) = changed(target)? else { return Ok(true) };
    for path in made_from {
        if changed(path)?.is_some_and(|newer| newer > age) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn changed(path: &Path) -> Result<Option<SystemTime>, Error> {
    match fs::metadata(path).and_then(|metadata| metadata.modified()) {
        Ok(time) => Ok(Some(time)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File { verb: "read", path: path.to_owned(), source }),
    }
}

fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| Error::File {
        verb: "read",
        path: path.to_owned(),
        source,
    })
}

fn read_secret(path: &Path) -> Result<Zeroizing<String>, Error> {
    read(path).map(Zeroizing::new)
}

fn read_key(path: &Path) -> Result<PrivateKey, Error> {
    PrivateKey::from_pem(&read_secret(path)?)
        .map_err(|source| Error::Key { path: path.to_owned(), source })
}

fn load_root(certificate: &Path, key: &Path) -> Result<Root, Error> {
    Root::from_pem(&read(certificate)?, &read_secret(key)?)
        .map_err(|source| Error::Make { path: certificate.to_owned(), source })
}

/// Whether a control plane could sign with what the folder holds.
fn check(folder: &Path, chain: &Path) -> Result<(), Error> {
    let files = Files {
        certificate: read(&folder.join("ca-cert.pem"))?,
        key: read_secret(&folder.join("ca-key.pem"))?,
        chain: read(chain)?,
        root: read(&folder.join("root-cert.pem"))?,
        crl: None,
    };
    Authority::from_files(&files)
        .map(drop)
        .map_err(|source| Error::Unusable { path: folder.to_owned(), source })
}
