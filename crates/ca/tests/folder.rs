//! Folders of certificates, judged by the `openssl` program.

#![cfg(test)]

#[path = "openssl/support.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use support::{openssl, quick};
use tempfile::TempDir;
use tombolo_ca::folder::{Error, Folder, IntermediateSettings, Origin};
use tombolo_ca::offline::{ISTIOD, Root, Settings};
use tombolo_tls::spiffe::SpiffeId;

fn intermediate() -> IntermediateSettings {
    IntermediateSettings { settings: quick(Settings::intermediate()), dns_name: ISTIOD.to_owned() }
}

fn vm() -> SpiffeId {
    "spiffe://cluster.local/ns/foo/sa/default".parse().unwrap()
}

/// Makes the folder of a cluster and returns the names of the files that were made.
fn cacerts(folder: &Path, cluster: &str) -> Result<Vec<String>, Error> {
    let mut run = Folder::new(folder);
    let root = quick(Settings::root());
    run.cacerts(Origin::SelfSigned, &root, cluster, &intermediate())?;
    Ok(names_of(folder, run.made()))
}

fn workload(folder: &Path) -> Result<Vec<String>, Error> {
    let mut run = Folder::new(folder);
    let (root, settings) = (quick(Settings::root()), quick(Settings::workload()));
    run.workload(Origin::SelfSigned, &root, &vm(), &intermediate(), &settings)?;
    Ok(names_of(folder, run.made()))
}

fn names_of(folder: &Path, paths: &[PathBuf]) -> Vec<String> {
    let name = |path: &PathBuf| path.strip_prefix(folder).unwrap().display().to_string();
    paths.iter().map(name).collect()
}

/// Every file with its mode.
fn modes(folder: &Path) -> BTreeMap<String, u32> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
    files
        .map(|entry| {
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            (entry.file_name().into_string().unwrap(), mode)
        })
        .collect()
}

