//! The one call into the matrix library.

use faer::linalg::matmul::matmul;
use faer::mat::{MatMut, MatRef};
use faer::{Accum, Par};

/// `c = scale * a b`, or `c += scale * a b`, on this thread.
pub fn product(c: MatMut<'_, f32>, accumulate: Accum, a: MatRef<'_, f32>, b: MatRef<'_, f32>, scale: f32) {
    matmul(c, accumulate, a, b, scale, Par::Seq);
    clear_upper_registers();
}

/// The library's kernels leave the upper halves of the vector registers in use, which makes every later SSE instruction of the
/// thread wait for them: exponentials were measured ten times slower.
#[cfg(target_arch = "x86_64")]
fn clear_upper_registers() {
    #[target_feature(enable = "avx")]
    fn clear() {
        std::arch::x86_64::_mm256_zeroupper();
    }
    if std::arch::is_x86_feature_detected!("avx") {
        // SAFETY: the processor has AVX; the instruction changes nothing that compiled code keeps.
        unsafe { clear() }
    }
}

/// Only x86-64 has the problem.
#[cfg(not(target_arch = "x86_64"))]
fn clear_upper_registers() {}
