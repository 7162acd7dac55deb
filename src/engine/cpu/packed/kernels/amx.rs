//! AMX: eight registers of 16 rows of 64 bytes. Four hold the sums of 32 tokens by 32 outputs; two tiles of activations and two of weights
//! serve four instructions of 16 x 16 x 32 multiply-adds each.

use super::{Ahead, LINE, Parts, SIDE, Step, Sums};
use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;

/// Shapes of the eight registers, as `ldtilecfg` reads them.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static WHOLE_TILES: Configuration = {
    let mut configuration = Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
    let mut register = 0;
    while register < 8 {
        (configuration.row_bytes[register], configuration.rows[register]) = ((4 * SIDE) as u16, SIDE as u8);
        register += 1;
    }
    configuration
};

/// Whether this processor has the instructions and the system lets this process use them.
pub fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        // Leaf 7, register D: bit 22 are products of bf16, bit 24 the registers. Numbers are packed with AVX-512.
        const BITS: u32 = 1 << 22 | 1 << 24;
        // SAFETY: every processor with AVX-512 has the instruction and this leaf. Newer toolchains do not ask for the block.
        #[allow(unused_unsafe)]
        let features = || unsafe { __cpuid_count(7, 0).edx };
        super::avx512::has_bf16() && features() & BITS == BITS && is_permitted()
    })
}

/// Threads get room for the registers when they first use them, if the process has asked for it.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
    const TILE_DATA: libc::c_ulong = 18;
    // SAFETY: asks for a permission; nothing is written.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 }
}

/// No other system was at hand to try it on: vectors do the work there.
#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// See [`super::Unit::add_products`].
///
/// # Safety
/// The instructions must be available.
pub unsafe fn add_products(parts: Parts, sums: &mut [Sums], x: &[Step], w: &[Step], next: Ahead<'_>) {
    let kernel = match (parts.activation, parts.weight) {
        (1, 1) => rounded,
        (3, 1) => bf16_weights,
        (3, 2) => f16_weights,
        (3, 3) => f32_weights,
        other => unreachable!("no numbers have {other:?} parts"),
    };
    // SAFETY: the caller's.
    unsafe { kernel(sums, x, w, next) }
}

/// Loads a part of the weights.
macro_rules! weights {
    ($offset:literal) => {
        concat!("tileloadd tmm6, [{w} + {row} + ", $offset, "]\n", "tileloadd tmm7, [{w} + {row} + ", $offset, " + 1024]\n")
    };
}

/// Multiplies a part of the activations by it.
macro_rules! products {
    ($offset:literal) => {
        concat!(
            "tileloadd tmm4, [{x} + {row} + ",
            $offset,
            "]\n",
            "tdpbf16ps tmm0, tmm4, tmm6\n",
            "tdpbf16ps tmm1, tmm4, tmm7\n",
            "tileloadd tmm5, [{x} + {row} + ",
            $offset,
            " + 1024]\n",
            "tdpbf16ps tmm2, tmm5, tmm6\n",
            "tdpbf16ps tmm3, tmm5, tmm7\n",
        )
    };
}

/// Fetches a line of two rows of the next weights.
macro_rules! next_weights {
    ($offset:literal) => {
        concat!("prefetcht1 [{ahead} + ", $offset, "]\n", "prefetcht1 [{ahead} + {row_bytes} + ", $offset, "]\n")
    };
}

/// Fetches four lines of the next activations.
macro_rules! next_activations {
    ($offset:literal) => {
        concat!(
            "prefetcht1 [{soon} + ",
            $offset,
            "]\n",
            "prefetcht1 [{soon} + ",
            $offset,
            " + 64]\n",
            "prefetcht1 [{soon} + ",
            $offset,
            " + 128]\n",
            "prefetcht1 [{soon} + ",
            $offset,
            " + 192]\n",
        )
    };
}

