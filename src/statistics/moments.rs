//! Exact moments of channels, merged by the formula of Chan, Golub and LeVeque.

/// Count, mean and sum of squared deviations per channel.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    /// Tokens.
    pub count: u64,
    /// Mean `[channels]`.
    pub mean: Vec<f64>,
    /// Sum of squared deviations from the mean `[channels]`.
    pub m2: Vec<f64>,
}

impl Moments {
    /// Moments of no tokens.
    #[must_use]
    pub fn empty(channels: usize) -> Self {
        Self { count: 0, mean: vec![0.0; channels], m2: vec![0.0; channels] }
    }

    /// Takes in the moments of other tokens.
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        let (before, added) = (self.count as f64, other.count as f64);
        let share = added / (before + added);
        for channel in 0..self.mean.len() {
            let delta = other.mean[channel] - self.mean[channel];
            self.mean[channel] += delta * share;
            self.m2[channel] += other.m2[channel] + delta * delta * before * share;
        }
        self.count += other.count;
    }

    /// Sample variance, divided by `count - 1`; 0 for a single token.
    #[must_use]
    pub fn variance(&self) -> Vec<f64> {
        let divisor = self.count.saturating_sub(1).max(1) as f64;
        self.m2.iter().map(|m2| m2 / divisor).collect()
    }

    /// Mean of the squares.
    #[must_use]
    pub fn second_moment(&self) -> Vec<f64> {
        let count = self.count.max(1) as f64;
        self.m2.iter().zip(&self.mean).map(|(m2, mean)| m2 / count + mean * mean).collect()
    }
}
