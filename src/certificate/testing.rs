//! Certificates made for one test, in a directory of its own. Also used by the integration tests.

#![allow(dead_code)] // each of the two uses a part

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};

static COUNT: AtomicUsize = AtomicUsize::new(0);

/// A directory that is removed at the end, with an authority that signs what is asked for.
pub(crate) struct Certificates {
    directory: PathBuf,
    authority: Issuer<'static, KeyPair>,
}

impl Certificates {
    /// In a directory that nobody else uses.
    pub(crate) fn new() -> Certificates {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tidegate-certificates-{}-{count}", std::process::id());
        Certificates::at(&std::env::temp_dir().join(name))
    }

    pub(crate) fn at(directory: &Path) -> Certificates {
        let directory = directory.to_owned();
        fs::create_dir_all(&directory).expect("this much always works");
        let key = KeyPair::generate().expect("this much always works");
        let mut params = CertificateParams::new(Vec::new()).expect("this much always works");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("this much always works");
        fs::write(directory.join("ca.pem"), certificate.pem()).expect("this much always works");
        Certificates { directory, authority: Issuer::new(params, key) }
    }

    /// The directory, which stays.
    pub(crate) fn into_directory(mut self) -> PathBuf {
        std::mem::take(&mut self.directory)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The file of the authority.
    pub(crate) fn ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// Writes `NAME.pem` and `NAME.key`, valid for these hosts until the end of the year.
    pub(crate) fn pair(&self, name: &str, hosts: &[&str], last: i32) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().expect("this much always works");
        let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).expect("this much always works");
        params.not_after = date_time_ymd(last, 12, 31);
        let certificate = params.signed_by(&key, &self.authority).expect("this much always works");
        let cert = self.write(&format!("{name}.pem"), &certificate.pem());
        let key = self.write(&format!("{name}.key"), &key.serialize_pem());
        (cert, key)
    }

    /// A certificate that is no authority, signed with its own key.
    pub(crate) fn self_signed(&self, name: &str, host: &str) -> (PathBuf, PathBuf) {
        self.signed_by_itself(name, host, IsCa::ExplicitNoCa)
    }

    /// As `openssl req -x509` makes it unless told otherwise.
    pub(crate) fn self_signed_authority(&self, name: &str, host: &str) -> (PathBuf, PathBuf) {
        self.signed_by_itself(name, host, IsCa::Ca(BasicConstraints::Unconstrained))
    }

    fn signed_by_itself(&self, name: &str, host: &str, is_ca: IsCa) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().expect("this much always works");
        let params = CertificateParams::new(vec![host.to_owned()]);
        let mut params = params.expect("this much always works");
        params.is_ca = is_ca;
        let certificate = params.self_signed(&key).expect("this much always works");
        let cert = self.write(&format!("{name}.pem"), &certificate.pem());
        (cert, self.write(&format!("{name}.key"), &key.serialize_pem()))
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("this much always works");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("this much always works");
        path
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        if !self.directory.as_os_str().is_empty() {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}
