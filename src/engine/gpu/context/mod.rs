//! A device with its queue: buffers, pipelines that are built once, commands gathered into submissions, and the driver's errors as
//! values.

mod pending;
mod submission;

use super::pool::{Buffer, Pool, lock, size_class};
use super::shaders::Kernel;
use crate::error::{Error, Result};
use pending::Pending;
use rayon::prelude::*;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use submission::{Counter, Submitted};

/// Multiply-adds of a submission until the device's pace is known.
const FIRST_SHORT_WORK: u64 = 1 << 30;
/// Bytes on their way to a buffer that are copied, and let go, together: few drivers give a matrix's worth of such memory in one piece.
const UPLOAD_PIECE: usize = 64 << 20;
/// Bytes that one thread copies between the host's memory and what a driver maps.
const COPY_PART: usize = 1 << 20;
/// Bytes that may be on their way to buffers, at least, and their share of the memory budget where that is more.
const LEAST_STAGED: u64 = 256 << 20;
const STAGED_SHARE: u64 = 32;
/// Workgroups in a dimension that every adapter takes.
const MOST_WORKGROUPS: u32 = 65_535;

type PipelineKey = (Kernel, Vec<(&'static str, u32)>);

/// See the module's text.
pub(super) struct Context {
    device: wgpu::Device,
    queue: wgpu::Queue,
    limits: wgpu::Limits,
    failure: Arc<Mutex<Option<String>>>,
    pipelines: RefCell<HashMap<PipelineKey, wgpu::ComputePipeline>>,
    pool: Arc<Mutex<Pool>>,
    pending: RefCell<Option<Pending>>,
    submitted: RefCell<Submitted>,
    read_back: RefCell<Option<wgpu::Buffer>>,
    counter: Counter,
    /// Multiply-adds after which gathered commands are handed over, and that one dispatch holds if it can be split. Desktop systems
    /// reset a device that works on one thing for seconds.
    pub short_work: u64,
}

/// Multiply-adds that take as long as reading or writing so many bytes, on GPUs that share the processor's memory. Others have more bandwidth
/// beside their arithmetic, and so much time for a submission that no bytes matter.
fn work_of_bytes(bytes: u64) -> u64 {
    5 * bytes
}

/// A kernel with what it works on. Binding 0 is `params`, its struct in 32-bit words; `buffers` stand at their binding numbers.
#[derive(Clone, Copy)]
pub(super) struct Job<'a> {
    pub kernel: Kernel,
    pub constants: &'a [(&'static str, u32)],
    pub params: &'a [u32],
    pub buffers: &'a [(u32, &'a Buffer)],
    pub workgroups: [u32; 3],
}

/// Workgroups for `count` tasks of one workgroup each, in rows of as many as every adapter takes; the last row may have more than tasks.
pub fn fold(count: usize) -> [u32; 3] {
    let width = MOST_WORKGROUPS as usize;
    [count.min(width) as u32, count.div_ceil(width) as u32, 1]
}

/// Bytes that may be on their way to buffers: a card with much memory takes a large layer's weights while the one before it computes.
pub(super) fn most_staged(memory_budget: u64) -> u64 {
    (memory_budget / STAGED_SHARE).max(LEAST_STAGED)
}

