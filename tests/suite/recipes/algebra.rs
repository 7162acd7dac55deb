//! Removal, systems and eliminations, on the host and on the device.

use crate::support::on_both_engines;
use faer::Mat;
use flap_gpu::recipe::{Elimination, OnDevice, Symmetric, System, eliminate, remove_greedily};

/// Bytes of a device that hold each of these systems.
const ROOM: u64 = 64 << 20;

/// A covariance of fewer tokens than channels, dead channels and copies of others: nothing breaks, and the errors are those of the ridged problem.
#[test]
fn removal_copes_with_rank_deficiency() {
    let (channels, outputs) = (24, 5);
    let noise = crate::support::noise(1, channels * 6);
    // Six tokens; channel 3 is dead, channel 5 is a copy of channel 4.
    let value = |token: usize, channel: usize| match channel {
        3 => 0.0,
        5 => f64::from(noise[token * channels + 4]),
        _ => f64::from(noise[token * channels + channel]),
    };
    let z = Mat::from_fn(6, channels, value);
    let covariance = z.transpose() * &z;
    let weight = Mat::from_fn(outputs, channels, |i, j| f64::from(crate::support::noise(2, outputs * channels)[i * channels + j]));
    let inverse_of = |covariance: &Mat<f64>| {
        let upper = Symmetric::from_fn(covariance.nrows(), |i, j| covariance[(i, j)]);
        let mut system = System::ridged(upper, 0.01);
        system.invert("a test").unwrap();
        system
    };
    let mean = (0..channels).map(|i| covariance[(i, i)]).sum::<f64>() / channels as f64;
    let ridge = |i: usize| 0.01 * covariance[(i, i)].max(1e-6 * mean);
    let ridged = Mat::from_fn(channels, channels, |i, j| covariance[(i, j)] + if i == j { ridge(i) } else { 0.0 });
    for per_unit in [1, 4] {
        let mut system = inverse_of(&covariance);
        system.rows = weight.clone();
        let removal = remove_greedily(&mut system, per_unit, channels / per_unit, "a test").unwrap();
        let mut units = removal.order.clone();
        units.sort_unstable();
        assert_eq!(units, (0..channels / per_unit).collect::<Vec<_>>());
        assert!(removal.curve.windows(2).all(|pair| pair[1] >= pair[0]), "{:?}", removal.curve);
        // All removed: the whole (ridged) output is lost.
        let all = (&weight * &ridged * weight.transpose()).diagonal().column_vector().iter().sum::<f64>();
        let last = removal.curve[removal.curve.len() - 1];
        assert!((last / all - 1.0).abs() < 1e-9, "{last} against {all}");
    }
    // Nothing but constant channels.
    let mut system = inverse_of(&Mat::zeros(4, 4));
    system.rows = Mat::zeros(2, 4);
    remove_greedily(&mut system, 1, 4, "a test").unwrap();
}

/// A channel that one matrix writes larger and another reads smaller is the same channel: the same units go for the same price, and the rows
/// of what stays differ by the scale, bit by bit where it is a power of two.
#[test]
fn the_scale_of_a_channel_changes_nothing() {
    let (channels, outputs, tokens) = (120, 5, 200);
    let [noise, weights] = [(1, tokens * channels), (2, outputs * channels)].map(|(seed, count)| crate::support::noise(seed, count));
    let z = Mat::from_fn(tokens, channels, |t, c| f64::from(noise[t * channels + c] + 0.7 * noise[t * channels + (c + 1) % channels]));
    let covariance = z.transpose() * &z;
    // Every eighth channel is massive.
    let scale = |c: usize| if c.is_multiple_of(8) { 256.0 } else { 1.0 };
    on_both_engines!(engine => {
        for per_unit in [1, 4] {
            let run = |scale: &(dyn Fn(usize) -> f64 + Sync)| {
                let matrix = Symmetric::from_fn(channels, |i, j| covariance[(i, j)] * scale(i) * scale(j));
                let rows = Mat::from_fn(outputs, channels, |i, j| f64::from(weights[i * channels + j]) / scale(j));
                eliminate(engine, ROOM, System::ridged(matrix, 0.01), [outputs, per_unit], |system| {
                    system.invert("a test")?;
                    system.set_rows(rows.clone())?;
                    let removal = remove_greedily(system, per_unit, channels / per_unit / 2, "a test")?;
                    Ok((removal, system.take_rows()?))
                })
                .unwrap()
            };
            let ((plain, rows), (scaled, scaled_rows)) = (run(&|_| 1.0), run(&scale));
            assert_eq!(scaled.order, plain.order);
            assert_eq!(scaled.curve, plain.curve);
            let stays = (0..channels).filter(|channel| !plain.order.contains(&(channel / per_unit)));
            for (place, channel) in stays.enumerate() {
                assert!((0..outputs).all(|i| scaled_rows[(i, place)] * scale(channel) == rows[(i, place)]), "channel {channel}");
            }
        }
    });
}

