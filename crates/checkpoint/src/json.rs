//! What every JSON text is checked for before it is parsed.
//!
//! Owns one bound: the length of a string. When a string stands where another value should, the parser quotes it in its
//! message, six bytes for a control character, and a message must not cost more memory than the file.

/// Bytes that a string may have in any file.
const STRING_BYTES_MIN: usize = 1 << 16;
/// The part of a file that a single string may be beyond that.
const FILE_PART: usize = 32;

/// Refuses a text with a string that is longer than any name, and longer than a small part of the file.
pub(crate) fn check_strings(text: &[u8], n_file_bytes: usize) -> Result<(), String> {
    let limit = STRING_BYTES_MIN + n_file_bytes / FILE_PART;
    let (mut begin, mut at) = (None, 0);
    while let Some(&byte) = text.get(at) {
        match (byte, begin) {
            (b'"', None) => begin = Some(at),
            (b'"', Some(_)) => begin = None,
            (b'\\', Some(_)) => at += 1,
            _ => {}
        }
        at += 1;
        if begin.is_some_and(|begin| at - begin > limit) {
            return Err(format!("a string of more than {limit} bytes"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_long_string_is_refused() {
        let long = "x".repeat(STRING_BYTES_MIN);
        let half = &long[..STRING_BYTES_MIN / 2];
        for fine in [format!("{{\"a\": \"{half}\", \"{half}\": [{long}]}}"), format!("{long}\"{half}\\\"\"{long}")] {
            assert_eq!(check_strings(fine.as_bytes(), 0), Ok(()));
        }
        for refused in [format!("\"{long}\""), format!("[\"{half}\\\"{half}\"]"), format!("\"a{long}")] {
            assert!(check_strings(refused.as_bytes(), 0).is_err());
            assert_eq!(check_strings(refused.as_bytes(), 1 << 20), Ok(()));
        }
    }
}
