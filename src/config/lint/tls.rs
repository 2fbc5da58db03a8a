//! Checks of TLS: the files that are named, and keys that belong together.
//!
//! Files are read here, by `check` as at the start, so that what is wrong with one is told under
//! the key that names it.

use std::error::Error;
use std::path::Path;
use std::time::SystemTime;

use crate::certificate::{self, CertificateError, Expiry};
use crate::config::context::Context;
use crate::config::diagnostic::Code;
use crate::config::kinds::FilePath;
use crate::config::model::{Scheme, Upstream};
use crate::config::raw;
use crate::config::resolve::Draft;
use crate::config::root::Named;
use crate::config::source::Place;
use crate::config::table::Field;

/// Looks at both sides.
pub(super) fn check(draft: &Draft, cx: &mut Context<'_>) {
    if let Some(tls) = draft.server.tls.get() {
        server(tls, cx);
    }
    for (raw, model) in draft.upstreams.iter().zip(&draft.config.upstreams) {
        upstream(raw, model, cx);
    }
}

fn server(tls: &raw::ServerTls, cx: &mut Context<'_>) {
    pair(&tls.cert, &tls.key, cx);
    for pair_of_list in tls.certificates.get().into_iter().flat_map(|list| &list.0) {
        pair(&pair_of_list.value.cert, &pair_of_list.value.key, cx);
    }
    authorities(&tls.client_ca, cx);
    if tls.client_auth.is_written() && !tls.client_ca.is_written() {
        let message = "`client_auth` has no meaning without `client_ca`";
        cx.report(Code::MeaninglessKey, tls.client_auth.place(), message, "no client is asked")
            .help(
                "name who signs clients' certificates: client_ca = \"clients.pem\"; or remove it",
            );
    }
}

fn upstream(raw: &Named<raw::Upstream>, model: &Upstream, cx: &mut Context<'_>) {
    let url = &raw.table.url;
    let Scheme::Https(_) = &model.scheme else {
        if raw.table.tls.is_written() && url.get().is_some() {
            let message = format!("`tls` has no meaning beside the URL \"{}\"", model.url());
            cx.report(Code::MeaninglessKey, raw.table.tls.place(), message, "no TLS is spoken")
                .at(url.place(), "this URL")
                .help("write \"https://HOST:PORT\" as `url`, or remove `tls`");
        }
        return;
    };
    let Some(tls) = raw.table.tls.get() else { return };
    pair(&tls.client_cert, &tls.client_key, cx);
    authorities(&tls.ca, cx);
}

/// A certificate and its key, where both are named.
fn pair(cert: &Field<FilePath>, key: &Field<FilePath>, cx: &mut Context<'_>) {
    let (Some(FilePath(cert_file)), Some(FilePath(key_file))) = (cert.get(), key.get()) else {
        return;
    };
    match certificate::load_pair(cert_file, key_file) {
        Ok(pair) => {
            let end = pair.cert.first().and_then(certificate::expiry);
            expired(cert_file, end, cert.place(), cx);
        }
        Err(error) => {
            let place = if error.is_of_key(key_file) { key.place() } else { cert.place() };
            unusable(&error, place, cx);
        }
    }
    if certificate::is_open_to_all(key_file) {
        let message = format!("everybody on the machine can read the key {}", key_file.display());
        cx.report(Code::OpenKey, key.place(), message, "")
            .help(format!("take that away: chmod o-rwx {}", key_file.display()))
            .help(
                "in Kubernetes a secret's volume has `defaultMode: 0440`, and the pod an `fsGroup`",
            );
    }
}

fn authorities(file: &Field<FilePath>, cx: &mut Context<'_>) {
    let Some(FilePath(path)) = file.get() else { return };
    match certificate::load_roots(path).and_then(|_| certificate::load_chain(path)) {
        Ok(all) => {
            // One that has expired beside others is left over, and harms nobody.
            let ends = all.iter().map(certificate::expiry).collect::<Option<Vec<_>>>();
            let last = ends.into_iter().flatten().max_by_key(|end| end.since_epoch);
            expired(path, last, file.place(), cx);
        }
        Err(error) => unusable(&error, file.place(), cx),
    }
}

fn expired(path: &Path, end: Option<Expiry>, place: Place, cx: &mut Context<'_>) {
    let Some(end) = end.filter(|end| end.is_past(SystemTime::now())) else { return };
    let message = format!("the certificate in {} expired on {}", path.display(), end.date);
    cx.report(Code::CertificateExpired, place, message, "nobody accepts it any more")
        .help("put a new one in its place");
}

fn unusable(error: &CertificateError, place: Place, cx: &mut Context<'_>) {
    let message = match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    let (code, help) = match error {
        CertificateError::Unreadable { .. } => (
            Code::BadCertificate,
            "tidegate's user must be able to read it; a path is absolute, or relative to the \
             working directory",
        ),
        CertificateError::NoCertificate(_) => (
            Code::BadCertificate,
            "it is in PEM: between the lines BEGIN CERTIFICATE and END CERTIFICATE",
        ),
        CertificateError::BadCertificate(_) => {
            (Code::BadCertificate, "write it anew from where it came")
        }
        CertificateError::NoKey(_) => (
            Code::BadCertificate,
            "it is in PEM: between the lines BEGIN PRIVATE KEY and END PRIVATE KEY",
        ),
        CertificateError::EncryptedKey(_) => (
            Code::BadCertificate,
            "there is nobody to ask for the passphrase: openssl pkey -in OLD -out NEW",
        ),
        CertificateError::BadKey(_) => (
            Code::BadCertificate,
            "use an RSA key of 2048 bits or more, ECDSA on P-256 or P-384, or Ed25519",
        ),
        CertificateError::Mismatch { .. } => {
            (Code::KeyMismatch, "name the key with which this certificate was asked for")
        }
    };
    cx.report(code, place, message, "").help(help);
}
