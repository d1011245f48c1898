//! Arithmetic expressions, evaluated exactly. Owns the parser that meets a model's own text: bounded length and depth,
//! checked arithmetic. Must not print.

/// Longest expression, in bytes.
const BYTES_MAX: usize = 512;
/// Deepest nesting of parentheses and signs.
const DEPTH_MAX: usize = 32;

/// An exact number: lowest terms, the denominator positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fraction {
    numerator: i128,
    denominator: i128,
}

impl From<i64> for Fraction {
    fn from(value: i64) -> Self {
        Self { numerator: value.into(), denominator: 1 }
    }
}

impl Fraction {
    fn new(numerator: i128, denominator: i128) -> Option<Self> {
        let (mut a, mut b) = (numerator, denominator);
        while b != 0 {
            (a, b) = (b, a.checked_rem(b)?);
        }
        let divisor = if (a < 0) == (denominator < 0) { a } else { a.checked_neg()? };
        let numerator = numerator.checked_div(divisor)?;
        Some(Self { numerator, denominator: denominator.checked_div(divisor)? })
    }

    fn apply(self, operator: u8, other: Self) -> Option<Self> {
        let (a, b, c, d) = (self.numerator, self.denominator, other.numerator, other.denominator);
        match operator {
            b'+' => Self::new(a.checked_mul(d)?.checked_add(c.checked_mul(b)?)?, b.checked_mul(d)?),
            b'-' => Self::new(a.checked_mul(d)?.checked_sub(c.checked_mul(b)?)?, b.checked_mul(d)?),
            b'*' => Self::new(a.checked_mul(c)?, b.checked_mul(d)?),
            _ => Self::new(a.checked_mul(d)?, b.checked_mul(c)?),
        }
    }

    #[cfg(test)]
    pub(super) fn as_integer(self) -> Option<i64> {
        (self.denominator == 1).then(|| i64::try_from(self.numerator).ok()).flatten()
    }
}

/// The text is no expression, is too long or deep, divides by zero, or leaves the range of 128 bits.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoValue;

/// The value of `text`, and every integer that it spells, in order.
pub(super) fn evaluate(text: &str) -> Result<(Fraction, Vec<i64>), NoValue> {
    if text.len() > BYTES_MAX {
        return Err(NoValue);
    }
    let mut parser = Parser { rest: text.as_bytes(), used: Vec::new() };
    let value = parser.sum(0).ok_or(NoValue)?;
    if parser.peek().is_some() {
        return Err(NoValue);
    }
    Ok((value, parser.used))
}

struct Parser<'a> {
    rest: &'a [u8],
    used: Vec<i64>,
}

impl Parser<'_> {
    fn peek(&mut self) -> Option<u8> {
        self.rest = self.rest.trim_ascii_start();
        self.rest.first().copied()
    }

    fn take(&mut self, wanted: impl Fn(u8) -> bool) -> Option<u8> {
        let next = self.peek().filter(|byte| wanted(*byte))?;
        self.rest = &self.rest[1..];
        Some(next)
    }

    fn sum(&mut self, depth: usize) -> Option<Fraction> {
        let mut value = self.product(depth)?;
        while let Some(operator) = self.take(|byte| matches!(byte, b'+' | b'-')) {
            value = value.apply(operator, self.product(depth)?)?;
        }
        Some(value)
    }

    fn product(&mut self, depth: usize) -> Option<Fraction> {
        let mut value = self.atom(depth)?;
        while let Some(operator) = self.take(|byte| matches!(byte, b'*' | b'/')) {
            value = value.apply(operator, self.atom(depth)?)?;
        }
        Some(value)
    }

    fn atom(&mut self, depth: usize) -> Option<Fraction> {
        if depth >= DEPTH_MAX {
            return None;
        }
        if self.take(|byte| byte == b'-').is_some() {
            return Fraction::from(0).apply(b'-', self.atom(depth + 1)?);
        }
        if self.take(|byte| byte == b'(').is_some() {
            let value = self.sum(depth + 1)?;
            return self.take(|byte| byte == b')').map(|_| value);
        }
        self.peek()?;
        let n_digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (digits, rest) = self.rest.split_at(n_digits);
        let value: i64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
        self.rest = rest;
        self.used.push(value);
        Some(Fraction::from(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn integer(text: &str) -> Option<i64> {
        evaluate(text).ok().and_then(|(value, _)| value.as_integer())
    }

    #[test]
    fn values() {
        for (text, value) in [
            ("1 + 2 * 3", Some(7)),
            ("(1 + 2) * 3", Some(9)),
            ("8 / 4 / 2", Some(1)),
            ("1 - 2 - 3", Some(-4)),
            ("- 5 + -3 * -( 4 - 2 )", Some(1)),
            ("1 / 3 * 6", Some(2)),
            ("1 / 2", None),
            ("1 / (2 - 2)", None),
            ("", None),
            ("1 +", None),
            ("(1", None),
            ("1)", None),
            ("1 2", None),
            ("2^3", None),
            ("9223372036854775808", None),
        ] {
            assert_eq!(integer(text), value, "{text}");
        }
        assert_eq!(evaluate("3 * (25 + 3)").map(|(_, used)| used), Ok(vec![3, 25, 3]));
    }
}
