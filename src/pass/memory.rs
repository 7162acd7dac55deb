//! What a pass may put where: how many tokens go through a layer together, and where hidden states stay between layers.

use crate::architecture::Architecture;
use crate::engine::{DeviceInfo, DeviceKind};
use crate::error::{Error, Result};
use crate::forward::panel_bytes;
use std::num::NonZeroUsize;

/// Hidden states beyond this go to a mapped temporary file instead of host memory.
const HOST_MEMORY: u64 = 4 << 30;
/// Share of the budget that the activations of one batch may take.
const ACTIVATIONS_SHARE: u64 = 4;

/// What is known about a pass's memory beforehand.
#[derive(Debug, Clone, Copy, Default)]
pub struct PassOptions {
    /// Tokens that go through a layer together; `None` fits them to the device.
    pub batch_tokens: Option<usize>,
    /// Bytes of the device's memory budget that are taken by what is no part of the pass.
    pub reserved: u64,
    /// Bytes of it that sums beside the pass take, for which it leaves at most half of the budget.
    pub sums: u64,
    /// Bytes that eliminations take in the place of the sums. They run on the device where that half holds them and a window still fits beside
    /// them, and on the host otherwise.
    pub eliminations: [u64; 2],
    /// Residual streams that are kept beside the pass's own.
    pub other_streams: usize,
}

impl PassOptions {
    /// So many tokens at a time, if that is said.
    #[must_use]
    pub fn in_batches(tokens: Option<NonZeroUsize>) -> Self {
        Self { batch_tokens: tokens.map(NonZeroUsize::get), ..Self::default() }
    }

    /// What the pass may leave of a memory budget for what is beside it, the least first: sums alone, or an elimination in their place.
    fn rooms(&self, budget: u64) -> Vec<u64> {
        let half = budget / 2;
        let sums = self.sums.min(half);
        let mut rooms = vec![sums];
        rooms.extend(self.eliminations.into_iter().filter(|bytes| (sums..=half).contains(bytes)));
        rooms.sort_unstable();
        rooms
    }
}

/// Where hidden states stay between layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In device memory: nothing moves.
    Device,
    /// In host memory: a batch moves to the device and back for every layer.
    Host,
    /// In a temporary file, mapped.
    File,
}

/// How a pass uses memory.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// Tokens of a batch: whole windows.
    pub batch_tokens: usize,
    /// Where hidden states stay.
    pub place: Place,
    /// Their bytes.
    pub states: u64,
    /// Bytes of the budget that the pass leaves over.
    pub spare: u64,
    /// Bytes of it that are for what is kept beside the pass.
    pub room: u64,
}

/// The largest bytes of a layer's weights, and of one token's activations inside a layer, and of its widest single activation.
fn demands(kind: DeviceKind, architecture: &Architecture, weight_bytes: &dyn Fn(usize) -> u64) -> [u64; 3] {
    let parts = if kind == DeviceKind::Cpu { 3 } else { 1 };
    let of_layer = |(index, layer): (usize, &crate::architecture::LayerShape)| {
        let heads = (layer.heads + 2 * layer.key_value_heads) * architecture.head_dim;
        let widest = layer.intermediate_size.max(layer.heads * architecture.head_dim).max(architecture.hidden_size);
        // The stream, its norm, a projection's output, and either attention's or the MLP's inner activations; once more in 16 bits, on the
        // CPU in up to three parts, what a product or attention reads.
        let attention = 4 * (heads + layer.heads * architecture.head_dim) + 2 * heads.max(parts * widest);
        let mlp = 8 * layer.intermediate_size + 2 * parts * widest;
        [weight_bytes(index), (12 * architecture.hidden_size + attention.max(mlp)) as u64, 4 * widest as u64]
    };
    architecture.layers.iter().enumerate().map(of_layer).fold([0; 3], |a, b| std::array::from_fn(|i| a[i].max(b[i])))
}

/// What of a budget is there for buffers, whose sizes are rounded up by at most an eighth on a device.
fn usable(info: &DeviceInfo, budget: u64) -> u64 {
    if info.staging_bytes.is_none() { budget } else { budget / 9 * 8 }
}

