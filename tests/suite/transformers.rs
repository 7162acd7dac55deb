//! Every family and number format against the activations that Hugging Face transformers computes in f32.

use crate::support::{GOLDEN, data, normalised_squared_error, on_both_engines};
use flap_gpu::architecture::PerSite;
use flap_gpu::checkpoint::TensorFile;
use flap_gpu::evaluation::run_tokens;
use flap_gpu::model::Model;
use flap_gpu::pass::PassOptions;
use flap_gpu::progress::Silent;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// Both sides compute in f32, in different orders: squared relative rounding of some hundred sums is far below this.
const TOLERANCE: f64 = 1e-8;

/// A model's files of activations, some of other lengths: the model's name, its folder and the file.
fn activations(name: &'static str) -> Vec<(&'static str, PathBuf, PathBuf)> {
    let folder = data("golden").join(name);
    let files = ["golden.safetensors", "golden-short.safetensors"].map(|file| folder.join(file));
    let found: Vec<_> = files.into_iter().filter(|file| file.exists()).map(|file| (name, folder.clone(), file)).collect();
    assert!(!found.is_empty(), "{name} has no activations");
    found
}

fn f32_values(file: &TensorFile, name: &str) -> Vec<f32> {
    bytemuck::pod_collect_to_vec(file.bytes(name).expect("the tensor exists").as_ref())
}

#[test]
fn logits_and_site_inputs_agree() {
    on_both_engines!(engine => {
        for (name, folder, file) in GOLDEN.iter().flat_map(|name| activations(name)) {
            let golden = TensorFile::open(&file).unwrap();
            let shape = golden.info("input_ids").unwrap().shape.clone();
            let ids: Vec<i64> = bytemuck::pod_collect_to_vec(golden.bytes("input_ids").unwrap().as_ref());
            let ids: Vec<u32> = ids.into_iter().map(|id| u32::try_from(id).unwrap()).collect();
            let mut model = Model::open(&folder).unwrap();
            // The model objects that gave these activations had been cast to their 16-bit format and back, rotary frequencies
            // included. (Without this the 16-bit models differ by up to 1.2e-5, with it by some 1e-12.)
            model.cast_rope().unwrap();
            let output = run_tokens(engine, &model, &ids, shape[1], true, PassOptions::default(), &Silent).unwrap();
            let check = |what: &str, values: &[f32]| {
                let error = normalised_squared_error(values, &f32_values(&golden, what));
                assert!(error < TOLERANCE, "{name} {what}: normalised squared error {error:e}");
            };
            check("logits", &output.logits);
            assert_eq!(output.taps.len(), model.architecture.layers.len());
            for (layer, PerSite { attention, mlp }) in output.taps.iter().enumerate() {
                check(&format!("layers.{layer}.attention"), attention);
                check(&format!("layers.{layer}.mlp"), mlp);
            }
            // The same windows twice, each a batch of its own.
            let batches = PassOptions::in_batches(NonZeroUsize::new(shape[1]));
            let again = run_tokens(engine, &model, &[&ids[..], &ids].concat(), shape[1], false, batches, &Silent).unwrap();
            again.logits.chunks_exact(output.logits.len()).for_each(|logits| check("logits", logits));
        }
    });
}
