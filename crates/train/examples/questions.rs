//! Prints questions of a procedural task, one JSON object a line: `questions TASK COUNT [PARAMETERS as TOML]`.
//!
//! For looking at what a model would learn from, and for peers/judge_tasks.py, which has them judged by that package.

use std::io::Write as _;

use train::split::Split;
use train::tasks::Questions;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (name, count, parameters) = match &arguments[..] {
        [name, count] => (name, count.parse()?, toml::Table::new()),
        [name, count, parameters] => (name, count.parse()?, parameters.parse()?),
        _ => return Err("expected TASK COUNT [PARAMETERS]".into()),
    };
    let questions = Questions::new(name, &parameters, 1, 0.0)?;
    let mut out = std::io::stdout().lock();
    for index in 0u64..count {
        serde_json::to_writer(&mut out, &questions.get(Split::Train, index)?)?;
        writeln!(out)?;
    }
    Ok(())
}