/// Elimination by panels of many columns, against a dense solve.
#[test]
fn systems_larger_than_a_panel_are_solved() {
    let (channels, outputs, tokens) = (600, 7, 900);
    let noise = crate::support::noise(1, tokens * channels);
    let z = Mat::from_fn(tokens, channels, |t, c| f64::from(noise[t * channels + c]));
    let matrix = z.transpose() * &z;
    let rows = Mat::from_fn(outputs, channels, |i, j| f64::from(crate::support::noise(2, outputs * channels)[i * channels + j]));
    let mut system = System { matrix: Symmetric::from_fn(channels, |i, j| matrix[(i, j)]), rows: rows.clone() };
    system.invert("a test").unwrap();
    let difference = |found: &Mat<f64>, expected: &Mat<f64>| (found - expected).norm_l2() / expected.norm_l2();
    assert!(difference(&(&system.rows * &matrix), &rows) < 1e-9);
    let inverse = Mat::from_fn(channels, channels, |i, j| system.matrix.get(i, j));
    assert!(difference(&(&inverse * &matrix), &Mat::identity(channels, channels)) < 1e-9);
    let mut solved = System { matrix: Symmetric::from_fn(channels, |i, j| matrix[(i, j)]), rows: rows.clone() };
    solved.solve("a test").unwrap();
    assert!(difference(&(&solved.rows * &matrix), &rows) < 1e-9);
    // Without some channels, the rows are what the rest alone would have been solved to.
    let gone: Vec<usize> = (0..channels).filter(|i| i % 3 == 1 || (250..300).contains(i)).rev().collect();
    let stays: Vec<usize> = (0..channels).filter(|i| !gone.contains(i)).collect();
    system.remove(&gone, "a test").unwrap();
    let kept = |m: &Mat<f64>| Mat::from_fn(stays.len(), stays.len(), |i, j| m[(stays[i], stays[j])]);
    let right = Mat::from_fn(outputs, stays.len(), |i, j| rows[(i, stays[j])]);
    assert!(difference(&(&system.rows * kept(&matrix)), &right) < 1e-9);
    let inverse = Mat::from_fn(stays.len(), stays.len(), |i, j| system.matrix.get(i, j));
    assert!(difference(&(inverse * kept(&matrix)), &Mat::identity(stays.len(), stays.len())) < 1e-9);
}

/// f32, on the device or the host, against f64: relative to the norm, a condition of a few hundred times the rounding of f32.
const F32_TOLERANCE: f64 = 2e-5;

