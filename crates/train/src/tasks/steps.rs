//! Worked arithmetic: the steps a person writes, small enough that each is a thing to know by heart (single digits with
//! a carry, the times table).
//!
//! Owns the form of a step in every task's reasoning. Numbers are far below 64 bits: tasks bound their parameters.

use std::fmt::Write as _;

use crate::rng::Rng;

/// Below this, sums and differences are written at once.
const AT_ONCE: i64 = 100;

/// A line of work and the value it ends in.
pub(super) type Step = (String, i64);

/// `a operator b`, where a division is exact.
pub(super) fn operate(a: i64, operator: char, b: i64) -> Step {
    match operator {
        '+' => sum(a, '+', b, b),
        '-' => sum(a, '-', b, -b),
        '*' => product(a, b),
        _ => quotient(a, b),
    }
}

/// `a + signed`, written `a operator b`: reduced to a sum or a difference of numbers that are not negative.
fn sum(a: i64, operator: char, b: i64, signed: i64) -> Step {
    let value = a + signed;
    let head = format!("{a} {operator} {b}");
    let (large, small) = (a.abs().max(signed.abs()), a.abs().min(signed.abs()));
    let same_sign = (a < 0) == (signed < 0);
    let plain = if same_sign { format!("{} + {}", a.abs(), signed.abs()) } else { format!("{large} - {small}") };
    let minus = if value < 0 { "-" } else { "" };
    let rewritten = match () {
        () if plain == head => head,
        () if value < 0 => format!("{head} = -({plain})"),
        () => format!("{head} = {plain}"),
    };
    if large < AT_ONCE {
        return (format!("{rewritten} = {value}"), value);
    }
    let columns = if same_sign { add_columns(a.abs(), signed.abs()) } else { subtract_columns(large, small) };
    (format!("{rewritten}: {columns}, {minus}{}", value.abs()), value)
}

/// Decimal digits, lowest first.
fn digits(number: i64) -> Vec<i64> {
    number.to_string().bytes().rev().map(|byte| i64::from(byte - b'0')).collect()
}

fn digit(number: &[i64], place: usize) -> i64 {
    number.get(place).copied().unwrap_or(0)
}

/// `7+6=13, 5+8+1=14, 4+3+1=8` for 457 + 386.
fn add_columns(a: i64, b: i64) -> String {
    let (a, b) = (digits(a), digits(b));
    let mut carry = 0;
    let columns = (0..a.len().max(b.len())).map(|place| {
        let (x, y) = (digit(&a, place), digit(&b, place));
        let total = x + y + carry;
        let text = if carry == 0 { format!("{x}+{y}={total}") } else { format!("{x}+{y}+{carry}={total}") };
        carry = total / 10;
        text
    });
    columns.collect::<Vec<_>>().join(", ")
}

/// `3-6+10=7, 4-8-1+10=5, 8-3-1=4` for 843 − 386; a is at least b.
fn subtract_columns(a: i64, b: i64) -> String {
    let (a, b) = (digits(a), digits(b));
    let mut borrow = 0;
    let columns = (0..a.len()).map(|place| {
        let (x, y) = (digit(&a, place), digit(&b, place));
        let mut text = format!("{x}-{y}");
        let mut rest = x - y - borrow;
        if borrow > 0 {
            text.push_str("-1");
        }
        borrow = i64::from(rest < 0);
        if rest < 0 {
            text.push_str("+10");
            rest += 10;
        }
        let _ = write!(text, "={rest}");
        text
    });
    columns.collect::<Vec<_>>().join(", ")
}

