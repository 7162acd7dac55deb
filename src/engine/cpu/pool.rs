//! Memory of dropped tensors, kept for the next ones: a system gives new memory page by page, each of them cleared at its first use, which
//! takes as long as many operations do. Alike for a layer's batches, all that they need is there from the second one on.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// Less than this the allocator itself keeps.
const LEAST_BYTES: usize = 1 << 16;

/// A cache line: rows of vectors begin with one.
#[derive(Debug, Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// See the module's text.
#[derive(Clone)]
pub struct Pool(Arc<Mutex<Free>>);

/// What nobody uses, the longest unused first.
struct Free {
    most_bytes: u64,
    bytes: u64,
    buffers: VecDeque<Vec<Line>>,
}

/// Numbers in memory that returns to its pool.
pub struct Buffer {
    lines: Vec<Line>,
    length: usize,
    pool: Pool,
}

fn bytes_of(lines: &[Line]) -> u64 {
    size_of_val(lines) as u64
}

impl Pool {
    /// Keeps at most so many bytes.
    pub fn new(most_bytes: u64) -> Self {
        Self(Arc::new(Mutex::new(Free { most_bytes, bytes: 0, buffers: VecDeque::new() })))
    }

    /// From now on at most so many.
    pub fn set_limit(&self, most_bytes: u64) {
        self.change(|free| {
            free.most_bytes = most_bytes;
            free.let_go();
        });
    }

    /// Room for so many numbers; they are what was left there.
    pub fn take(&self, length: usize) -> Buffer {
        let count = length.div_ceil(16);
        let lines = self.change(|free| free.take(count)).unwrap_or_else(|| bytemuck::zeroed_vec(count));
        Buffer { lines, length, pool: self.clone() }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Free) -> T) -> T {
        // A panic elsewhere leaves a list of buffers, nothing half done.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Free {
    fn take(&mut self, count: usize) -> Option<Vec<Line>> {
        // The last one may still be in a cache.
        let place = self.buffers.iter().rposition(|lines| lines.len() == count)?;
        let lines = self.buffers.remove(place)?;
        self.bytes -= bytes_of(&lines);
        Some(lines)
    }

    fn keep(&mut self, lines: Vec<Line>) {
        self.bytes += bytes_of(&lines);
        self.buffers.push_back(lines);
        self.let_go();
    }

    fn let_go(&mut self) {
        while self.bytes > self.most_bytes {
            let Some(lines) = self.buffers.pop_front() else { return };
            self.bytes -= bytes_of(&lines);
        }
    }
}

impl Buffer {
    /// The same memory as whole pieces of some other plain type; the buffer was taken with their size in mind.
    pub fn pieces_mut<T: bytemuck::Pod>(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut self.lines)
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &bytemuck::cast_slice(&self.lines)[..self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        if size_of_val(lines.as_slice()) >= LEAST_BYTES {
            self.pool.change(|free| free.keep(lines));
        }
    }
}
