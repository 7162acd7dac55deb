//! The one table of cases of every operation: odd, non-square shapes that no tile divides.

use flap_gpu::engine::AttentionShape;
use flap_gpu::tensor::Dtype;

/// One operation with its sizes.
#[derive(Debug, Clone, Copy)]
pub enum Case {
    /// `[tokens, inputs]` by `[outputs, inputs]`.
    Linear {
        tokens: usize,
        inputs: usize,
        outputs: usize,
        dtype: Dtype,
        bias: bool,
    },
    RmsNorm {
        rows: usize,
        columns: usize,
        width: usize,
    },
    Rope {
        windows: usize,
        window_tokens: usize,
        heads: usize,
        head_dim: usize,
    },
    Attention {
        windows: usize,
        shape: AttentionShape,
    },
    Add {
        rows: usize,
        columns: usize,
        factor: f32,
    },
    /// Columns `first..first + columns` of `[tokens, a]` by `[tokens, b]`; the first itself where `b` is 0.
    Cross {
        tokens: usize,
        a: usize,
        first: usize,
        columns: usize,
        b: usize,
    },
    Shifted {
        rows: usize,
        columns: usize,
        scaled: bool,
    },
    InverseNorms {
        rows: usize,
        columns: usize,
    },
    Swiglu {
        rows: usize,
        columns: usize,
    },
    ScaleColumns {
        rows: usize,
        columns: usize,
    },
    /// Every third row from the last on, and every second column, behind `first` rows that stay.
    Gather {
        rows: usize,
        columns: usize,
        first: usize,
    },
    ColumnNorms {
        rows: usize,
        columns: usize,
        dtype: Dtype,
    },
    CrossEntropy {
        tokens: usize,
        vocabulary: usize,
        panel: usize,
    },
    Divergence {
        tokens: usize,
        vocabulary: usize,
        panel: usize,
    },
}

use Case::*;
use Dtype::{Bf16, F16, F32};

const fn attention(
    windows: usize,
    window_tokens: usize,
    heads: usize,
    key_value_heads: usize,
    head_dim: usize,
    sliding_window: Option<usize>,
) -> Case {
    Attention { windows, shape: AttentionShape { window_tokens, heads, key_value_heads, head_dim, sliding_window } }
}

