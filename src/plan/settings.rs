//! How a plan was made, and the options of the command line that make it again.

use super::Plan;
use crate::importance::Metric;
use crate::search::Structure;
use crate::statistics::TokenWeights;
use clap::ValueEnum;

/// What is done with the mean of what was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Compensation {
    /// It becomes a bias of the projection.
    #[default]
    Bias,
    /// Nothing.
    None,
}

/// How units are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// FLAP: a fluctuation metric, a structure search over the model, bias compensation.
    #[default]
    Flap,
    /// Wanda's score, layer by layer on the pruned stream, the same share of every layer.
    WandaSp,
    /// Norms of the weights alone, the same share of every layer; needs no text.
    MagnitudeSp,
}

/// How the pruned model is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Recipe {
    /// The paper: one pass, a structure search, bias compensation
    #[default]
    Flap,
    /// Error curves and least-squares weights from the dense model; one pass
    LeastSquares,
    /// The same allocation, units and weights from the pruned model's own stream; two passes
    Sequential,
    /// As sequential, but the allocation is searched in rounds by the divergence of many variants of the model; many passes
    Search,
}

impl Method {
    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> String {
        argument(&self)
    }
}

impl Recipe {
    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> String {
        argument(&self)
    }
}

/// How a plan was made.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Settings {
    /// FLAP or a recipe beyond it.
    #[serde(default)]
    pub recipe: Recipe,
    /// The method.
    pub method: Method,
    /// FLAP's metric.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub metric: Option<Metric>,
    /// FLAP's structure; the baselines prune uniformly, and the recipes beyond FLAP have none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub structure: Option<Structure>,
    /// Share of the prunable parameters that was asked for.
    pub ratio: f64,
    /// Query heads to remove, in the manual structures.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub remove_heads: Option<usize>,
    /// Multiple of kept neurons.
    pub round_neurons: usize,
    /// Multiple of kept query heads.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub round_heads: Option<usize>,
    /// Whether every layer keeps the same numbers.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub uniform: bool,
    /// Whether that may be any number of heads, as llama.cpp allows, and not only those that divide the hidden size.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub any_heads: bool,
    /// Whether the projections that read the residual stream were left as they are, by a recipe that fits them.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub no_refit: bool,
    /// Compensation.
    pub compensation: Compensation,
    /// Zero instead of remove.
    pub mask_only: bool,
    /// How much each token counted in a recipe beyond FLAP.
    #[serde(skip_serializing_if = "TokenWeights::is_equal", default)]
    pub token_weights: TokenWeights,
    /// As the authors' code decides.
    pub compat: bool,
}

impl Settings {
    /// What made the plan, in a few words.
    #[must_use]
    pub fn words(&self) -> String {
        match (self.recipe, self.method, &self.metric, &self.structure) {
            (Recipe::Flap, Method::Flap, Some(metric), Some(structure)) => {
                format!("recipe flap ({}, {})", argument(metric), argument(structure))
            }
            (Recipe::Flap, method, ..) => format!("method {}", method.name()),
            (recipe, ..) => format!("recipe {}", recipe.name()),
        }
    }
}

/// A value as the command line names it.
pub(crate) fn argument(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_string()).unwrap_or_default()
}

impl Plan {
    /// The options of `flap-gpu prune` that make this plan from the model and the text it was made from, and its weights.
    #[must_use]
    pub fn options(&self) -> Vec<String> {
        let settings = &self.settings;
        let mut options = Vec::new();
        let mut option = |name: &str, value: Option<String>| options.extend(std::iter::once(format!("--{name}")).chain(value));
        if let Some(header) = &self.calibration {
            option("samples", Some(header.samples.to_string()));
            option("sequence-length", Some(header.sequence_length.to_string()));
            option("seed", Some(header.seed.to_string()));
        }
        if settings.compat {
            option("compat", None);
        }
        match (settings.recipe, settings.method) {
            (Recipe::Flap, Method::Flap) => option("recipe", Some(Recipe::Flap.name())),
            (Recipe::Flap, method) => option("method", Some(method.name())),
            (recipe, _) => option("recipe", Some(recipe.name())),
        }
        if let Some(metric) = &settings.metric {
            option("metric", Some(argument(metric)));
            if let Some(structure) = &settings.structure {
                option("structure", Some(argument(structure)));
            }
        }
        option("ratio", Some(settings.ratio.to_string()));
        if let Some(heads) = settings.remove_heads {
            option("remove-heads", Some(heads.to_string()));
        }
        // Without these, a client chooses multiples itself.
        if settings.round_neurons > 1 || settings.any_heads {
            option("round-neurons", Some(settings.round_neurons.to_string()));
        }
        if settings.round_heads.is_some() || settings.any_heads {
            option("round-heads", Some(settings.round_heads.unwrap_or(1).to_string()));
        }
        // Some clients choose it themselves, too.
        if settings.metric.is_some() && (settings.compensation == Compensation::None || settings.any_heads) {
            option("compensation", Some(argument(&settings.compensation)));
        }
        if !settings.token_weights.is_equal() {
            option("token-weights", Some(argument(&settings.token_weights)));
        }
        if settings.any_heads {
            option("for", Some("llama.cpp".into()));
        }
        for (given, flag) in [(settings.uniform, "uniform"), (settings.no_refit, "no-refit"), (settings.mask_only, "mask-only")] {
            if given {
                option(flag, None);
            }
        }
        options.extend(self.calibration.iter().flat_map(|header| header.options.iter().cloned()));
        options
    }
}
