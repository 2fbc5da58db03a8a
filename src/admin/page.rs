//! The live page: one document, with its style and its scripts inside, that loads nothing.
//!
//! The policy names the hash of the one style and of the one script; nothing else runs, also if a
//! name from the configuration were to end up in the document as markup.

use bytes::Bytes;
use http::HeaderValue;
use ring::digest::{SHA256, digest};

const FRAME: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = concat!(
    "'use strict';\n(() => {\n",
    include_str!("page/words.js"),
    include_str!("page/data.js"),
    include_str!("page/chart.js"),
    include_str!("page/view.js"),
    include_str!("page/live.js"),
    "})();\n"
);

/// The document and what it may do.
#[derive(Debug)]
pub(super) struct Page {
    html: Bytes,
    policy: HeaderValue,
}

// === impl Page ===

impl Page {
    pub(super) fn new() -> Page {
        let html = FRAME.replace("/*style*/", STYLE).replace("/*script*/", SCRIPT);
        let policy = format!(
            "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; \
             img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            hash(SCRIPT),
            hash(STYLE),
        );
        let policy = HeaderValue::try_from(policy).expect("a policy is plain text");
        Page { html: Bytes::from(html), policy }
    }

    pub(super) fn html(&self) -> Bytes {
        self.html.clone()
    }

    pub(super) fn policy(&self) -> HeaderValue {
        self.policy.clone()
    }
}

/// A source expression of CSP, level 3, for what stands inside an element.
fn hash(text: &str) -> String {
    format!("sha256-{}", base64(digest(&SHA256, text.as_bytes()).as_ref()))
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let at = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for digit in 0..4 {
            let filled = digit <= chunk.len();
            let index = (bits >> (18 - 6 * digit)) as usize & 63;
            text.push(if filled { DIGITS[index] as char } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_of_base64_are_those_of_the_rfc() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn a_hash_is_that_of_the_specification() {
        // CSP, level 2, section 7.2.
        let script = "alert('Hello, world.');";
        assert_eq!(hash(script), "sha256-qznLcsROx4GACP2dm0UCKCzCG+HiZ1guq6ZZDob/Tng=");
    }

    #[test]
    fn the_document_is_one_and_loads_nothing() {
        let page = Page::new();
        let html = String::from_utf8(page.html().to_vec()).unwrap();
        assert_eq!(html.matches("<script>").count(), 1);
        assert_eq!(html.matches("<style>").count(), 1);
        for loaded in ["src=", "@import", "url(", "//cdn", "style=\"", " onclick="] {
            assert!(!html.contains(loaded), "{loaded}");
        }
        let policy = page.policy();
        assert!(!policy.to_str().unwrap().contains("unsafe"));
    }
}
