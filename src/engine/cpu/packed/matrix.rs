//! Weights packed once for all products of a layer.

use super::kernels::{BLOCK, LINE, Step, Unit};
use super::{Parts, packing};
use crate::engine::cpu::room::{Reserved, Room};
use crate::tensor::HostTensor;
use std::ops::Range;
use std::sync::OnceLock;

/// A matrix whose packed strips stay from its first product on, if there is room for all of them then.
pub struct PackedMatrix {
    /// As it is stored.
    pub(in crate::engine::cpu) tensor: HostTensor,
    room: Room,
    strips: OnceLock<Option<Strips>>,
}

/// `[steps, parts]` of every 32 outputs.
struct Strips {
    packed: Box<[OnceLock<Vec<Step>>]>,
    _reserved: Reserved,
}

impl PackedMatrix {
    /// A matrix that may take from `room`.
    #[must_use]
    pub(in crate::engine::cpu) fn new(tensor: HostTensor, room: Room) -> Self {
        Self { tensor, room, strips: OnceLock::new() }
    }

    /// Weights `[steps, parts]` of a strip of outputs, from what is kept of it, or else packed to `scratch`.
    pub(super) fn panel<'a>(
        &'a self,
        unit: Unit,
        parts: Parts,
        strip: usize,
        steps: Range<usize>,
        scratch: &'a mut Vec<Step>,
    ) -> &'a [Step] {
        let pack = |inputs, packed: &mut Vec<Step>| packing::weights(unit, &self.tensor, strip * BLOCK, inputs, parts, packed);
        let inputs = self.tensor.columns;
        let Some(strips) = self.strips.get_or_init(|| self.make_room(unit, parts)) else {
            pack(steps.start * unit.step()..(steps.end * unit.step()).min(inputs), scratch);
            return scratch;
        };
        let packed = strips.packed[strip].get_or_init(|| {
            let mut packed = Vec::new();
            pack(0..inputs, &mut packed);
            packed
        });
        &packed[steps.start * parts.weight..steps.end * parts.weight]
    }

    fn make_room(&self, unit: Unit, parts: Parts) -> Option<Strips> {
        let strips = self.tensor.rows.div_ceil(BLOCK);
        let steps = strips * self.tensor.columns.div_ceil(unit.step()) * parts.weight;
        Some(Strips {
            _reserved: self.room.take((steps * size_of::<Step>()) as u64)?,
            packed: (0..strips).map(|_| OnceLock::new()).collect(),
        })
    }

    /// The bytes that a panel of a strip will be read from, beginning with some step, and the bytes of a row of them: two rows for every
    /// block of tokens.
    pub(super) fn source(&self, unit: Unit, parts: Parts, (strip, step): (usize, usize)) -> (&[u8], usize) {
        let packed = self.strips.get().and_then(Option::as_ref).and_then(|strips| strips.packed[strip].get());
        if let Some(packed) = packed {
            return (bytemuck::cast_slice(&packed[step * parts.weight..]), LINE * parts.steps() * parts.weight);
        }
        let tensor = &self.tensor;
        let input = (step * unit.step()).min(tensor.columns);
        (&tensor.bytes.as_ref()[strip * BLOCK * tensor.row_bytes() + input * tensor.dtype.size()..], tensor.row_bytes())
    }
}
