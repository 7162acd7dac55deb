//! What the user asks of a plan, and whether a model can give it.

use super::{Compensation, Method, Recipe, Settings};
use crate::architecture::Architecture;
use crate::error::{Error, Result};
use crate::importance::Metric;
use crate::search::Structure;
use crate::statistics::TokenWeights;

/// Query heads that the authors' code removes in the manual structures when nothing else is said.
pub const DEFAULT_REMOVE_HEADS: usize = 8;

/// Which numbers of heads a uniform plan may keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uniform {
    /// Every number.
    AnyHeads,
    /// Those that divide the hidden size, as transformers asks of a LLaMA.
    DivisorsOfHidden,
}

impl Uniform {
    /// The numbers of attention units.
    #[must_use]
    pub fn units(self, architecture: &Architecture) -> Vec<usize> {
        let first = &architecture.layers[0];
        let allowed = |units: &usize| self == Self::AnyHeads || architecture.hidden_size.is_multiple_of(units * first.group_size());
        (1..=first.key_value_heads).filter(allowed).collect()
    }
}

/// What the user asks of a plan.
#[derive(Debug, Clone)]
pub struct PlanOptions {
    /// FLAP or a recipe beyond it.
    pub recipe: Recipe,
    /// FLAP or a baseline.
    pub method: Method,
    /// FLAP's metric.
    pub metric: Metric,
    /// FLAP's structure.
    pub structure: Structure,
    /// Share of the prunable parameters to remove.
    pub ratio: f64,
    /// Query heads to remove in the manual structures.
    pub remove_heads: usize,
    /// Kept neurons become a multiple of this.
    pub round_neurons: usize,
    /// Kept query heads become a multiple of this.
    pub round_heads: usize,
    /// Every layer keeps the same number of heads and of neurons.
    pub uniform: Option<Uniform>,
    /// Compensation; the baselines have none.
    pub compensation: Compensation,
    /// Zero instead of remove.
    pub mask_only: bool,
    /// How much each token counts in the recipes beyond FLAP.
    pub token_weights: TokenWeights,
    /// Whether the recipes with a second pass also fit the projections that read the residual stream to the pruned one.
    pub refit: bool,
}

impl Default for PlanOptions {
    /// The paper's choices, a fifth removed.
    fn default() -> Self {
        Self {
            recipe: Recipe::Flap,
            method: Method::default(),
            metric: Metric::default(),
            structure: Structure::default(),
            ratio: 0.2,
            remove_heads: DEFAULT_REMOVE_HEADS,
            round_neurons: 1,
            round_heads: 1,
            uniform: None,
            compensation: Compensation::default(),
            mask_only: false,
            token_weights: TokenWeights::default(),
            refit: true,
        }
    }
}

impl PlanOptions {
    /// How a plan by these options was made.
    #[must_use]
    pub fn settings(&self, compat: bool) -> Settings {
        let flap = self.method == Method::Flap && self.recipe == Recipe::Flap;
        let manual = flap && matches!(self.structure, Structure::AlMm | Structure::UlMm);
        Settings {
            recipe: self.recipe,
            method: self.method,
            metric: flap.then_some(self.metric),
            structure: (self.recipe == Recipe::Flap).then_some(if self.method == Method::Flap { self.structure } else { Structure::UlUm }),
            ratio: self.ratio,
            remove_heads: manual.then_some(self.remove_heads),
            round_neurons: self.round_neurons,
            round_heads: (self.round_heads > 1).then_some(self.round_heads),
            uniform: self.uniform.is_some(),
            any_heads: self.uniform == Some(Uniform::AnyHeads),
            no_refit: !self.refit && matches!(self.recipe, Recipe::Sequential | Recipe::Search),
            compensation: match (self.recipe, self.method) {
                (Recipe::Flap, Method::Flap) => self.compensation,
                (Recipe::Flap, _) => Compensation::None,
                // They fit biases along with the weights.
                _ => Compensation::Bias,
            },
            mask_only: self.mask_only,
            token_weights: self.token_weights,
            compat,
        }
    }

    /// The kinds of things that a pruned model will have: biases, and layers of different sizes. To tell, before anything is measured,
    /// whether a form of output can hold them.
    #[must_use]
    pub fn expected(&self, dense: &Architecture) -> Architecture {
        let settings = self.settings(false);
        let mut expected = dense.clone();
        for layer in &mut expected.layers {
            layer.o_bias |= settings.compensation == Compensation::Bias;
            layer.down_bias |= settings.compensation == Compensation::Bias;
        }
        let alike = self.mask_only || self.uniform.is_some() || matches!(settings.structure, Some(Structure::UlUm | Structure::UlMm));
        if !alike && expected.layers[0].intermediate_size > 1 {
            expected.layers[0].intermediate_size -= 1;
        }
        expected
    }

    /// Of key-value heads with `group` query heads each, the multiple that makes query heads one of `round_heads`.
    #[must_use]
    pub fn round_units(&self, group: usize) -> usize {
        let (mut divisor, mut rest) = (self.round_heads, group);
        while rest > 0 {
            (divisor, rest) = (rest, divisor % rest);
        }
        self.round_heads / divisor.max(1)
    }

    /// Fails if no plan for such a model can meet the ratio, the multiples and the number of heads, or the recipe cannot keep layers alike.
    pub fn check(&self, model: &Architecture) -> Result<()> {
        if !(self.ratio > 0.0 && self.ratio < 1.0) {
            return Err(Error::input(format!("--ratio {} is outside (0, 1); 0.2 removes a fifth", self.ratio)));
        }
        if self.recipe == Recipe::Search && self.uniform.is_some() {
            return Err(Error::input(
                "--recipe search tries sites one by one and cannot keep layers alike; give another --recipe for --uniform",
            ));
        }
        if self.recipe != Recipe::Flap && self.uniform.is_some() && !model.is_uniform() {
            return Err(Error::input("--uniform needs a model whose layers are alike; only --recipe flap makes them so"));
        }
        let heads = model.layers.iter().map(|layer| layer.heads).sum::<usize>();
        if matches!(self.structure, Structure::AlMm | Structure::UlMm) && self.recipe == Recipe::Flap && self.remove_heads >= heads {
            return Err(Error::input(format!(
                "--remove-heads {} leaves no attention: the model has {heads} query heads",
                self.remove_heads
            )));
        }
        let mut least = 0;
        for (index, layer) in model.layers.iter().enumerate() {
            let units = self.round_units(layer.group_size());
            for (option, multiple, size, what) in [
                ("--round-heads", units * layer.group_size(), layer.heads, "query heads"),
                ("--round-neurons", self.round_neurons, layer.intermediate_size, "neurons"),
            ] {
                if multiple > size {
                    return Err(Error::input(format!("{option}: layer {index} has only {size} {what}, less than one block of {multiple}")));
                }
            }
            least += units as u64 * model.unit_parameters(index) + self.round_neurons as u64 * model.neuron_parameters();
        }
        let largest = 1.0 - least as f64 / model.prunable_parameters() as f64;
        if self.ratio > largest {
            return Err(Error::input(format!(
                "the ratio {} cannot be reached: every layer keeps one attention unit and one neuron (or one multiple of them), which allows at \
                 most {:.4}",
                self.ratio,
                // Rounded down: it is what can be asked for.
                (largest * 1e4).floor() / 1e4
            )));
        }
        Ok(())
    }
}
