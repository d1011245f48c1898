//! What a training step reads besides weights.
//!
//! Owns how documents become rows: packed end to end, each blind to the others. Must not know where they come from.

use std::ops::Range;

/// Documents packed into rows. Row t reads `tokens[t]` and predicts `targets[t]`.
///
/// # Shapes   `tokens, positions, targets, weights [T]`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Input of each row.
    pub tokens: Vec<u32>,
    /// Position of each row in its document.
    pub positions: Vec<u32>,
    /// Rows of each document, in order, without gaps.
    pub sequences: Vec<Range<usize>>,
    /// The token that really follows, also where nothing is learnt from it: an MTP module reads it.
    pub targets: Vec<u32>,
    /// What the row's negative log-likelihood counts in the loss; 0 where it is masked.
    pub weights: Vec<f32>,
}

impl Batch {
    /// Number of rows, T.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Removes all documents and keeps the memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.sequences.clear();
        self.targets.clear();
        self.weights.clear();
    }

    /// Appends a document of n tokens as n − 1 rows; `weight(i)` is what predicting token i counts. A document of fewer
    /// than two tokens predicts nothing and adds nothing.
    pub fn push(&mut self, tokens: &[u32], weight: impl Fn(usize) -> f32) {
        let [inputs @ .., _] = tokens else { return };
        if inputs.is_empty() {
            return;
        }
        let start = self.len();
        self.tokens.extend_from_slice(inputs);
        self.positions.extend((0..).take(inputs.len()));
        self.targets.extend_from_slice(&tokens[1..]);
        self.weights.extend((1..tokens.len()).map(weight));
        self.sequences.push(start..self.len());
    }

    /// Divides the weights by their sum, if that is not 0: the loss becomes their mean.
    pub fn average(&mut self) {
        let sum: f64 = self.weights.iter().map(|w| f64::from(*w)).sum();
        if sum != 0.0 {
            self.weights.iter_mut().for_each(|w| *w = (f64::from(*w) / sum) as f32);
        }
    }

    /// The rows of an MTP module: row t of the main model whose next row exists, which reads `targets[t]` and predicts
    /// `targets[t + 1]`; and, for each, t.
    #[must_use]
    pub(crate) fn shifted(&self) -> (Self, Vec<u32>) {
        let (mut shifted, mut from) = (Self::default(), Vec::new());
        for rows in &self.sequences {
            let start = shifted.len();
            let inner = rows.start..rows.end.saturating_sub(1).max(rows.start);
            let next = inner.start + 1..inner.end + 1;
            shifted.tokens.extend_from_slice(&self.targets[inner.clone()]);
            shifted.positions.extend_from_slice(&self.positions[inner.clone()]);
            if !inner.is_empty() {
                shifted.targets.extend_from_slice(&self.targets[next.clone()]);
                shifted.weights.extend_from_slice(&self.weights[next]);
            }
            shifted.sequences.push(start..shifted.len());
            from.extend(inner.map(|t| t as u32));
        }
        (shifted, from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_lie_end_to_end_and_start_anew() {
        let mut batch = Batch::default();
        batch.push(&[7, 8, 9], |i| i as f32);
        batch.push(&[5], |_| 1.0);
        batch.push(&[], |_| 1.0);
        batch.push(&[1, 2], |_| 1.0);
        assert_eq!((batch.tokens.as_slice(), batch.targets.as_slice()), (&[7, 8, 1][..], &[8, 9, 2][..]));
        assert_eq!((batch.positions.as_slice(), batch.weights.as_slice()), (&[0, 1, 0][..], &[1.0, 2.0, 1.0][..]));
        assert_eq!(batch.sequences, [0..2, 2..3]);
        batch.average();
        assert_eq!(batch.weights, [0.25, 0.5, 0.25]);
        let (shifted, from) = batch.shifted();
        assert_eq!((shifted.tokens, shifted.targets, shifted.weights, from), (vec![8], vec![9], vec![0.5], vec![0]));
        assert_eq!(shifted.sequences, [0..1, 1..1]);
    }

    #[test]
    fn an_average_of_nothing_is_nothing() {
        let mut batch = Batch::default();
        batch.push(&[1, 2, 3], |_| 0.0);
        batch.average();
        assert_eq!(batch.weights, [0.0, 0.0]);
    }
}
