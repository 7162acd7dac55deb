//! Fused multiply-adds in registers, to find out how many a core does in a second.

/// Chains that run side by side: enough to keep two units of four cycles busy, few enough for the registers.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const CHAINS: usize = 12;

/// Runs `rounds` rounds on this thread and returns the number of multiply-adds done.
#[must_use]
pub fn multiply_adds(rounds: u64) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the instructions.
            unsafe { x86::avx512(rounds) };
            return rounds * CHAINS as u64 * 16;
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            // SAFETY: the processor has the instructions.
            unsafe { x86::avx2(rounds) };
            return rounds * CHAINS as u64 * 8;
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        arm(rounds);
        return rounds * CHAINS as u64 * 4;
    }
    #[allow(unreachable_code, reason = "only processors without vectors of a known width come here")]
    {
        let mut sums = [1.0f32; 16];
        for _ in 0..rounds {
            sums.iter_mut().for_each(|s| *s = *s * 0.999 + 0.999);
        }
        std::hint::black_box(sums);
        rounds * 16
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::CHAINS;
    use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_set1_ps, _mm512_fmadd_ps, _mm512_set1_ps};

    #[target_feature(enable = "avx512f")]
    pub fn avx512(rounds: u64) {
        let factor = _mm512_set1_ps(0.999);
        let mut sums = [_mm512_set1_ps(1.0); CHAINS];
        for _ in 0..rounds {
            sums.iter_mut().for_each(|sum| *sum = _mm512_fmadd_ps(*sum, factor, factor));
        }
        std::hint::black_box(sums);
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn avx2(rounds: u64) {
        let factor = _mm256_set1_ps(0.999);
        let mut sums = [_mm256_set1_ps(1.0); CHAINS];
        for _ in 0..rounds {
            sums.iter_mut().for_each(|sum| *sum = _mm256_fmadd_ps(*sum, factor, factor));
        }
        std::hint::black_box(sums);
    }
}

#[cfg(target_arch = "aarch64")]
fn arm(rounds: u64) {
    use std::arch::aarch64::{vdupq_n_f32, vfmaq_f32};
    // SAFETY: every 64-bit ARM processor has NEON.
    unsafe {
        let factor = vdupq_n_f32(0.999);
        let mut sums = [vdupq_n_f32(1.0); CHAINS];
        for _ in 0..rounds {
            sums.iter_mut().for_each(|sum| *sum = vfmaq_f32(factor, *sum, factor));
        }
        std::hint::black_box(sums);
    }
}
