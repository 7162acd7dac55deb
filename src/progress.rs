//! How long work reports its progress, without knowing who looks.

/// Receives progress. All calls come from one thread.
pub trait Progress {
    /// Something worth knowing before or after work.
    fn note(&self, text: &str);
    /// Long work of `total` units begins, such as `calibrating` in `tokens`; of nobody knows how much where that is 0.
    fn start(&self, what: &str, unit: &str, total: u64);
    /// `units` more are done.
    fn advance(&self, units: u64);
    /// What is being done now, where a part of the work takes long.
    fn stage(&self, _what: &str) {}
    /// The work is over.
    fn finish(&self);
}

/// Shows nothing.
pub struct Silent;

impl Progress for Silent {
    fn note(&self, _: &str) {}
    fn start(&self, _: &str, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn finish(&self) {}
}
