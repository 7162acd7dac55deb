//! Commands on their way: gathered, handed over, counted and waited for.

use super::pending::Pending;
use super::{COPY_PART, Context, most_staged};
use crate::engine::gpu::Kernel;
use crate::engine::gpu::pool::{Buffer, lock, size_class};
use crate::error::{Error, Result};
use crate::interrupt;
use rayon::prelude::*;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Submissions that may be under way. Enough that the device never waits; few enough that an interrupt takes effect soon, and the next
/// layer's weights do not pile up before it.
const MOST_UNDER_WAY: usize = 32;
/// Bytes of a buffer to read back through that is kept.
const MOST_KEPT: u64 = 64 << 20;

/// Submissions so far, and those that may not be finished.
#[derive(Default)]
pub struct Submitted {
    count: u32,
    under_way: VecDeque<wgpu::SubmissionIndex>,
    /// Copies to buffers, with what they carry.
    staged: VecDeque<(wgpu::SubmissionIndex, u64)>,
}

/// Adds one to a word at the end of each submission.
pub struct Counter {
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
    done: wgpu::Buffer,
}

impl Context {
    /// Gathers a command that does so many multiply-adds.
    pub(super) fn encode(&self, work: u64, command: impl FnOnce(&mut Pending)) -> Result<()> {
        let mut gathered = self.pending.take().unwrap_or_else(|| Pending::new(&self.device));
        command(&mut gathered);
        let full = gathered.is_full(work, self.short_work);
        self.pending.replace(Some(gathered));
        if full { self.flush() } else { Ok(()) }
    }

    /// Takes gathered commands, with what they need.
    fn gathered(&self) -> Option<wgpu::CommandEncoder> {
        self.pending.take().map(|pending| pending.finish(&self.queue))
    }

    /// Hands gathered commands to the driver.
    pub(super) fn flush(&self) -> Result<()> {
        let Some(encoder) = self.gathered() else { return Ok(()) };
        self.submit(encoder, |_| ());
        let oldest = {
            let under_way = &mut self.submitted.borrow_mut().under_way;
            if under_way.len() > MOST_UNDER_WAY { under_way.pop_front() } else { None }
        };
        if oldest.is_some() {
            interrupt::check()?;
            self.wait(wgpu::PollType::Wait { submission_index: oldest, timeout: None }, || "computing".into())?;
        }
        Ok(())
    }

    /// Hands over what was written to buffers, so many bytes. Waits for the first of such copies where too much is on its way.
    pub(super) fn staged(&self, bytes: u64) -> Result<()> {
        let index = self.queue.submit([]);
        let most = most_staged(lock(&self.pool).budget());
        let oldest = {
            let staged = &mut self.submitted.borrow_mut().staged;
            staged.push_back((index, bytes));
            let mut oldest = None;
            while staged.iter().map(|(_, bytes)| bytes).sum::<u64>() > most {
                oldest = staged.pop_front();
            }
            oldest
        };
        let Some((index, _)) = oldest else { return Ok(()) };
        interrupt::check()?;
        self.wait(wgpu::PollType::Wait { submission_index: Some(index), timeout: None }, || "uploading".into())
    }

    /// Waits for all that was queued.
    pub(super) fn finish(&self, operation: impl Fn() -> String) -> Result<()> {
        self.flush()?;
        self.wait(wgpu::PollType::wait_indefinitely(), operation)?;
        self.done();
        Ok(())
    }

    /// Nothing is under way any more.
    fn done(&self) {
        lock(&self.pool).idle();
        let submitted = &mut *self.submitted.borrow_mut();
        submitted.under_way.clear();
        submitted.staged.clear();
    }

