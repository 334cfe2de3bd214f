//! A digest of what a server answers by, to compare servers that ought to answer alike.

use std::fmt;

use ring::digest::{Context, SHA256};

/// The digest of a sequence of texts and files. Servers whose digests are equal have the same ones: it is the beginning of a SHA-256.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest(u64);

/// In sixteen hexadecimal digits.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Makes a digest.
pub(crate) struct Digester(Context);

impl Digester {
    pub(crate) fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    /// Adds the next part.
    pub(crate) fn add(&mut self, part: &[u8]) {
        // The length first, so that no other parts are the same octets.
        self.0.update(&(part.len() as u64).to_be_bytes());
        self.0.update(part);
    }

    pub(crate) fn finish(self) -> Digest {
        let whole = self.0.finish();
        let first = whole.as_ref().first_chunk().copied();
        Digest(u64::from_be_bytes(first.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(parts: &[&str]) -> String {
        let mut digester = Digester::new();
        parts.iter().for_each(|part| digester.add(part.as_bytes()));
        digester.finish().to_string()
    }

    #[test]
    fn it_is_the_beginning_of_a_sha_256() {
        // printf '\0\0\0\0\0\0\0\003abc' | sha256sum
        assert_eq!(digest(&["abc"]), "c3494ca1a2cf8eeb");
    }

    #[test]
    fn parts_are_kept_apart() {
        let all = [&["ab", "c"][..], &["a", "bc"], &["abc"], &["abc", ""], &[]];
        let mut digests: Vec<String> = all.map(digest).into();
        digests.sort();
        digests.dedup();
        assert_eq!(digests.len(), all.len());
    }
}
