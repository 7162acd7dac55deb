//! The order in which a checkpoint stores the rows of query and key heads, where it is not the one in which rotary embedding turns them here:
//! row `i` with row `head_dim / 2 + i`.

use crate::tensor::HostTensor;

/// How the rows of each head are stored: first those that are turned, in pairs, then those that are not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadRows {
    /// Rows of a head.
    pub head_dim: usize,
    /// Those that are turned; even.
    pub turned: usize,
    /// Whether the rows of a pair are neighbours, instead of `turned / 2` apart.
    pub interleaved: bool,
    /// By which the rows that are not turned are multiplied.
    pub still_scale: f32,
}

impl HeadRows {
    /// All rows are turned, with their neighbours.
    #[must_use]
    pub fn interleaved(head_dim: usize) -> Self {
        Self { head_dim, turned: head_dim, interleaved: true, still_scale: 1.0 }
    }

    /// Where row `row` of a head is stored, as it is ordered here: the halves of all pairs, one after the other.
    fn place(&self, row: usize) -> usize {
        let half = self.head_dim / 2;
        let (pair, second, turned) = (row % half, row / half, self.turned / 2);
        if pair >= turned {
            self.turned + pair - turned + second * (half - turned)
        } else if self.interleaved {
            2 * pair + second
        } else {
            pair + second * turned
        }
    }

    /// Rows of whole heads in the order of rotary embedding here; the channels of a bias, which is a row of heads, are its rows.
    ///
    /// # Panics
    /// If they are no whole heads.
    #[must_use]
    pub fn ordered(&self, stored: &HostTensor) -> HostTensor {
        let row_bytes = if stored.rows == 1 { stored.dtype.size() } else { stored.row_bytes() };
        let mut bytes = Vec::with_capacity(stored.bytes.as_ref().len());
        let heads = stored.bytes.as_ref().chunks_exact(self.head_dim * row_bytes);
        assert!(heads.remainder().is_empty(), "rows of whole heads");
        let still = self.turned * row_bytes;
        for head in heads {
            let numbers = (self.still_scale != 1.0).then(|| {
                let count = (head.len() - still) / stored.dtype.size();
                HostTensor::owning(head[still..].to_vec(), stored.dtype, 1, count).scaled(self.still_scale)
            });
            for row in 0..self.head_dim {
                let place = self.place(row) * row_bytes;
                bytes.extend_from_slice(match &numbers {
                    Some(numbers) if place >= still => &numbers.bytes.as_ref()[place - still..][..row_bytes],
                    _ => &head[place..place + row_bytes],
                });
            }
        }
        HostTensor::owning(bytes, stored.dtype, stored.rows, stored.columns)
    }
}