/// A kernel for so many parts of activations and weights, by what makes a step of 32 inputs.
macro_rules! kernel {
    ($name:ident, $x_parts:literal, $w_parts:literal, $($step:expr),+) => {
        // SAFETY: the instructions must be available.
        unsafe fn $name(sums: &mut [Sums], x: &[Step], w: &[Step], next: Ahead<'_>) {
            const { assert!(size_of::<Step>() == 2048 && size_of::<Sums>() == 4096, "the offsets below") }
            let steps = w.len() / $w_parts;
            assert_eq!(x.len(), sums.len() * steps * $x_parts, "activations do not fit the weights");
            if sums.is_empty() || steps == 0 {
                return;
            }
            // SAFETY: by the assertion every tile that is read lies in the slices; those of sums are all written. What is fetched ahead
            // may be anything.
            unsafe {
                asm!(
                    "ldtilecfg [{ahead}]",
                    // A block of tokens.
                    "2:",
                    "tileloadd tmm0, [{sums} + {row}]",
                    "tileloadd tmm1, [{sums} + {row} + 1024]",
                    "tileloadd tmm2, [{sums} + {row} + 2048]",
                    "tileloadd tmm3, [{sums} + {row} + 3072]",
                    "mov {w}, {weights}",
                    "mov {ahead}, {next}",
                    "mov {step}, {steps}",
                    // A step of 32 inputs.
                    "3:",
                    $($step,)+
                    "add {x}, {x_bytes}",
                    "add {w}, {w_bytes}",
                    "add {ahead}, {w_line}",
                    "add {soon}, {x_line}",
                    "dec {step}",
                    "jnz 3b",
                    "tilestored [{sums} + {row}], tmm0",
                    "tilestored [{sums} + {row} + 1024], tmm1",
                    "tilestored [{sums} + {row} + 2048], tmm2",
                    "tilestored [{sums} + {row} + 3072], tmm3",
                    "add {sums}, 4096",
                    "lea {next}, [{next} + 2 * {row_bytes}]",
                    "dec {blocks}",
                    "jnz 2b",
                    "tilerelease",
                    sums = inout(reg) sums.as_mut_ptr() => _,
                    x = inout(reg) x.as_ptr() => _,
                    w = out(reg) _,
                    weights = in(reg) w.as_ptr(),
                    steps = in(reg) steps,
                    step = out(reg) _,
                    blocks = inout(reg) sums.len() => _,
                    row = in(reg) 4 * SIDE,
                    next = inout(reg) next.weights.as_ptr() => _,
                    row_bytes = in(reg) next.row_bytes,
                    soon = inout(reg) next.x.as_ptr() => _,
                    w_line = const $w_parts * LINE,
                    x_line = const $x_parts * 4 * LINE,
                    ahead = inout(reg) &raw const WHOLE_TILES => _,
                    x_bytes = const $x_parts * 2048,
                    w_bytes = const $w_parts * 2048,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

kernel!(rounded, 1, 1, next_weights!(0), next_activations!(0), weights!(0), products!(0));
kernel!(
    bf16_weights,
    3,
    1,
    next_weights!(0),
    next_activations!(0),
    next_activations!(256),
    next_activations!(512),
    weights!(0),
    products!(0),
    products!(2048),
    products!(4096)
);
kernel!(
    f16_weights,
    3,
    2,
    next_weights!(0),
    next_weights!(64),
    next_activations!(0),
    next_activations!(256),
    next_activations!(512),
    weights!(0),
    products!(0),
    products!(2048),
    products!(4096),
    weights!(2048),
    products!(0),
    products!(2048)
);
kernel!(
    f32_weights,
    3,
    3,
    next_weights!(0),
    next_weights!(64),
    next_weights!(128),
    next_activations!(0),
    next_activations!(256),
    next_activations!(512),
    weights!(0),
    products!(0),
    products!(2048),
    products!(4096),
    weights!(2048),
    products!(0),
    products!(2048),
    weights!(4096),
    products!(0)
);

/// Multiply-adds of so many rounds in registers on this thread.
///
/// # Safety
/// The instructions must be available.
pub unsafe fn in_registers(rounds: u64) -> u64 {
    // SAFETY: only registers are written.
    unsafe {
        asm!(
            "ldtilecfg [{configuration}]",
            "2:",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "dec {rounds}",
            "jnz 2b",
            "tilerelease",
            configuration = in(reg) &raw const WHOLE_TILES,
            rounds = inout(reg) rounds.max(1) => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
    rounds.max(1) * (4 * SIDE * SIDE * 2 * SIDE) as u64
}
