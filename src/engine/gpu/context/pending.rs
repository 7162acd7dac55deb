//! Commands that are gathered: dispatches share a pass and the buffer of their parameters, of which each takes a part.

/// Commands gathered before they are handed to the driver: enough to hide the cost of a submission, few enough for the device to
/// start early.
const COMMANDS: usize = 16;
/// Bytes between the parameters of two dispatches: what every adapter can bind from.
const PARAMETER_STEP: u64 = 256;

/// Commands that are not handed over yet.
pub struct Pending {
    /// Open while dispatches follow each other; it ends before its encoder does.
    pass: Option<wgpu::ComputePass<'static>>,
    encoder: wgpu::CommandEncoder,
    /// What `parameters` will hold.
    words: Vec<u32>,
    parameters: wgpu::Buffer,
    commands: usize,
    work: u64,
}

impl Pending {
    pub fn new(device: &wgpu::Device) -> Self {
        let parameters = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("parameters"),
            size: PARAMETER_STEP * COMMANDS as u64,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        Self { pass: None, encoder, words: Vec::new(), parameters, commands: 0, work: 0 }
    }

    /// For commands that are no dispatches.
    pub fn encoder(&mut self) -> &mut wgpu::CommandEncoder {
        self.pass = None;
        &mut self.encoder
    }

    /// For dispatches.
    pub fn pass(&mut self) -> &mut wgpu::ComputePass<'static> {
        self.pass.get_or_insert_with(|| self.encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()).forget_lifetime())
    }

    /// Keeps the parameters of a dispatch, and gives the place where it will find them.
    pub fn parameters(&mut self, words: &[u32]) -> wgpu::BufferBinding<'_> {
        let size = 4 * words.len().next_multiple_of(4) as u64;
        assert!(size <= PARAMETER_STEP, "a kernel has few parameters");
        let offset = 4 * self.words.len() as u64;
        self.words.extend(words);
        self.words.resize((offset + PARAMETER_STEP) as usize / 4, 0);
        wgpu::BufferBinding { buffer: &self.parameters, offset, size: wgpu::BufferSize::new(size) }
    }

    /// Counts a command that does so many multiply-adds. Returns whether it is time to hand over.
    pub fn is_full(&mut self, work: u64, short_work: u64) -> bool {
        self.commands += 1;
        self.work += work;
        self.commands >= COMMANDS || self.work >= short_work
    }

    /// All commands, with their parameters on the way.
    pub fn finish(self, queue: &wgpu::Queue) -> wgpu::CommandEncoder {
        drop(self.pass);
        queue.write_buffer(&self.parameters, 0, bytemuck::cast_slice(&self.words));
        self.encoder
    }
}
