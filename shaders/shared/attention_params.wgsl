// What all attention kernels are told.
override HEAD_DIM: u32 = 64u;

struct Params {
    window_tokens: u32,
    heads: u32,
    key_value_heads: u32,
    // Keys a query sees, itself included.
    reach: u32,
    blocks_per_window: u32,
    scale: f32,
    // The first workgroup's place among all.
    first_row: u32,
}

@group(0) @binding(0) var<uniform> params: Params;

// Below every score; WGSL has no infinity.
const LOWEST = -3.0e38;
