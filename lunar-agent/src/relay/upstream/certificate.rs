//! A certificate for the tests.

use std::path::Path;

use tokio_rustls::rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

/// A certificate for `localhost`, as HAProxy reads it, and as whoever trusts it does.
pub(in crate::relay) fn certificate(dir: &Path) -> RootCertStore {
    let args = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -days 2 \
                -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE";
    let (key, certificate) = (dir.join("key"), dir.join("certificate"));
    let made = std::process::Command::new("openssl")
        .args(args.split_whitespace())
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .expect("openssl is there");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let both = [std::fs::read(&certificate).expect("read"), std::fs::read(key).expect("read")].concat();
    std::fs::write(dir.join("both"), both).expect("write");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate).expect("PEM")).expect("a certificate");
    roots
}