/// Partial products by the digits of the shorter factor, lowest first, and their running sum.
fn product(a: i64, b: i64) -> Step {
    let value = a * b;
    let head = format!("{a} * {b}");
    let (long, short) = if a.abs() >= b.abs() { (a.abs(), b.abs()) } else { (b.abs(), a.abs()) };
    let minus = if value < 0 { "-" } else { "" };
    if long < 10 || short < 2 || [10, 100, 1000].contains(&short) {
        return (format!("{head} = {value}"), value);
    }
    if short < 10 {
        let columns = multiply_columns(long, short);
        return (format!("{head}: {columns}, {minus}{}", value.abs()), value);
    }
    let mut text = format!("{head}:");
    let mut total = 0;
    let mut power = 1;
    for (place, factor) in digits(short).into_iter().enumerate() {
        let partial = long * factor;
        if factor > 0 {
            let shifted = partial * power;
            let zeros = if place > 0 { format!(" -> {shifted}") } else { String::new() };
            let work = if factor > 1 { format!("{}, ", multiply_columns(long, factor)) } else { String::new() };
            let _ = write!(text, "\n{long} * {factor}: {work}{partial}{zeros}");
            if total > 0 {
                let _ = write!(text, "\n{}", sum(total, '+', shifted, shifted).0);
            }
            total += shifted;
        }
        power *= 10;
    }
    let _ = write!(text, "\n= {minus}{}", value.abs());
    (text, value)
}

/// `7*6=42, 4*6+4=28` for 47 · 6.
fn multiply_columns(a: i64, factor: i64) -> String {
    let mut carry = 0;
    let columns = digits(a).into_iter().map(|x| {
        let total = x * factor + carry;
        let text = if carry == 0 { format!("{x}*{factor}={total}") } else { format!("{x}*{factor}+{carry}={total}") };
        carry = total / 10;
        text
    });
    columns.collect::<Vec<_>>().join(", ")
}

/// Long division, exact: `16-2*6=4, 49-8*6=1, 12-2*6=0` for 1692 / 6; with a divisor of two digits and more each column is
/// worked out on lines of its own.
fn quotient(a: i64, b: i64) -> Step {
    let value = a / b;
    let head = format!("{a} / {b}");
    let (dividend, divisor) = (a.abs(), b.abs());
    if dividend < AT_ONCE || divisor == 1 {
        return (format!("{head} = {value}"), value);
    }
    if divisor < 10 {
        return (format!("{head}: {}, {value}", divide_columns(dividend, divisor).0), value);
    }
    (format!("{head}:{}\n= {value}", divide_lines(dividend, divisor).0), value)
}

/// A long division whose columns have lines of their own, each after a line break, and what is left.
fn divide_lines(dividend: i64, divisor: i64) -> Step {
    let mut text = String::new();
    let mut rest = 0;
    let mut begun = false;
    for digit in digits(dividend).into_iter().rev() {
        rest = rest * 10 + digit;
        begun |= rest >= divisor;
        if begun {
            let (lines, left) = take_away(rest, divisor);
            let _ = write!(text, "\n{lines}");
            rest = left;
        }
    }
    (text, rest)
}

/// The columns of a long division, and what is left.
fn divide_columns(dividend: i64, divisor: i64) -> (String, i64) {
    let mut rest = 0;
    let mut columns = Vec::new();
    for digit in digits(dividend).into_iter().rev() {
        rest = rest * 10 + digit;
        if rest < divisor && columns.is_empty() {
            continue;
        }
        let times = rest / divisor;
        columns.push(format!("{rest}-{times}*{divisor}={}", rest - times * divisor));
        rest -= times * divisor;
    }
    (columns.join(", "), rest)
}

/// How often b fits into a, fewer than ten times, and what is left: `927: 2`, then the product and the difference.
///
/// How often is a guess, and guesses go wrong: now and then one too many or too few is shown first, and what is seen of it,
/// so that a wrong one can be taken back. The numbers themselves decide when, for a text depends on its question alone.
fn take_away(a: i64, b: i64) -> Step {
    const WRONG: f64 = 0.15;
    let times = a / b;
    let mut rng = Rng::new(&[a as u64, b as u64]);
    let guess = if rng.chance(WRONG) { times + *rng.choose(&[-1, 1]) } else { times };
    let mut text = String::new();
    if guess != times && (1..10).contains(&guess) && b >= 10 {
        let _ = match guess > times {
            true => writeln!(text, "{}too much", try_times(a, b, guess).0),
            false => writeln!(text, "{}\ntoo little", subtract_times(a, b, guess)),
        };
    }
    text.push_str(&subtract_times(a, b, times));
    (text, a - b * times)
}

/// `367: 8` and the line of the product, if there is one.
fn try_times(a: i64, b: i64, times: i64) -> Step {
    let product = product(b, times);
    let line = if times > 1 { format!("{}\n", product.0) } else { String::new() };
    (format!("{a}: {times}\n{line}"), product.1)
}

