//! The requests that are being answered.
//!
//! Owns their list, which the machine view shows. Must not know what they say.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::Serialize;
use utoipa::ToSchema;

/// All requests that run or wait, in the order in which they came.
#[derive(Default)]
pub(crate) struct Activity {
    next: AtomicU64,
    requests: Mutex<BTreeMap<u64, Arc<Counts>>>,
}

struct Counts {
    begun: Instant,
    n_prompt: usize,
    n_completion: AtomicU64,
}

/// A request in the list, from which it vanishes with this.
pub(crate) struct Listed {
    activity: Arc<Activity>,
    number: u64,
    counts: Arc<Counts>,
}

/// A request that runs or waits.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ActiveRequest {
    /// Seconds since it came.
    age_s: f64,
    prompt_tokens: usize,
    /// Tokens of its answers so far; 0 while it waits or its prompt is read.
    completion_tokens: u64,
}

impl Activity {
    pub(crate) fn list(self: &Arc<Self>, begun: Instant, n_prompt: usize) -> Listed {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let counts = Arc::new(Counts { begun, n_prompt, n_completion: AtomicU64::new(0) });
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).insert(number, counts.clone());
        Listed { activity: self.clone(), number, counts }
    }

    /// The first `n` of them.
    pub(crate) fn first(&self, n: usize) -> Vec<ActiveRequest> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |counts: &Arc<Counts>| ActiveRequest {
            age_s: counts.begun.elapsed().as_secs_f64(),
            prompt_tokens: counts.n_prompt,
            completion_tokens: counts.n_completion.load(Ordering::Relaxed),
        };
        requests.values().take(n).map(of).collect()
    }
}

impl Listed {
    /// One more token of its answers.
    pub(crate) fn token(&self) {
        self.counts.n_completion.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.activity.requests.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_listed_while_they_are_there() {
        let activity = Arc::new(Activity::default());
        let first = activity.list(Instant::now(), 3);
        let second = activity.list(Instant::now(), 4);
        second.token();
        let listed = |n| -> Vec<_> {
            activity.first(n).iter().map(|request| (request.prompt_tokens, request.completion_tokens)).collect()
        };
        assert_eq!((listed(9), listed(1)), (vec![(3, 0), (4, 1)], vec![(3, 0)]));
        drop(first);
        assert_eq!(listed(9), [(4, 1)]);
    }
}
