//! The order in which a site's units go.

use super::elimination::Elimination;
use crate::error::Result;

/// Neurons are removed in blocks of this share of all; smaller blocks gain nothing.
pub const BLOCKS: usize = 16;

/// The order in which the units of a site are removed, and what is lost.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Removal {
    /// Units, the first removed first.
    pub order: Vec<usize>,
    /// Squared error of the site's output per token after so many removals, when the rest makes up for them; one more than removals.
    pub curve: Vec<f64>,
}

/// Backward elimination: the cheapest of a site's units go first, and after each removal the remaining weights take over what they can of
/// it (optimal brain surgeon with updates). Stops after `count` units.
///
/// `system` is the inverse `(C + ridge)^-1` of the covariance with the site's weights; a unit owns a run of channels. Units of one channel go
/// in blocks, the others one by one. What stays of the system are the remaining weights.
pub fn remove_greedily(system: &mut dyn Elimination, channels_per_unit: usize, count: usize, what: &str) -> Result<Removal> {
    let mut units: Vec<usize> = (0..system.channels() / channels_per_unit).collect();
    let block = if channels_per_unit == 1 { (units.len() / BLOCKS).max(1) } else { 1 };
    let run = |place: usize| place * channels_per_unit..(place + 1) * channels_per_unit;
    let (mut order, mut curve, mut error) = (Vec::with_capacity(count), vec![0.0], 0.0);
    while order.len() < count {
        let costs = system.costs(channels_per_unit, what)?;
        let mut places: Vec<usize> = (0..costs.len()).collect();
        places.sort_by(|&a, &b| costs[a].total_cmp(&costs[b]).then(a.cmp(&b)));
        places.truncate(block.min(count - order.len()));
        let channels: Vec<usize> = places.iter().flat_map(|&place| run(place)).collect();
        let lost = system.remove(&channels, what)?;
        // A block's loss is more than the sum of its units'; it is spread over them in proportion.
        let total: f64 = places.iter().map(|&place| costs[place]).sum();
        let mut share = 0.0;
        for (index, &place) in places.iter().enumerate() {
            share += if total > 0.0 { costs[place] / total } else { 1.0 / places.len() as f64 };
            curve.push(error + lost * if index + 1 == places.len() { 1.0 } else { share });
            order.push(units[place]);
        }
        error += lost;
        let mut goes = vec![false; units.len()];
        places.iter().for_each(|&place| goes[place] = true);
        let mut goes = goes.into_iter();
        units.retain(|_| goes.next() == Some(false));
    }
    Ok(Removal { order, curve })
}
