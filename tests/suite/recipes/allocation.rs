//! The allocation by error curves, and requests at its limits.

use super::reference::{Reference, widened};
use super::{options, run};
use crate::support::possible;
use flap_gpu::calibration::CalibrationOptions;
use flap_gpu::engine::cpu::CpuEngine;
use flap_gpu::plan::{Recipe, Uniform};
use flap_gpu::recipe::{AllocationSite, allocate, allocate_uniformly};
use flap_gpu::statistics::Mode;
use proptest::prelude::*;

fn curves() -> impl Strategy<Value = Vec<AllocationSite>> {
    let site = |fine: bool| {
        (prop::collection::vec(0.0f64..1.0, if fine { 50..120 } else { 2..7 }), 1u64..5).prop_map(move |(steps, cost)| {
            let curve = std::iter::once(0.0).chain(steps.iter().scan(0.0, |sum, step| {
                *sum += step * step;
                Some(*sum)
            }));
            AllocationSite { cost: if fine { 3 } else { 40 * cost }, curve: curve.collect(), multiple: 1, fine }
        })
    };
    prop::collection::vec((site(false), site(true)), 1..5).prop_map(|layers| layers.into_iter().flat_map(|(a, b)| [a, b]).collect())
}

proptest! {
    /// The ratio is met by less than a unit of the coarsest site, and more is removed for a larger ratio.
    #[test]
    fn allocation_meets_the_ratio_and_is_monotone(sites in curves(), ratio in 0.01f64..0.6) {
        let total: f64 = sites.iter().map(|s| (s.cost * (s.curve.len() - 1) as u64) as f64).sum();
        let removed = |counts: &[usize]| sites.iter().zip(counts).map(|(s, &n)| (s.cost * n as u64) as f64).sum::<f64>();
        let counts = possible!(allocate(&sites, ratio));
        let coarsest = sites.iter().map(|s| s.cost).max().unwrap() as f64;
        prop_assert!(removed(&counts) >= ratio * total - 1e-6);
        prop_assert!(counts.iter().zip(&sites).all(|(&n, s)| n < s.curve.len() - 1));
        if counts.iter().zip(&sites).any(|(&n, s)| s.fine && n > 0) {
            prop_assert!(removed(&counts) - ratio * total < 3.0 + coarsest);
        }
        if let Ok(more) = allocate(&sites, ratio + 0.1) {
            prop_assert!(removed(&more) >= removed(&counts) - coarsest);
        }
        prop_assert_eq!(&counts, &allocate(&sites, ratio).unwrap());
    }

    /// Whatever the size of the dense model, what stays of a site is a multiple where one is asked for.
    #[test]
    fn what_stays_is_a_multiple(sites in curves(), multiples in (1usize..3, 1usize..40), ratio in 0.01f64..0.6) {
        let multiple = |s: &AllocationSite| if s.fine { multiples.1 } else { multiples.0 };
        let sites: Vec<AllocationSite> = sites.iter().map(|s| AllocationSite { multiple: multiple(s), ..s.clone() }).collect();
        let counts = possible!(allocate(&sites, ratio));
        prop_assert!(counts.iter().zip(&sites).all(|(&n, s)| (s.curve.len() - 1 - n).is_multiple_of(s.multiple) && n < s.curve.len() - 1));
    }

    /// No other choice that removes at least as much loses less: all are tried. (Sites that are filled up one by one come near to it only.)
    #[test]
    fn allocation_is_the_best_there_is(sites in curves(), ratio in 0.01f64..0.9) {
        let sites: Vec<AllocationSite> = sites.into_iter().step_by(2).collect();
        let total: u64 = sites.iter().map(|site| site.cost * (site.curve.len() - 1) as u64).sum();
        let counts = possible!(allocate(&sites, ratio));
        let removed = |counts: &[usize]| sites.iter().zip(counts).map(|(site, &n)| site.cost * n as u64).sum::<u64>();
        let error = |counts: &[usize]| sites.iter().zip(counts).map(|(site, &n)| site.curve[n]).sum::<f64>();
        prop_assert!(removed(&counts) as f64 >= ratio * total as f64);
        let mut all = vec![Vec::new()];
        for site in &sites {
            all = all.into_iter().flat_map(|head| (0..site.curve.len() - 1).map(move |n| [&head[..], &[n]].concat())).collect();
        }
        for other in all.iter().filter(|other| removed(other) >= removed(&counts)) {
            prop_assert!(error(other) >= error(&counts) - 1e-9, "{counts:?} loses {}, {other:?} {}", error(&counts), error(other));
        }
    }
}

