//! Where an elimination runs: on the host, or on the device where it has room.

use super::elimination::Elimination;
use super::linear_algebra::System;
use super::on_device::{OnDevice, panel_lines};
use super::removal::BLOCKS;
use crate::engine::{DeviceKind, Engine};
use crate::error::{Error, Result};

/// Works on a matrix with rows that are set now or later, `[outputs, size]`, in f32: on the device where `room` bytes of it suffice, and on the
/// host where they do not, or the driver has no memory left. Where f32 does not suffice, the work is done again in f64 on the host.
pub fn eliminate<E: Engine, R>(
    engine: &E,
    room: u64,
    mut system: System,
    [outputs, channels_per_unit]: [usize; 2],
    work: impl Fn(&mut dyn Elimination) -> Result<R>,
) -> Result<R> {
    let on_device = match on_device(engine, room, &system, [outputs, channels_per_unit], &work) {
        Some(Err(error @ Error::DeviceMemory { .. })) => {
            tracing::warn!("{error}; going on on the host");
            None
        }
        done => done,
    };
    match on_device.unwrap_or_else(|| work(&mut system.rounded())) {
        Err(Error::NotFinite(reason)) => tracing::warn!("{reason}; going on in f64 on the host"),
        done => return done,
    }
    work(&mut system)
}

/// On the device, if it has room.
fn on_device<E: Engine, R>(
    engine: &E,
    room: u64,
    system: &System,
    [outputs, channels_per_unit]: [usize; 2],
    work: impl Fn(&mut dyn Elimination) -> Result<R>,
) -> Option<Result<R>> {
    device_bytes(engine, system.matrix.size(), outputs, channels_per_unit).filter(|&bytes| bytes <= room)?;
    let on_device = OnDevice::new(engine, &system.matrix, system.rows.as_ref(), channels_per_unit);
    Some(on_device.and_then(|mut on_device| work(&mut on_device)))
}

/// Bytes that an elimination takes on the device; none if it stays on the host in any case.
pub fn device_bytes<E: Engine>(engine: &E, size: usize, outputs: usize, channels_per_unit: usize) -> Option<u64> {
    let info = engine.info();
    let bytes = OnDevice::<E>::bytes(size, outputs, channels_per_unit);
    let lines = size.div_ceil(BLOCKS).max(panel_lines(channels_per_unit));
    let largest_tensor = 4 * lines as u64 * size.max(outputs) as u64;
    (info.kind == DeviceKind::Gpu && largest_tensor <= info.max_binding_bytes).then_some(bytes)
}

/// Bytes of the device for an elimination where no pass is under way.
pub fn room_without_pass<E: Engine>(engine: &E) -> u64 {
    engine.info().memory_budget / 2
}
