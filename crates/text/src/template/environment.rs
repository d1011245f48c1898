//! The Jinja engine, set up to render as Hugging Face's `apply_chat_template` does. Owns its settings, functions
//! and limits. Must not know messages or tokens.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, UndefinedBehavior, Value};

use super::python::{self, JsonStyle};
use super::source::{GUARD_ATTRIBUTE, GUARD_VARIABLE};
use crate::error::TemplateError;

/// Depth of macros, loops within recursive loops and includes. Templates nest two or three deep.
const RECURSION_LIMIT: usize = 100;
/// Most values that a stored value may hold in all, and how deep they may nest. A conversation is stored whole by
/// templates that skip its first message.
const MAX_STORED_VALUES: usize = 1 << 20;
const MAX_STORED_DEPTH: usize = 150;
/// Values that are looked through for one step of the budget.
const VALUES_PER_STEP: usize = 8;

/// One rendering's limits and clock.
pub(super) struct Run {
    pub(super) fuel: u64,
    pub(super) max_output_bytes: usize,
    pub(super) now_unix_s: Option<i64>,
}

/// Stack for the engine, which compiles, prints, compares and drops nested values by recursion: enough for the depth
/// that [`super::source::check_shape`] lets through, and for what a rendering can nest with its fuel. A level costs
/// at least eight steps and takes under a kilobyte. Only the pages that are touched exist.
const STACK_BYTES: usize = 64 << 20;
const STACK_BYTES_PER_STEP: usize = 128;

/// Runs `work` on a thread with that much stack.
///
/// # Errors
/// The system has no room for the stack, or the engine panicked.
fn with_stack<T: Send>(fuel: u64, work: impl FnOnce() -> Result<T, TemplateError> + Send) -> Result<T, TemplateError> {
    let failed = |problem: String| TemplateError::Render { line: 0, problem };
    let stack = STACK_BYTES.saturating_add(STACK_BYTES_PER_STEP.saturating_mul(fuel as usize));
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("chat template".into()).stack_size(stack);
        let thread = thread.spawn_scoped(scope, work).map_err(|error| failed(format!("no thread: {error}")))?;
        thread.join().unwrap_or_else(|_| Err(failed("the template engine panicked".into())))
    })
}

/// Compiles `source` and forgets it.
pub(super) fn check_syntax(source: &str) -> Result<(), TemplateError> {
    with_stack(0, || {
        let environment = environment()?;
        environment
            .template_from_str(source)
            .map(drop)
            .map_err(|error| TemplateError::Syntax { line: error.line().unwrap_or(0), problem: describe(&error) })
    })
}

impl Run {
    /// Renders `source` with `context` as its variables.
    pub(super) fn render(
        &self,
        source: &str,
        context: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<String, TemplateError> {
        with_stack(self.fuel, || self.render_here(source, context))
    }

    fn render_here(
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

        let max_bytes = self.max_output_bytes;
        environment.add_filter("tojson", move |value: &Value, options: Kwargs| tojson(value, &options, max_bytes));
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
    environment.set_unknown_method_callback(|state, value, method, arguments| {
        if method == "format" && value.as_str().is_some_and(has_wide_field) {
            return Err(Error::new(ErrorKind::InvalidOperation, "format: the field is too wide"));
        }
        minijinja_contrib::pycompat::unknown_method_callback(state, value, method, arguments)
    });
    environment.add_filter(GUARD_VARIABLE, |state: &State, value: Value| stored(state, value, true));
    environment.add_filter(GUARD_ATTRIBUTE, |state: &State, value: Value| stored(state, value, false));
    Ok(environment)
}

/// Lets `value` be stored if it is of reasonable size and holds no namespace, which could then come to hold it.
/// A namespace itself may be a variable.
fn stored(state: &State, value: Value, namespace: bool) -> Result<Value, Error> {
    if namespace && is_namespace(&value) {
        return Ok(value);
    }
    let mut n_values = 0;
    let measured = measure(&value, 0, &mut n_values);
    state.consume_fuel((n_values / VALUES_PER_STEP) as u64)?;
    measured?;
    // Slices and joined lists are views of views, which would grow deeper with every step.
    let is_view = matches!(value.kind(), ValueKind::Iterable);
    if is_view { Ok(value.try_iter()?.collect()) } else { Ok(value) }
}

fn measure(value: &Value, depth: usize, n_values: &mut usize) -> Result<(), Error> {
    let refuse = |problem: &'static str| Err(Error::new(ErrorKind::InvalidOperation, problem));
    *n_values += 1;
    if is_namespace(value) {
        return refuse("set: a namespace cannot be stored inside another value");
    }
    if !matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable) {
        return Ok(());
    }
    let too_many = value.len().is_some_and(|len| len > MAX_STORED_VALUES);
    if too_many || *n_values > MAX_STORED_VALUES || depth > MAX_STORED_DEPTH {
        return refuse("set: the value is too large or nests too deep");
    }
    for item in value.try_iter()? {
        measure(&item, depth + 1, n_values)?;
        if value.kind() == ValueKind::Map {
            measure(&value.get_item(&item)?, depth + 1, n_values)?;
        }
    }
    Ok(())
}

fn is_namespace(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().ends_with("::Namespace"))
}

/// The filter `tojson` as Hugging Face defines it: Python's `json.dumps` without escapes for HTML.
fn tojson(value: &Value, options: &Kwargs, max_bytes: usize) -> Result<Value, Error> {
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
    python::json_dumps(value, &style, max_bytes).map(Value::from)
}

/// Whether a format string asks for a width of five digits or one computed from its arguments: padding is made before
/// the budget hears of it.
fn has_wide_field(format: &str) -> bool {
    let mut in_field = false;
    let mut n_digits = 0;
    format.chars().any(|c| {
        n_digits = if c.is_ascii_digit() { n_digits + 1 } else { 0 };
        let nested = in_field && c == '{';
        in_field = c == '{' && !nested || in_field && c != '}';
        nested || n_digits >= 5
    })
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