impl Context {
    /// Buffers that nobody uses at the moment are kept where they and those in use stay within the memory budget.
    pub fn new(device: wgpu::Device, queue: wgpu::Queue, limits: wgpu::Limits, memory_budget: u64) -> Self {
        let failure = Arc::new(Mutex::new(None));
        let note = failure.clone();
        // The first failure is the cause; later ones follow from it.
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            lock(&note).get_or_insert_with(|| error.to_string());
        }));
        let note = failure.clone();
        device.set_device_lost_callback(move |reason, message| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                lock(&note).get_or_insert_with(|| format!("device lost: {message}"));
            }
        });
        Self {
            counter: Counter::new(&device),
            device,
            queue,
            limits,
            failure,
            pipelines: RefCell::default(),
            pool: Pool::new(memory_budget),
            pending: RefCell::default(),
            submitted: RefCell::default(),
            read_back: RefCell::default(),
            short_work: FIRST_SHORT_WORK,
        }
    }

    pub fn limits(&self) -> &wgpu::Limits {
        &self.limits
    }

    pub fn set_memory_budget(&self, bytes: u64) {
        lock(&self.pool).set_budget(bytes);
    }

    /// Most bytes that buffers, in use or free, took at once since the budget was set.
    pub fn most_memory(&self) -> u64 {
        lock(&self.pool).most_held()
    }

    /// Fails if the driver reported an error; `operation` says what was asked for, with sizes.
    pub fn check(&self, operation: impl FnOnce() -> String) -> Result<()> {
        match lock(&self.failure).clone() {
            Some(message) => Err(Error::Device { operation: operation(), message }),
            None => Ok(()),
        }
    }

    /// A buffer of at least `bytes`, all of which one kernel can bind; its content is undefined.
    pub fn buffer(&self, bytes: u64) -> Result<Buffer> {
        let operation = || format!("allocating {bytes} bytes");
        let largest = self.limits.max_buffer_size.min(self.limits.max_storage_buffer_binding_size) & !15;
        if bytes > largest {
            return Err(Error::Device {
                operation: operation(),
                message: format!("the adapter binds at most {largest} bytes; use a smaller --batch-tokens, with --compat fewer --samples"),
            });
        }
        self.check(operation)?;
        let size = size_class(bytes).min(self.limits.max_buffer_size & !15);
        let pooled = lock(&self.pool).take(size);
        if let Some(buffer) = pooled {
            return Ok(Buffer::new(buffer, &self.pool));
        }
        if lock(&self.pool).make_room(size) {
            // There is room once the device is done with what goes.
            self.finish(operation)?;
        }
        let buffer = match self.create(size) {
            Err(Error::DeviceMemory { .. }) => {
                // All that nobody uses may make enough.
                lock(&self.pool).keep_free(0);
                self.finish(operation)?;
                self.create(size)?
            }
            created => created?,
        };
        self.check(operation)?;
        Ok(Buffer::new(buffer, &self.pool))
    }

    /// A new buffer. Want of memory for it is no failure of the device.
    fn create(&self, size: u64) -> Result<wgpu::Buffer> {
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        match pollster::block_on(scope.pop()) {
            Some(error) => Err(Error::DeviceMemory { bytes: size, message: error.to_string() }),
            None => Ok(buffer),
        }
    }

    /// A buffer holding `bytes`, padded to whole words.
    pub fn upload(&self, bytes: &[u8]) -> Result<Buffer> {
        let buffer = self.buffer(bytes.len().next_multiple_of(4) as u64)?;
        // A write is carried out before the next submission: commands gathered so far may still read this pooled buffer.
        self.flush()?;
        for (index, piece) in bytes.chunks(UPLOAD_PIECE).enumerate() {
            let (first, whole) = (index * UPLOAD_PIECE, piece.len() & !3);
            self.write(&buffer, first as u64, &piece[..whole]);
            if whole < piece.len() {
                let mut word = [0u8; 4];
                word[..piece.len() - whole].copy_from_slice(&piece[whole..]);
                self.queue.write_buffer(&buffer.buffer, (first + whole) as u64, &word);
            }
            // Hand the copy to the driver now, so that it proceeds while the host goes on.
            self.staged(piece.len() as u64)?;
        }
        self.check(|| format!("uploading {} bytes", bytes.len()))?;
        Ok(buffer)
    }

    /// Writes whole words, copied by all threads: one alone fills a fast bus to a third, and a mapped file's pages come in turn.
    fn write(&self, buffer: &Buffer, offset: u64, bytes: &[u8]) {
        struct Part<'a>(wgpu::WriteOnly<'a, [u8]>);
        // SAFETY: a part is the only way to its bytes, which are plain memory. (The library says so of types of a known size only.)
        unsafe impl Send for Part<'_> {}
        impl Part<'_> {
            fn fill(mut self, bytes: &[u8]) {
                self.0.copy_from_slice(bytes);
            }
        }
        let Some(size) = wgpu::BufferSize::new(bytes.len() as u64) else { return };
        // None after an error, which the device has reported.
        let Some(mut staging) = self.queue.write_buffer_with(&buffer.buffer, offset, size) else { return };
        let (mut rest, mut parts) = (staging.slice(..), Vec::new());
        for bytes in bytes.chunks(COPY_PART) {
            let (part, behind) = rest.split_at(bytes.len());
            rest = behind;
            parts.push((Part(part), bytes));
        }
        parts.into_par_iter().for_each(|(part, bytes)| part.fill(bytes));
    }

    /// Copies the first `bytes`, whole words, from one buffer to another.
    pub fn copy(&self, from: &Buffer, to: &Buffer, bytes: u64) -> Result<()> {
        self.encode(work_of_bytes(2 * bytes), |commands| commands.encoder().copy_buffer_to_buffer(&from.buffer, 0, &to.buffer, 0, bytes))?;
        self.check(|| format!("copying {bytes} bytes"))
    }

    /// Fills the buffer with zeros.
    pub fn clear(&self, buffer: &Buffer) -> Result<()> {
        self.encode(work_of_bytes(buffer.buffer.size()), |commands| commands.encoder().clear_buffer(&buffer.buffer, 0, None))?;
        self.check(|| format!("clearing {} bytes", buffer.buffer.size()))
    }

    /// Queues a kernel over rows of workgroups, `job.workgroups[1]` of them, each worth so many multiply-adds, in as many dispatches as
    /// keep each one short. The kernel finds the first row of its part in a word behind the parameters.
    pub fn dispatch_rows(&self, job: &Job<'_>, row_work: u64, operation: impl Fn() -> String) -> Result<()> {
        let [width, rows, depth] = job.workgroups;
        let step = (self.short_work / row_work.max(1)).clamp(1, u64::from(MOST_WORKGROUPS)) as u32;
        for first in (0..rows).step_by(step as usize) {
            let part = step.min(rows - first);
            let params = [job.params, &[first]].concat();
            let work = row_work * u64::from(part);
            self.dispatch(&Job { params: &params, workgroups: [width, part, depth], ..*job }, work, &operation)?;
        }
        Ok(())
    }

    /// Queues a kernel that does so many multiply-adds; 0 if memory is its limit.
    pub fn dispatch(&self, job: &Job<'_>, work: u64, operation: impl FnOnce() -> String) -> Result<()> {
        let &Job { kernel, constants, params, buffers, workgroups } = job;
        let work = work.max(work_of_bytes(buffers.iter().map(|(_, buffer)| buffer.buffer.size()).sum()));
        let pipeline = self.pipeline(kernel, constants);
        self.encode(work, |commands| {
            let parameters = wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(commands.parameters(params)) };
            let entries: Vec<_> =
                std::iter::once(parameters).chain(buffers.iter().map(|&(binding, buffer)| self.entry(binding, buffer))).collect();
            let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(kernel.name()),
                layout: &pipeline.get_bind_group_layout(0),
                entries: &entries,
            });
            let pass = commands.pass();
            pass.set_pipeline(&pipeline);
            pass.set_bind_group(0, &group, &[]);
            let [x, y, z] = workgroups;
            pass.dispatch_workgroups(x, y, z);
        })?;
        self.check(|| format!("{}: {}", kernel.name(), operation()))
    }

    /// As much of a buffer as can be bound.
    fn entry<'a>(&self, binding: u32, buffer: &'a Buffer) -> wgpu::BindGroupEntry<'a> {
        let size = wgpu::BufferSize::new(buffer.buffer.size().min(self.limits.max_storage_buffer_binding_size & !15));
        wgpu::BindGroupEntry {
            binding,
            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer: &buffer.buffer, offset: 0, size }),
        }
    }

    fn pipeline(&self, kernel: Kernel, constants: &[(&'static str, u32)]) -> wgpu::ComputePipeline {
        let mut pipelines = self.pipelines.borrow_mut();
        let build = || {
            let descriptor =
                wgpu::ShaderModuleDescriptor { label: Some(kernel.name()), source: wgpu::ShaderSource::Wgsl(kernel.source().into()) };
            // SAFETY: the kernels are this crate's own. Each checks its indices against its parameters, which the engine checks against
            // the sizes of its tensors; each ends its loops, and is run over the edges of its tiles by the tests. The checks that are
            // left out cost products a large part of their speed.
            let module = unsafe { self.device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) };
            let constants: Vec<(&str, f64)> = constants.iter().map(|&(name, value)| (name, f64::from(value))).collect();
            self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(kernel.name()),
                layout: None,
                module: &module,
                entry_point: Some("main"),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &constants,
                    // Every kernel writes its workgroup memory before it reads it.
                    zero_initialize_workgroup_memory: false,
                },
                cache: None,
            })
        };
        pipelines.entry((kernel, constants.to_vec())).or_insert_with(build).clone()
    }
}
