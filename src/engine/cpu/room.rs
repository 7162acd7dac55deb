//! Memory that a pass leaves over.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that may be taken, and those that are.
#[derive(Debug, Clone)]
pub struct Room(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    most: AtomicU64,
    taken: AtomicU64,
}

/// Bytes taken until it is dropped.
#[derive(Debug)]
pub struct Reserved {
    room: Room,
    bytes: u64,
}

impl Room {
    /// So many bytes.
    pub fn new(bytes: u64) -> Self {
        Self(Arc::new(Counts { most: bytes.into(), taken: 0.into() }))
    }

    /// From now on so many bytes, those that are taken already among them.
    pub fn set(&self, bytes: u64) {
        self.0.most.store(bytes, Ordering::Relaxed);
    }

    /// Takes so many bytes, if they are there.
    pub fn take(&self, bytes: u64) -> Option<Reserved> {
        let most = self.0.most.load(Ordering::Relaxed);
        let fits = |taken: u64| taken.checked_add(bytes).filter(|&taken| taken <= most);
        self.0.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        Some(Reserved { room: self.clone(), bytes })
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.room.0.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
