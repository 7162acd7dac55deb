//! Digests that tell models, texts and plans apart.

use sha2::{Digest, Sha256};

/// The first 16 bytes of a hash in hexadecimal: enough to tell one from all others.
#[must_use]
pub fn hex(hash: Sha256) -> String {
    hash.finalize().iter().take(16).fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
