//! What we issue, read and verified by the `openssl` program.

#![cfg(test)]

#[path = "openssl/support.rs"]
mod support;

use std::fs;

use support::{openssl, quick};
use tempfile::TempDir;
use time::Duration;
use tombolo_ca::authority::{Authority, Lifetimes, Unsigned, Unusable};
use tombolo_ca::bundle::{self, Files};
use tombolo_ca::offline::{self, Intermediate, Root, Settings};
use tombolo_ca::request::Refused;
use tombolo_tls::key::{KeyKind, PrivateKey};
use tombolo_tls::spiffe::{SpiffeId, TrustDomain};

fn pair() -> (Root, Intermediate) {
    let root = Root::generate(&quick(Settings::root())).unwrap();
    let one = root.intermediate("cluster01", &quick(Settings::intermediate())).unwrap();
    (root, one)
}

fn files(one: &Intermediate) -> Files {
    Files {
        certificate: one.certificate_pem(),
        key: one.key_pem(),
        chain: one.chain_pem(),
        root: one.root_pem(),
        crl: None,
    }
}

fn sleep() -> SpiffeId {
    "spiffe://cluster.local/ns/sample/sa/sleep".parse().unwrap()
}

#[test]
fn names_that_leave_the_directory_are_refused() {
    let (root, _) = pair();
    for name in ["", "..", "../x", "a/b", "a\nb", ".hidden"] {
        let made = root.intermediate(name, &quick(Settings::intermediate()));
        assert!(matches!(made, Err(offline::Error::Name(_))), "{name:?}");
    }
}

#[test]
fn an_authority_that_openssl_made_signs_for_us() {
    let dir = TempDir::new().unwrap();
    let run = |arguments: &str| openssl(dir.path(), arguments);
    run(
        "req -x509 -newkey rsa:2048 -nodes -keyout root-key.pem -out root-cert.pem -days 10 -subj /O=Istio/CN=Root -addext keyUsage=critical,keyCertSign",
    );
    let (cert, key) = ("root-cert.pem", "root-key.pem");
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    let root = Root::from_pem(&read(cert), &read(key)).unwrap();
    let one = root.intermediate("cluster02", &quick(Settings::intermediate())).unwrap();
    fs::write(dir.path().join("ca-cert.pem"), one.certificate_pem()).unwrap();
    let verified = run("verify -x509_strict -CAfile root-cert.pem ca-cert.pem");
    assert_eq!(verified, "ca-cert.pem: OK\n");
}

