//! Certificates and private keys as files: reading them, and what can be wrong with them.
//!
//! A leaf, since three layers ask the same questions: the configuration (is this pair usable?), the
//! listeners and the connections to the application. Files are PEM; a path is absolute, or relative
//! to the working directory. Knows nothing of sockets.
//!
//! ring does the cryptography, not aws-lc-rs: it builds in a third of the time with nothing but a C
//! compiler on every target, musl included, and is smaller; aws-lc-rs's advantages (FIPS, faster
//! RSA) are not what a sidecar needs.

#[cfg(test)]
pub(crate) mod testing;

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use der::asn1::{AnyRef, GeneralizedTime, UtcTime};
use der::{DateTime, Decode, Reader, SliceReader, Tag, Tagged};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;

/// The largest file that is read, in bytes: 1 MiB. A bundle of all public authorities has 250 KiB.
const MAX_FILE: u64 = 1 << 20;

/// What is wrong with a file of certificates or with a key.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// It does not exist, may not be read, is no file, or is too large.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is none between `BEGIN CERTIFICATE` lines.
    #[error("there is no certificate in {}", .0.display())]
    NoCertificate(PathBuf),
    /// One of them is damaged, or is no X.509 certificate.
    #[error("a certificate in {} is damaged", .0.display())]
    BadCertificate(PathBuf),
    /// There is none between `BEGIN ... PRIVATE KEY` lines.
    #[error("there is no private key in {}", .0.display())]
    NoKey(PathBuf),
    /// It asks for a passphrase.
    #[error("the private key in {} is encrypted", .0.display())]
    EncryptedKey(PathBuf),
    /// It is damaged, or of a kind that TLS does not use.
    #[error("the private key in {} cannot be used", .0.display())]
    BadKey(PathBuf),
    /// It belongs to another certificate.
    #[error(
        "the private key in {} is not that of the certificate in {}",
        key.display(),
        cert.display()
    )]
    Mismatch {
        /// The file of the certificate.
        cert: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
}

/// When a certificate ceases to be valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// Since 1970-01-01 UTC.
    pub since_epoch: Duration,
    /// The day, such as `2031-12-24`.
    pub date: String,
}

/// The contents of some files, to tell whether they have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(u64);

/// The cryptography that is used everywhere.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A chain, the certificate itself first, with the key that belongs to it.
///
/// # Errors
///
/// A file cannot be read, holds nothing usable, or the two do not belong together.
pub fn load_pair(cert: &Path, key: &Path) -> Result<CertifiedKey, CertificateError> {
    let chain = load_chain(cert)?;
    let secret = load_key(key)?;
    CertifiedKey::from_der(chain, secret, &provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            CertificateError::Mismatch { cert: cert.to_owned(), key: key.to_owned() }
        }
        rustls::Error::InvalidCertificate(_) => CertificateError::BadCertificate(cert.to_owned()),
        _ => CertificateError::BadKey(key.to_owned()),
    })
}

/// The authorities of a file: at least one.
///
/// # Errors
///
/// The file cannot be read, or holds no usable certificate.
pub fn load_roots(path: &Path) -> Result<RootCertStore, CertificateError> {
    let mut roots = RootCertStore::empty();
    for authority in load_chain(path)? {
        roots.add(authority).map_err(|_| CertificateError::BadCertificate(path.to_owned()))?;
    }
    Ok(roots)
}

/// The certificates of a file, in its order: at least one.
///
/// # Errors
///
/// The file cannot be read, or holds no certificate.
pub fn load_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let text = read(path)?;
    let chain = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|_| CertificateError::BadCertificate(path.to_owned()))?;
    if chain.is_empty() {
        return Err(CertificateError::NoCertificate(path.to_owned()));
    }
    Ok(chain)
}

fn load_key(path: &Path) -> Result<PrivateKeyDer<'static>, CertificateError> {
    let text = read(path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        let encrypted = |marker: &[u8]| text.windows(marker.len()).any(|part| part == marker);
        match error {
            pem::Error::NoItemsFound if encrypted(b"BEGIN ENCRYPTED PRIVATE KEY") => {
                CertificateError::EncryptedKey(path.to_owned())
            }
            pem::Error::NoItemsFound => CertificateError::NoKey(path.to_owned()),
            _ => CertificateError::BadKey(path.to_owned()),
        }
    })
}

/// The bytes of a file of sensible size. Not of a device or pipe, which may never end.
fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    let bytes = || {
        if !fs::metadata(path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
        }
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1 MiB"));
        }
        Ok(bytes)
    };
    bytes().map_err(|source| CertificateError::Unreadable { path: path.to_owned(), source })
}

/// When the certificate ceases to be valid; `None` if it is too odd to say.
#[must_use]
pub fn expiry(certificate: &CertificateDer<'_>) -> Option<Expiry> {
    let end = not_after(certificate).ok()?;
    let date = format!("{:04}-{:02}-{:02}", end.year(), end.month(), end.day());
    Some(Expiry { since_epoch: end.unix_duration(), date })
}

/// The second half of the validity (RFC 5280, section 4.1). A crate for all of X.509 brings ten
/// more; to know its encoding is enough.
fn not_after(certificate: &[u8]) -> der::Result<DateTime> {
    let certificate = AnyRef::from_der(certificate)?;
    let to_be_signed: AnyRef<'_> = SliceReader::new(certificate.value())?.decode()?;
    let mut fields = SliceReader::new(to_be_signed.value())?;
    let first: AnyRef<'_> = fields.decode()?;
    if first.tag().is_context_specific() {
        // It was the version; the first version of X.509 has none.
        let _serial: AnyRef<'_> = fields.decode()?;
    }
    let (_algorithm, _issuer): (AnyRef<'_>, AnyRef<'_>) = (fields.decode()?, fields.decode()?);
    let validity: AnyRef<'_> = fields.decode()?;
    let mut validity = SliceReader::new(validity.value())?;
    let (_begin, end): (AnyRef<'_>, AnyRef<'_>) = (validity.decode()?, validity.decode()?);
    match end.tag() {
        Tag::UtcTime => Ok(end.decode_as::<UtcTime>()?.to_date_time()),
        _ => Ok(end.decode_as::<GeneralizedTime>()?.to_date_time()),
    }
}