/// In f32, on the device and on the host, the same units go as in f64, for the same price, and the same rows stay.
#[test]
fn eliminations_in_f32_agree() {
    let (outputs, tokens) = (9, 700);
    on_both_engines!(engine => {
        for (channels, per_unit) in [(1, 1), (40, 1), (256, 1), (600, 1), (40, 8), (300, 20), (520, 130)] {
            let noise = crate::support::noise(1, tokens * channels);
            // Channels of different sizes, each like its neighbour.
            let value = |t: usize, c: usize| noise[t * channels + c] + 0.7 * noise[t * channels + (c + 1) % channels];
            let z = Mat::from_fn(tokens, channels, |t, c| f64::from(value(t, c)) * (1.0 + (c % 7) as f64));
            let matrix = z.transpose() * &z;
            let noise = crate::support::noise(2, outputs * channels);
            let rows = Mat::from_fn(outputs, channels, |i, j| f64::from(noise[i * channels + j]));
            let system = || {
                let mut system = System::ridged(Symmetric::from_fn(channels, |i, j| matrix[(i, j)]), 0.01);
                system.rows = rows.clone();
                system
            };
            let on_device = OnDevice::new(engine, &system().matrix, rows.as_ref(), per_unit).unwrap();
            for (place, mut found) in [("host", Box::new(system().rounded()) as Box<dyn Elimination>), ("device", Box::new(on_device))] {
                let mut expected: Box<dyn Elimination> = Box::new(system());
                let close = |found: &[f64], expected: &[f64], what: &str| {
                    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
                    let size = norm(&mut expected.iter().copied()).max(f64::MIN_POSITIVE);
                    let error = norm(&mut found.iter().zip(expected).map(|(a, b)| a - b)) / size;
                    let case = format!("{channels} channels in units of {per_unit} on the {place}, {what}");
                    assert_eq!(found.len(), expected.len(), "{case}");
                    assert!(error < F32_TOLERANCE, "{case}: {error:e}");
                };
                let costs = |system: &dyn Elimination| system.costs(per_unit, "a test").unwrap();
                for system in [&mut found, &mut expected] {
                    system.invert("a test").unwrap();
                }
                close(&costs(&*found), &costs(&*expected), "costs");
                let half = (channels / per_unit).div_ceil(2);
                let [removal, right] = [&mut found, &mut expected].map(|s| remove_greedily(&mut **s, per_unit, half, "a test").unwrap());
                assert_eq!(removal.order, right.order, "{channels} channels in units of {per_unit} on the {place}");
                close(&removal.curve[1..], &right.curve[1..], "curve");
                close(&costs(&*found), &costs(&*expected), "costs after the removal");
                let [found, expected] = [found, expected].map(|mut system| {
                    let rows = system.take_rows().unwrap();
                    rows.col_iter().flat_map(|column| column.iter().copied().collect::<Vec<_>>()).collect::<Vec<_>>()
                });
                close(&found, &expected, "rows");
            }
        }
    });
}

/// Far fewer tokens than channels and hardly a ridge: in f32 this is no positive definite matrix any more. The work is done again in f64.
#[test]
fn what_f32_cannot_solve_is_solved_in_f64() {
    let (channels, outputs, tokens) = (300, 4, 40);
    let noise = crate::support::noise(1, tokens * channels);
    let z = Mat::from_fn(tokens, channels, |t, c| f64::from(noise[t * channels + c]));
    let matrix = z.transpose() * &z + Mat::<f64>::identity(channels, channels) * faer::Scale(1e-7);
    let rows = Mat::from_fn(outputs, channels, |i, j| f64::from(crate::support::noise(2, outputs * channels)[i * channels + j]));
    on_both_engines!(engine => {
        let system = System { matrix: Symmetric::from_fn(channels, |i, j| matrix[(i, j)]), rows: rows.clone() };
        let tried = std::cell::Cell::new(0);
        let solved = eliminate(engine, ROOM, system, [outputs, 1], |system| {
            tried.set(tried.get() + 1);
            system.solve("a test")?;
            system.take_rows()
        });
        let solved = solved.unwrap();
        assert_eq!(tried.get(), 2);
        // A condition of 1e9 times the rounding of f64.
        let error = (&solved * &matrix - &rows).norm_l2() / rows.norm_l2();
        assert!(error < 1e-5, "{error:e}");
    });
}
