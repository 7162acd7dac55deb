//! Bad input gets an error that names the place and says what to do: exit code 1, nothing written, no panic.

mod models;
mod mutations;
mod requests;

use crate::support::{demo_model, run};
use flap_gpu::tensor::{Dtype, narrow};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// A model folder to be damaged.
struct Folder {
    temporary: tempfile::TempDir,
}

impl Folder {
    fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let model = temporary.path().join("model");
        fs::create_dir(&model).unwrap();
        for entry in fs::read_dir(demo_model()).unwrap() {
            let from = entry.unwrap().path();
            fs::copy(&from, model.join(from.file_name().unwrap())).unwrap();
        }
        fs::write(temporary.path().join("text.txt"), include_str!("../../../demo/test.txt")).unwrap();
        Self { temporary }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temporary.path().join(name)
    }

    fn weights(&self) -> PathBuf {
        self.path("model/model.safetensors")
    }

    /// Rewrites the safetensors header, and the data behind it.
    fn edit(&self, change: impl FnOnce(&mut Value, &mut Vec<u8>)) {
        let bytes = fs::read(self.weights()).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        let mut content = bytes[8 + length..].to_vec();
        change(&mut header, &mut content);
        fs::write(self.weights(), file_bytes(header.to_string().as_bytes(), &content)).unwrap();
    }

    /// Overwrites a tensor's first numbers (bf16).
    fn poison(&self, tensor: &str, values: &[f32]) {
        self.edit(|header, content| {
            let start = header[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
            narrow(Dtype::Bf16, values, &mut content[start..][..2 * values.len()]);
        });
    }

    fn set_config(&self, key: &str, value: Value) {
        let path = self.path("model/config.json");
        let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        config[key] = value;
        fs::write(path, config.to_string()).unwrap();
    }

    fn prune(&self, more: &[&str]) -> (i32, String, String) {
        let (model, text, output) = (self.path("model"), self.path("text.txt"), self.path("out"));
        let mut arguments = vec!["prune", text_of(&model), "--samples", "8"];
        for (option, value) in [("--calibration", text_of(&text)), ("--output", text_of(&output)), ("--device", "cpu")] {
            if !more.contains(&option) {
                arguments.extend([option, value]);
            }
        }
        run(&[&arguments, more].concat())
    }

    /// Pruning fails with one line that holds all of `parts`, and leaves nothing behind.
    fn prune_fails(&self, more: &[&str], parts: &[&str]) {
        let before = self.listing();
        fails(self.prune(more), parts);
        assert_eq!(self.listing(), before, "something was left behind ({parts:?})");
    }

    fn listing(&self) -> Vec<PathBuf> {
        let mut entries: Vec<PathBuf> = fs::read_dir(self.temporary.path()).unwrap().map(|e| e.unwrap().path()).collect();
        entries.sort();
        entries
    }
}

fn text_of(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn file_bytes(header: &[u8], content: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header, content].concat()
}

/// Exit code 1, nothing on standard output, one line of error with all of `parts` in it.
fn fails((code, stdout, stderr): (i32, String, String), parts: &[&str]) {
    assert_eq!(code, 1, "{stderr}");
    assert_eq!(stdout, "");
    assert!(stderr.starts_with("error: ") && stderr.trim_end().lines().count() == 1, "not one line: {stderr}");
    for part in parts {
        assert!(stderr.contains(part), "`{part}` is not in: {stderr}");
    }
}

const Q_PROJ: &str = "model.layers.1.self_attn.q_proj.weight";
