//! The tables of TLS as they run.

use std::path::Path;

use super::{Section, Table, quoted};
use crate::config::Loaded;
use crate::config::kinds::ClientAuth;
use crate::config::model::{Scheme, TlsVersion};
use crate::config::words::word_of;

impl Loaded {
    /// `[server.tls]`, if clients speak TLS.
    pub(super) fn server_tls(&self) -> Option<Section> {
        let tls = self.config.server.tls.as_ref()?;
        let mut table = Table::new(self, "server tls", "[server.tls]");
        let single = self.origins.of("server tls", "certificates") == super::Origin::Default;
        table = match &tls.certificates[..] {
            [only] if single => table.key("cert", file(&only.cert)).key("key", file(&only.key)),
            several => {
                let pairs: Vec<_> = several
                    .iter()
                    .map(|pair| {
                        format!("{{ cert = {}, key = {} }}", file(&pair.cert), file(&pair.key))
                    })
                    .collect();
                table.key("certificates", format!("[{}]", pairs.join(", ")))
            }
        };
        if let Some(clients) = &tls.clients {
            let auth = if clients.required { ClientAuth::Required } else { ClientAuth::Optional };
            table = table
                .key("client_ca", file(&clients.ca))
                .key("client_auth", quoted(word_of(ClientAuth::WORDS, &auth)));
        }
        let table = table
            .key("min_version", quoted(word_of(TlsVersion::WORDS, &tls.min_version)))
            .key("http2", tls.http2.to_string());
        Some(table.section)
    }

    /// The table of TLS with one upstream, if it speaks it.
    pub fn effective_upstream_tls(&self, index: usize) -> Option<Section> {
        let upstream = &self.config.upstreams[index];
        let Scheme::Https(tls) = &upstream.scheme else { return None };
        let header = format!("[{}.tls]", self.upstream_title(index));
        let mut table = Table::new(self, &format!("upstream {} tls", upstream.name), &header);
        if let Some(ca) = &tls.ca {
            table = table.key("ca", file(ca));
        }
        if let Some(client) = &tls.client {
            table =
                table.key("client_cert", file(&client.cert)).key("client_key", file(&client.key));
        }
        let table =
            table.key("server_name", quoted(&tls.server_name)).key("http2", tls.http2.to_string());
        Some(table.section)
    }
}

/// Paths come from TOML, and are UTF-8.
fn file(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}
