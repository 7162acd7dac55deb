//! Memory of dropped activations, used again for the next ones: a batch makes the same tensors in every layer, and the system clears every
//! page that it hands out.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A cache line.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Below this (128 KiB) the allocator keeps memory itself.
const LEAST_LINES: usize = 2048;

/// Memory that is free.
#[derive(Clone, Default)]
pub struct Buffers(Arc<Mutex<Vec<Vec<Line>>>>);

/// f32 numbers, the first at the beginning of a cache line.
pub struct Buffer {
    lines: Vec<Line>,
    numbers: usize,
    /// Where its memory goes in the end, if not to the system.
    home: Option<Buffers>,
}

impl Buffers {
    /// Room for so many numbers, which are whatever was there before: in the smallest free memory that is large enough. If none is, all of it
    /// goes back to the system first: memory is only asked for beside what is in use.
    pub fn take(&self, numbers: usize) -> Buffer {
        let count = lines(numbers);
        if count < LEAST_LINES {
            return Buffer::zeros(numbers);
        }
        let mut free = self.free();
        let fitting = (0..free.len()).filter(|&index| free[index].len() >= count).min_by_key(|&index| free[index].len());
        let lines = if let Some(index) = fitting {
            free.swap_remove(index)
        } else {
            free.clear();
            bytemuck::zeroed_vec(count)
        };
        Buffer { lines, numbers, home: Some(self.clone()) }
    }

    fn free(&self) -> MutexGuard<'_, Vec<Vec<Line>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buffer {
    /// So many zeros. Their memory is not used again, as that of sums and hidden states, which are large and live long, must not be kept.
    pub fn zeros(numbers: usize) -> Self {
        Self { lines: bytemuck::zeroed_vec(lines(numbers)), numbers, home: None }
    }

    /// The same numbers once more, in memory that is not used again either.
    pub fn copy_of(numbers: &[f32]) -> Self {
        let mut buffer = Self::zeros(numbers.len());
        buffer.copy_from_slice(numbers);
        buffer
    }
}

/// Lines that hold so many numbers.
fn lines(numbers: usize) -> usize {
    (numbers * size_of::<f32>()).div_ceil(size_of::<Line>())
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
        if let Some(home) = &self.home {
            home.free().push(std::mem::take(&mut self.lines));
        }
    }
}
