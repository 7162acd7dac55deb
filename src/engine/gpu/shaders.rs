//! The kernels' WGSL sources: one file a kernel in `shaders/`, shared pieces named by `//#include` lines, and lines between
//! `//#repeat NAME COUNT` and `//#end` written so many times with 0, 1, ... for `$NAME`. Not every compiler unrolls loops, and what is
//! indexed by a loop's variable lives in memory rather than in registers.

/// The enumeration of all kernels with their files in `shaders/`.
macro_rules! kernels {
    ($($kernel:ident = $name:literal,)+) => {
        /// A compute kernel; its entry point is `main`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "each variant is a file in shaders/, which documents it")]
        pub enum Kernel {
            $($kernel,)+
        }

        impl Kernel {
            /// Every kernel.
            pub const ALL: &[Self] = &[$(Self::$kernel,)+];

            /// The file's name without its ending, and its text.
            fn file(self) -> (&'static str, &'static str) {
                match self {
                    $(Self::$kernel => ($name, include_str!(concat!("../../../shaders/", $name, ".wgsl"))),)+
                }
            }
        }
    };
}

kernels! {
    ActivationTiles = "activation_tiles",
    Add = "add",
    Attention = "attention",
    AttentionCooperative16 = "attention_cooperative_16",
    AttentionCooperative8 = "attention_cooperative_8",
    ColumnNorms = "column_norms",
    Count = "count",
    Cross = "cross",
    CrossColumn = "cross_column",
    CrossEntropy = "cross_entropy",
    Divergence = "divergence",
    Gather = "gather",
    InverseNorms = "inverse_norms",
    Matmul = "matmul",
    MatmulCooperative16 = "matmul_cooperative_16",
    MatmulCooperative16Any = "matmul_cooperative_16_any",
    MatmulCooperative8 = "matmul_cooperative_8",
    MatmulWideF16 = "matmul_wide_f16",
    MatmulWideF32 = "matmul_wide_f32",
    MomentsMerge = "moments_merge",
    MomentsTile = "moments_tile",
    NonFinite = "non_finite",
    Peak = "peak",
    PeakCooperative16 = "peak_cooperative_16",
    PeakCooperative8 = "peak_cooperative_8",
    RmsNorm = "rms_norm",
    Rope = "rope",
    ScaleColumns = "scale_columns",
    Shifted = "shifted",
    Swiglu = "swiglu",
    ToF16 = "to_f16",
    WeightTiles = "weight_tiles",
}

impl Kernel {
    /// The kernel's name, used as label.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.file().0
    }

    /// The complete WGSL text, shared pieces in place and repeated lines written out.
    ///
    /// # Panics
    /// If a file includes a piece that does not exist, or says not how often lines are repeated.
    #[must_use]
    pub fn source(self) -> String {
        let mut source = String::new();
        for line in self.file().1.lines() {
            source += line.strip_prefix("//#include ").map_or(line, |piece| self.piece(piece));
            source.push('\n');
        }
        unrolled(&mut source.lines())
    }

    /// A shared piece.
    fn piece(self, name: &str) -> &'static str {
        macro_rules! pieces {
            ($($name:literal),+) => {
                match name {
                    $($name => include_str!(concat!("../../../shaders/", $name)),)+
                    _ => panic!("{}.wgsl includes {name}, which does not exist", self.name()),
                }
            };
        }
        pieces!(
            "shared/attention_cooperative.wgsl",
            "shared/attention_params.wgsl",
            "shared/cooperative.wgsl",
            "shared/matmul_cooperative.wgsl",
            "shared/matmul_params.wgsl",
            "shared/matmul_store.wgsl",
            "shared/matmul_wide.wgsl",
            "shared/outer.wgsl",
            "shared/peak_cooperative.wgsl",
            "shared/power.wgsl",
            "shared/quad_f16.wgsl",
            "shared/quad_f32.wgsl",
            "shared/reduce.wgsl",
            "shared/staging_16.wgsl",
            "shared/staging_8.wgsl",
            "shared/store_matrices.wgsl",
            "shared/store_numbers.wgsl",
            "shared/sums.wgsl",
            "shared/tiles.wgsl",
            "shared/units_16.wgsl",
            "shared/units_8.wgsl",
            "shared/unscaled.wgsl",
            "shared/weight.wgsl",
            "shared/workgroup.wgsl"
        )
    }
}

/// Lines up to the end of a repetition or of all, those that are repeated written out.
fn unrolled(lines: &mut std::str::Lines<'_>) -> String {
    let mut text = String::new();
    while let Some(line) = lines.next().filter(|&line| line != "//#end") {
        let Some(repeat) = line.strip_prefix("//#repeat ") else {
            text += line;
            text.push('\n');
            continue;
        };
        let (name, count) = repeat.split_once(' ').expect("a name and a count");
        let body = unrolled(lines);
        (0..count.parse().expect("a count")).for_each(|i: usize| text += &body.replace(&format!("${name}"), &i.to_string()));
    }
    text
}
