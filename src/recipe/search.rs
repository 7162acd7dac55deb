//! Allocation by measurement: in rounds of a few per cent, every site is tried with one chunk of units less, in a model of its own, and the
//! chunks whose removal moves the predictions least go.
//!
//! All variants of a round pass through the layers side by side, so that a layer's weights are read once for all of them: the variant of a
//! site branches off the stream of the round's model where it reaches the site.

use super::allocation::{give_back, parameters};
use super::curves::Curves;
use super::layer::{Fitted, cut_readers, readers};
use super::saves::{FirstPass, Saves, Searched};
use super::{AllocationSite, keep, least_squares, leave_room};
use crate::architecture::Site;
use crate::calibration::Calibration;
use crate::disk::Scratch;
use crate::engine::Engine;
use crate::error::Result;
use crate::evaluation::Teacher;
use crate::forward::LayerWeights;
use crate::pass::{Batch, Pass, Visitor};
use crate::plan::PlanOptions;
use crate::progress::Progress;
use crate::tensor::HostTensor;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Variants are compared on one in so many windows.
const SLICE: usize = 16;
/// Share of the prunable parameters that a round removes.
const ROUND: f64 = 0.05;

/// Removed units of every site. Says beforehand what it will cost. Goes on behind the rounds of an interrupted run; finished ones go to the
/// saves, beside the first pass.
pub fn allocate<E: Engine>(
    calibration: &Calibration<'_, E>,
    plan: &PlanOptions,
    curves: &Curves,
    finished: Option<Searched>,
    saves: Option<(&Saves<'_>, FirstPass<'_>)>,
) -> Result<Vec<usize>> {
    let &Calibration { engine, model, set, progress, .. } = calibration;
    let sites = curves.allocation_sites(model, plan);
    let chunks = Chunks::of(&sites);
    let length = set.header.sequence_length;
    let ids = set.one_in(SLICE);
    let windows = ids.len() / length;
    let rounds = rounds(plan.ratio);
    let total = parameters(&sites, &sites.iter().map(AllocationSite::units).collect::<Vec<_>>());
    let least = || Searched { rounds: 0, removed: sites.iter().map(AllocationSite::least_removed).collect() };
    let mut search = finished.unwrap_or_else(least);
    let rounded = |mut removed: Vec<usize>| {
        give_back(&sites, &mut removed, plan.ratio * total);
        removed
    };
    let left = rounds.saturating_sub(search.rounds);
    if left == 0 {
        return Ok(rounded(search.removed));
    }
    announce(curves.seconds, sites.len(), left, plan.ratio, progress);

    // A variant's layer is on the device while the next is not.
    let memory = leave_room(engine, model, calibration.pass, sites.len());
    let pass = Pass::new(engine, model, windows, length, memory, progress)?;
    // Of a site with `s` others before it: the round's model, as many variants, and its own.
    let steps: usize = (0..sites.len()).map(|before| before + 2).sum();
    // And the dense model, layer by layer.
    progress.start("searching", "tokens x sites", ((left * steps + sites.len() / 2) * ids.len()) as u64);
    let teacher = Teacher::of(&pass, ids)?;
    let mut fits = HashMap::new();
    for round in search.rounds + 1..=rounds {
        let removed = &mut search.removed;
        let next: Vec<Option<usize>> = (0..sites.len()).map(|site| chunks.next(site, removed[site])).collect();
        let mut visitor = Round { curves, removed, next: &next, fits, variants: Vec::new() };
        let mut base = pass.embed(ids)?;
        pass.layers(0, &mut base, &mut visitor)?;
        let Round { variants, fits: made, .. } = visitor;
        let tried: Vec<usize> = variants.iter().map(|variant| variant.site).collect();
        let streams = std::iter::once(base).chain(variants.into_iter().map(|variant| variant.batches)).collect();
        let divergences = teacher.divergences(&pass, streams)?;
        let mut costs = vec![None; sites.len()];
        for (&site, divergence) in tried.iter().zip(&divergences[1..]) {
            let parameters = sites[site].cost as f64 * (next[site].unwrap_or(removed[site]) - removed[site]) as f64;
            costs[site] = Some((divergence - divergences[0]).max(0.0) / parameters);
        }
        tracing::info!("round {round} of {rounds}: divergence {:.5} nats a token with {removed:?} removed", divergences[0]);
        take(&sites, &chunks, &costs, total * plan.ratio * round as f64 / rounds as f64, removed);
        fits = made;
        // The next round tries the same chunk of a site that has lost none.
        fits.retain(|&(site, count), _| removed[site] == count || chunks.next(site, removed[site]) == Some(count));
        search.rounds = round;
        if let Some((saves, first)) = saves {
            saves.save_searched(engine, first, &search);
        }
    }
    progress.finish();
    Ok(rounded(search.removed))
}

