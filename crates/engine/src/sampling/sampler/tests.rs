//! The sampler against a plain one, which sorts everything and computes in f64.

use super::*;
use crate::chi_square::assert_follows;
use crate::sampling::draw::uniform;

const WARM: Sampling = {
    let mut warm = Sampling::GREEDY;
    warm.temperature = 1.0;
    warm.seed = 7;
    warm
};
const HERE: Place = Place { sequence: 0, position: 0 };

/// What a choice is made from.
struct Case {
    sampling: Sampling,
    logits: Vec<f32>,
    prompt: Vec<u32>,
    completion: Vec<u32>,
    allowed: Option<Vec<u32>>,
    banned: Vec<u32>,
}

impl Case {
    fn new(sampling: Sampling, logits: Vec<f32>) -> Self {
        Self { sampling, logits, prompt: vec![], completion: vec![], allowed: None, banned: vec![] }
    }

    fn history(&self) -> History {
        let mut history = History::with_capacity(self.prompt.len() + self.completion.len());
        history.restart(&self.sampling);
        history.push_prompt(&self.prompt);
        self.completion.iter().for_each(|token| history.push(*token));
        history
    }

    fn choose(&self, sampler: &mut Sampler, history: &History, place: Place) -> Result<Choice, NoToken> {
        sampler.choose(&self.logits, &self.sampling, history, self.allowed.as_deref(), &self.banned, place)
    }

    fn once(&self) -> Result<Choice, NoToken> {
        self.choose(&mut Sampler::new(self.logits.len()), &self.history(), HERE)
    }

    /// The definition: the probability of every token.
    fn probabilities(&self) -> Vec<f64> {
        let s = &self.sampling;
        let mut logits: Vec<f64> = self.logits.iter().map(|x| f64::from(*x)).collect();
        s.logit_bias.iter().for_each(|(token, bias)| logits[*token as usize] += f64::from(*bias));
        for token in 0..logits.len() as u32 {
            let count = self.completion.iter().filter(|t| **t == token).count();
            let logit = &mut logits[token as usize];
            if count > 0 || self.prompt.contains(&token) {
                let r = f64::from(s.repetition_penalty);
                *logit = if *logit > 0.0 { *logit / r } else { *logit * r };
            }
            if count > 0 {
                *logit -= f64::from(s.frequency_penalty) * count as f64 + f64::from(s.presence_penalty);
            }
            let masked = self.allowed.as_ref().is_some_and(|words| words[token as usize / 32] >> (token % 32) & 1 == 0);
            if masked || self.banned.contains(&token) {
                *logit = f64::NEG_INFINITY;
            }
        }
        let mut ranked: Vec<usize> = (0..logits.len()).collect();
        ranked.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
        let best = logits[ranked[0]];
        let weight = |i: usize| ((logits[i] - best) / f64::from(s.temperature)).exp();
        if s.top_k > 0 {
            ranked.truncate(s.top_k);
        }
        let total: f64 = ranked.iter().map(|i| weight(*i)).sum();
        let (mut out, mut above) = (vec![0.0; logits.len()], 0.0);
        for i in ranked {
            if above >= f64::from(s.top_p) * total && s.top_p < 1.0 || weight(i) < f64::from(s.min_p) {
                break;
            }
            out[i] = weight(i);
            above += weight(i);
        }
        out
    }

    fn assert_distributed(&self, name: &str) {
        let (mut sampler, history) = (Sampler::new(self.logits.len()), self.history());
        let mut counts = vec![0; self.logits.len()];
        for i in 0..100_000 {
            let place = Place { sequence: i / 1000, position: i % 1000 };
            counts[self.choose(&mut sampler, &history, place).unwrap().token as usize] += 1;
        }
        assert_follows(name, &counts, &self.probabilities());
    }
}

/// Numbers around 0, from a counter.
fn noise(i: usize, spread: f32) -> f32 {
    (uniform(99, Place { sequence: 0, position: i as u64 }, 0) as f32 - 0.5) * spread
}

fn logits(n: usize, spread: f32) -> Vec<f32> {
    (0..n).map(|i| noise(i, spread)).collect()
}

#[test]
fn draws_follow_the_definition() {
    // Several blocks, the last of them short.
    let case = |sampling| Case::new(sampling, logits(301, 9.0));
    case(WARM).assert_distributed("plain");
    case(Sampling { temperature: 0.6, ..WARM }).assert_distributed("T 0.6");
    case(Sampling { temperature: 1.7, ..WARM }).assert_distributed("T 1.7");
    case(Sampling { top_p: 0.95, ..WARM }).assert_distributed("top-p 0.95");
    case(Sampling { top_p: 0.3, ..WARM }).assert_distributed("top-p 0.3");
    case(Sampling { top_k: 2, ..WARM }).assert_distributed("top-k in blocks");
    case(Sampling { top_k: 40, ..WARM }).assert_distributed("top-k beyond the blocks");
    case(Sampling { top_k: 40, top_p: 0.8, ..WARM }).assert_distributed("top-k, then top-p");
    case(Sampling { min_p: 0.1, ..WARM }).assert_distributed("min-p");
    case(Sampling { min_p: 0.3, top_p: 0.9, ..WARM }).assert_distributed("min-p below top-p");
    case(Sampling { min_p: 0.1, top_p: 0.5, top_k: 90, ..WARM }).assert_distributed("all cuts");
}