/// The same, and the difference.
fn subtract_times(a: i64, b: i64, times: i64) -> String {
    let (mut text, value) = try_times(a, b, times);
    if times > 0 {
        text.push_str(&sum(a, '-', value, -value).0);
    }
    text.trim_end().to_owned()
}

/// The work that shows whether b divides a, both above 1 and a above b; it ends in the quotient or in `no`. None where a is
/// less than twice b, where the last digits rule it out, or where the times table is known by heart.
///
/// The last column ends where the last digit of its product is not that of what is to be divided.
pub(super) fn divides(a: i64, b: i64) -> Option<String> {
    let last_digits_fit = (0..10).any(|digit| (digit * b - a) % 10 == 0);
    if a < 2 * b || !last_digits_fit || (b < 10 && a < 10 * b) {
        return None;
    }
    let verdict = if a % b == 0 { (a / b).to_string() } else { "no".to_owned() };
    if b < 10 {
        return Some(format!("{a} / {b}: {}, {verdict}", divide_columns(a, b).0));
    }
    let mut work = Vec::new();
    let mut rest = 0;
    for (place, digit) in digits(a).into_iter().enumerate().rev() {
        rest = rest * 10 + digit;
        let times = rest / b;
        if times == 0 {
            continue;
        }
        let product = b * times;
        work.push(if a < 10 * b { times.to_string() } else { format!("{rest}: {times}") });
        if times > 1 {
            let columns = multiply_columns(b, times);
            let is_seen = place == 0 && (rest - product) % 10 != 0;
            match columns.split_once(", ").filter(|_| is_seen) {
                Some((first, _)) => work.push(first.to_owned()),
                None => work.extend([columns, product.to_string()]),
            }
        }
        if place > 0 {
            let (difference, _) = sum(rest, '-', product, -product);
            work.push(difference);
        }
        rest -= product;
    }
    Some(format!("{a} / {b}: {}, {verdict}", work.join(", ")))
}