fn rounds(ratio: f64) -> usize {
    ((ratio / ROUND).round() as usize).max(2)
}

/// Forward passes over the whole calibration that the search alone amounts to, for a model of so many sites.
#[must_use]
pub fn search_passes(sites: usize, ratio: f64) -> f64 {
    passes_of(sites, rounds(ratio))
}

fn passes_of(sites: usize, rounds: usize) -> f64 {
    // A pass takes every token through every site once; a round takes them through the sites behind every variant's own.
    (1.0 + rounds as f64 * (sites + 3) as f64 / 2.0) / SLICE as f64
}

/// Says what so many rounds will cost, if the first pass has been timed.
fn announce(seconds: Option<[f64; 2]>, sites: usize, left: usize, ratio: f64, progress: &dyn Progress) {
    let passes = passes_of(sites, left);
    let time = seconds.map(|[pass, curves]| {
        // A fit is of what stays of a site; a curve, of all of it.
        let seconds = passes * pass + left as f64 * curves;
        let time = if seconds < 90.0 { format!("{seconds:.0} s") } else { format!("{:.0} min", seconds / 60.0) };
        format!(", about {time} by what the first pass took")
    });
    let of = if left < rounds(ratio) { format!("the last {left} of {}", rounds(ratio)) } else { left.to_string() };
    progress.note(&format!(
        "the search tries {sites} sites in {of} rounds: {passes:.1} passes of the calibration and some {} fits{}",
        left * sites,
        time.unwrap_or_default()
    ));
}

/// What is taken from a site at once.
struct Chunks<'a> {
    sites: &'a [AllocationSite],
    /// Units of each site's chunk: one attention unit, or as many neurons as have its parameters.
    units: Vec<usize>,
}

impl<'a> Chunks<'a> {
    fn of(sites: &'a [AllocationSite]) -> Self {
        let units = |pair: &[AllocationSite]| {
            let neurons = (pair[0].cost as f64 / pair[1].cost as f64).round() as usize;
            [1, neurons.max(1)]
        };
        Self { sites, units: sites.chunks_exact(2).flat_map(units).collect() }
    }

    /// Removed units of a site with one chunk less; one unit (or multiple) stays.
    fn next(&self, site: usize, removed: usize) -> Option<usize> {
        let AllocationSite { multiple, .. } = self.sites[site];
        let units = self.sites[site].units();
        let kept = units - removed;
        let wanted = kept.saturating_sub(self.units[site]) / multiple * multiple;
        let fewer = wanted.max(multiple.min(units));
        (fewer < kept).then_some(units - fewer)
    }
}

/// Takes chunks, the cheapest first, until so many parameters are gone. What was taken from a site in this round already makes it dearer.
fn take(sites: &[AllocationSite], chunks: &Chunks<'_>, costs: &[Option<f64>], wanted: f64, removed: &mut [usize]) {
    let mut taken = vec![0usize; sites.len()];
    while parameters(sites, removed) < wanted {
        let price = |site: usize| costs[site].map_or(f64::INFINITY, |cost| cost * (1 + taken[site]) as f64);
        let open = (0..sites.len()).filter(|&site| chunks.next(site, removed[site]).is_some());
        let cheapest = open.min_by(|&a, &b| price(a).total_cmp(&price(b)).then(taken[a].cmp(&taken[b])));
        let Some(site) = cheapest else { return };
        removed[site] = chunks.next(site, removed[site]).unwrap_or(removed[site]);
        taken[site] += 1;
    }
}