#[test]
fn draws_follow_the_definition_with_penalties_bias_and_mask() {
    let penalties = Sampling {
        repetition_penalty: 1.3,
        frequency_penalty: 0.4,
        presence_penalty: -0.7,
        logit_bias: vec![(3, 4.0), (200, -2.0), (3, 1.0)],
        ..WARM
    };
    let mut case = Case::new(penalties, logits(301, 6.0));
    (case.prompt, case.completion) = ((0..90).collect(), vec![3, 50, 50, 50, 170, 200, 200]);
    case.assert_distributed("penalties and bias");
    case.sampling.top_p = 0.9;
    case.banned = vec![3, 11];
    case.assert_distributed("penalties, bias, banned, top-p");
    case.allowed = Some((0..10).map(|word: u32| [0x0f0f_1234, 0, u32::MAX][word as usize % 3]).collect());
    case.assert_distributed("and a mask");
    case.sampling.top_k = 30;
    case.assert_distributed("and top-k");
}

/// Where all weights are equal, ties decide what a cut keeps.
#[test]
fn the_lower_id_wins_among_equals() {
    let flat = |sampling| Case::new(sampling, vec![1.5; 300]);
    assert_eq!(flat(Sampling::GREEDY).once().unwrap().token, 0);
    flat(Sampling { top_k: 7, ..WARM }).assert_distributed("top-k of equals");
    flat(Sampling { top_p: 0.1, ..WARM }).assert_distributed("top-p of equals");
    let mut case = flat(Sampling { top_logprobs: Some(3), ..Sampling::GREEDY });
    case.logits[200] = 2.0;
    let mut sampler = Sampler::new(300);
    case.choose(&mut sampler, &History::NONE, HERE).unwrap();
    assert_eq!(sampler.top().iter().map(|top| top.token).collect::<Vec<_>>(), [200, 0, 1]);
}

#[test]
fn cuts_to_one_token_are_greedy() {
    let logits = logits(1000, 20.0);
    let best = super::super::argmax(&logits);
    for sampling in [
        Sampling { temperature: 0.0, ..WARM },
        Sampling { temperature: 1e-4, ..WARM },
        Sampling { top_k: 1, ..WARM },
        Sampling { top_p: 1e-6, ..WARM },
        Sampling { min_p: 1.0, ..WARM },
        Sampling { top_k: 500, top_p: 1e-6, ..WARM },
        Sampling { top_k: 500, min_p: 1.0, ..WARM },
    ] {
        let case = Case::new(sampling, logits.clone());
        let mut sampler = Sampler::new(1000);
        for position in 0..50 {
            let choice = case.choose(&mut sampler, &History::NONE, Place { sequence: 1, position }).unwrap();
            assert_eq!(choice.token, best, "{:?}", case.sampling);
        }
    }
}

#[test]
fn logprobs_are_those_of_the_models_own_distribution() {
    let raw = logits(1000, 30.0);
    let log_sum = raw.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln();
    let mut ranked: Vec<u32> = (0..1000).collect();
    ranked.sort_by(|a, b| raw[*b as usize].total_cmp(&raw[*a as usize]));
    for n_top in [0, 1, 5, 20] {
        let sampling = Sampling { top_logprobs: Some(n_top), top_p: 0.9, logit_bias: vec![(17, 50.0)], ..WARM };
        let (case, mut sampler) = (Case::new(sampling, raw.clone()), Sampler::new(1000));
        let choice = case.choose(&mut sampler, &History::NONE, HERE).unwrap();
        // The bias decides the token, and does not show in its log-probability.
        assert_eq!(choice.token, 17);
        let near =
            |found: f32, token: u32| (f64::from(found) - (f64::from(raw[token as usize]) - log_sum)).abs() < 4e-6;
        assert!(near(choice.logprob.unwrap(), 17));
        assert_eq!(sampler.top().iter().map(|top| top.token).collect::<Vec<_>>(), ranked[..n_top]);
        assert!(sampler.top().iter().all(|top| near(top.logprob, top.token)));
    }
    let case = Case::new(WARM, raw);
    assert_eq!(case.once().unwrap().logprob, None);
}

