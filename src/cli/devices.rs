//! `flap-gpu devices`.

use super::terminal::{Terminal, size, table};
use crate::engine::{Engine, cpu::CpuEngine, gpu};
use anyhow::Result;
use serde_json::json;

pub fn run(terminal: &Terminal) -> Result<()> {
    let adapters = gpu::list();
    let cpu = CpuEngine::default();
    terminal.result(&json!({"adapters": adapters, "cpu": cpu.info()}), || {
        let yes = |flag: bool| if flag { "yes" } else { "no" }.to_string();
        let mut rows = vec![vec![
            "cpu".into(),
            cpu.info().name.clone(),
            "native".into(),
            "Cpu".into(),
            "-".into(),
            "-".into(),
            "-".into(),
            "-".into(),
        ]];
        rows.extend(adapters.iter().enumerate().map(|(index, a)| {
            vec![
                format!("gpu:{index}"),
                a.name.clone(),
                a.backend.clone(),
                a.device_type.clone(),
                size(a.max_storage_buffer_binding_size),
                yes(a.shader_f16),
                yes(a.subgroups),
                yes(a.cooperative_matrix),
            ]
        }));
        let mut text = table(&["device", "name", "backend", "type", "largest binding", "f16", "subgroups", "matrix units"], rows);
        if adapters.is_empty() {
            text += "\nNo GPU adapter was found; the CPU engine does everything.";
        }
        text
    })
}
