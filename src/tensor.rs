//! Tensors in host memory, as checkpoints give them and engines receive them: borrowed bytes in a number format.

use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// Number formats of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// Brain floating point.
    Bf16,
}

impl Dtype {
    /// Bytes of one number.
    #[must_use]
    pub fn size(self) -> usize {
        if self == Self::F32 { 4 } else { 2 }
    }

    /// Its name, such as `BF16`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
        }
    }

    /// Whether none of these little-endian numbers is NaN or infinite.
    #[must_use]
    pub fn are_finite(self, bytes: &[u8]) -> bool {
        // A number is not finite exactly when all exponent bits are set. Folding instead of stopping early lets the loop vectorise.
        fn any_16(bytes: &[u8], mask: u16) -> bool {
            bytes.as_chunks::<2>().0.iter().fold(false, |bad, b| bad | (u16::from_le_bytes(*b) & mask == mask))
        }
        fn any_32(bytes: &[u8]) -> bool {
            const MASK: u32 = 0x7f80_0000;
            bytes.as_chunks::<4>().0.iter().fold(false, |bad, b| bad | (u32::from_le_bytes(*b) & MASK == MASK))
        }
        !match self {
            Self::F32 => any_32(bytes),
            Self::F16 => any_16(bytes, 0x7c00),
            Self::Bf16 => any_16(bytes, 0x7f80),
        }
    }

    /// `value` rounded to this format, to nearest even.
    #[must_use]
    pub fn round(self, value: f32) -> f32 {
        match self {
            Self::F32 => value,
            Self::F16 => half::f16::from_f32(value).to_f32(),
            Self::Bf16 => half::bf16::from_f32(value).to_f32(),
        }
    }
}

/// A range of bytes kept alive by its owner, such as a memory map.
#[derive(Clone)]
pub struct SharedBytes {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl SharedBytes {
    /// The bytes `range` of `owner`.
    ///
    /// # Panics
    /// If the range lies outside the owner's bytes.
    pub fn new(owner: Arc<dyn AsRef<[u8]> + Send + Sync>, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= (*owner).as_ref().len(), "byte range outside its owner");
        Self { owner, range }
    }

    /// All bytes of `owner`.
    pub fn whole(owner: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        let length = owner.as_ref().len();
        Self::new(Arc::new(owner), 0..length)
    }

    /// Part of these bytes.
    ///
    /// # Panics
    /// If there are fewer.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.end <= self.range.len(), "byte range outside its owner");
        Self::new(self.owner.clone(), self.range.start + range.start..self.range.start + range.end)
    }
}

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.range.clone()]
    }
}

impl PartialEq for SharedBytes {
    fn eq(&self, other: &Self) -> bool {
        self.as_ref() == other.as_ref()
    }
}

impl std::fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.range.len())
    }
}

/// A row-major tensor of one or two dimensions in host memory.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Little-endian numbers; no alignment is promised.
    pub bytes: SharedBytes,
    /// Their format.
    pub dtype: Dtype,
    /// Rows; 1 for a vector.
    pub rows: usize,
    /// Numbers in a row.
    pub columns: usize,
}

impl HostTensor {
    /// A tensor over `bytes`.
    ///
    /// # Panics
    /// If the size does not fit the shape.
    #[must_use]
    pub fn new(bytes: SharedBytes, dtype: Dtype, rows: usize, columns: usize) -> Self {
        assert_eq!(bytes.as_ref().len(), rows * columns * dtype.size(), "bytes do not fit the shape");
        Self { bytes, dtype, rows, columns }
    }

    /// An f32 tensor that owns its numbers.
    #[must_use]
    pub fn from_f32(values: Vec<f32>, columns: usize) -> Self {
        struct Numbers(Vec<f32>);
        impl AsRef<[u8]> for Numbers {
            fn as_ref(&self) -> &[u8] {
                bytemuck::cast_slice(&self.0)
            }
        }
        let rows = values.len() / columns;
        Self::new(SharedBytes::whole(Numbers(values)), Dtype::F32, rows, columns)
    }

    /// A tensor that owns its bytes.
    #[must_use]
    pub fn owning(bytes: Vec<u8>, dtype: Dtype, rows: usize, columns: usize) -> Self {
        Self::new(SharedBytes::whole(bytes), dtype, rows, columns)
    }

