//! A site's error curve.

use super::removal::Removal;
use crate::architecture::Site;
use crate::statistics::SiteCovariance;

/// What the dense model says about one site.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
pub struct Curve {
    /// Layer.
    pub layer: usize,
    /// Attention or MLP.
    pub site: Site,
    /// Order of removal and its error.
    pub removal: Removal,
    /// Mean square of the residual stream behind the site, summed over its channels: by what an error counts there.
    pub stream_square: f64,
    /// Its covariance, where it was kept.
    #[serde(skip)]
    pub covariance: Option<SiteCovariance>,
}

impl Curve {
    /// The covariance.
    ///
    /// # Panics
    /// If the recipe keeps none.
    pub fn covariance(&self) -> &SiteCovariance {
        self.covariance.as_ref().expect("the recipe keeps covariances")
    }
}
