//! Chats as Markdown, to be read by people and taken in again.
//!
//! What a program needs stands in comments, which readers do not show: `<!-- minke:content {…} -->` before each text. A
//! text's own line that begins like such a comment gets a backslash before it. It holds one branch, since people read from
//! top to bottom. Owns this form. Must not know the store.

use serde_json::{Map, Value, json};

use super::wire::{NewChat, NewMessage};

const MARK: &str = "<!-- minke:";
const END: &str = " -->";

/// Writes a conversation.
pub(super) fn write(chat: &NewChat) -> String {
    let title = chat.title.as_deref().unwrap_or_default();
    let facts = json!({ "title": title, "model": chat.model, "created_ms": chat.created_ms });
    // A title is one line in what people read, and whole in what programs do.
    let heading = title.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut out = format!("# {heading}\n\n{}\n", mark("conversation", &facts));
    for message in &chat.messages {
        out.push_str(&format!("\n### {}\n", heading_of(&message.role)));
        if let Some(reasoning) = &message.reasoning_content {
            out.push_str(&block("reasoning", &json!({}), reasoning));
        }
        let facts = json!({
            "role": message.role, "created_ms": message.created_ms, "tool_calls": message.tool_calls,
            "tool_call_id": message.tool_call_id,
        });
        out.push_str(&block("content", &facts, &message.content));
    }
    out
}

fn heading_of(role: &str) -> String {
    let mut letters = role.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn mark(kind: &str, facts: &Value) -> String {
    // A `>` in the facts could end the comment.
    format!("{MARK}{kind} {}{END}", facts.to_string().replace('>', "\\u003e"))
}

fn block(kind: &str, facts: &Value, text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(escaped).collect();
    format!("{}\n\n{}\n\n", mark(kind, facts), lines.join("\n"))
}

fn escaped(line: &str) -> String {
    if line.trim_start_matches('\\').starts_with(MARK) { format!("\\{line}") } else { line.to_owned() }
}

fn unescaped(line: &str) -> &str {
    match line.strip_prefix('\\') {
        Some(rest) if rest.trim_start_matches('\\').starts_with(MARK) => rest,
        _ => line,
    }
}

/// Reads a conversation.
///
/// # Errors
/// It is not of that form, with the number of the line
pub(super) fn read(text: &str) -> Result<NewChat, String> {
    let mut chat = NewChat::default();
    let mut begun = false;
    let mut reasoning = None;
    let lines: Vec<&str> = text.split('\n').collect();
    let mut at = 0;
    while at < lines.len() {
        let Some((kind, facts)) = marked(lines[at]).map_err(|problem| format!("line {}: {problem}", at + 1))? else {
            at += 1;
            continue;
        };
        let next = lines[at + 1..].iter().position(|line| line.starts_with(MARK)).map_or(lines.len(), |n| at + 1 + n);
        let text = inner(kind, next == lines.len(), &lines[at + 1..next]);
        match kind {
            "conversation" if !begun => {
                begun = true;
                chat.title = facts["title"].as_str().map(str::to_owned);
                chat.model = facts["model"].as_str().map(str::to_owned);
                chat.created_ms = facts["created_ms"].as_i64();
            }
            "reasoning" if begun => reasoning = Some(text),
            "content" if begun => chat.messages.push(NewMessage {
                role: facts["role"].as_str().unwrap_or("user").to_owned(),
                content: text,
                reasoning_content: reasoning.take(),
                tool_calls: facts["tool_calls"].as_array().cloned(),
                tool_call_id: facts["tool_call_id"].as_str().map(str::to_owned),
                created_ms: facts["created_ms"].as_i64(),
                ..NewMessage::default()
            }),
            other => return Err(format!("line {}: expected no {other:?} here", at + 1)),
        }
        at = next;
    }
    match begun {
        true => Ok(chat),
        false => Err(format!("expected a line that begins with {MARK}conversation, found none")),
    }
}

/// What a comment of this form says: its kind and its facts.
type Marked<'a> = (&'a str, Map<String, Value>);

/// What a line says, if it is such a comment.
fn marked(line: &str) -> Result<Option<Marked<'_>>, String> {
    let Some(rest) = line.strip_prefix(MARK) else { return Ok(None) };
    let inner = rest.trim_end().strip_suffix(END).ok_or("expected the comment to end in its line")?;
    let (kind, facts) = inner.split_once(' ').ok_or("expected a kind and its facts")?;
    let facts = serde_json::from_str(facts).map_err(|e| format!("expected facts as a JSON object: {e}"))?;
    Ok(Some((kind, facts)))
}

/// The text between two comments: without the blank line before it, and what `write` puts behind it, as far as it is there.
fn inner(kind: &str, is_last: bool, lines: &[&str]) -> String {
    let mut lines = lines;
    if let [first, rest @ ..] = lines
        && first.is_empty()
    {
        lines = rest;
    }
    let n_blank = match (kind, is_last) {
        ("reasoning", _) => 1,
        (_, true) => 2,
        (_, false) => {
            if let [rest @ .., heading] = lines
                && heading.starts_with("### ")
            {
                lines = rest;
            }
            2
        }
    };
    for _ in 0..n_blank {
        if let [rest @ .., last] = lines
            && last.is_empty()
            && !rest.is_empty()
        {
            lines = rest;
        }
    }
    lines.iter().map(|line| unescaped(line)).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_whatever_it_says() {
        let texts = [
            "",
            "plain",
            "\n",
            "\n\nlines\n\n",
            "### User",
            "a\n\n### User",
            "<!-- minke:content {} -->",
            "\\<!-- minke:x",
            "\\\\<!-- minke:x -->\n\n### Assistant\n",
            "```\n# code --> <!--\n```",
            "\r\n",
            "漢字",
        ];
        for (i, content) in texts.iter().enumerate() {
            for reasoning in texts.iter().copied().map(Some).chain([None]) {
                let message = |role: &str, reasoning: Option<&str>| NewMessage {
                    role: role.into(),
                    content: (*content).into(),
                    reasoning_content: reasoning.map(str::to_owned),
                    tool_calls: (i % 2 == 0).then(|| vec![json!({ "id": "-->", "x": content })]),
                    tool_call_id: None,
                    created_ms: Some(i as i64),
                    ..NewMessage::default()
                };
                let chat = NewChat {
                    title: Some(format!("On {content}")),
                    model: Some("m".into()),
                    created_ms: Some(7),
                    messages: vec![message("user", None), message("assistant", reasoning), message("tool", None)],
                    ..NewChat::default()
                };
                let written = write(&chat);
                assert_eq!(read(&written).unwrap(), chat, "{written}");
            }
        }
    }

    #[test]
    fn what_is_no_export_is_refused() {
        for text in [
            "",
            "# Title",
            "<!-- minke:content {\"role\": \"user\"} -->\n\nx",
            "<!-- minke:conversation {x} -->",
            "<!-- minke:",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
