//! Properties that hold for any input: merging moments, cutting into shards, searching structures, slicing.

use crate::support::{GOLDEN, data, normalised_squared_error, possible, prune_by_place};
use flap_gpu::calibration::{Shard, held_out, window_starts};
use flap_gpu::checkpoint::StoredTensor;
use flap_gpu::compensation::LayerBiases;
use flap_gpu::engine::cpu::CpuEngine;
use flap_gpu::evaluation::run_tokens;
use flap_gpu::export::{ExportOptions, export, folder};
use flap_gpu::model::Model;
use flap_gpu::pass::PassOptions;
use flap_gpu::plan::Plan;
use flap_gpu::progress::Silent;
use flap_gpu::search::{Kept, LayerScores, Problem, Structure};
use flap_gpu::statistics::Moments;
use proptest::prelude::*;

/// f64 rounding over a few thousand additions.
const F64_TOLERANCE: f64 = 1e-10;

fn moments_of(values: &[f64]) -> Moments {
    let mut moments = Moments::empty(1);
    values.iter().for_each(|&v| moments.merge(&[Moments { count: 1, mean: vec![v], m2: vec![0.0] }]));
    moments
}

fn structures() -> impl Strategy<Value = Structure> {
    prop_oneof![Just(Structure::AlAm), Just(Structure::AlMm), Just(Structure::UlUm), Just(Structure::UlMm)]
}

/// Layers of one model: 1 to 5 layers, scores possibly equal.
fn problems() -> impl Strategy<Value = Problem> {
    (1usize..5, 2usize..6, 1usize..4, 8usize..40).prop_flat_map(|(layers, units, channels, neurons)| {
        let score = prop_oneof![3 => 0.0f64..10.0, 1 => Just(1.0)];
        let layer = (prop::collection::vec(score.clone(), units * channels), prop::collection::vec(score, neurons));
        (prop::collection::vec(layer, layers), 0.05f64..0.6, 1u64..8).prop_map(move |(layers, ratio, unit_neurons)| Problem {
            unit_parameters: vec![3 * 16 * unit_neurons; layers.len()],
            neuron_parameters: 3 * 16,
            ratio,
            remove_units: 0,
            round_neurons: 1,
            round_units: 1,
            uniform_units: None,
            layers: layers.into_iter().map(|(attention, mlp)| LayerScores { attention, mlp, units }).collect(),
            strict: false,
        })
    })
}

/// Share of the parameters that a structure removes.
fn removed(problem: &Problem, kept: &[Kept]) -> f64 {
    let count = |flags: &[bool], wanted: bool| flags.iter().filter(|&&k| k == wanted).count() as u64;
    let of = |wanted: bool| -> u64 {
        let layers = kept.iter().zip(&problem.unit_parameters);
        layers.map(|(k, unit)| count(&k.attention, wanted) * unit + count(&k.mlp, wanted) * problem.neuron_parameters).sum()
    };
    of(false) as f64 / (of(false) + of(true)) as f64
}

