//! The kernels' WGSL sources: one file a kernel in `shaders/`, shared pieces named by `//#include` lines.

/// A compute kernel; its entry point is `main`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is the file of the same name in shaders/, which documents it")]
pub enum Kernel {
    Add,
    Attention,
    ColumnNorms,
    Count,
    Cross,
    CrossColumn,
    CrossEntropy,
    Divergence,
    InverseNorms,
    Matmul,
    MatmulCooperative16,
    MatmulCooperative8,
    MatmulWideF16,
    MatmulWideF32,
    MomentsMerge,
    MomentsTile,
    NonFinite,
    Peak,
    PeakCooperative16,
    PeakCooperative8,
    RmsNorm,
    Rope,
    ScaleColumns,
    Shifted,
    Swiglu,
    ToF16,
}

impl Kernel {
    /// Every kernel.
    pub const ALL: [Self; 26] = [
        Self::Add,
        Self::Attention,
        Self::ColumnNorms,
        Self::Count,
        Self::Cross,
        Self::CrossColumn,
        Self::CrossEntropy,
        Self::Divergence,
        Self::InverseNorms,
        Self::Matmul,
        Self::MatmulCooperative16,
        Self::MatmulCooperative8,
        Self::MatmulWideF16,
        Self::MatmulWideF32,
        Self::MomentsMerge,
        Self::MomentsTile,
        Self::NonFinite,
        Self::Peak,
        Self::PeakCooperative16,
        Self::PeakCooperative8,
        Self::RmsNorm,
        Self::Rope,
        Self::ScaleColumns,
        Self::Shifted,
        Self::Swiglu,
        Self::ToF16,
    ];

    /// The file's name without its ending, and its text.
    fn file(self) -> (&'static str, &'static str) {
        macro_rules! shader {
            ($name:literal) => {
                ($name, include_str!(concat!("../../../shaders/", $name, ".wgsl")))
            };
        }
        match self {
            Self::Add => shader!("add"),
            Self::Attention => shader!("attention"),
            Self::ColumnNorms => shader!("column_norms"),
            Self::Count => shader!("count"),
            Self::Cross => shader!("cross"),
            Self::CrossColumn => shader!("cross_column"),
            Self::CrossEntropy => shader!("cross_entropy"),
            Self::Divergence => shader!("divergence"),
            Self::InverseNorms => shader!("inverse_norms"),
            Self::Matmul => shader!("matmul"),
            Self::MatmulCooperative16 => shader!("matmul_cooperative_16"),
            Self::MatmulCooperative8 => shader!("matmul_cooperative_8"),
            Self::MatmulWideF16 => shader!("matmul_wide_f16"),
            Self::MatmulWideF32 => shader!("matmul_wide_f32"),
            Self::MomentsMerge => shader!("moments_merge"),
            Self::MomentsTile => shader!("moments_tile"),
            Self::NonFinite => shader!("non_finite"),
            Self::Peak => shader!("peak"),
            Self::PeakCooperative16 => shader!("peak_cooperative_16"),
            Self::PeakCooperative8 => shader!("peak_cooperative_8"),
            Self::RmsNorm => shader!("rms_norm"),
            Self::Rope => shader!("rope"),
            Self::ScaleColumns => shader!("scale_columns"),
            Self::Shifted => shader!("shifted"),
            Self::Swiglu => shader!("swiglu"),
            Self::ToF16 => shader!("to_f16"),
        }
    }

    /// The kernel's name, used as label.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.file().0
    }

    /// The complete WGSL text, shared pieces in place.
    ///
    /// # Panics
    /// If a file includes a piece that does not exist.
    #[must_use]
    pub fn source(self) -> String {
        let mut source = String::new();
        for line in self.file().1.lines() {
            source += line.strip_prefix("//#include ").map_or(line, |piece| self.piece(piece));
            source.push('\n');
        }
        source
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
            "shared/cooperative_16.wgsl",
            "shared/cooperative_8.wgsl",
            "shared/matmul_cooperative.wgsl",
            "shared/matmul_params.wgsl",
            "shared/matmul_store.wgsl",
            "shared/matmul_wide.wgsl",
            "shared/outer.wgsl",
            "shared/peak_cooperative.wgsl",
            "shared/quad_f16.wgsl",
            "shared/quad_f32.wgsl",
            "shared/reduce.wgsl",
            "shared/sums.wgsl",
            "shared/units_16.wgsl",
            "shared/units_8.wgsl",
            "shared/unscaled.wgsl",
            "shared/weight.wgsl",
            "shared/workgroup.wgsl"
        )
    }
}
