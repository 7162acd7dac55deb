//! Channel moments on hostile data, both engines against f64.

use crate::support::{noise, on_both_engines};
use flap_gpu::engine::{DeviceKind, Engine, MomentsShape};
use flap_gpu::statistics::Moments;

/// Relative errors of a variance and of a mean (relative to itself and the deviation). A device adds up f32 deviations from a number near
/// their mean and merges the sums of tiles of 128 tokens: 782 merges that may round by 6e-8 each in the longest window here. The CPU's f64 is as exact as the reference, whose own sums round 100 000 times at 1e-16.
fn tolerances(kind: DeviceKind) -> (f64, f64) {
    match kind {
        DeviceKind::Gpu => (5e-5, 1e-6),
        DeviceKind::Cpu => (1e-10, 1e-12),
    }
}

/// Data of a channel: the token's noise in [-1, 1) in, the activation out.
type Channel = fn(usize, f32) -> f32;

const CHANNELS: [(&str, Channel); 6] = [
    ("plain", |_, n| n),
    ("mean 1000 times the deviation", |_, n| 577.0 + n),
    ("negative mean, tiny deviation", |_, n| -3.0 + 0.003 * n),
    ("constant", |_, _| 0.1),
    ("rare outlier", |token, n| if token % 997 == 3 { 4000.0 } else { n }),
    ("drifting mean", |token, n| token as f32 * 0.01 + n),
];

fn check<E: Engine>(engine: &E, windows: usize, window_tokens: usize, windows_per_slot: usize, batch: usize) {
    let (channels, tokens) = (CHANNELS.len(), windows * window_tokens);
    let random = noise(7, tokens * channels);
    let x: Vec<f32> = random.iter().enumerate().map(|(i, &n)| CHANNELS[i % channels].1(i / channels, n)).collect();
    let shape = MomentsShape { channels, windows, window_tokens, windows_per_slot };
    let mut moments = engine.moments(shape).unwrap();
    for (index, part) in x.chunks(batch * window_tokens * channels).enumerate() {
        engine.accumulate(&mut moments, &engine.upload(part, channels).unwrap(), index * batch).unwrap();
    }
    let mut found = Moments::empty(channels);
    for slot in engine.read_moments(&moments).unwrap() {
        found.merge(&[Moments { count: slot.count, mean: slot.mean, m2: slot.m2 }]);
    }
    assert_eq!(found.count, tokens as u64);
    for (channel, (name, _)) in CHANNELS.iter().enumerate() {
        let values = || x.iter().skip(channel).step_by(channels).map(|&v| f64::from(v));
        let mean = values().sum::<f64>() / tokens as f64;
        let m2 = values().map(|v| (v - mean) * (v - mean)).sum::<f64>();
        let variance = m2 / (tokens - 1).max(1) as f64;
        let place = format!("{name}, {windows} x {window_tokens} tokens on {}", engine.info().label());
        let apart = (found.variance()[channel] - variance).abs();
        let (of_variance, of_mean) = tolerances(engine.info().kind);
        // A constant channel's variance is exactly 0 on paper; in f64 its mean rounds.
        assert!(apart <= of_variance * variance + 1e-20, "{place}: variance {}, exact {variance}", found.variance()[channel]);
        let scale = mean.abs() + variance.sqrt();
        assert!((found.mean[channel] - mean).abs() <= of_mean * scale, "{place}: mean {}, exact {mean}", found.mean[channel]);
    }
}

#[test]
fn hostile_data_keeps_its_variance() {
    on_both_engines!(engine => {
        check(engine, 1, 1, 1, 1);
        check(engine, 1, 2, 1, 1);
        check(engine, 1, 100_003, 1, 1);
        check(engine, 100_003 / 37, 37, 43, 200);
        check(engine, 65, 129, 2, 7);
        check(engine, 65, 129, 65, 64);
        check(engine, 40, 300, 1, 40);
    });
}

/// However windows are batched, a slot's result is the same to the bit: shards and batches must not change the statistics.
#[test]
fn batches_do_not_change_the_result() {
    on_both_engines!(engine => {
        let (channels, windows, window_tokens) = (70, 12, 33);
        let x = noise(3, channels * windows * window_tokens);
        let run = |batch: usize| {
            let mut moments = engine.moments(MomentsShape { channels, windows, window_tokens, windows_per_slot: 5 }).unwrap();
            for (index, part) in x.chunks(batch * window_tokens * channels).enumerate() {
                engine.accumulate(&mut moments, &engine.upload(part, channels).unwrap(), index * batch).unwrap();
            }
            engine.read_moments(&moments).unwrap().into_iter().flat_map(|slot| [slot.mean, slot.m2].concat()).collect::<Vec<f64>>()
        };
        let whole = run(windows);
        for batch in [1, 3, 5, 7] {
            assert_eq!(run(batch), whole, "{batch} windows at a time on {}", engine.info().label());
        }
    });
}
