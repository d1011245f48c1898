//! Which rows each expert works on.
//!
//! Owns the order of picks: by expert, and for each expert by row. A *slot* t·k + i is row t's i-th choice; a *pick* is its
//! place in the order by expert. Must not hold activations.

use ops::{DeviceError, zeroed};

/// The picks of a step.
#[derive(Clone, Debug)]
pub(crate) struct Dispatch {
    top_k: usize,
    /// Expert of each slot.
    pub(crate) ids: Vec<u32>,
    /// Slot of each pick.
    pub(crate) slots: Vec<u32>,
    /// Row of each pick.
    pub(crate) rows: Vec<u32>,
    /// Pick of each slot.
    pub(crate) at: Vec<u32>,
    /// First pick of each expert, and the number of picks, `[E + 1]`.
    pub(crate) offsets: Vec<usize>,
    /// Next pick of each expert while they are laid out.
    next: Vec<usize>,
}

impl Dispatch {
    /// Room for `n_rows` rows.
    pub(crate) fn new(n_experts: usize, top_k: usize, n_rows: usize) -> Result<Self, DeviceError> {
        let of = |n| zeroed(n, "routes");
        let n = n_rows.saturating_mul(top_k);
        let offsets = vec![0; n_experts + 1];
        Ok(Self { top_k, ids: of(n)?, slots: of(n)?, rows: of(n)?, at: of(n)?, next: offsets.clone(), offsets })
    }

    /// Makes room for the choices of `n_rows` rows; they are then written into `ids`.
    pub(crate) fn resize(&mut self, n_rows: usize) {
        for of_picks in [&mut self.ids, &mut self.slots, &mut self.rows, &mut self.at] {
            of_picks.resize(n_rows * self.top_k, 0);
        }
    }

    /// Orders the slots of `ids` by expert.
    pub(crate) fn order(&mut self) {
        self.offsets.fill(0);
        for &expert in &self.ids {
            self.offsets[expert as usize + 1] += 1;
        }
        for e in 1..self.offsets.len() {
            self.offsets[e] += self.offsets[e - 1];
        }
        self.next.copy_from_slice(&self.offsets);
        for (slot, &expert) in self.ids.iter().enumerate() {
            let pick = self.next[expert as usize];
            self.next[expert as usize] += 1;
            self.slots[pick] = slot as u32;
            self.rows[pick] = (slot / self.top_k) as u32;
            self.at[slot] = pick as u32;
        }
    }

    /// Picks of each expert.
    pub(crate) fn loads(&self) -> impl Iterator<Item = usize> {
        self.offsets.windows(2).map(|pair| pair[1] - pair[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_are_ordered_by_expert_and_then_by_row() {
        let mut dispatch = Dispatch::new(4, 2, 5).unwrap();
        dispatch.resize(3);
        dispatch.ids.copy_from_slice(&[3, 0, 0, 1, 3, 1]);
        dispatch.order();
        assert_eq!(dispatch.offsets, [0, 2, 4, 4, 6]);
        assert_eq!(dispatch.slots, [1, 2, 3, 5, 0, 4]);
        assert_eq!(dispatch.rows, [0, 1, 1, 2, 0, 2]);
        assert_eq!(dispatch.at, [4, 0, 1, 2, 5, 3]);
        assert_eq!(dispatch.loads().collect::<Vec<_>>(), [2, 2, 0, 2]);
    }
}
