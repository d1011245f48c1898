//! Why a command ended early, and with which exit code.
//!
//! Owns the difference between bad input (2) and a failure of ours or of the machine (1). Must not format results.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

/// An error with its exit code.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Usage, a file, or a request cannot be used: exit code 2.
    Input(anyhow::Error),
    /// It should have worked: exit code 1.
    Failed(anyhow::Error),
    /// Whoever read stdout has gone away: nobody is left to tell.
    ReaderGone,
}

impl Failure {
    /// Bad input, described.
    pub(crate) fn input(message: impl Into<String>) -> Self {
        Self::Input(anyhow::Error::msg(message.into()))
    }

    /// Prints the error to stderr and gives the exit code.
    #[expect(clippy::print_stderr, reason = "the one place where errors are printed")]
    pub(crate) fn report(&self) -> ExitCode {
        let (error, code) = match self {
            Self::Input(error) => (error, 2),
            Self::Failed(error) => (error, 1),
            Self::ReaderGone => return ExitCode::SUCCESS,
        };
        eprintln!("minke: {error:#}");
        ExitCode::from(code)
    }
}

/// Errors in files and requests are input errors.
macro_rules! input_errors {
    ($($error:ty),*) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::Input(error.into())
            }
        }
    )*};
}
input_errors!(
    checkpoint::Error,
    model::ConfigError,
    engine::SamplingError,
    text::TokenizerError,
    text::TemplateError,
    text::GrammarError
);

impl From<model::LoadError> for Failure {
    fn from(error: model::LoadError) -> Self {
        match error {
            model::LoadError::Device(_) => Self::Failed(error.into()),
            _ => Self::Input(error.into()),
        }
    }
}

impl From<ops::DeviceError> for Failure {
    fn from(error: ops::DeviceError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            ErrorKind::BrokenPipe => Self::ReaderGone,
            _ => Self::Failed(error.into()),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Input(error) | Self::Failed(error) => write!(f, "{error:#}"),
            Self::ReaderGone => f.write_str("nobody reads the output"),
        }
    }
}

/// Writes a result to stdout.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Writes to stderr; nobody reading it is no failure.
pub(crate) fn remark(text: &str) {
    let mut err = std::io::stderr().lock();
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}