    /// Submits commands, and counts them there and here; `last` comes behind the count. Returns the count.
    fn submit(&self, mut encoder: wgpu::CommandEncoder, last: impl FnOnce(&mut wgpu::CommandEncoder)) -> u32 {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&self.counter.pipeline);
        pass.set_bind_group(0, &self.counter.group, &[]);
        pass.dispatch_workgroups(1, 1, 1);
        drop(pass);
        last(&mut encoder);
        let index = self.queue.submit([encoder.finish()]);
        let mut submitted = self.submitted.borrow_mut();
        submitted.count = submitted.count.wrapping_add(1);
        submitted.under_way.push_back(index);
        submitted.count
    }

    /// Waits for the device. A lost one makes the library panic, in the middle of no work of ours.
    pub(super) fn wait(&self, what: wgpu::PollType, operation: impl Fn() -> String) -> Result<()> {
        let failed = |message: String| Error::Device { operation: operation(), message };
        match catch_unwind(AssertUnwindSafe(|| self.device.poll(what))) {
            Ok(Ok(_)) => Ok(()),
            // What has happened before is the cause.
            Ok(Err(error)) => Err(failed(lock(&self.failure).clone().unwrap_or_else(|| error.to_string()))),
            Err(_) => Err(failed(lock(&self.failure).clone().unwrap_or_else(|| "the device was lost".into()))),
        }
    }

    /// Reads the first `count` numbers of a buffer; waits for all work queued before, and fails if some of it was not carried out.
    pub fn download<T: bytemuck::Pod + Send>(&self, buffer: &Buffer, count: usize) -> Result<Vec<T>> {
        let bytes = count * size_of::<T>();
        let operation = || format!("reading back {bytes} bytes");
        let whole = bytes.next_multiple_of(4) as u64;
        let staging = self.read_back_buffer(whole + 4);
        let encoder = self.gathered().unwrap_or_else(|| self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default()));
        let submission = self.submit(encoder, |encoder| {
            encoder.copy_buffer_to_buffer(&buffer.buffer, 0, &staging, 0, whole);
            encoder.copy_buffer_to_buffer(&self.counter.done, 0, &staging, whole, 4);
        });
        self.check(operation)?;
        let failed = |message: String| Error::Device { operation: operation(), message };
        let (sender, receiver) = std::sync::mpsc::channel();
        staging.map_async(wgpu::MapMode::Read, ..whole + 4, move |result| {
            // The receiver lives until the result arrived, or nobody waits for it any more.
            let _ = sender.send(result);
        });
        self.wait(wgpu::PollType::wait_indefinitely(), operation)?;
        self.done();
        receiver.recv().map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))?;
        self.check(operation)?;
        let view = staging.get_mapped_range(..whole + 4).map_err(|e| failed(e.to_string()))?;
        let (values, done) = view.split_at(whole as usize);
        if done != submission.to_le_bytes() {
            return Err(failed("the device did not finish its work: it may be out of memory; use a smaller --memory-budget".into()));
        }
        let mut result = vec![T::zeroed(); count];
        // What a driver maps may be slow to read, and the result's pages are touched for the first time.
        let parts = bytemuck::cast_slice_mut::<T, u8>(&mut result).par_chunks_mut(COPY_PART);
        parts.zip(values[..bytes].par_chunks(COPY_PART)).for_each(|(to, from)| to.copy_from_slice(from));
        drop(view);
        staging.unmap();
        if staging.size() <= MOST_KEPT {
            self.read_back.replace(Some(staging));
        }
        Ok(result)
    }

    /// Memory to read so many bytes back through, kept from one time to the next: drivers take milliseconds to prepare it.
    fn read_back_buffer(&self, bytes: u64) -> wgpu::Buffer {
        let kept = self.read_back.take().filter(|kept| kept.size() >= bytes);
        kept.unwrap_or_else(|| {
            self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("read back"),
                size: size_class(bytes).min(self.limits.max_buffer_size & !3),
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        })
    }
}

impl Counter {
    pub fn new(device: &wgpu::Device) -> Self {
        let kernel = Kernel::Count;
        let label = Some(kernel.name());
        let source = wgpu::ShaderSource::Wgsl(kernel.source().into());
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label, source });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label,
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
        let done = device.create_buffer(&wgpu::BufferDescriptor { label, size: 4, usage, mapped_at_creation: false });
        let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &[wgpu::BindGroupEntry { binding: 0, resource: done.as_entire_binding() }],
        });
        Self { pipeline, group, done }
    }
}
