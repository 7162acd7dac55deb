//! The built program, as a user runs it, on the small model of the demo.

mod interruption;
mod output;
mod pruning;
mod steps;
mod usage;

use crate::support::{demo_model, run_json};
use serde_json::Value;
use std::fs;

/// Paths in a temporary folder that holds the demo's texts.
struct Place {
    folder: tempfile::TempDir,
    model: String,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("calibration.txt"), include_str!("../../../demo/calibration.txt")).unwrap();
        fs::write(folder.path().join("test.txt"), include_str!("../../../demo/test.txt")).unwrap();
        Self { folder, model: demo_model().to_str().unwrap().to_string() }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_string()
    }

    fn prune(&self, model: &str, output: &str, more: &[&str]) -> Value {
        let (text, output) = (self.path("calibration.txt"), self.path(output));
        run_json(&[&["prune", model, "--calibration", &text, "--output", &output, "--samples", "64", "--device", "cpu"], more].concat())
    }

    fn perplexity(&self, model: &str) -> f64 {
        let report =
            run_json(&["eval", model, "--text", &self.path("test.txt"), "--sequence-length", "128", "--windows", "40", "--device", "cpu"]);
        assert_eq!(report["windows"], 40);
        assert_eq!(report["tokens"], 40 * 128);
        assert_eq!(report["sequence_length"], 128);
        assert!(report["seconds"].as_f64().unwrap() > 0.0 && report["device"].as_str().unwrap().starts_with("cpu"));
        report["perplexity"].as_f64().unwrap()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(self.folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}
