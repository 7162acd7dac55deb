//! The kernels' WGSL sources: one file a kernel in `shaders/`, shared pieces named by `//#include` lines.

/// A compute kernel; its entry point is `main`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is the file of the same name in shaders/, which documents it")]
pub enum Kernel {
    Add,
    Attention,
    ColumnNorms,
    CrossEntropy,
    Matmul,
    MomentsMerge,
    MomentsTile,
    NonFinite,
    RmsNorm,
    Rope,
    ScaleColumns,
    Swiglu,
}

impl Kernel {
    /// Every kernel.
    pub const ALL: [Self; 12] = [
        Self::Add,
        Self::Attention,
        Self::ColumnNorms,
        Self::CrossEntropy,
        Self::Matmul,
        Self::MomentsMerge,
        Self::MomentsTile,
        Self::NonFinite,
        Self::RmsNorm,
        Self::Rope,
        Self::ScaleColumns,
        Self::Swiglu,
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
            Self::CrossEntropy => shader!("cross_entropy"),
            Self::Matmul => shader!("matmul"),
            Self::MomentsMerge => shader!("moments_merge"),
            Self::MomentsTile => shader!("moments_tile"),
            Self::NonFinite => shader!("non_finite"),
            Self::RmsNorm => shader!("rms_norm"),
            Self::Rope => shader!("rope"),
            Self::ScaleColumns => shader!("scale_columns"),
            Self::Swiglu => shader!("swiglu"),
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
            source += match line.strip_prefix("//#include ") {
                Some("shared/reduce.wgsl") => include_str!("../../../shaders/shared/reduce.wgsl"),
                Some("shared/weight.wgsl") => include_str!("../../../shaders/shared/weight.wgsl"),
                Some("shared/workgroup.wgsl") => include_str!("../../../shaders/shared/workgroup.wgsl"),
                Some(piece) => panic!("{}.wgsl includes {piece}, which does not exist", self.name()),
                None => line,
            };
            source.push('\n');
        }
        source
    }
}
