//! TLS: the keys of both tables become the model. `lint` looks into the files.

use super::report;
use crate::certificate;
use crate::config::address::{Target, TargetKind};
use crate::config::context::Context;
use crate::config::diagnostic::Code;
use crate::config::kinds::{ClientAuth, FilePath, Text};
use crate::config::model::{
    CertificateFiles, ClientCertificates, Endpoint, Scheme, ServerTls, UpstreamTls,
};
use crate::config::raw;
use crate::config::source::Place;
use crate::config::table::Field;
use crate::config::words::Trouble;

/// `[server.tls]`; `None`: there is no certificate, which has been reported.
pub(super) fn server(
    raw: &raw::ServerTls,
    place: Place,
    cx: &mut Context<'_>,
) -> Option<ServerTls> {
    let mut certificates = Vec::new();
    let single = raw.cert.is_written() || raw.key.is_written();
    match (single, raw.certificates.is_written()) {
        (true, false) => certificates.extend(pair(&raw.cert, &raw.key, ("cert", "key"), cx)),
        (false, true) => {
            let list = raw.certificates.get();
            if list.is_some_and(|list| list.0.is_empty()) {
                let place = raw.certificates.place();
                cx.report(Code::OutOfRange, place, "`certificates` is empty", "no certificate")
                    .help("give one: certificates = [{ cert = \"a.pem\", key = \"a.key\" }]");
            }
            for at in list.into_iter().flat_map(|list| &list.0) {
                let (cert, key) = (&at.value.cert, &at.value.key);
                if !cert.is_written() && !key.is_written() {
                    missing("cert", at.place, cx);
                }
                certificates.extend(pair(cert, key, ("cert", "key"), cx));
            }
        }
        (true, true) => {
            let first = if raw.cert.is_written() { raw.cert.place() } else { raw.key.place() };
            let message = "both `cert` with `key` and `certificates` are given";
            cx.report(
                Code::TwoCertificateForms,
                raw.certificates.place(),
                message,
                "several pairs",
            )
            .at(first, "one pair")
            .help("move the pair into `certificates`; its first is the one for unknown names");
        }
        (false, false) => missing("cert", place, cx),
    }
    let clients = raw.client_ca.get().map(|FilePath(ca)| ClientCertificates {
        ca: ca.clone(),
        required: *raw.client_auth.value() == ClientAuth::Required,
    });
    (!certificates.is_empty()).then(|| ServerTls {
        certificates,
        clients,
        min_version: *raw.min_version.value(),
        http2: *raw.http2.value(),
    })
}

/// What the URL's scheme and `[upstream.tls]` say together.
pub(super) fn scheme(target: &Target, table: &raw::Upstream, cx: &mut Context<'_>) -> Scheme {
    match (target.kind, &target.endpoint) {
        (TargetKind::Http, _) => Scheme::Http,
        (TargetKind::H2c, _) => Scheme::H2c,
        (TargetKind::Https, endpoint) => {
            let host = match endpoint {
                Endpoint::Tcp { host, .. } => host.as_str(),
                Endpoint::Unix(_) => "localhost",
            };
            Scheme::Https(upstream(table, host, cx))
        }
    }
}

fn upstream(table: &raw::Upstream, host: &str, cx: &mut Context<'_>) -> UpstreamTls {
    let tls = table.tls.get();
    let given = tls.and_then(|tls| tls.server_name.get());
    let (name, place) = match (tls, given) {
        (Some(tls), Some(Text(name))) => (name.as_str(), tls.server_name.place()),
        _ => (host, table.url.place()),
    };
    if !certificate::is_server_name(name) {
        let message = format!("no certificate can be made out to \"{name}\"");
        let help = "write the name or IP address that stands in the application's certificate: \
                    `[upstream.tls]` server_name = \"app.internal\"";
        report(Trouble::new(Code::BadHost, message, help), place, cx);
    }
    UpstreamTls {
        ca: tls.and_then(|tls| tls.ca.get()).map(|FilePath(path)| path.clone()),
        client: tls.and_then(|tls| {
            pair(&tls.client_cert, &tls.client_key, ("client_cert", "client_key"), cx)
        }),
        server_name: name.to_owned(),
        http2: tls.is_none_or(|tls| *tls.http2.value()),
    }
}

/// Both files, or neither; reports one without the other.
fn pair(
    cert: &Field<FilePath>,
    key: &Field<FilePath>,
    (cert_key, key_key): (&'static str, &'static str),
    cx: &mut Context<'_>,
) -> Option<CertificateFiles> {
    match (cert.is_written(), key.is_written()) {
        (true, false) => missing(key_key, cert.place(), cx),
        (false, true) => missing(cert_key, key.place(), cx),
        (true, true) | (false, false) => {}
    }
    let (FilePath(cert), FilePath(key)) = (cert.get()?, key.get()?);
    Some(CertificateFiles { cert: cert.clone(), key: key.clone() })
}

fn missing(key: &str, place: Place, cx: &mut Context<'_>) {
    let (what, example) = match key {
        "cert" | "client_cert" => ("certificate", "tls.crt"),
        _ => ("private key", "tls.key"),
    };
    cx.report(
        Code::MissingKey,
        place,
        format!("the {what} is missing"),
        format!("`{key}` is missing"),
    )
    .help(format!("name its file: {key} = \"/etc/tidegate/{example}\""));
}
