//! How many units each site keeps, from the error curves of all sites. Pure functions.

use crate::error::{Error, Result};
use crate::search::{Alike, between};

/// One site of one layer.
#[derive(Debug, Clone)]
pub struct AllocationSite {
    /// Parameters of a unit.
    pub cost: u64,
    /// Error after so many removals, relative to what follows the site; from 0 removals to all.
    pub curve: Vec<f64>,
    /// Kept units are a multiple of this, which is at most their number.
    pub multiple: usize,
    /// Whether units are so many and so cheap that few counts need be tried and the rest is filled up one by one.
    pub fine: bool,
}

/// Counts of a fine site that are tried, besides its ends.
const STEPS: usize = 43;

impl AllocationSite {
    pub(super) fn units(&self) -> usize {
        self.curve.len() - 1
    }

    /// What goes in any case, to leave a multiple.
    pub(super) fn least_removed(&self) -> usize {
        self.units() % self.multiple
    }

    /// Numbers of removed units that are tried, ascending. One unit stays in any case.
    fn candidates(&self) -> Vec<usize> {
        let units = self.units();
        let step = if self.fine { (units / STEPS).max(1).next_multiple_of(self.multiple) } else { self.multiple };
        let least = self.multiple.min(units);
        let mut kept: Vec<usize> = (least..=units - self.least_removed()).rev().step_by(step).collect();
        if kept.last() != Some(&least) {
            kept.push(least);
        }
        kept.into_iter().map(|kept| units - kept).collect()
    }
}

/// Removed units of every site that minimise the sum of errors while at least `ratio` of all parameters goes: by bisection on the
/// price of a parameter, each site taking the whole curve's best answer to it. What is taken too much is given back, one multiple of
/// a fine site after the other.
///
/// # Errors
/// If the ratio cannot be reached with one unit (or multiple) kept everywhere.
pub fn allocate(sites: &[AllocationSite], ratio: f64) -> Result<Vec<usize>> {
    let total: u64 = sites.iter().map(|site| site.cost * site.units() as u64).sum();
    let wanted = ratio * total as f64;
    let candidates: Vec<Vec<usize>> = sites.iter().map(AllocationSite::candidates).collect();
    let best = |price: f64| -> Vec<usize> {
        let answer = |(site, counts): (&AllocationSite, &Vec<usize>)| {
            let value = |&removed: &usize| site.curve[removed] - price * (site.cost * removed as u64) as f64;
            // The smallest count among equals, so that a price of zero removes nothing that matters.
            counts.iter().copied().min_by(|a, b| value(a).total_cmp(&value(b))).unwrap_or(0)
        };
        sites.iter().zip(&candidates).map(answer).collect()
    };
    let removed = |counts: &[usize]| parameters(sites, counts);
    let (mut low, mut high) = (1e-30f64, 1e30f64);
    if removed(&best(high)) < wanted {
        return Err(Error::input(format!(
            "the ratio {ratio} cannot be reached: every layer keeps one attention unit and one neuron (or one multiple of them)"
        )));
    }
    for _ in 0..300 {
        let middle = (low * high).sqrt();
        if removed(&best(middle)) >= wanted { high = middle } else { low = middle }
    }
    let mut counts = best(high);
    give_back(sites, &mut counts, wanted);
    Ok(counts)
}

/// Parameters of so many units of every site.
pub(super) fn parameters(sites: &[AllocationSite], units: &[usize]) -> f64 {
    sites.iter().zip(units).map(|(site, &units)| (site.cost * units as u64) as f64).sum()
}

/// Returns units of fine sites, round robin, as long as enough stays removed.
pub(super) fn give_back(sites: &[AllocationSite], counts: &mut [usize], wanted: f64) {
    let mut removed = parameters(sites, counts);
    loop {
        let before = removed;
        for (site, count) in sites.iter().zip(&mut *counts).filter(|(site, _)| site.fine) {
            // Back to the next multiple of kept units.
            let kept = site.units() - *count;
            let step = (kept + 1).next_multiple_of(site.multiple) - kept;
            let cost = (site.cost * step as u64) as f64;
            if *count >= step && removed - cost >= wanted {
                *count -= step;
                removed -= cost;
            }
        }
        if removed == before {
            return;
        }
    }
}

/// The same with equal counts in all layers, of the allowed numbers of kept attention units: `sites` are attention and MLP of every layer in
/// turn, alike in all layers.
///
/// # Errors
/// If they are not alike, or none of the numbers meets the ratio.
pub fn allocate_uniformly(sites: &[AllocationSite], ratio: f64, allowed: &[usize]) -> Result<Vec<usize>> {
    let (attention, mlp): (Vec<&AllocationSite>, Vec<&AllocationSite>) = sites.chunks_exact(2).map(|pair| (&pair[0], &pair[1])).unzip();
    let (units, neurons) = (attention[0].units(), mlp[0].units());
    if attention.iter().any(|site| site.units() != units) || mlp.iter().any(|site| site.units() != neurons) {
        return Err(Error::input("--uniform needs a model whose layers are alike"));
    }
    let costs = |sites: &[&AllocationSite]| sites.iter().map(|site| site.cost).sum();
    let alike = Alike {
        units: allowed.iter().copied().filter(|&kept| kept <= units && kept.is_multiple_of(attention[0].multiple)).collect(),
        unit_costs: costs(&attention),
        neurons,
        multiple: mlp[0].multiple,
        neuron_costs: costs(&mlp),
        total: sites.iter().map(|site| site.cost * site.units() as u64).sum(),
        ratio,
    };
    let [kept_units, kept_neurons] = alike.best(|kept, filled| {
        let of_units: f64 = attention.iter().map(|site| site.curve[units - kept]).sum();
        let of_neurons: f64 = mlp.iter().map(|site| between(&site.curve, neurons as f64 - filled)).sum();
        -(of_units + of_neurons)
    })?;
    Ok(attention.iter().flat_map(|_| [units - kept_units, neurons - kept_neurons]).collect())
}
