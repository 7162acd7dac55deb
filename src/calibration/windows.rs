//! Which windows of a text are used: drawn for calibration as the FLAP authors draw them, one after the other for evaluation.

use crate::error::{Error, Result};
use rand_mt::Mt;
use std::collections::BTreeSet;
use std::ops::Range;

/// One of `count` parts of a calibration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// From 1 to `count`.
    pub index: usize,
    /// Parts in all.
    pub count: usize,
}

impl std::str::FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match parsed {
            Some((index, count)) if 1 <= index && index <= count => Ok(Self { index, count }),
            _ => Err(format!("`{text}` is not a shard; write I/N with I from 1 to N, such as 2/4")),
        }
    }
}

impl Shard {
    /// This part's windows: whole groups of `group` windows, spread as evenly as they allow.
    pub fn windows(self, samples: usize, group: usize) -> Result<Range<usize>> {
        let groups = samples.div_ceil(group);
        if self.count > groups {
            return Err(Error::input(format!("{samples} windows can be cut into at most {groups} shards")));
        }
        let cut = |index: usize| (index * groups / self.count * group).min(samples);
        Ok(cut(self.index - 1)..cut(self.index))
    }
}

/// Starts of `samples` windows of `length` tokens: the values of Python's `random.seed(seed)` and
/// `random.randint(0, tokens - length - 1)`, which the authors' code draws.
pub fn window_starts(tokens: usize, length: usize, samples: usize, seed: u64) -> Result<Vec<usize>> {
    if tokens <= length {
        return Err(Error::input(format!(
            "the calibration text has {tokens} tokens, too few for one window of {length}; give a longer text or a smaller --sequence-length"
        )));
    }
    let choices = u32::try_from(tokens - length).map_err(|_| Error::input("the calibration text has more than 2^32 tokens"))?;
    let key = [seed as u32, (seed >> 32) as u32];
    let mut random = Mt::new_with_key(key.into_iter().take(if key[1] == 0 { 1 } else { 2 }));
    let unused_bits = choices.leading_zeros();
    let mut below = || {
        loop {
            let value = random.next_u32() >> unused_bits;
            if value < choices {
                return value as usize;
            }
        }
    };
    Ok((0..samples).map(|_| below()).collect())
}

/// Of windows that were drawn behind the first `samples`, by their starts, those that share no token with an earlier one; at most `count`.
#[must_use]
pub fn held_out(starts: &[usize], samples: usize, length: usize, count: usize) -> Vec<usize> {
    let (drawn, more) = starts.split_at(samples);
    let mut taken: BTreeSet<usize> = drawn.iter().copied().collect();
    let mut is_apart =
        |start: usize| taken.range((start + 1).saturating_sub(length)..start + length).next().is_none() && taken.insert(start);
    more.iter().copied().filter(|&start| is_apart(start)).take(count).collect()
}

/// The number of whole windows of `length` tokens, at most `limit`.
pub fn sequential_windows(tokens: usize, length: usize, limit: Option<usize>) -> Result<usize> {
    match tokens / length {
        0 => Err(Error::input(format!("the text has {tokens} tokens, too few for one window of {length}; give a longer one"))),
        windows => Ok(windows.min(limit.unwrap_or(windows))),
    }
}
