//! What a model says of itself, and every form of what is made from it repeats.

use super::name_of;
use crate::export::folder::CARD;
use std::path::Path;

/// Name and licence of a source model.
pub struct Origin {
    /// Its name.
    pub name: String,
    /// `license` and its relatives, as the source's own card says.
    pub licence: Vec<(String, String)>,
}

impl Origin {
    /// Reads what a model folder says about itself.
    #[must_use]
    pub fn of(source: &Path) -> Self {
        let card = std::fs::read_to_string(source.join(CARD)).unwrap_or_default();
        let header = card.strip_prefix("---").and_then(|rest| rest.split_once("\n---")).map_or("", |(header, _)| header);
        let entry = |line: &str| -> Option<(String, String)> {
            let (key, value) = line.split_once(':')?;
            let known = matches!(key, "license" | "license_name" | "license_link");
            (known && !value.trim().is_empty()).then(|| (key.to_string(), value.trim().to_string()))
        };
        Self { name: name_of(source), licence: header.lines().filter_map(entry).collect() }
    }
}
