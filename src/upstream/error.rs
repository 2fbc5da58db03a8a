//! How a request to the application can fail.

use std::error::Error;
use std::io;

/// A failure of the application or of the way to it. Its [`token`](UpstreamError::token) is an
/// error type of RFC 9209, section 2.3, and the value of the metric label `error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(usize)]
pub enum UpstreamError {
    /// The host name has no address.
    #[error("the upstream's host name could not be resolved")]
    DnsError,
    /// Nothing listens there.
    #[error("the upstream refused the connection")]
    ConnectionRefused,
    /// No connection within `connect_timeout`.
    #[error("the upstream accepted no connection in time")]
    ConnectionTimeout,
    /// There is no way to the address.
    #[error("the upstream's address cannot be reached")]
    DestinationIpUnroutable,
    /// All connections that `max_connections` allows are busy.
    #[error("all connections to the upstream are busy")]
    ConnectionLimitReached,
    /// The connection ended before the response head was whole.
    #[error("the upstream closed the connection before it answered")]
    ConnectionTerminated,
    /// The connection ended, or fell silent, inside the response body.
    #[error("the upstream's response broke off")]
    HttpResponseIncomplete,
    /// No response head within `response_timeout`.
    #[error("the upstream did not answer in time")]
    HttpResponseTimeout,
    /// The response head is larger than allowed.
    #[error("the upstream's response head is too large")]
    HttpResponseHeaderSectionSize,
    /// What came back is not clean HTTP.
    #[error("the upstream's answer is not valid HTTP")]
    HttpProtocolError,
    /// The application, or who answers in its place, does not speak TLS as it should.
    #[error("TLS with the upstream failed")]
    TlsProtocolError,
    /// The application's certificate is not to be believed: made out to another name, signed by
    /// nobody who is known, or expired.
    #[error("the upstream's certificate is not valid")]
    TlsCertificateError,
    /// The application refused: it wants a client certificate, or another one, for example.
    #[error("the upstream refused TLS")]
    TlsAlertReceived,
    /// tidegate itself could not go on (for example: no file descriptor left).
    #[error("tidegate could not open a connection")]
    ProxyInternalError,
}

// === impl UpstreamError ===

impl UpstreamError {
    /// The label values, in the order of the variants.
    pub const TOKENS: [&'static str; 14] = [
        "dns_error",
        "connection_refused",
        "connection_timeout",
        "destination_ip_unroutable",
        "connection_limit_reached",
        "connection_terminated",
        "http_response_incomplete",
        "http_response_timeout",
        "http_response_header_section_size",
        "http_protocol_error",
        "tls_protocol_error",
        "tls_certificate_error",
        "tls_alert_received",
        "proxy_internal_error",
    ];

    /// The error type of RFC 9209, section 2.3.
    #[must_use]
    pub fn token(self) -> &'static str {
        UpstreamError::TOKENS[self as usize]
    }

    /// Whether the application takes no connections at present. One that was stopped may have no
    /// address, or an address at which nobody answers.
    #[must_use]
    pub fn is_away(self) -> bool {
        matches!(
            self,
            UpstreamError::ConnectionRefused
                | UpstreamError::DnsError
                | UpstreamError::DestinationIpUnroutable
                | UpstreamError::ConnectionTimeout
        )
    }

    /// Whether it is a shortage of our own, which says nothing of the application.
    #[must_use]
    pub fn is_shortage(self) -> bool {
        matches!(self, UpstreamError::ConnectionLimitReached | UpstreamError::ProxyInternalError)
    }

    /// Why a connection could not be opened.
    pub(super) fn connecting(error: &io::Error) -> UpstreamError {
        match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => {
                UpstreamError::ConnectionRefused
            }
            io::ErrorKind::TimedOut => UpstreamError::ConnectionTimeout,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                UpstreamError::DestinationIpUnroutable
            }
            _ => UpstreamError::ProxyInternalError,
        }
    }

    /// Why TLS on an open connection failed.
    pub(super) fn handshaking(error: &io::Error) -> UpstreamError {
        let told = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match told {
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
                UpstreamError::TlsCertificateError
            }
            Some(rustls::Error::AlertReceived(_)) => UpstreamError::TlsAlertReceived,
            Some(_) => UpstreamError::TlsProtocolError,
            None => UpstreamError::ConnectionTerminated,
        }
    }

    /// Why an exchange on an open connection of HTTP/1.1 failed before its response head.
    pub(super) fn exchanging(error: &hyper::Error) -> UpstreamError {
        if error.is_parse_too_large() {
            UpstreamError::HttpResponseHeaderSectionSize
        } else if error.is_parse() {
            UpstreamError::HttpProtocolError
        } else {
            // With TLS 1.3 a client learns only here that its certificate was refused.
            let inner = error.source();
            let inner = inner.and_then(|inner| inner.downcast_ref::<io::Error>());
            inner.map_or(UpstreamError::ConnectionTerminated, UpstreamError::handshaking)
        }
    }

    /// The same of a stream of HTTP/2.
    pub(super) fn streaming(error: &h2::Error) -> UpstreamError {
        match error.get_io() {
            Some(error) => UpstreamError::handshaking(error),
            // Found here, and not said by the application.
            None if !error.is_remote() => UpstreamError::HttpProtocolError,
            None => UpstreamError::ConnectionTerminated,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_has_its_token() {
        assert_eq!(UpstreamError::DnsError.token(), "dns_error");
        let last = UpstreamError::ProxyInternalError;
        assert_eq!(last.token(), "proxy_internal_error");
        assert_eq!(last as usize + 1, UpstreamError::TOKENS.len());
    }
}
