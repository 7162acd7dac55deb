//! Options of planning: what goes, by which recipe, and for whom.

use super::common::parse_count;
use crate::architecture::Architecture;
use crate::export::{Choice, Client};
use crate::importance::Metric;
use crate::plan::{Compensation, DEFAULT_REMOVE_HEADS, Method, PlanOptions, Recipe, Uniform};
use crate::pruning;
use crate::search::Structure;
use crate::statistics::TokenWeights;
use clap::Args;
use std::num::NonZeroUsize;

#[derive(Debug, Args)]
pub struct PlanningArguments {
    /// Share to remove of the prunable parameters, which are the matrices of attention and MLP (not embeddings, head and norms); between 0
    /// and 1
    #[arg(long, default_value_t = 0.2, value_parser = parse_ratio, allow_negative_numbers = true, help_heading = "Planning")]
    pub ratio: f64,
    /// How the pruned model is made [default: sequential for prune, but flap with one of its options or for a client that loads no biases; flap for plan]
    #[arg(long, value_enum, help_heading = "Planning")]
    pub recipe: Option<Recipe>,
    /// Leave the projections that read the residual stream as they are (sequential, search)
    #[arg(long, help_heading = "Planning")]
    pub no_refit: bool,
    /// How units are chosen (flap) [default: flap]
    #[arg(long, value_enum, help_heading = "Planning")]
    pub method: Option<Method>,
    /// FLAP's metric (flap) [default: wifv]
    #[arg(long, value_enum, help_heading = "Planning")]
    pub metric: Option<Metric>,
    /// How the budget is spread: adaptive (AL) or uniform (UL) over layers; adaptive (AM), uniform (UM) or manual (MM) over attention and MLP
    /// (flap) [default: al-am]
    #[arg(long, value_enum, help_heading = "Planning")]
    pub structure: Option<Structure>,
    /// Query heads to remove in the -mm structures (flap) [default: 8 in whole groups that share key-value heads, at least one group]
    #[arg(long, value_name = "N", help_heading = "Planning")]
    pub remove_heads: Option<usize>,
    /// What becomes of the mean of what was removed (flap) [default: bias]
    #[arg(long, value_enum, help_heading = "Planning")]
    pub compensation: Option<Compensation>,
    /// Kept neurons of each layer become a multiple of this [default: 1]
    #[arg(long, value_parser = parse_count, value_name = "K", help_heading = "Planning")]
    pub round_neurons: Option<NonZeroUsize>,
    /// Kept query heads of each layer become a multiple of this [default: 1]
    #[arg(long, value_parser = parse_count, value_name = "K", help_heading = "Planning")]
    pub round_heads: Option<NonZeroUsize>,
    /// Every layer keeps the same number of heads and of neurons, for programs that know one size only
    #[arg(long, help_heading = "Planning")]
    pub uniform: bool,
    /// Choose form, rounding and structure that this program loads; what is given explicitly stays
    #[arg(long = "for", value_enum, value_name = "CLIENT", help_heading = "Planning")]
    pub client: Option<Client>,
    /// Zero instead of remove: the shapes stay (flap)
    #[arg(long, help_heading = "Planning")]
    pub mask_only: bool,
}

fn parse_ratio(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| "it must be a number, such as 0.2 for a fifth".into())
}

/// Whole groups, at least one.
fn default_remove_heads(group: usize) -> usize {
    (DEFAULT_REMOVE_HEADS / group * group).max(group)
}

impl PlanningArguments {
    /// What is said explicitly, and else what the client's abilities call for.
    pub fn choice(&self, model: &Architecture) -> Choice {
        // Without a client nothing is called for, as for one that loads everything.
        let choice = self.client.unwrap_or(Client::Transformers).choose(model);
        Choice {
            uniform: choice.uniform || self.uniform,
            round_neurons: self.round_neurons.map_or(choice.round_neurons, NonZeroUsize::get),
            round_heads: self.round_heads.map_or(choice.round_heads, NonZeroUsize::get),
            compensation: self.compensation.unwrap_or(choice.compensation),
            ..choice
        }
    }

