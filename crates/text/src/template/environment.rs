//! The Jinja engine, set up to render as Hugging Face's `apply_chat_template` does. Owns its settings, functions
//! and limits. Must not know messages or tokens.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value};

use super::python::{self, JsonStyle};
use crate::error::TemplateError;

/// Depth of macros, loops within recursive loops and includes. Templates nest two or three deep.
const RECURSION_LIMIT: usize = 100;
/// Most bytes that one `tojson` may yield.
const MAX_JSON_BYTES: usize = 64 << 20;

/// One rendering's limits and clock.
pub(super) struct Run {
    pub(super) fuel: u64,
    pub(super) max_output_bytes: usize,
    pub(super) now_unix_s: Option<i64>,
}

/// Compiles `source` and forgets it.
pub(super) fn check_syntax(source: &str) -> Result<(), TemplateError> {
    let environment = environment()?;
    environment
        .template_from_str(source)
        .map(drop)
        .map_err(|error| TemplateError::Syntax { line: error.line().unwrap_or(0), problem: describe(&error) })
}

impl Run {
    /// Renders `source` with `context` as its variables.
    pub(super) fn render(
        &self,
        source: &str,
        context: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<String, TemplateError> {
        let mut environment = environment()?;
        environment.set_fuel(Some(self.fuel));
        let refusal: Arc<Mutex<Option<String>>> = Arc::default();
        let raised = Arc::clone(&refusal);
        environment.add_function("raise_exception", move |message: String| -> Result<Value, Error> {
            *raised.lock().unwrap_or_else(PoisonError::into_inner) = Some(message);
            Err(Error::new(ErrorKind::InvalidOperation, "raise_exception"))
        });
        let now = self.now_unix_s;
        environment.add_function("strftime_now", move |format: String| match now {
            Some(now) => Ok(python::strftime(now, &format)),
            None => Err(Error::new(ErrorKind::InvalidOperation, "strftime_now: the caller gave no time")),
        });

        let mut output = Bounded { bytes: Vec::new(), limit: self.max_output_bytes, overflow: None };
        let context = Value::from(Serde(context));
        let outcome = environment
            .template_from_str(source)
            .and_then(|template| template.render_captured_to(context, &mut output).map(drop));
        let Err(error) = outcome else {
            return String::from_utf8(output.bytes)
                .map_err(|error| TemplateError::Render { line: 0, problem: error.to_string() });
        };
        if let Some(message) = refusal.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(TemplateError::Refused(message));
        }
        if let Some(found) = output.overflow {
            return Err(TemplateError::TooLarge { field: "bytes of rendered text", found, limit: output.limit });
        }
        if error.kind() == ErrorKind::OutOfFuel {
            return Err(TemplateError::Budget { budget: self.fuel });
        }
        Err(TemplateError::Render { line: error.line().unwrap_or(0), problem: describe(&error) })
    }
}

fn environment() -> Result<Environment<'static>, TemplateError> {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    let syntax = syntax.map_err(|error| TemplateError::Syntax { line: 0, problem: describe(&error) })?;
    let mut environment = Environment::new();
    environment.set_syntax(syntax);
    environment.set_recursion_limit(RECURSION_LIMIT);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", tojson);
    Ok(environment)
}

/// The filter `tojson` as Hugging Face defines it: Python's `json.dumps` without escapes for HTML.
fn tojson(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    if indent.is_some_and(|indent| indent > python::MAX_INDENT) {
        return Err(Error::new(ErrorKind::InvalidOperation, "tojson: the indentation is over 16"));
    }
    let separators: Option<Value> = options.get("separators")?;
    let separators = separators.filter(|pair| !pair.is_none()).map(|pair| -> Result<_, Error> {
        let part = |i: usize| pair.get_item_by_index(i).map(|part| part.as_str().unwrap_or_default().to_owned());
        Ok((part(0)?, part(1)?))
    });
    let style = JsonStyle {
        indent,
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        ensure_ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        separators: separators.transpose()?,
    };
    options.assert_all_used()?;
    python::json_dumps(value, &style, MAX_JSON_BYTES).map(Value::from)
}

/// The engine's report without its multi-line context.
fn describe(error: &Error) -> String {
    let kind = error.kind();
    error.detail().map_or_else(|| kind.to_string(), |detail| format!("{kind}: {detail}"))
}

/// Collects output up to a limit.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
    overflow: Option<usize>,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let total = self.bytes.len() + bytes.len();
        if total > self.limit {
            self.overflow = Some(total);
            return Err(io::Error::other("the rendered text is over its limit"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