#[test]
fn workload_certificates_verify_and_say_exactly_what_was_decided() {
    let dir = TempDir::new().unwrap();
    let (_, one) = pair();
    let authority = Authority::from_files(&files(&one)).unwrap();
    for kind in [KeyKind::P256, KeyKind::P384, KeyKind::Rsa2048] {
        let key = PrivateKey::generate(kind).unwrap();
        let csr = key.request(&"spiffe://evil/ns/kube-system/sa/admin".parse().unwrap()).unwrap();
        let answer = authority.sign(&csr, &sleep(), 0, Lifetimes::default()).unwrap();
        let want = [one.certificate_pem(), one.root_pem(), one.root_pem()];
        assert_eq!(answer[1..], want, "leaf, chain, roots");
        for (name, text) in
            [("leaf.pem", &answer[0]), ("ca.pem", &answer[1]), ("root.pem", &answer[3])]
        {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let run = |arguments: &str| openssl(dir.path(), arguments);
        for purpose in ["sslserver", "sslclient"] {
            let arguments = format!(
                "verify -x509_strict -purpose {purpose} -CAfile root.pem -untrusted ca.pem leaf.pem"
            );
            assert_eq!(run(&arguments), "leaf.pem: OK\n", "{kind:?}");
        }
        let text = run("x509 -noout -text -in leaf.pem");
        for line in [
            "Subject: \n",
            "X509v3 Subject Alternative Name: critical\n                URI:spiffe://cluster.local/ns/sample/sa/sleep\n",
            "CA:FALSE",
            "Digital Signature, Key Encipherment\n",
            "TLS Web Server Authentication, TLS Web Client Authentication\n",
        ] {
            assert!(text.contains(line), "no `{line}` in {text}");
        }
        assert!(!text.contains("evil"), "{text}");
    }
}

#[test]
fn a_lifetime_is_limited_by_policy_and_by_the_authority() {
    let root = Root::generate(&quick(Settings::root())).unwrap();
    let short = Settings { days: 1, ..quick(Settings::intermediate()) };
    let one = root.intermediate("cluster01", &short).unwrap();
    let authority = Authority::from_files(&files(&one)).unwrap();
    let csr = PrivateKey::generate(KeyKind::P256).unwrap().request(&sleep()).unwrap();
    let life = |seconds| -> Result<(i64, i64), Unsigned> {
        let answer = authority.sign(&csr, &sleep(), seconds, Lifetimes::default())?;
        let leaf = tombolo_tls::x509::certificates(&answer[0]).unwrap().swap_remove(0);
        let facts = tombolo_tls::x509::Facts::read(&leaf).unwrap();
        let now = time::OffsetDateTime::now_utc();
        let start = (now - time::OffsetDateTime::from(facts.not_before)).whole_seconds();
        let end = (time::OffsetDateTime::from(facts.not_after) - now).whole_seconds();
        Ok((start, end))
    };
    let (start, end) = life(3600).unwrap();
    assert!((115..=125).contains(&start) && (3590..=3600).contains(&end), "{start} {end}");
    // A day by default, and not longer than the authority, which lives a day in all.
    for seconds in [0, -1, i64::MIN, 89 * 86400] {
        let (_, end) = life(seconds).unwrap();
        assert!((86_000..=86_400).contains(&end), "{seconds}: {end}");
    }
    for seconds in [90 * 86400 + 1, i64::MAX] {
        assert!(matches!(life(seconds), Err(Unsigned::Lifetime { .. })), "{seconds}");
    }
}

#[test]
fn requests_with_weak_keys_or_without_proof_are_refused() {
    let dir = TempDir::new().unwrap();
    let authority = Authority::self_signed(
        &TrustDomain::new("cluster.local").unwrap(),
        KeyKind::Rsa2048,
        Duration::days(1),
    )
    .unwrap();
    let sign = |csr: &str| authority.sign(csr, &sleep(), 0, Lifetimes::default()).map(drop);
    let made = |arguments: &str| {
        openssl(
            dir.path(),
            &format!("req -new -nodes -keyout k.pem -out r.csr -subj /CN=x {arguments}"),
        );
        fs::read_to_string(dir.path().join("r.csr")).unwrap()
    };
    let refused = |csr: &str, want: &str| {
        let error = sign(csr).unwrap_err().to_string();
        assert!(error.contains(want), "wanted `{want}`: {error}");
    };
    refused(&made("-newkey rsa:1024"), "RSA with 1024 bits");
    refused(&made("-newkey ed25519"), "");
    refused(&made("-newkey ec -pkeyopt ec_paramgen_curve:secp521r1"), "an elliptic curve of");
    refused(&made("-newkey ec -pkeyopt ec_paramgen_curve:secp256k1"), "");
    refused(&made("-newkey ec -pkeyopt ec_paramgen_curve:prime192v1"), "192");
    refused(&made("-newkey rsa:2048 -sha1"), "not accepted");
    refused(&made("-newkey rsa:2048 -pkeyopt rsa_keygen_pubexp:3"), "exponent");
    let good = made("-newkey rsa:2048");
    sign(&good).unwrap();
    // One bit of the signature, which is at the end.
    let blocks = pem::parse(&good).unwrap();
    let mut bytes = blocks.contents().to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    let forged = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", bytes));
    assert!(matches!(sign(&forged), Err(Unsigned::Request(Refused::Possession))));
    refused(&(good.clone() + &good), "not one PEM block");
    refused("", "not one PEM block");
    refused(&good.replace("CERTIFICATE REQUEST", "CERTIFICATE"), "not one PEM block");
    refused(&"A".repeat(40_000), "at most");
    refused(&pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", b"junk".to_vec())), "malformed");
}

#[test]
fn demands_of_a_request_are_ignored_not_granted() {
    let dir = TempDir::new().unwrap();
    let (_, one) = pair();
    let authority = Authority::from_files(&files(&one)).unwrap();
    openssl(
        dir.path(),
        "req -new -nodes -newkey rsa:2048 -keyout k.pem -out r.csr -subj /CN=admin -addext basicConstraints=critical,CA:TRUE -addext keyUsage=keyCertSign -addext subjectAltName=DNS:istiod.istio-system.svc,URI:spiffe://x/ns/a/sa/b -addext extendedKeyUsage=anyExtendedKeyUsage",
    );
    let csr = fs::read_to_string(dir.path().join("r.csr")).unwrap();
    let answer = authority.sign(&csr, &sleep(), 0, Lifetimes::default()).unwrap();
    let leaf = tombolo_tls::x509::certificates(&answer[0]).unwrap().swap_remove(0);
    let facts = tombolo_tls::x509::Facts::read(&leaf).unwrap();
    let got = (facts.is_ca, facts.may_sign, facts.uris, facts.dns_names, facts.subject);
    assert_eq!(got, (false, false, vec![sleep().to_string()], vec![], String::new()));
}

#[test]
fn a_plugged_in_authority_under_another_root_names_both_fingerprints() {
    let (_, one) = pair();
    let (other, _) = pair();
    let mut files = files(&one);
    files.root = other.certificate_pem();
    files.chain = one.certificate_pem();
    let Err(error) = Authority::from_files(&files) else { panic!("accepted") };
    let text = error.to_string();
    let signing = tombolo_tls::x509::certificates(&one.certificate_pem()).unwrap();
    let theirs = tombolo_tls::x509::fingerprint(&signing[0]);
    assert!(text.contains(&other.fingerprint()) && text.contains(&theirs), "{text}");

    // The chain that goes with it holds its own root, which is then the one that is named.
    files.chain = one.chain_pem();
    let Err(error) = Authority::from_files(&files) else { panic!("accepted") };
    let root = tombolo_tls::x509::certificates(&one.root_pem()).unwrap();
    let theirs = tombolo_tls::x509::fingerprint(&root[0]);
    assert!(error.to_string().contains(&theirs), "{error}");
}

#[test]
fn keys_and_certificates_that_do_not_belong_together_are_refused() {
    let (_, one) = pair();
    let mut swapped = files(&one);
    swapped.key = PrivateKey::generate(KeyKind::P256).unwrap().to_pem();
    assert!(matches!(Authority::from_files(&swapped), Err(Unusable::Mismatch(_))));
    let authority = Authority::from_files(&files(&one)).unwrap();
    let (leaf, key) = authority.serve(&["a.example".into()], Duration::hours(1)).unwrap();
    let mut leafed = files(&one);
    leafed.certificate = leaf;
    leafed.key = key.to_pem();
    assert!(matches!(Authority::from_files(&leafed), Err(Unusable::NotAuthority(_))));
}

#[test]
fn both_layouts_of_cacerts_are_read_and_half_of_one_is_an_error() {
    let dir = TempDir::new().unwrap();
    let (_, one) = pair();
    assert!(bundle::read(dir.path()).unwrap().is_none());
    let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    for (name, text) in one.cacerts() {
        put(name, &text);
    }
    let read = bundle::read(dir.path()).unwrap().unwrap();
    Authority::from_files(&read).unwrap();
    fs::remove_file(dir.path().join("cert-chain.pem")).unwrap();
    let Err(error) = bundle::read(dir.path()) else { panic!("accepted") };
    assert!(error.to_string().contains("[\"cert-chain.pem\"] not found"), "{error}");

    put("tls.crt", &one.certificate_pem());
    put("tls.key", &one.key_pem());
    put("ca.crt", &one.root_pem());
    let read = bundle::read(dir.path()).unwrap().unwrap();
    assert_eq!(read.chain, one.chain_pem());
    Authority::from_files(&read).unwrap();
    put("istio-generated", "");
    assert!(bundle::read(dir.path()).unwrap().is_none());
}

#[test]
fn a_self_signed_authority_is_its_own_root_and_serves_by_name() {
    let dir = TempDir::new().unwrap();
    let domain = TrustDomain::new("cluster.local").unwrap();
    let authority =
        Authority::self_signed(&domain, KeyKind::Rsa2048, Duration::days(3650)).unwrap();
    let names = vec!["istiod.istio-system.svc".to_owned(), "istiod-remote.istio-system.svc".into()];
    let (chain, _) = authority.serve(&names, Duration::days(365)).unwrap();
    fs::write(dir.path().join("leaf.pem"), chain).unwrap();
    fs::write(dir.path().join("root.pem"), authority.certificate_pem()).unwrap();
    let verified = openssl(
        dir.path(),
        "verify -x509_strict -verify_hostname istiod.istio-system.svc -purpose sslserver -CAfile root.pem leaf.pem",
    );
    assert_eq!(verified, "leaf.pem: OK\n");
    let subject = openssl(dir.path(), "x509 -noout -subject -in root.pem");
    assert_eq!(subject, "subject=O = cluster.local\n");
}