/// A number of units does not win because the neurons beside it are rounded up: 3 units would keep 6 of 8 neurons, and 8 as a multiple of 4.
#[test]
fn no_uniform_plan_wins_by_rounding() {
    let units = AllocationSite { cost: 100, curve: vec![0.0, 1.0, 3.0, 6.0, 10.0], multiple: 1, fine: false };
    let neurons = AllocationSite { cost: 50, curve: (0..=8).map(|removed| 0.4 * f64::from(removed)).collect(), multiple: 4, fine: true };
    assert_eq!(allocate_uniformly(&[units.clone(), neurons], 0.25, &[1, 2, 3, 4]).unwrap(), [0, 4]);
    // Where neurons are rounded down, a unit more stays: 2 units and 5.2 of 8 neurons would be best, of which 4 stay.
    let units = AllocationSite { curve: vec![0.0, 1.0, 3.0, 12.0, 20.0], ..units };
    let neurons =
        AllocationSite { cost: 50, curve: (0..=8).map(|removed| f64::from(removed * removed)).collect(), multiple: 4, fine: true };
    assert_eq!(allocate_uniformly(&[units.clone(), neurons.clone()], 0.425, &[1, 2, 3, 4]).unwrap(), [1, 4]);
    // 2 units and 6 neurons would be best: with all 8, nothing makes up for what is too much; with 4, a unit more is the whole budget.
    let units = AllocationSite { curve: vec![0.0, 3.0, 3.1, 6.0, 10.0], ..units };
    let neurons = AllocationSite { curve: (0..=8).map(|removed| 0.4 * f64::from(removed)).collect(), ..neurons };
    assert_eq!(allocate_uniformly(&[units, neurons], 0.375, &[2, 3]).unwrap(), [1, 4]);
}

/// Small and large ratios, little text, equal layers: it works or says why not.
#[test]
fn extremes_work_or_say_why_not() {
    let folder = tempfile::tempdir().unwrap();
    let model = widened("llama3-gqa-rope-scaled-tied-bf16", folder.path());
    let engine = CpuEngine::default();
    let set = Reference::open("llama3-gqa-rope-scaled-tied-bf16").set(&model);
    for recipe in [Recipe::LeastSquares, Recipe::Sequential, Recipe::Search] {
        for ratio in [0.01, 0.6] {
            let outcome = run(&engine, &model, &set, &options(recipe, ratio)).unwrap();
            assert!(outcome.plan.ratio_reached >= ratio - 1e-9, "{}", outcome.plan.ratio_reached);
        }
        let error = run(&engine, &model, &set, &options(recipe, 0.95)).err().unwrap().to_string();
        assert!(error.contains("0.95 cannot be reached"), "{error}");
        // 200 tokens for sites of 160 channels.
        let few = CalibrationOptions { samples: 4, sequence_length: 50, seed: 0, mode: Mode::Exact, shard: None };
        let few = few.draw(&model, &(0..60).collect::<Vec<u32>>()).unwrap();
        run(&engine, &model, &few, &options(recipe, 0.3)).unwrap();
        let mut uniform = options(recipe, 0.4);
        uniform.uniform = Some(Uniform::AnyHeads);
        uniform.round_neurons = 8;
        if recipe == Recipe::Search {
            let error = run(&engine, &model, &set, &uniform).err().unwrap().to_string();
            assert!(error.contains("cannot keep layers alike"), "{error}");
            continue;
        }
        let outcome = run(&engine, &model, &set, &uniform).unwrap();
        let sizes = |l: &flap_gpu::plan::PlannedLayer| (l.kv_heads.len(), l.neurons.len());
        assert!(outcome.plan.layers.iter().all(|l| sizes(l) == sizes(&outcome.plan.layers[0]) && l.neurons.len() % 8 == 0));
    }
}