#[test]
fn without_a_possible_token_the_reason_is_told() {
    let mut case = Case::new(WARM, vec![0.0; 40]);
    case.allowed = Some(vec![0b110, 0]);
    case.banned = vec![1];
    assert_eq!(case.once().unwrap().token, 2);
    case.banned = vec![1, 2, 1_000_000];
    assert_eq!(case.once(), Err(NoToken::Forbidden));
    case.banned = vec![];
    case.logits[1..3].copy_from_slice(&[f32::NAN, f32::NEG_INFINITY]);
    assert_eq!(case.once(), Err(NoToken::Impossible));
    assert_eq!(Case::new(WARM, vec![f32::NAN; 40]).once(), Err(NoToken::Impossible));
}

#[test]
fn infinite_logits_share_the_probability() {
    let mut case = Case::new(WARM, logits(301, 9.0));
    case.logits[40] = f32::INFINITY;
    case.logits[300] = f32::INFINITY;
    case.logits[0] = f32::NAN;
    let (mut sampler, mut counts) = (Sampler::new(301), [0, 0]);
    for position in 0..10_000 {
        let choice = case.choose(&mut sampler, &History::NONE, Place { sequence: 0, position }).unwrap();
        counts[usize::from(choice.token == 300)] += 1;
        assert!([40, 300].contains(&choice.token));
    }
    assert_follows("infinite", &counts, &[1.0, 1.0]);
}

#[test]
fn nobody_else_changes_a_draw() {
    let case = Case::new(Sampling { top_p: 0.9, ..WARM }, logits(300, 3.0));
    let draw = |sampler: &mut Sampler, sequence, position| {
        case.choose(sampler, &History::NONE, Place { sequence, position }).unwrap().token
    };
    let mut sampler = Sampler::new(300);
    let alone: Vec<u32> = (0..100).map(|position| draw(&mut sampler, 4, position)).collect();
    let among: Vec<u32> = (0..100)
        .rev()
        .map(|position| {
            draw(&mut sampler, 5, position);
            draw(&mut sampler, 4, position)
        })
        .collect();
    assert!(among.iter().rev().eq(&alone));
    assert_ne!((0..100).map(|position| draw(&mut sampler, 5, position)).collect::<Vec<_>>(), alone);
}

/// Logits that no model should have.
const HOSTILE: [f32; 12] = [
    f32::NAN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::MAX,
    f32::MIN,
    -0.0,
    0.0,
    f32::MIN_POSITIVE,
    1e-45,
    3e38,
    -3e38,
    88.0,
];

proptest::proptest! {
    #[test]
    fn hostile_logits_never_panic_and_what_is_impossible_never_wins(
        picks in proptest::collection::vec(0usize..14, 1..400),
        temperature in proptest::sample::select(vec![0.0f32, 1.1e-5, 0.7, 10.0]),
        top_k in proptest::sample::select(vec![0usize, 2, 50, usize::MAX]),
        top_p in proptest::sample::select(vec![1e-30f32, 0.5, 0.999_999_9, 1.0]),
        min_p in proptest::sample::select(vec![0.0f32, 0.2, 1.0]),
        edits in proptest::bool::ANY,
        position in 0u64..1000,
    ) {
        let logits: Vec<f32> =
            picks.iter().enumerate().map(|(i, pick)| HOSTILE.get(*pick).copied().unwrap_or_else(|| noise(i, 10.0))).collect();
        let sampling = Sampling { temperature, top_k, top_p, min_p, top_logprobs: Some(20), seed: 3, ..Sampling::GREEDY };
        let mut case = Case::new(sampling, logits);
        if edits {
            case.sampling.repetition_penalty = 0.1;
            case.sampling.frequency_penalty = -2.0;
            case.sampling.logit_bias = vec![(0, 100.0)];
            case.completion = (0..case.logits.len() as u32).collect();
        }
        proptest::prop_assert_eq!(case.sampling.check(case.logits.len()), Ok(()));
        let mut sampler = Sampler::new(case.logits.len());
        let possible = |token: u32| case.logits[token as usize] > f32::MIN;
        match case.choose(&mut sampler, &case.history(), Place { sequence: 0, position }) {
            Ok(choice) => {
                proptest::prop_assert!(possible(choice.token));
                proptest::prop_assert!(choice.logprob.is_some_and(f32::is_finite));
                proptest::prop_assert!(sampler.top().iter().all(|top| top.logprob.is_finite() && possible(top.token)));
                proptest::prop_assert!(sampler.top().is_sorted_by(|a, b| a.logprob >= b.logprob));
            }
            Err(error) => {
                proptest::prop_assert_eq!(error, NoToken::Impossible);
                proptest::prop_assert!(!(0..case.logits.len() as u32).any(possible));
            }
        }
    }
}
