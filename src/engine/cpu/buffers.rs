//! Memory of dropped tensors, used again for the next ones: a batch takes the same tensors through every layer, and the system clears every
//! page that it hands out.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A cache line.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Below this (128 KiB) the allocator keeps memory itself, and weights of norms would hold much larger memory than theirs.
const LEAST_LINES: usize = 2048;

/// Memory that is free.
#[derive(Clone, Default)]
pub struct Buffers(Arc<Mutex<Vec<Vec<Line>>>>);

/// f32 numbers, the first at the beginning of a cache line.
pub struct Buffer {
    lines: Vec<Line>,
    numbers: usize,
    buffers: Buffers,
}

impl Buffers {
    /// Room for so many numbers, which are whatever was there before: in the smallest free memory that is large enough. If none is, all of it
    /// goes back to the system first: memory is only asked for beside what is in use.
    pub fn take(&self, numbers: usize) -> Buffer {
        let count = numbers.div_ceil(size_of::<Line>() / size_of::<f32>());
        let mut free = self.free();
        let fitting = (0..free.len()).filter(|&index| count >= LEAST_LINES && free[index].len() >= count);
        let lines = if let Some(index) = fitting.min_by_key(|&index| free[index].len()) {
            free.swap_remove(index)
        } else {
            if count >= LEAST_LINES {
                free.clear();
            }
            bytemuck::zeroed_vec(count)
        };
        Buffer { lines, numbers, buffers: self.clone() }
    }

    /// So many zeros.
    pub fn zeros(&self, numbers: usize) -> Buffer {
        let mut buffer = self.take(numbers);
        buffer.fill(0.0);
        buffer
    }

    /// The same numbers once more.
    pub fn copy(&self, numbers: &[f32]) -> Buffer {
        let mut buffer = self.take(numbers.len());
        buffer.copy_from_slice(numbers);
        buffer
    }

    fn free(&self) -> MutexGuard<'_, Vec<Vec<Line>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &bytemuck::cast_slice(&self.lines)[..self.numbers]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.numbers]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.lines.len() >= LEAST_LINES {
            self.buffers.free().push(std::mem::take(&mut self.lines));
        }
    }
}