    /// Bytes of one row.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        self.columns * self.dtype.size()
    }

    /// The rows `range`, sharing the bytes.
    #[must_use]
    pub fn row_panel(&self, range: Range<usize>) -> Self {
        let bytes = self.bytes.slice(range.start * self.row_bytes()..range.end * self.row_bytes());
        Self::new(bytes, self.dtype, range.len(), self.columns)
    }

    /// All numbers as f32.
    #[must_use]
    pub fn to_f32(&self) -> Vec<f32> {
        const CHUNK: usize = 1 << 16;
        let mut values = vec![0.0; self.rows * self.columns];
        let bytes = self.bytes.as_ref().par_chunks(CHUNK * self.dtype.size());
        values.par_chunks_mut(CHUNK).zip(bytes).for_each(|(values, bytes)| widen(self.dtype, bytes, values));
        values
    }

    /// Every number times `scale`, rounded to the same format; all NaN if one is not finite then.
    #[must_use]
    pub fn scaled(&self, scale: f32) -> Self {
        const PART: usize = 1 << 14;
        let part_bytes = PART * self.dtype.size();
        let mut bytes = vec![0; self.bytes.as_ref().len()];
        let part = |(to, from): (&mut [u8], &[u8])| {
            let mut values = vec![0.0; from.len() / self.dtype.size()];
            widen(self.dtype, from, &mut values);
            values.iter_mut().for_each(|value| *value *= scale);
            narrow(self.dtype, &values, to)
        };
        if !bytes.par_chunks_mut(part_bytes).zip(self.bytes.as_ref().par_chunks(part_bytes)).map(part).all(|finite| finite) {
            bytes.fill(0xff);
        }
        Self::owning(bytes, self.dtype, self.rows, self.columns)
    }

    /// Whether no number is NaN or infinite. Reads every byte once, in parallel.
    #[must_use]
    pub fn is_finite(&self) -> bool {
        self.bytes.as_ref().par_chunks(1 << 18).all(|chunk| self.dtype.are_finite(chunk))
    }
}

/// Widens little-endian numbers to f32; `out.len()` numbers are read.
///
/// # Panics
/// If `bytes` is not exactly that long.
pub fn widen(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    #[inline(always)]
    fn widen_each<const SIZE: usize>(bytes: &[u8], out: &mut [f32], number: impl Fn([u8; SIZE]) -> f32) {
        out.iter_mut().zip(bytes.as_chunks().0).for_each(|(out, &bytes)| *out = number(bytes));
    }
    assert_eq!(bytes.len(), out.len() * dtype.size(), "bytes do not fit the output");
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || match dtype {
            Dtype::F32 => widen_each(bytes, out, f32::from_le_bytes),
            Dtype::F16 => widen_each(bytes, out, widen_f16),
            Dtype::Bf16 => widen_each(bytes, out, widen_bf16),
        },
    );
}

/// Writes `values` in a number format, rounded to nearest even, little endian. Whether they stayed finite.
///
/// # Panics
/// If `bytes` is not exactly that long.
pub fn narrow(dtype: Dtype, values: &[f32], bytes: &mut [u8]) -> bool {
    assert_eq!(bytes.len(), values.len() * dtype.size(), "bytes do not fit the values");
    match dtype {
        Dtype::F32 => {
            bytes.copy_from_slice(bytemuck::cast_slice(values));
            values.iter().all(|value| value.is_finite())
        }
        Dtype::F16 => {
            let mut halves = vec![half::f16::ZERO; values.len()];
            halves.convert_from_f32_slice(values);
            bytes.copy_from_slice(bytemuck::cast_slice(&halves));
            halves.iter().all(|half| half.is_finite())
        }
        Dtype::Bf16 => {
            let mut halves = vec![half::bf16::ZERO; values.len()];
            halves.convert_from_f32_slice(values);
            bytes.copy_from_slice(bytemuck::cast_slice(&halves));
            halves.iter().all(|half| half.is_finite())
        }
    }
}

/// The same, in parallel; none if a number is beyond the format's range.
#[must_use]
pub fn narrowed(dtype: Dtype, values: &[f32]) -> Option<Vec<u8>> {
    const PART: usize = 1 << 14;
    let mut bytes = vec![0; values.len() * dtype.size()];
    let parts = bytes.par_chunks_mut(PART * dtype.size()).zip(values.par_chunks(PART));
    parts.map(|(bytes, values)| narrow(dtype, values, bytes)).all(|finite| finite).then_some(bytes)
}

/// One little-endian bf16 number.
#[inline(always)]
pub(crate) fn widen_bf16(bytes: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
}

/// One little-endian f16 number, without a branch, so that loops over it become vector instructions.
#[inline(always)]
pub(crate) fn widen_f16(bytes: [u8; 2]) -> f32 {
    /// From f16's exponents to those of f32.
    const BIAS: u32 = (127 - 15) << 23;
    let bits = u16::from_le_bytes(bytes);
    let magnitude = u32::from(bits & 0x7fff) << 13;
    // Without an exponent the digits count multiples of 2^-24.
    let small = f32::from(bits & 0x03ff) * f32::from_bits((127 - 24) << 23);
    let value = match bits & 0x7c00 {
        0 => small.to_bits(),
        0x7c00 => magnitude + 2 * BIAS,
        _ => magnitude + BIAS,
    };
    f32::from_bits(value | u32::from(bits & 0x8000) << 16)
}