proptest! {
    #[test]
    fn any_split_gives_the_same_moments(values in prop::collection::vec(-1e3f64..1e3, 1..200), offset in -1e6f64..1e6, cuts in prop::collection::vec(0usize..200, 0..6)) {
        let values: Vec<f64> = values.into_iter().map(|v| v + offset).collect();
        let whole = moments_of(&values);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(values.len())).chain([0, values.len()]).collect();
        cuts.sort_unstable();
        let mut merged = Moments::empty(1);
        cuts.windows(2).for_each(|cut| merged.merge(&[moments_of(&values[cut[0]..cut[1]])]));
        prop_assert_eq!(merged.count, whole.count);
        // Deviations of size 1e3 around means of size 1e6 lose that many digits of f64.
        let scale = whole.m2[0] + 1e-3 * offset.abs();
        prop_assert!((merged.m2[0] - whole.m2[0]).abs() <= F64_TOLERANCE * scale.max(1.0), "{} against {}", merged.m2[0], whole.m2[0]);
        prop_assert!((merged.mean[0] - whole.mean[0]).abs() <= F64_TOLERANCE * (whole.mean[0].abs() + 1e3));
    }

    #[test]
    fn shards_cover_every_window_once(samples in 1usize..3000, group in 1usize..20, count in 1usize..70) {
        let mut next = 0;
        for index in 1..=count {
            let Ok(range) = (Shard { index, count }).windows(samples, group) else {
                prop_assert!(count > samples.div_ceil(group));
                return Ok(());
            };
            prop_assert_eq!(range.start, next);
            prop_assert!(!range.is_empty() && (range.end == samples || range.end % group == 0));
            next = range.end;
        }
        prop_assert_eq!(next, samples);
    }

    /// Windows that judge a calibration are behind its own in the same sequence, and share no token with them or each other.
    #[test]
    fn held_out_windows_are_apart(tokens in 500usize..100_000, length in 1usize..130, samples in 1usize..100, count in 1usize..20, seed in any::<u64>()) {
        let starts = window_starts(tokens, length, samples + 32 * count, seed).unwrap();
        let found = held_out(&starts, samples, length, count);
        prop_assert!(found.len() <= count);
        prop_assert!(found.iter().all(|start| starts[samples..].contains(start)));
        let all: Vec<usize> = starts[..samples].iter().chain(&found).copied().collect();
        for (place, &start) in all.iter().enumerate().skip(samples) {
            prop_assert!(all[..place].iter().all(|&other| start.abs_diff(other) >= length), "{start} among {all:?}");
        }
        // None is left out that could have been taken.
        if found.len() < count {
            prop_assert!(starts[samples..].iter().all(|&start| all.iter().any(|&other| start.abs_diff(other) < length)));
        }
    }

    #[test]
    fn structures_meet_their_budget(problem in problems(), structure in structures()) {
        let found = possible!(problem.search(structure));
        prop_assert!(found.layers.iter().all(|k| k.attention.contains(&true) && k.mlp.contains(&true)));
        // What stays all the same is not made up for, but by the neurons of AL-MM.
        if !found.notes.is_empty() && structure != Structure::AlMm { return Ok(()); }
        let reached = removed(&problem, &found.layers);
        // The manual and uniform structures round down to whole units; the adaptive one takes the nearest cut, and removes
        // the unit at the cut too.
        let total: u64 = found.layers.iter().zip(&problem.unit_parameters).map(|(k, u)| k.attention.len() as u64 * u + k.mlp.len() as u64 * problem.neuron_parameters).sum();
        let unit = problem.unit_parameters[0].max(problem.neuron_parameters) as f64 / total as f64;
        let layers = problem.layers.len() as f64;
        match structure {
            Structure::AlAm => {
                // Units that must stay come first in the list, so the nearest cut can only be missed where they alone exceed it.
                let forced = problem.unit_parameters.iter().map(|u| u + problem.neuron_parameters).sum::<u64>() as f64 / total as f64;
                prop_assert!((reached - problem.ratio).abs() <= (1.5 * unit).max(forced - (1.0 - problem.ratio)) + 1e-12, "asked {}, reached {reached}", problem.ratio);
            }
            _ => prop_assert!(reached <= problem.ratio + 1e-12 && reached >= problem.ratio - 2.0 * layers * unit, "asked {}, reached {reached}", problem.ratio),
        }
    }

    #[test]
    fn a_search_depends_on_the_order_of_scores_alone(problem in problems(), structure in structures()) {
        let found = possible!(problem.search(structure));
        let mut scaled = problem.clone();
        scaled.layers.iter_mut().for_each(|l| l.attention.iter_mut().chain(&mut l.mlp).for_each(|s| *s *= 4.0));
        prop_assert_eq!(&scaled.search(structure).unwrap().layers, &found.layers);
        // What stays scores at least as high as what goes, within a layer's MLP.
        for (kept, scores) in found.layers.iter().zip(&problem.layers) {
            let lowest_kept = scores.mlp.iter().zip(&kept.mlp).filter(|(_, k)| **k).map(|(s, _)| *s).fold(f64::INFINITY, f64::min);
            let highest_gone = scores.mlp.iter().zip(&kept.mlp).filter(|(_, k)| !**k).map(|(s, _)| *s).fold(f64::NEG_INFINITY, f64::max);
            prop_assert!(lowest_kept >= highest_gone);
        }
    }

    #[test]
    fn equal_scores_are_cut_by_place(units in 2usize..6, neurons in 4usize..40, ratio in 0.05f64..0.6, structure in structures()) {
        let layer = LayerScores { attention: vec![1.0; 3 * units], mlp: vec![1.0; neurons], units };
        let problem = Problem {
            layers: vec![layer; 2], unit_parameters: vec![96; 2], neuron_parameters: 48, ratio, remove_units: 1, round_neurons: 1, round_units: 1, uniform_units: None, strict: false,
        };
        let found = possible!(problem.search(structure));
        for kept in found.layers.iter().flat_map(|k| [&k.attention, &k.mlp]) {
            // One border between what stays and what goes, but for the unit that always stays.
            let borders = kept.windows(2).filter(|pair| pair[0] != pair[1]).count();
            prop_assert!(borders <= 2, "{kept:?}");
        }
    }

    /// The authors' rules keep what ties with a threshold in structures of single layers, and remove it in those across layers.
    #[test]
    fn strict_thresholds_decide_ties(units in 2usize..6, neurons in 8usize..40, dead in 3usize..8, ratio in 0.05f64..0.3) {
        let mlp: Vec<f64> = (0..neurons).map(|i| if i < dead { 0.0 } else { 1.0 + i as f64 }).collect();
        let layer = LayerScores { attention: (0..2 * units).map(|i| i as f64).collect(), mlp: mlp.clone(), units };
        let problem = Problem {
            layers: vec![layer; 2], unit_parameters: vec![96; 2], neuron_parameters: 48, ratio, remove_units: 0, round_neurons: 1, round_units: 1, uniform_units: None, strict: true,
        };
        let kept = |structure| problem.search(structure).unwrap().layers[0].mlp.iter().filter(|&&k| k).count();
        let count = (ratio * neurons as f64) as usize;
        // keep score >= sorted[count]
        prop_assert_eq!(kept(Structure::UlUm), if count < dead { neurons } else { neurons - count });
        // keep score > the count-th smallest of both layers together
        let wanted = (ratio * (2 * (96 * units + 48 * neurons)) as f64 / 48.0) as usize;
        if (1..=2 * dead).contains(&wanted) {
            prop_assert_eq!(kept(Structure::AlMm), neurons - dead);
        }
    }

    /// No uniform plan with as many neurons as the best one's budget allows has a higher score; all layers are alike.
    #[test]
    fn uniform_plans_are_alike_and_meet_the_ratio(problem in problems()) {
        let units = (1..=problem.layers[0].units).collect();
        let problem = Problem { uniform_units: Some(units), ..problem };
        let found = possible!(problem.search(Structure::AlAm));
        let count = |flags: &[bool]| flags.iter().filter(|&&k| k).count();
        for kept in &found.layers {
            prop_assert_eq!(count(&kept.attention), count(&found.layers[0].attention));
            prop_assert_eq!(count(&kept.mlp), count(&found.layers[0].mlp));
        }
        // Half a neuron in every layer.
        let total: u64 = problem.layers.iter().zip(&problem.unit_parameters)
            .map(|(l, unit)| l.units as u64 * unit + l.mlp.len() as u64 * problem.neuron_parameters).sum();
        let tolerance = 0.5001 * problem.layers.len() as f64 * problem.neuron_parameters as f64 / total as f64;
        prop_assert!((removed(&problem, &found.layers) - problem.ratio).abs() <= tolerance);
    }

    /// Structures that treat layers alike do so after rounding as well, and leave a number of units that may stay.
    #[test]
    fn layers_stay_alike_when_rounded(problem in problems(), manual in any::<bool>(), multiple in 1usize..9) {
        let units: Vec<usize> = (1..=problem.layers[0].units).filter(|count| count % 2 == 1).collect();
        let problem = Problem { round_neurons: multiple, uniform_units: Some(units.clone()), remove_units: problem.layers.len(), ..problem };
        let found = possible!(problem.search(if manual { Structure::UlMm } else { Structure::UlUm }));
        let count = |flags: &[bool]| flags.iter().filter(|&&k| k).count();
        for kept in &found.layers {
            prop_assert!(units.contains(&count(&kept.attention)) && count(&kept.mlp) % multiple == 0, "{:?}", kept);
            prop_assert_eq!([count(&kept.attention), count(&kept.mlp)], [&found.layers[0].attention, &found.layers[0].mlp].map(|k| count(k)));
        }
    }

    #[test]
    fn rounding_keeps_whole_blocks(problem in problems(), multiple in 2usize..9) {
        let problem = Problem { round_neurons: multiple, ..problem };
        let found = possible!(problem.search(Structure::AlAm));
        for kept in &found.layers {
            prop_assert_eq!(kept.mlp.iter().filter(|&&k| k).count() % multiple, 0);
        }
    }
}