/// How often b fits into a, and what is left; numbers that are not negative.
pub(super) fn divide_with_rest(a: i64, b: i64) -> Step {
    if a < 10 * b {
        return take_away(a, b);
    }
    if b < 10 {
        let (columns, rest) = divide_columns(a, b);
        return (format!("{a} / {b}: {columns}, rest {rest}"), rest);
    }
    let (lines, rest) = divide_lines(a, b);
    (format!("{a} / {b}:{lines}\nrest {rest}"), rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::expression::evaluate;

    /// Every `left=right` and `left = right` of a line whose sides are expressions must hold.
    fn equations_hold(text: &str) -> usize {
        let mut n_held = 0;
        for part in text.split(['\n', ',', ':', '>']) {
            let sides: Vec<_> = part.split('=').map(evaluate).collect();
            for pair in sides.windows(2) {
                if let [Ok((left, _)), Ok((right, _))] = pair {
                    assert_eq!(left, right, "{part} in {text}");
                    n_held += 1;
                }
            }
        }
        n_held
    }

    #[test]
    fn every_step_is_true_and_the_last_number_is_the_value() {
        let numbers = [0, 1, 2, 7, 9, 10, 12, 47, 99, 100, 101, 386, 457, 843, 999, 1000, 1386, 9999, 50_207];
        let mut n_held = 0;
        for a in numbers.iter().flat_map(|a| [*a, -*a]) {
            for b in numbers.iter().flat_map(|b| [*b, -*b]) {
                for operator in ['+', '-', '*'] {
                    let (text, value) = operate(a, operator, b);
                    let expected = match operator {
                        '+' => a + b,
                        '-' => a - b,
                        _ => a * b,
                    };
                    assert_eq!(value, expected);
                    assert!(text.starts_with(&format!("{a} {operator} {b}")), "{text}");
                    assert!(text.ends_with(&format!(" {value}")), "{text} {value}");
                    n_held += equations_hold(&text);
                }
                if b != 0 {
                    let (text, value) = operate(a * b, '/', b);
                    assert_eq!(value, a);
                    assert!(text.ends_with(&format!(" {a}")), "{text}");
                    let (lines, rest) = divide_with_rest(a.abs(), b.abs());
                    assert_eq!(rest, a.abs() % b.abs(), "{lines}");
                    n_held += equations_hold(&lines);
                    n_held += equations_hold(&text);
                }
            }
        }
        assert!(n_held > 5000, "{n_held}");
    }

    #[test]
    fn whether_a_number_divides_another_is_shown() {
        let mut n_held = 0;
        for (a, b) in (2..1200).flat_map(|a| (2..a.min(101)).map(move |b| (a, b))) {
            if let Some(work) = divides(a, b) {
                let verdict = (a % b == 0).then_some(a / b).map_or_else(|| "no".to_owned(), |value| value.to_string());
                assert!(work.starts_with(&format!("{a} / {b}: ")) && work.ends_with(&format!(", {verdict}")), "{work}");
                n_held += equations_hold(&work);
            }
        }
        assert!(n_held > 50_000, "{n_held}");
        assert_eq!(divides(161, 23).as_deref(), Some("161 / 23: 7, 3*7=21, 2*7+2=16, 161, 7"));
        assert_eq!(divides(175, 23).as_deref(), Some("175 / 23: 7, 3*7=21, no"));
        assert_eq!(
            divides(468, 26).as_deref(),
            Some("468 / 26: 46: 1, 46 - 26 = 20, 208: 8, 6*8=48, 2*8+4=20, 208, 18")
        );
        assert_eq!(divides(468, 7).as_deref(), Some("468 / 7: 46-6*7=4, 48-6*7=6, no"));
        for plain in [(41, 23), (161, 24), (163, 35), (84, 9), (54, 9)] {
            assert_eq!(divides(plain.0, plain.1), None);
        }
    }

    #[test]
    fn the_form_of_steps() {
        assert_eq!(operate(457, '+', 386).0, "457 + 386: 7+6=13, 5+8+1=14, 4+3+1=8, 843");
        assert_eq!(operate(12, '-', 45).0, "12 - 45 = -(45 - 12) = -33");
        assert_eq!(operate(386, '-', 843).0, "386 - 843 = -(843 - 386): 3-6+10=7, 4-8-1+10=5, 8-3-1=4, -457");
        assert_eq!(operate(47, '*', 6).0, "47 * 6: 7*6=42, 4*6+4=28, 282");
        assert_eq!(operate(1692, '/', 6).0, "1692 / 6: 16-2*6=4, 49-8*6=1, 12-2*6=0, 282");
        let lines = "1692 / 36:\n169: 4\n36 * 4: 6*4=24, 3*4+2=14, 144\n169 - 144: 9-4=5, 6-4=2, 1-1=0, 25\n\
                     252: 7\n36 * 7: 6*7=42, 3*7+4=25, 252\n252 - 252: 2-2=0, 5-5=0, 2-2=0, 0\n= 47";
        assert_eq!(operate(1692, '/', 36).0, lines);
        let lines = "47 * 36:\n47 * 6: 7*6=42, 4*6+4=28, 282\n47 * 3: 7*3=21, 4*3+2=14, 141 -> 1410\n\
                     282 + 1410: 2+0=2, 8+1=9, 2+4=6, 0+1=1, 1692\n= 1692";
        assert_eq!(operate(47, '*', 36).0, lines);
        let lines = "19584 / 144:\n195: 1\n195 - 144: 5-4=1, 9-4=5, 1-1=0, 51\n518: 2\n144 * 2: 4*2=8, 4*2=8, 1*2=2, 288\n\
                     518 - 288: 8-8=0, 1-8+10=3, 5-2-1=2, 230\ntoo little\n518: 3\n144 * 3: 4*3=12, 4*3+1=13, 1*3+1=4, 432\n\
                     518 - 432: 8-2=6, 1-3+10=8, 5-4-1=0, 86\n864: 6\n144 * 6: 4*6=24, 4*6+2=26, 1*6+2=8, 864\n\
                     864 - 864: 4-4=0, 6-6=0, 8-8=0, 0\n= 136";
        assert_eq!(operate(19584, '/', 144).0, lines);
        assert_eq!(divide_with_rest(927, 7).0, "927 / 7: 9-1*7=2, 22-3*7=1, 17-2*7=3, rest 3");
        assert_eq!(divide_with_rest(93, 62).0, "93: 1\n93 - 62 = 31");
    }
}