    /// The first option that is given and belongs to FLAP alone.
    pub fn option_of_flap(&self, compat: bool) -> Option<&'static str> {
        let own = [
            (compat, "--compat"),
            (self.method.is_some(), "--method"),
            (self.metric.is_some(), "--metric"),
            (self.structure.is_some(), "--structure"),
            (self.remove_heads.is_some(), "--remove-heads"),
            (self.compensation.is_some(), "--compensation"),
            (self.mask_only, "--mask-only"),
        ];
        own.into_iter().find(|(given, _)| *given).map(|(_, option)| option)
    }

    /// The recipe: what is said; else FLAP where one of its own options is given or the client cannot load biases; else `otherwise`.
    fn recipe(&self, compat: bool, choice: &Choice, otherwise: Recipe, family: &str) -> crate::error::Result<Recipe> {
        let without_biases = choice.compensation == Compensation::None;
        match (self.recipe, self.option_of_flap(compat)) {
            (None, None) if without_biases => Ok(Recipe::Flap),
            (None, None) => Ok(otherwise),
            (None | Some(Recipe::Flap), _) => Ok(Recipe::Flap),
            (Some(recipe), None) if without_biases => Err(crate::error::Error::input(format!(
                "--recipe {} gives the model biases, which the program named by --for does not load in a {family}; use --recipe flap",
                recipe.name()
            ))),
            (Some(recipe), None) => Ok(recipe),
            (Some(recipe), Some(option)) => Err(crate::error::Error::input(format!(
                "{option} belongs to --recipe flap; --recipe {} takes --ratio, --uniform and the rounding options",
                recipe.name()
            ))),
        }
    }

    /// Refuses options that would change nothing.
    fn check_use(&self, recipe: Recipe, model: &Architecture) -> crate::error::Result<()> {
        let refused = |message: String| Err(crate::error::Error::input(message));
        if self.no_refit && !matches!(recipe, Recipe::Sequential | Recipe::Search) {
            return refused(format!("--no-refit belongs to --recipe sequential and search, not to {}", recipe.name()));
        }
        if let Some(method) = self.method.filter(|&method| method != Method::Flap) {
            let not_its_own = [
                (self.metric.is_some(), "--metric"),
                (self.structure.is_some(), "--structure"),
                (self.remove_heads.is_some(), "--remove-heads"),
                (self.compensation == Some(Compensation::Bias), "--compensation bias"),
            ];
            if let Some((_, option)) = not_its_own.iter().find(|(given, _)| *given) {
                return refused(format!("{option} belongs to --method flap; {} has no choice there", method.name()));
            }
        }
        let manual = matches!(self.structure, Some(Structure::AlMm | Structure::UlMm));
        if self.remove_heads.is_some() && !manual {
            return refused("--remove-heads belongs to --structure al-mm and ul-mm".into());
        }
        let group = model.layers[0].group_size();
        match self.remove_heads.filter(|heads| !heads.is_multiple_of(group)) {
            Some(heads) => {
                refused(format!("--remove-heads {heads} is no multiple of {group}, the query heads that share a key-value head"))
            }
            None => Ok(()),
        }
    }

    /// As the library wants it for a model; fails on what no plan can be before any work is done. `otherwise` is the recipe where
    /// nothing speaks for one.
    pub fn options(&self, model: &Architecture, compat: bool, otherwise: Recipe) -> crate::error::Result<PlanOptions> {
        let choice = self.choice(model);
        let recipe = self.recipe(compat, &choice, otherwise, model.family)?;
        self.check_use(recipe, model)?;
        let heads = if self.client == Some(Client::LlamaCpp) { Uniform::AnyHeads } else { Uniform::DivisorsOfHidden };
        let options = PlanOptions {
            recipe,
            method: self.method.unwrap_or_default(),
            metric: self.metric.unwrap_or_default(),
            structure: self.structure.unwrap_or_default(),
            ratio: self.ratio,
            remove_heads: self.remove_heads.unwrap_or_else(|| default_remove_heads(model.layers[0].group_size())),
            round_neurons: choice.round_neurons,
            round_heads: choice.round_heads,
            uniform: choice.uniform.then_some(heads),
            compensation: choice.compensation,
            mask_only: self.mask_only,
            token_weights: TokenWeights::default(),
            refit: !self.no_refit,
        };
        pruning::check_options(model, &options, compat)?;
        Ok(options)
    }
}
