//! Device buffers that are used again: a layer's activations take the same memory for every batch.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Free buffers, the longest unused first.
pub(super) struct Pool {
    free: VecDeque<wgpu::Buffer>,
    free_bytes: u64,
    used_bytes: u64,
    /// Of buffers that were let go while commands may still use them.
    leaving_bytes: u64,
    /// Most that was used at once.
    most_used: u64,
    /// Most that was held at once, in any of these ways, since the budget was set.
    most_held: u64,
    /// Bytes to hold at most, as far as it is for the pool to say.
    budget: u64,
}

impl Pool {
    pub fn new(budget: u64) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            free: VecDeque::new(),
            free_bytes: 0,
            used_bytes: 0,
            leaving_bytes: 0,
            most_used: 0,
            most_held: 0,
            budget,
        }))
    }

    /// Sets the budget of a device that has nothing to do.
    pub fn set_budget(&mut self, budget: u64) {
        self.budget = budget;
        self.keep_free(0);
        self.idle();
        (self.most_used, self.most_held) = (self.used_bytes, self.used_bytes);
    }

    pub fn budget(&self) -> u64 {
        self.budget
    }

    pub fn most_held(&self) -> u64 {
        self.most_held
    }

    /// A free buffer of exactly this size.
    pub fn take(&mut self, size: u64) -> Option<wgpu::Buffer> {
        let place = self.free.iter().rposition(|buffer| buffer.size() == size)?;
        let buffer = self.free.remove(place)?;
        self.free_bytes -= size;
        Some(buffer)
    }

    /// Lets go of free buffers where a new one of this size would not be within the budget. Returns whether there is room only once the
    /// device is done with them.
    pub fn make_room(&mut self, size: u64) -> bool {
        self.keep_free(self.budget.saturating_sub(self.used_bytes + size));
        self.leaving_bytes > 0 && self.held() + size > self.budget
    }

    /// Lets go of the longest unused buffers beyond so many free bytes; the driver keeps what commands still use.
    pub fn keep_free(&mut self, most: u64) {
        while self.free_bytes > most {
            let Some(oldest) = self.free.pop_front() else { return };
            self.free_bytes -= oldest.size();
            self.leaving_bytes += oldest.size();
        }
    }

    /// The device is done with all commands.
    pub fn idle(&mut self) {
        self.leaving_bytes = 0;
    }

    fn held(&self) -> u64 {
        self.used_bytes + self.free_bytes + self.leaving_bytes
    }

    fn count(&mut self, size: u64) {
        self.used_bytes += size;
        self.most_used = self.most_used.max(self.used_bytes);
        self.most_held = self.most_held.max(self.held());
    }

    /// Takes a buffer back. Layers of other sizes leave buffers that nobody asks for again: free are kept at most as many bytes as were
    /// ever used at once.
    fn put_back(&mut self, buffer: wgpu::Buffer) {
        self.used_bytes -= buffer.size();
        self.free_bytes += buffer.size();
        self.free.push_back(buffer);
        self.keep_free(self.most_used.min(self.budget.saturating_sub(self.used_bytes)));
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
        lock(pool).count(buffer.size());
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