/// Makes a file older or younger than all others, as time does.
fn touch(path: &Path, seconds: i64) {
    let now = std::time::SystemTime::now();
    let shift = std::time::Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 { now - shift } else { now + shift };
    fs::File::open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn files_and_modes_are_the_makefiles() {
    let dir = TempDir::new().unwrap();
    let made = cacerts(dir.path(), "cluster01").unwrap();
    assert_eq!(made.len(), 11, "{made:?}");
    workload(dir.path()).unwrap();
    let listed = |folder: &Path| -> Vec<String> {
        modes(folder).iter().map(|(name, mode)| format!("{name} {mode:o}")).collect()
    };
    let want = ["root-ca.conf 644", "root-cert.csr 644", "root-cert.pem 644", "root-cert.srl 644"];
    assert_eq!(listed(dir.path()), [&want[..], &["root-key.pem 600"]].concat());
    assert_eq!(
        listed(&dir.path().join("cluster01")),
        [
            "ca-cert.pem 644",
            "ca-key.pem 600",
            "cert-chain.pem 644",
            "cluster-ca.csr 644",
            "intermediate.conf 644",
            "root-cert.pem 644",
        ]
    );
    assert_eq!(
        listed(&dir.path().join("foo")),
        [
            "ca-cert.pem 644",
            "ca-key.pem 600",
            "key.pem 600",
            "root-cert.pem 644",
            "workload-cert-chain.pem 644",
            "workload-cert.pem 644",
            "workload.conf 644",
            "workload.csr 644",
        ]
    );
}

#[test]
fn openssl_accepts_every_chain_and_makes_the_same_again() {
    let dir = TempDir::new().unwrap();
    cacerts(dir.path(), "cluster01").unwrap();
    workload(dir.path()).unwrap();
    let run = |arguments: &str| openssl(dir.path(), arguments);
    for (arguments, name) in [
        ("-CAfile root-cert.pem", "root-cert.pem"),
        ("-CAfile cluster01/root-cert.pem", "cluster01/ca-cert.pem"),
        ("-CAfile root-cert.pem", "cluster01/cert-chain.pem"),
        ("-CAfile root-cert.pem", "foo/ca-cert.pem"),
        ("-CAfile foo/root-cert.pem -untrusted foo/ca-cert.pem", "foo/workload-cert.pem"),
        (
            "-CAfile root-cert.pem -untrusted foo/workload-cert-chain.pem -purpose sslserver",
            "foo/workload-cert-chain.pem",
        ),
    ] {
        let verified = run(&format!("verify -x509_strict {arguments} {name}"));
        assert_eq!(verified, format!("{name}: OK\n"));
    }
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    let chain = read("cluster01/ca-cert.pem") + &read("root-cert.pem");
    assert_eq!(read("cluster01/cert-chain.pem"), chain);
    let chain = read("foo/workload-cert.pem") + &read("foo/ca-cert.pem") + &read("root-cert.pem");
    assert_eq!(read("foo/workload-cert-chain.pem"), chain);

    // What lies beside a certificate makes the same subject and extensions in OpenSSL's hands.
    for (conf, key, csr, certificate) in [
        ("root-ca.conf", "root-key.pem", "root-cert.csr", "root-cert.pem"),
        (
            "cluster01/intermediate.conf",
            "cluster01/ca-key.pem",
            "cluster01/cluster-ca.csr",
            "cluster01/ca-cert.pem",
        ),
        ("foo/workload.conf", "foo/key.pem", "foo/workload.csr", "foo/workload-cert.pem"),
    ] {
        run(&format!("req -new -config {conf} -key {key} -out again.csr"));
        let ours = run(&format!("req -verify -noout -text -nameopt multiline -in {csr}"));
        let theirs = run("req -noout -text -nameopt multiline -in again.csr");
        // The order of extensions says nothing.
        let sorted = |text: &str| {
            let mut lines: Vec<_> = text.lines().map(|line| line.trim().to_owned()).collect();
            lines.sort_unstable();
            lines
        };
        let part = |text: &str| {
            let start = text.find("Subject:").unwrap();
            sorted(&text[start..text.find("Signature Algorithm").unwrap()])
        };
        assert_eq!(part(&ours), part(&theirs), "{csr}");
        let shown = "-noout -ext basicConstraints,keyUsage,extendedKeyUsage,subjectAltName";
        run(&format!(
            "x509 -req -in again.csr -signkey {key} -extensions req_ext -extfile {conf} -out again.pem"
        ));
        let ours = run(&format!("x509 {shown} -subject -in {certificate}"));
        let theirs = run(&format!("x509 {shown} -subject -in again.pem"));
        assert_eq!(sorted(&ours), sorted(&theirs), "{certificate}");
    }
}

#[test]
fn a_second_run_makes_nothing_and_a_missing_piece_is_made_again() {
    let dir = TempDir::new().unwrap();
    cacerts(dir.path(), "cluster01").unwrap();
    workload(dir.path()).unwrap();
    assert_eq!(cacerts(dir.path(), "cluster01").unwrap(), Vec::<String>::new());
    assert_eq!(workload(dir.path()).unwrap(), Vec::<String>::new());

    let remade = |names: &[&str], again: &dyn Fn() -> Vec<String>| {
        for name in names {
            fs::remove_file(dir.path().join(name)).unwrap();
        }
        again()
    };
    let cluster = || cacerts(dir.path(), "cluster01").unwrap();
    let chain = remade(&["cluster01/cert-chain.pem"], &cluster);
    assert_eq!(chain, ["cluster01/cert-chain.pem"]);
    // Nothing hangs on the request and the settings once the certificate is there.
    let paper = remade(&["cluster01/cluster-ca.csr", "cluster01/intermediate.conf"], &cluster);
    assert_eq!(paper, Vec::<String>::new());
    let key = fs::read(dir.path().join("cluster01/ca-key.pem")).unwrap();
    let certificate = remade(&["cluster01/ca-cert.pem"], &cluster);
    assert!(certificate.contains(&"cluster01/ca-cert.pem".to_owned()), "{certificate:?}");
    assert!(certificate.contains(&"cluster01/cert-chain.pem".to_owned()), "{certificate:?}");
    assert_eq!(key, fs::read(dir.path().join("cluster01/ca-key.pem")).unwrap(), "the key stays");
    let vm = remade(&["foo/workload-cert.pem"], &|| workload(dir.path()).unwrap());
    assert_eq!(vm, ["foo/workload-cert.pem", "foo/workload-cert-chain.pem"]);

    // A new root: what is older than it is signed again, with the keys that are there.
    Folder::new(dir.path()).clean().unwrap();
    let mut run = Folder::new(dir.path());
    run.root(&quick(Settings::root())).unwrap();
    touch(&dir.path().join("root-cert.pem"), 5);
    let made = cacerts(dir.path(), "cluster01").unwrap();
    assert!(made.contains(&"cluster01/ca-cert.pem".to_owned()), "{made:?}");
    assert!(!made.contains(&"cluster01/ca-key.pem".to_owned()), "{made:?}");
    let verified = openssl(dir.path(), "verify -CAfile root-cert.pem cluster01/ca-cert.pem");
    assert_eq!(verified, "cluster01/ca-cert.pem: OK\n");
}

#[test]
fn a_root_whose_key_is_gone_is_replaced_only_when_asked_for() {
    let dir = TempDir::new().unwrap();
    cacerts(dir.path(), "cluster01").unwrap();
    let before = fs::read(dir.path().join("root-cert.pem")).unwrap();
    fs::remove_file(dir.path().join("root-key.pem")).unwrap();
    let error = cacerts(dir.path(), "cluster02").unwrap_err();
    assert!(matches!(error, Error::KeyGone { .. }), "{error}");
    assert_eq!(before, fs::read(dir.path().join("root-cert.pem")).unwrap());
    Folder::new(dir.path()).root(&quick(Settings::root())).unwrap();
    assert_ne!(before, fs::read(dir.path().join("root-cert.pem")).unwrap());
}

#[test]
fn settings_that_contradict_what_is_there_are_refused() {
    let dir = TempDir::new().unwrap();
    Folder::new(dir.path()).root(&quick(Settings::root())).unwrap();
    fs::remove_file(dir.path().join("root-cert.pem")).unwrap();
    let other = Settings { organization: "Acme".into(), ..quick(Settings::root()) };
    let Err(error) = Folder::new(dir.path()).root(&other) else { panic!("accepted") };
    assert!(matches!(&error, Error::OtherSettings(path) if path.ends_with("root-ca.conf")));
    fs::remove_file(dir.path().join("root-ca.conf")).unwrap();
    Folder::new(dir.path()).root(&other).unwrap();
    let subject = openssl(dir.path(), "x509 -noout -subject -in root-cert.pem");
    assert_eq!(subject, "subject=O = Acme, CN = Root CA\n");
}

#[test]
fn bad_settings_are_refused_before_anything_is_made() {
    let dir = TempDir::new().unwrap();
    let long = "x".repeat(65);
    for organization in ["", " a", "a\nb", long.as_str()] {
        let bad = Settings { organization: organization.into(), ..quick(Settings::root()) };
        assert!(Folder::new(dir.path().join("a")).root(&bad).is_err(), "{organization:?}");
    }
    for days in [0, 36_501, u32::MAX] {
        let bad = Settings { days, ..quick(Settings::root()) };
        assert!(Folder::new(dir.path().join("a")).root(&bad).is_err(), "{days}");
    }
    assert!(!dir.path().join("a").exists(), "nothing is left behind");
    for name in ["", "..", "../x", "a/b", "a\nb", ".hidden", "-f"] {
        assert!(cacerts(dir.path(), name).is_err(), "{name:?}");
    }
    for dns_name in ["", "a b", "a,DNS:b"] {
        let mut settings = intermediate();
        settings.dns_name = dns_name.into();
        let mut run = Folder::new(dir.path());
        let root = quick(Settings::root());
        let made = run.cacerts(Origin::SelfSigned, &root, "cluster01", &settings);
        assert!(made.is_err(), "{dns_name:?}");
    }
}

#[test]
fn subjects_with_special_characters_mean_the_same_to_openssl() {
    let dir = TempDir::new().unwrap();
    let settings = Settings {
        organization: "A \"b\" #c $d \\e 'f' `g` é, h".into(),
        ..quick(Settings::root())
    };
    Folder::new(dir.path()).root(&settings).unwrap();
    let run = |arguments: &str| openssl(dir.path(), arguments);
    run("req -new -config root-ca.conf -key root-key.pem -out again.csr");
    let ours = run("x509 -noout -subject -nameopt sep_multiline,utf8 -in root-cert.pem");
    assert!(ours.contains(&settings.organization), "{ours}");
    assert_eq!(ours, run("req -noout -subject -nameopt sep_multiline,utf8 -in again.csr"));
}

#[test]
fn openssl_goes_on_where_we_stopped_and_we_where_it_did() {
    let dir = TempDir::new().unwrap();
    cacerts(dir.path(), "cluster01").unwrap();
    let run = |arguments: &str| openssl(dir.path(), arguments);
    let serial = |name: &str| {
        let text = run(&format!("x509 -noout -serial -in {name}"));
        u128::from_str_radix(&text.trim().trim_start_matches("serial=")[8..], 16).unwrap()
    };
    run(
        "x509 -req -days 1 -CA root-cert.pem -CAkey root-key.pem -CAcreateserial -in cluster01/cluster-ca.csr -out theirs.pem",
    );
    cacerts(dir.path(), "cluster02").unwrap();
    let first = serial("cluster01/ca-cert.pem");
    assert_eq!(serial("theirs.pem"), first + 1);
    assert_eq!(serial("cluster02/ca-cert.pem"), first + 2);
}

#[test]
fn no_symbolic_link_is_followed_to_write() {
    let dir = TempDir::new().unwrap();
    let target = dir.path().join("elsewhere");
    symlink(&target, dir.path().join("root-key.pem")).unwrap();
    assert!(Folder::new(dir.path()).root(&quick(Settings::root())).is_err());
    assert!(!target.exists());
}

#[test]
fn a_fetched_root_signs_and_one_that_may_not_is_refused() {
    let dir = TempDir::new().unwrap();
    let root = Root::generate(&quick(Settings::root())).unwrap();
    let mut run = Folder::new(dir.path());
    let sign = |run: &mut Folder| {
        let unused = quick(Settings::root());
        run.cacerts(Origin::Kubernetes, &unused, "cluster02", &intermediate())
    };
    assert!(matches!(sign(&mut run), Err(Error::NotFetched(_))));
    run.fetched("admin/prod", &root.certificate_pem(), &root.key_pem()).unwrap();
    let key = dir.path().join("admin-prod/k8s-root-key.pem");
    assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!run.has_fetched() && !run.use_fetched("other").unwrap());
    assert!(run.use_fetched("admin/prod").unwrap() && run.has_fetched());
    sign(&mut run).unwrap();
    let verified = openssl(
        dir.path(),
        "verify -x509_strict -CAfile k8s-root-cert.pem cluster02/cert-chain.pem",
    );
    assert_eq!(verified, "cluster02/cert-chain.pem: OK\n");

    // An intermediate for a control plane may sign workloads only.
    let one = root.intermediate("cluster01", &quick(Settings::intermediate())).unwrap();
    run.fetched("other", &one.certificate_pem(), &one.key_pem()).unwrap();
    touch(&dir.path().join("k8s-root-cert.pem"), 5);
    let error = sign(&mut run).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("pathlen:0"), "{source}");
    let removed = run.clean().unwrap();
    assert_eq!(
        names_of(dir.path(), &removed),
        ["k8s-root-cert.pem", "k8s-root-cert.srl", "k8s-root-key.pem"]
    );
}

#[test]
fn many_at_once_make_one_root_and_each_its_own() {
    let dir = TempDir::new().unwrap();
    let clusters: Vec<String> = (0..6).map(|n| format!("cluster{}", n / 2)).collect();
    std::thread::scope(|scope| {
        for cluster in &clusters {
            scope.spawn(|| cacerts(dir.path(), cluster).unwrap());
        }
    });
    let mut serials = Vec::new();
    for cluster in ["cluster0", "cluster1", "cluster2"] {
        let verified =
            openssl(dir.path(), &format!("verify -CAfile root-cert.pem {cluster}/ca-cert.pem"));
        assert_eq!(verified, format!("{cluster}/ca-cert.pem: OK\n"));
        serials
            .push(openssl(dir.path(), &format!("x509 -noout -serial -in {cluster}/ca-cert.pem")));
    }
    serials.sort();
    serials.dedup();
    assert_eq!(serials.len(), 3, "{serials:?}");
}