/// The least budget, in megabytes, that holds `fixed` bytes beside what is reserved and the sums.
fn enough(info: &DeviceInfo, fixed: u64, options: PassOptions) -> u64 {
    let holds = |budget: u64| usable(info, budget) >= fixed + options.reserved + options.sums.min(budget / 2);
    // Three times as much does: of a budget at most half is for sums.
    let most = 3 * ((fixed + options.reserved) >> 20) + 3;
    (0..most).find(|megabytes| holds(megabytes << 20)).unwrap_or(most)
}

/// Plans the memory of a pass over `windows` windows of `window_tokens` tokens. `weight_bytes` gives the bytes that a layer's
/// weights take on the device.
///
/// # Errors
/// If the device binds too little for a window, or the budget does not hold the layer that computes, the next, and the activations of one window.
pub fn plan(
    info: &DeviceInfo,
    architecture: &Architecture,
    weight_bytes: &dyn Fn(usize) -> u64,
    windows: usize,
    window_tokens: usize,
    options: PassOptions,
) -> Result<Layout> {
    let demands = demands(info.kind, architecture, weight_bytes);
    let mut rooms = options.rooms(info.memory_budget);
    let least = rooms.remove(0);
    let with_room = |room| lay_out(info, architecture, demands, [windows, window_tokens], options, room);
    match rooms.into_iter().rev().find_map(|room| with_room(room).ok()) {
        Some(layout) => Ok(layout),
        None => with_room(least),
    }
}

/// The layout beside so many bytes for other things.
fn lay_out(
    info: &DeviceInfo,
    architecture: &Architecture,
    [layer, token, widest]: [u64; 3],
    [windows, window_tokens]: [usize; 2],
    options: PassOptions,
    room: u64,
) -> Result<Layout> {
    let whole = usable(info, info.memory_budget);
    let beside = options.reserved + room;
    let budget = whole.saturating_sub(beside);
    // The layer that computes and the next, of which a part is on its way. The CPU engine multiplies by the mapped file itself.
    let weights = info.staging_bytes.map_or(0, |staging| 2 * layer + staging.min(layer));
    let fitting = |bytes: u64, per_token: u64| (bytes / per_token) as usize / window_tokens * window_tokens;
    let bindable = fitting(info.max_binding_bytes, widest);
    let rope = 4 * (window_tokens * architecture.head_dim) as u64;
    let wanted = options.batch_tokens.unwrap_or_else(|| {
        let by_budget = fitting((budget / ACTIVATIONS_SHARE).min(budget.saturating_sub(weights + rope)), token);
        info.default_batch_tokens.min(by_budget).min(bindable)
    });
    let batch_tokens = (wanted / window_tokens).clamp(1, windows.max(1)) * window_tokens;
    if batch_tokens > bindable {
        let smaller = if bindable == 0 { "a smaller --sequence-length".into() } else { format!("--batch-tokens {bindable} or less") };
        return Err(Error::input(format!(
            "the activations of {batch_tokens} tokens are larger than the {} bytes that {} binds at once; give {smaller}",
            info.max_binding_bytes,
            info.label()
        )));
    }
    // Behind the layers comes the head: panels of it, on their way, as numbers to sum, and what they give for a batch.
    let head = 6 * panel_bytes(info);
    let fixed = (weights + rope + token * batch_tokens as u64).max(head);
    if fixed > budget {
        let reserved = match beside {
            0 => String::new(),
            bytes => format!(" and what is kept beside them {bytes},"),
        };
        let smaller = if batch_tokens > window_tokens { "a smaller --batch-tokens, " } else { "" };
        let device = if info.kind == DeviceKind::Cpu { "" } else { ", or --device cpu" };
        return Err(Error::input(format!(
            "layers' weights and the activations of {batch_tokens} tokens take {fixed} bytes of device memory,{reserved} more than {whole}, what a \
             budget of {} has for them; give --memory-budget {}M or more, {smaller}shorter windows{device}",
            info.memory_budget,
            enough(info, fixed, options)
        )));
    }
    let states = 4 * (1 + options.other_streams as u64) * (windows * window_tokens * architecture.hidden_size) as u64;
    let place = match states {
        states if states <= budget - fixed => Place::Device,
        states if info.kind == DeviceKind::Gpu && states <= HOST_MEMORY => Place::Host,
        _ => Place::File,
    };
    let spare = budget - fixed - if place == Place::Device { states } else { 0 };
    tracing::info!("{batch_tokens} tokens a batch; hidden states: {states} bytes, {place:?}; budget {budget} bytes, {room} beside it");
    Ok(Layout { batch_tokens, place, states, spare, room })
}
