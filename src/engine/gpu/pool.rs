//! Device buffers that are used again: a layer's activations take the same memory for every batch.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Free bytes that are always kept.
const LEAST_FREE: u64 = 64 << 20;

/// Free buffers, the longest unused first.
pub(super) struct Pool {
    free: VecDeque<wgpu::Buffer>,
    free_bytes: u64,
    used_bytes: u64,
    /// Most that was used at once.
    peak_bytes: u64,
    /// Free bytes to keep at most.
    most_free: u64,
}

impl Pool {
    pub fn new(most_free: u64) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self { free: VecDeque::new(), free_bytes: 0, used_bytes: 0, peak_bytes: 0, most_free }))
    }

    /// A free buffer of exactly this size.
    pub fn take(&mut self, size: u64) -> Option<wgpu::Buffer> {
        let place = self.free.iter().rposition(|buffer| buffer.size() == size)?;
        let buffer = self.free.remove(place)?;
        self.free_bytes -= size;
        Some(buffer)
    }

    /// Lets go of what is free; the driver keeps what commands still use.
    pub fn clear(&mut self) {
        self.free.clear();
        self.free_bytes = 0;
    }

    /// Takes a buffer back. Layers of other sizes leave buffers that nobody asks for again: free are kept at most as many bytes as were
    /// ever used at once.
    fn put_back(&mut self, buffer: wgpu::Buffer) {
        self.used_bytes -= buffer.size();
        self.free_bytes += buffer.size();
        self.free.push_back(buffer);
        let most = self.peak_bytes.min(self.most_free).max(LEAST_FREE);
        while self.free_bytes > most {
            let Some(oldest) = self.free.pop_front() else { return };
            self.free_bytes -= oldest.size();
        }
    }
}

/// A device buffer that returns to the pool when dropped. The queue runs in order, so the next user's commands come after the
/// last user's.
pub(super) struct Buffer {
    pub buffer: wgpu::Buffer,
    pool: Arc<Mutex<Pool>>,
}

impl Buffer {
    pub fn new(buffer: wgpu::Buffer, pool: &Arc<Mutex<Pool>>) -> Self {
        let mut counts = lock(pool);
        counts.used_bytes += buffer.size();
        counts.peak_bytes = counts.peak_bytes.max(counts.used_bytes);
        drop(counts);
        Self { buffer, pool: pool.clone() }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        lock(&self.pool).put_back(self.buffer.clone());
    }
}

/// The engine's mutexes guard plain data that no panic leaves half changed.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sizes are rounded up by at most an eighth, so that buffers of nearly equal layers serve each other.
pub(super) fn size_class(bytes: u64) -> u64 {
    let bytes = bytes.max(16);
    let step = (bytes.next_power_of_two() / 16).max(16);
    bytes.next_multiple_of(step)
}