pub const CASES: [Case; 78] = [
    Linear { tokens: 1, inputs: 1, outputs: 1, dtype: F32, bias: true },
    Linear { tokens: 1, inputs: 64, outputs: 33, dtype: F32, bias: false },
    Linear { tokens: 3, inputs: 5, outputs: 7, dtype: F32, bias: true },
    Linear { tokens: 65, inputs: 17, outputs: 129, dtype: F32, bias: false },
    Linear { tokens: 130, inputs: 96, outputs: 70, dtype: F32, bias: true },
    Linear { tokens: 7, inputs: 1027, outputs: 19, dtype: F32, bias: false },
    Linear { tokens: 3, inputs: 5, outputs: 7, dtype: F16, bias: true },
    Linear { tokens: 65, inputs: 17, outputs: 129, dtype: F16, bias: false },
    Linear { tokens: 130, inputs: 96, outputs: 70, dtype: F16, bias: true },
    Linear { tokens: 257, inputs: 130, outputs: 66, dtype: F16, bias: false },
    Linear { tokens: 3, inputs: 5, outputs: 7, dtype: Bf16, bias: true },
    Linear { tokens: 65, inputs: 17, outputs: 129, dtype: Bf16, bias: false },
    Linear { tokens: 130, inputs: 96, outputs: 70, dtype: Bf16, bias: true },
    Linear { tokens: 9, inputs: 258, outputs: 300, dtype: Bf16, bias: false },
    Linear { tokens: 64, inputs: 4, outputs: 64, dtype: F32, bias: true },
    Linear { tokens: 129, inputs: 68, outputs: 130, dtype: F32, bias: false },
    Linear { tokens: 200, inputs: 132, outputs: 300, dtype: F16, bias: true },
    Linear { tokens: 300, inputs: 264, outputs: 129, dtype: F16, bias: false },
    Linear { tokens: 70, inputs: 516, outputs: 257, dtype: Bf16, bias: true },
    Linear { tokens: 131, inputs: 33, outputs: 190, dtype: Bf16, bias: true },
    Linear { tokens: 1030, inputs: 40, outputs: 50, dtype: F16, bias: true },
    // Whole matrices of sums, in part of a tile, in several tiles.
    Linear { tokens: 16, inputs: 31, outputs: 48, dtype: F16, bias: true },
    Linear { tokens: 144, inputs: 72, outputs: 272, dtype: F16, bias: true },
    Linear { tokens: 272, inputs: 96, outputs: 128, dtype: Bf16, bias: false },
    RmsNorm { rows: 1, columns: 1, width: 1 },
    RmsNorm { rows: 5, columns: 67, width: 67 },
    RmsNorm { rows: 3, columns: 1030, width: 1030 },
    RmsNorm { rows: 7, columns: 48, width: 16 },
    RmsNorm { rows: 70_001, columns: 2, width: 2 },
    Rope { windows: 1, window_tokens: 1, heads: 1, head_dim: 2 },
    Rope { windows: 3, window_tokens: 37, heads: 3, head_dim: 10 },
    Rope { windows: 2, window_tokens: 129, heads: 5, head_dim: 64 },
    attention(1, 1, 1, 1, 2, None),
    attention(3, 5, 2, 2, 6, None),
    attention(2, 37, 6, 3, 10, None),
    attention(2, 65, 4, 1, 32, None),
    attention(1, 130, 3, 3, 64, None),
    attention(1, 300, 2, 1, 128, None),
    attention(1, 70, 2, 1, 256, None),
    attention(2, 70, 4, 2, 16, Some(1)),
    attention(2, 70, 4, 2, 16, Some(19)),
    attention(1, 200, 2, 2, 8, Some(500)),
    attention(1, 200, 2, 1, 48, Some(40)),
    // In whole blocks, of all sizes that matrix units have.
    attention(2, 16, 2, 2, 64, None),
    attention(3, 48, 6, 3, 32, Some(20)),
    attention(2, 144, 4, 2, 80, None),
    attention(1, 272, 2, 1, 128, Some(100)),
    attention(1, 1040, 1, 1, 16, None),
    // More keys than the CPU takes at a time, of which some queries see none of the first, or of the last.
    attention(1, 2200, 1, 1, 8, None),
    attention(1, 2240, 2, 1, 4, Some(2060)),
    Add { rows: 3, columns: 5, factor: 1.0 },
    Add { rows: 257, columns: 300, factor: -0.5 },
    Cross { tokens: 1, a: 1, first: 0, columns: 1, b: 1 },
    Cross { tokens: 150, a: 5, first: 3, columns: 1, b: 37 },
    Cross { tokens: 63, a: 1, first: 0, columns: 1, b: 16 },
    Cross { tokens: 70, a: 40, first: 20, columns: 1, b: 0 },
    Cross { tokens: 37, a: 130, first: 3, columns: 90, b: 67 },
    Cross { tokens: 21, a: 290, first: 7, columns: 260, b: 140 },
    Cross { tokens: 300, a: 70, first: 0, columns: 70, b: 0 },
    Cross { tokens: 129, a: 300, first: 128, columns: 172, b: 0 },
    Cross { tokens: 37, a: 268, first: 4, columns: 132, b: 140 },
    Shifted { rows: 3, columns: 5, scaled: false },
    Shifted { rows: 130, columns: 67, scaled: true },
    InverseNorms { rows: 1, columns: 1 },
    InverseNorms { rows: 37, columns: 300 },
    Swiglu { rows: 1, columns: 1 },
    Swiglu { rows: 129, columns: 67 },
    ScaleColumns { rows: 33, columns: 77 },
    Gather { rows: 1, columns: 1, first: 0 },
    Gather { rows: 50, columns: 301, first: 5 },
    ColumnNorms { rows: 1, columns: 3, dtype: F32 },
    ColumnNorms { rows: 203, columns: 131, dtype: F16 },
    ColumnNorms { rows: 1000, columns: 65, dtype: Bf16 },
    ColumnNorms { rows: 1100, columns: 40, dtype: F16 },
    CrossEntropy { tokens: 5, vocabulary: 3, panel: 3 },
    CrossEntropy { tokens: 67, vocabulary: 1001, panel: 300 },
    Divergence { tokens: 5, vocabulary: 3, panel: 3 },
    Divergence { tokens: 67, vocabulary: 1001, panel: 300 },
];