fn pruned(model: &Model, plan: &Plan, biases: &[LayerBiases], place: &std::path::Path) -> Model {
    let output = folder::create(place, &[&model.path], false).unwrap();
    export(model, plan, &biases.to_vec().into(), &ExportOptions::hf(place), &output, &Silent).unwrap();
    output.commit().unwrap();
    Model::open(place).unwrap()
}

#[test]
fn keeping_everything_changes_no_byte() {
    let folder = tempfile::tempdir().unwrap();
    for name in GOLDEN {
        let model = Model::open(&data("golden").join(name)).unwrap();
        for mask_only in [false, true] {
            let (mut plan, biases) = prune_by_place(&model, |_, _| false);
            plan.settings.mask_only = mask_only;
            let place = folder.path().join(format!("{name}-{mask_only}"));
            let same = pruned(&model, &plan, &biases, &place);
            assert_eq!(same.architecture, model.architecture, "{name}");
            let (before, after) = (model.tensors.entries(), same.tensors.entries());
            // A fingerprint is of the bytes as they are stored, which may be in another order of heads' rows.
            let in_order = before.iter().all(StoredTensor::is_plain);
            assert_eq!(in_order, same.fingerprint() == model.fingerprint(), "{name}");
            assert_eq!(before.len(), after.len(), "{name}");
            for (before, after) in before.iter().zip(after) {
                assert_eq!(before.name, after.name, "{name}");
                assert!(after.is_plain() && before.read().unwrap().bytes == after.read().unwrap().bytes, "{name}: {}", before.name);
            }
        }
    }
}

/// Masked channels are zero times something; removed ones are not there: the same sums in another order.
#[test]
fn masking_and_removing_give_the_same_logits() {
    let engine = CpuEngine::default();
    let folder = tempfile::tempdir().unwrap();
    for (index, name) in GOLDEN.into_iter().enumerate() {
        let model = Model::open(&data("golden").join(name)).unwrap();
        let (mut plan, biases) = prune_by_place(&model, |layer, i| (i * 7 + layer + index) % 3 == 1);
        let mut logits = |mask_only: bool| {
            plan.settings.mask_only = mask_only;
            let place = folder.path().join(format!("{name}-{mask_only}"));
            let model = pruned(&model, &plan, &biases, &place);
            run_tokens(&engine, &model, &(1..60).collect::<Vec<u32>>(), 59, false, PassOptions::default(), &Silent).unwrap().logits
        };
        let error = normalised_squared_error(&logits(false), &logits(true));
        assert!(error < 1e-10, "{name}: {error:e}");
        assert!(error.is_finite());
    }
}
