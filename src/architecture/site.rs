//! The two places of a layer where channels are measured and removed, and the sizes that belong to them.

use super::{Architecture, LayerShape, Part};
use std::ops::{Index, IndexMut};

/// A place of a layer where its channels can be observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Site {
    /// The input of `o_proj`: `[tokens, heads * head_dim]`.
    Attention,
    /// The input of `down_proj`: `[tokens, intermediate_size]`.
    Mlp,
}

impl Site {
    /// Both sites, in the order in which a layer reaches them.
    pub const BOTH: [Self; 2] = [Self::Attention, Self::Mlp];

    /// The name in files and tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Attention => "attention",
            Self::Mlp => "mlp",
        }
    }

    /// The projection that writes a site's activations back into the residual stream, and its bias.
    #[must_use]
    pub fn writer(self) -> (Part, Part) {
        match self {
            Self::Attention => (Part::OutputProjection, Part::OutputBias),
            Self::Mlp => (Part::DownProjection, Part::DownBias),
        }
    }
}

/// One for each of a layer's sites.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PerSite<T> {
    /// At `o_proj`'s input.
    pub attention: T,
    /// At `down_proj`'s input.
    pub mlp: T,
}

impl<T> PerSite<T> {
    /// What `make` makes for each.
    ///
    /// # Errors
    /// The first of `make`'s.
    pub fn try_from_fn<E>(mut make: impl FnMut(Site) -> Result<T, E>) -> Result<Self, E> {
        Ok(Self { attention: make(Site::Attention)?, mlp: make(Site::Mlp)? })
    }
}

impl<T> Index<Site> for PerSite<T> {
    type Output = T;

    fn index(&self, site: Site) -> &T {
        match site {
            Site::Attention => &self.attention,
            Site::Mlp => &self.mlp,
        }
    }
}

impl<T> IndexMut<Site> for PerSite<T> {
    fn index_mut(&mut self, site: Site) -> &mut T {
        match site {
            Site::Attention => &mut self.attention,
            Site::Mlp => &mut self.mlp,
        }
    }
}

impl LayerShape {
    /// Units of a site, which stay or go as a whole: key-value heads with their query heads, or neurons.
    #[must_use]
    pub fn units(&self, site: Site) -> usize {
        match site {
            Site::Attention => self.key_value_heads,
            Site::Mlp => self.intermediate_size,
        }
    }

    /// Channels that a unit of a site owns.
    #[must_use]
    pub fn channels_per_unit(&self, site: Site, head_dim: usize) -> usize {
        match site {
            Site::Attention => self.group_size() * head_dim,
            Site::Mlp => 1,
        }
    }

    /// Channels of a site.
    #[must_use]
    pub fn channels(&self, site: Site, head_dim: usize) -> usize {
        self.units(site) * self.channels_per_unit(site, head_dim)
    }
}

impl Architecture {
    /// Channels of a layer's site.
    #[must_use]
    pub fn channels(&self, layer: usize, site: Site) -> usize {
        self.layers[layer].channels(site, self.head_dim)
    }

    /// Channels that a unit of a layer's site owns.
    #[must_use]
    pub fn channels_per_unit(&self, layer: usize, site: Site) -> usize {
        self.layers[layer].channels_per_unit(site, self.head_dim)
    }
}
