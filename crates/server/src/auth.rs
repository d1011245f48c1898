//! Who may use the server, and how much of it at once.
//!
//! Owns API keys, their rates and their requests in flight. A key is compared by its digest, in constant time, with every
//! known one. Must not know what requests do.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, StatusCode, header};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{ApiError, RETRY_AFTER_S};
use crate::options::Options;

/// The keys that are known; none: everybody is let in.
pub(crate) struct Keys {
    keys: Vec<([u8; 32], Arc<Account>)>,
    everybody: Arc<Account>,
}

/// What is known of a key.
pub(crate) struct Account {
    /// The key's digest in hexadecimal digits, as what belongs to it is stored under; empty without keys.
    pub(crate) owner: String,
    number: u64,
    places: Arc<Semaphore>,
    rate: Rate,
}

/// On whose behalf a request is made.
#[derive(Clone)]
pub(crate) struct Caller(pub(crate) Arc<Account>);

/// A request's place among those of its key.
pub(crate) type Ticket = OwnedSemaphorePermit;

impl Keys {
    pub(crate) fn new(options: &Options) -> Self {
        let account = |owner: String, number| {
            let places = Arc::new(Semaphore::new(options.n_requests_per_key));
            Arc::new(Account { owner, number, places, rate: Rate::new(options.rate_per_minute) })
        };
        let key = |(secret, number): (&str, u64)| {
            let digest = digest(secret);
            let owner = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            (digest, account(owner, number))
        };
        let secrets = options.keys.iter().map(|key| key.secret.as_str()).zip(1..);
        Self { keys: secrets.map(key).collect(), everybody: account(String::new(), 0) }
    }

    /// Whether requests need a key.
    pub(crate) fn required(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Who makes a request.
    ///
    /// # Errors
    /// Its key is missing or unknown
    pub(crate) fn caller(&self, headers: &HeaderMap) -> Result<Caller, ApiError> {
        if !self.required() {
            return Ok(Caller(self.everybody.clone()));
        }
        let refused = |message: &str| ApiError {
            code: Some("invalid_api_key"),
            ..ApiError::new(StatusCode::UNAUTHORIZED, message)
        };
        let Some(secret) = secret(headers) else {
            return Err(refused("expected an API key in `Authorization: Bearer KEY` or `x-api-key: KEY`, found none"));
        };
        let found = digest(secret);
        // Every key is compared, and the place of the right one is picked without a branch.
        let mut place = u64::MAX;
        for (i, (known, _)) in self.keys.iter().enumerate() {
            let same: Choice = known.ct_eq(&found);
            place.conditional_assign(&(i as u64), same);
        }
        let account = usize::try_from(place).ok().and_then(|place| self.keys.get(place));
        account.map(|(_, account)| Caller(account.clone())).ok_or_else(|| refused("this API key is not known here"))
    }
}

fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// The key that a request carries: as OpenAI's clients send it, or as Anthropic's do.
fn secret(headers: &HeaderMap) -> Option<&str> {
    let text = |name: header::HeaderName| headers.get(name)?.to_str().ok();
    let bearer = text(header::AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
    });
    bearer.or_else(|| text(header::HeaderName::from_static("x-api-key")))
}

impl Caller {
    /// A place for one more request.
    ///
    /// # Errors
    /// The key has as many requests as it may, or had them within the last minute
    pub(crate) fn ticket(&self) -> Result<Ticket, ApiError> {
        let account = &self.0;
        let ticket = account.places.clone().try_acquire_owned().map_err(|_| {
            ApiError::busy("as many requests of this key run or wait as may; try again later", RETRY_AFTER_S)
        })?;
        match account.rate.take(Instant::now()) {
            Ok(()) => Ok(ticket),
            Err(wait) => {
                let seconds = wait.as_secs() + 1;
                Err(ApiError::busy(format!("this key has made too many requests; try again in {seconds} s"), seconds))
            }
        }
    }

    /// The number under which the engine lets those who wait take turns.
    pub(crate) fn owner(&self, user: Option<&str>) -> u64 {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        (self.0.number, user).hash(&mut hasher);
        hasher.finish()
    }
}

/// A rate, kept by the time at which the next request would be due if all had come evenly. A minute's worth may come at
/// once.
struct Rate {
    gap: Duration,
    due: Mutex<Option<Instant>>,
}

/// What may be ahead of an even rate.
const BURST: Duration = Duration::from_secs(60);

impl Rate {
    fn new(per_minute: u32) -> Self {
        let gap = if per_minute == 0 { Duration::ZERO } else { BURST / per_minute };
        Self { gap, due: Mutex::new(None) }
    }

    /// Counts a request at `now`, or says how long it must wait.
    fn take(&self, now: Instant) -> Result<(), Duration> {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let next = due.map_or(now, |due| due.max(now)) + self.gap;
        let ahead = next.duration_since(now);
        if ahead > BURST {
            return Err(ahead - BURST);
        }
        *due = Some(next);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_lets_a_minutes_worth_pass_and_then_as_many_as_come_due() {
        let rate = Rate::new(6);
        let start = Instant::now();
        (0..6).for_each(|_| rate.take(start).unwrap());
        assert_eq!(rate.take(start), Err(Duration::from_secs(10)));
        let later = start + Duration::from_secs(25);
        assert_eq!([0; 3].map(|_| rate.take(later).is_ok()), [true, true, false]);
        let unlimited = Rate::new(0);
        assert!((0..1000).all(|_| unlimited.take(start).is_ok()));
    }
}