/// Whether everybody on the machine may read the file.
#[must_use]
pub fn is_open_to_all(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}

/// Whether a certificate can be made out to this name or address.
#[must_use]
pub fn is_server_name(name: &str) -> bool {
    ServerName::try_from(name).is_ok()
}

// === impl CertificateError ===

impl CertificateError {
    /// Whether it is the key's file that is wrong.
    #[must_use]
    pub fn is_of_key(&self, key: &Path) -> bool {
        match self {
            CertificateError::Unreadable { path, .. } => path == key,
            CertificateError::NoKey(_)
            | CertificateError::EncryptedKey(_)
            | CertificateError::BadKey(_)
            | CertificateError::Mismatch { .. } => true,
            CertificateError::NoCertificate(_) | CertificateError::BadCertificate(_) => false,
        }
    }
}

// === impl Expiry ===

impl Expiry {
    /// Whether it has ceased to be valid at that time.
    #[must_use]
    pub fn is_past(&self, now: SystemTime) -> bool {
        now.duration_since(UNIX_EPOCH).is_ok_and(|now| now > self.since_epoch)
    }
}

// === impl Fingerprint ===

impl Fingerprint {
    /// What the files hold at present. A file that cannot be read counts as one with other
    /// contents.
    #[must_use]
    pub fn of<'p>(paths: impl IntoIterator<Item = &'p Path>) -> Fingerprint {
        let mut hasher = DefaultHasher::new();
        for path in paths {
            read(path).ok().hash(&mut hasher);
        }
        Fingerprint(hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::testing::Certificates;
    use super::*;

    #[test]
    fn a_pair_is_read_and_its_end_known() {
        let files = Certificates::new();
        let (cert, key) = files.pair("a", &["a.test"], 2040);
        let pair = load_pair(&cert, &key).unwrap();
        let end = expiry(&pair.cert[0]).unwrap();
        assert_eq!(end.date, "2040-12-31");
        assert_eq!(end.since_epoch.as_secs(), 2_240_524_800);
        // Beyond 2049 time is written in another form (RFC 5280, section 4.1.2.5).
        let (cert, key) = files.pair("late", &["a.test"], 2099);
        assert_eq!(expiry(&load_pair(&cert, &key).unwrap().cert[0]).unwrap().date, "2099-12-31");
        assert_eq!(expiry(&CertificateDer::from_slice(b"\x30\x02\x30\x00")), None);
        assert!(!end.is_past(SystemTime::now()));
        let (cert, key) = files.pair("old", &["a.test"], 2019);
        assert!(
            expiry(&load_pair(&cert, &key).unwrap().cert[0]).unwrap().is_past(SystemTime::now())
        );
        assert_eq!(load_roots(&files.ca()).unwrap().len(), 1);
    }

    #[test]
    fn what_is_wrong_with_a_pair_is_told_apart() {
        let files = Certificates::new();
        let (cert, key) = files.pair("a", &["a.test"], 2040);
        let (other, _) = files.pair("b", &["a.test"], 2040);
        let text = files.write("text", "hello");
        let damaged = fs::read_to_string(&cert).unwrap().replace("MI", "MJ");
        let damaged = files.write("damaged", &damaged);
        let locked =
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let locked = files.write("locked", locked);
        let missing = files.path("missing");
        let of = |cert: &Path, key: &Path| load_pair(cert, key).unwrap_err();
        assert!(matches!(of(&text, &key), CertificateError::NoCertificate(_)));
        assert!(matches!(of(&key, &key), CertificateError::NoCertificate(_)));
        assert!(matches!(of(&damaged, &key), CertificateError::BadCertificate(_)));
        assert!(matches!(of(&cert, &cert), CertificateError::NoKey(_)));
        assert!(matches!(of(&cert, &locked), CertificateError::EncryptedKey(_)));
        assert!(matches!(of(&other, &key), CertificateError::Mismatch { .. }));
        assert!(matches!(of(&missing, &key), CertificateError::Unreadable { .. }));
        assert!(matches!(of(Path::new("/dev/zero"), &key), CertificateError::Unreadable { .. }));
        assert!(of(&cert, &missing).is_of_key(&missing) && !of(&missing, &key).is_of_key(&key));
    }

    #[test]
    fn a_fingerprint_tells_contents_apart() {
        let files = Certificates::new();
        let (a, b) = (files.write("a", "1"), files.write("b", "2"));
        let of = |paths: &[&PathBuf]| Fingerprint::of(paths.iter().map(|path| path.as_path()));
        let before = of(&[&a, &b]);
        assert_eq!(before, of(&[&a, &b]));
        assert_ne!(before, of(&[&b, &a]));
        files.write("a", "3");
        assert_ne!(before, of(&[&a, &b]));
        fs::remove_file(&a).unwrap();
        assert_ne!(before, of(&[&a, &b]));
    }

    #[test]
    fn names_that_no_certificate_has_are_refused() {
        assert!(is_server_name("app.internal") && is_server_name("10.0.0.1"));
        assert!(!is_server_name("") && !is_server_name("a b") && !is_server_name("http://a"));
    }
}