/// Places of a layer's sites among all.
fn sites_of(layer: usize) -> [usize; 2] {
    [2 * layer, 2 * layer + 1]
}

/// A model that has one chunk less than the round's.
struct Variant<E: Engine> {
    site: usize,
    batches: Vec<Batch<E>>,
}

/// Sends the round's model and all variants through the layers.
struct Round<'a, E: Engine> {
    curves: &'a Curves,
    removed: &'a [usize],
    next: &'a [Option<usize>],
    /// By site and number of removed units.
    fits: HashMap<(usize, usize), Fitted>,
    variants: Vec<Variant<E>>,
}

impl<E: Engine> Round<'_, E> {
    /// A layer whose two sites have lost so many units, with one-shot least-squares weights.
    fn pruned(&mut self, pass: &Pass<'_, E>, layer: usize, removed: [usize; 2]) -> Result<LayerWeights<E>> {
        let (engine, model) = (pass.engine, pass.model);
        let mut own = model.layer(engine, layer)?;
        for ((site, index), count) in Site::BOTH.into_iter().zip(sites_of(layer)).zip(removed).filter(|&(_, count)| count > 0) {
            let curve = &self.curves.sites[index];
            let kept = keep(&curve.removal.order[..count], curve.removal.order.len());
            let fitted = match self.fits.entry((index, count)) {
                Entry::Occupied(fitted) => fitted.into_mut(),
                Entry::Vacant(place) => {
                    // A file of its own, which goes when the fit is let go.
                    place.insert(least_squares::fit(
                        engine,
                        pass.room(),
                        model,
                        (layer, site),
                        curve.covariance(),
                        &kept,
                        &mut Scratch::new()?,
                    )?)
                }
            };
            let read: Vec<HostTensor> = readers(site).iter().map(|&part| model.part(layer, part)).collect::<Result<_>>()?;
            cut_readers(engine, model, layer, site, &mut own, &kept, &read)?;
            fitted.place(engine, &mut own, site)?;
        }
        Ok(own)
    }
}

/// Sends a stream through a site.
fn pass_site<E: Engine>(pass: &Pass<'_, E>, weights: &LayerWeights<E>, site: Site, batches: &mut [Batch<E>]) -> Result<()> {
    let engine = pass.engine;
    for batch in batches {
        crate::interrupt::check()?;
        batch.update(engine, |h| weights.pass_site(engine, site, pass.rope(), h, pass.window_tokens, |_| Ok(())))?;
        pass.advance(batch);
    }
    Ok(())
}

impl<E: Engine> Visitor<E> for Round<'_, E> {
    /// The round's model.
    fn weights(&mut self, pass: &Pass<'_, E>, layer: usize) -> Result<LayerWeights<E>> {
        self.pruned(pass, layer, sites_of(layer).map(|site| self.removed[site]))
    }

    fn run(&mut self, pass: &Pass<'_, E>, layer: usize, round: &LayerWeights<E>, base: &mut [Batch<E>]) -> Result<()> {
        let places = sites_of(layer);
        let fewer = self.pruned(pass, layer, places.map(|place| self.next[place].unwrap_or(self.removed[place])))?;
        for (site, place) in Site::BOTH.into_iter().zip(places) {
            self.variants.iter_mut().try_for_each(|variant| pass_site(pass, round, site, &mut variant.batches))?;
            if self.next[place].is_some() {
                let mut batches = pass.copy(base)?;
                pass_site(pass, &fewer, site, &mut batches)?;
                self.variants.push(Variant { site: place, batches });
            }
            pass_site(pass, round, site, base)?;
        }
        Ok(())
    }
}
