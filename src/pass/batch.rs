//! Windows that go through a layer together, and their hidden states wherever these stay between layers.

use super::memory::Place;
use crate::disk::{temporary_file, temporary_folder};
use crate::engine::Engine;
use crate::error::{Error, Result};
use memmap2::{MmapMut, MmapOptions};
use rayon::prelude::*;
use std::borrow::Cow;
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// Windows that go through a layer together.
pub struct Batch<E: Engine> {
    /// Place of the first window among all.
    pub first_window: usize,
    /// Number of windows.
    pub windows: usize,
    hidden_size: usize,
    states: States<E::Tensor>,
}

/// Hidden states `[windows * window_tokens, hidden]`.
enum States<T> {
    Device(T),
    Host(Vec<f32>),
    Mapped(MmapMut),
}

impl<E: Engine> Batch<E> {
    /// Reads the hidden states; waits for the device if they are there.
    pub fn download(&self, engine: &E) -> Result<Cow<'_, [f32]>> {
        Ok(match &self.states {
            States::Device(tensor) => Cow::Owned(engine.download(tensor)?),
            States::Host(values) => Cow::Borrowed(values),
            States::Mapped(map) => Cow::Borrowed(bytemuck::cast_slice(map)),
        })
    }

    /// A copy of the hidden states on the device.
    pub fn copy_to_device(&self, engine: &E) -> Result<E::Tensor> {
        match &self.states {
            States::Device(tensor) => engine.copy(tensor),
            States::Host(values) => engine.upload(values, self.hidden_size),
            States::Mapped(map) => engine.upload(bytemuck::cast_slice(map), self.hidden_size),
        }
    }

    /// Looks at the hidden states on the device.
    pub fn read<T>(&self, engine: &E, look: impl FnOnce(&E::Tensor) -> Result<T>) -> Result<T> {
        match &self.states {
            States::Device(tensor) => {
                let seen = look(tensor);
                engine.forget_operands(tensor);
                seen
            }
            _ => look(&self.copy_to_device(engine)?),
        }
    }

    /// Changes the hidden states on the device; they return to where they stay.
    pub fn update(&mut self, engine: &E, change: impl FnOnce(&mut E::Tensor) -> Result<()>) -> Result<()> {
        if let States::Device(tensor) = &mut self.states {
            return change(tensor);
        }
        let mut tensor = self.copy_to_device(engine)?;
        change(&mut tensor)?;
        let values = engine.download(&tensor)?;
        match &mut self.states {
            States::Mapped(map) => map.copy_from_slice(bytemuck::cast_slice(&values)),
            other => *other = States::Host(values),
        }
        Ok(())
    }

    /// Writes the hidden states of all batches to a file, from which [`super::Pass::restore`] reads them.
    pub fn save(engine: &E, batches: &[Self], path: &Path) -> Result<()> {
        let mut file = File::create(path).map_err(Error::io(path, "cannot create"))?;
        batches.iter().try_for_each(|batch| {
            let states = batch.download(engine)?;
            file.write_all(bytemuck::cast_slice(&states)).map_err(Error::io(path, "cannot write"))
        })?;
        file.sync_all().map_err(Error::io(path, "cannot write"))
    }

    /// Whether all hidden states of all batches are finite.
    pub fn all_finite(engine: &E, batches: &[Self]) -> Result<bool> {
        let mut on_device = Vec::new();
        for batch in batches {
            let values: &[f32] = match &batch.states {
                States::Device(tensor) => {
                    on_device.push(tensor);
                    continue;
                }
                States::Host(values) => values,
                States::Mapped(map) => bytemuck::cast_slice(map),
            };
            if !values.par_chunks(1 << 16).all(|part| part.iter().all(|v| v.is_finite())) {
                return Ok(false);
            }
        }
        engine.all_finite(&on_device)
    }
}

/// Puts batches where a pass keeps them.
pub struct Keeper {
    place: Place,
    hidden_size: usize,
    /// The temporary file, which has no name any more, and its length.
    file: Option<(File, u64)>,
}

impl Keeper {
    /// Nothing kept yet.
    pub fn new(place: Place, hidden_size: usize) -> Result<Self> {
        let file = if place == Place::File { Some((temporary_file()?, 0)) } else { None };
        Ok(Self { place, hidden_size, file })
    }

    /// A second batch with the same content.
    pub fn copy<E: Engine>(&mut self, engine: &E, batch: &Batch<E>) -> Result<Batch<E>> {
        let (first_window, windows, hidden_size) = (batch.first_window, batch.windows, batch.hidden_size);
        match &batch.states {
            States::Device(tensor) => Ok(Batch { first_window, windows, hidden_size, states: States::Device(engine.copy(tensor)?) }),
            _ => self.keep(engine, first_window, windows, batch.download(engine)?.into_owned()),
        }
    }

    /// Takes the hidden states of the next windows.
    pub fn keep<E: Engine>(&mut self, engine: &E, first_window: usize, windows: usize, values: Vec<f32>) -> Result<Batch<E>> {
        let states = match (&mut self.file, self.place) {
            (Some((file, length)), _) => {
                let folder = temporary_folder();
                let bytes: &[u8] = bytemuck::cast_slice(&values);
                // Written first, mapped then: a full disk is an error here, and would end the program in a map.
                file.write_all(bytes).map_err(Error::io(&folder, "no room for hidden states; point TMPDIR at a disk with more"))?;
                // SAFETY: the file has no name and is this program's alone; each batch maps its own part of it.
                let map = unsafe { MmapOptions::new().offset(*length).len(bytes.len()).map_mut(&*file) };
                *length += bytes.len() as u64;
                States::Mapped(map.map_err(Error::io(&folder, "cannot map hidden states in"))?)
            }
            (None, Place::Device) => States::Device(engine.upload(&values, self.hidden_size)?),
            (None, _) => States::Host(values),
        };
        Ok(Batch { first_window, windows, hidden_size: self.hidden_size, states })
    }
}
