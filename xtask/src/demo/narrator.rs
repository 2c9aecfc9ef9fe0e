//! Telling the story: numbered steps with their seconds, commands as one would type them, answers.

use anyhow::{Result, ensure};
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

/// Bytes of a log shown after a failure.
const LOG_END: usize = 3000;
/// What goes before everything that belongs to a step.
const INDENT: &str = "    ";

/// Counts and times steps.
pub struct Narrator {
    done: Vec<(String, Duration)>,
    title: String,
}

/// Prints within a step.
pub struct Say(());

impl Narrator {
    /// Nothing told yet.
    pub fn new() -> Narrator {
        Narrator {
            done: Vec::new(),
            title: String::new(),
        }
    }

    /// Tells and times one step.
    pub fn step<T>(&mut self, title: &str, body: impl FnOnce(&Say) -> Result<T>) -> Result<T> {
        self.title = format!("{}: {title}", self.done.len() + 1);
        println!("{:>2}. {title}", self.done.len() + 1);
        let started = Instant::now();
        let result = body(&Say(()))?;
        let took = started.elapsed();
        println!("{INDENT}-- {:.2} s\n", took.as_secs_f64());
        self.done.push((title.to_owned(), took));
        Ok(result)
    }

    /// Number and title of the last step that was begun.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// All steps with their seconds.
    pub fn summary(&self) {
        println!("   seconds  step");
        for (title, took) in &self.done {
            println!("{:>10.2}  {title}", took.as_secs_f64());
        }
        println!();
    }
}

impl Say {
    /// A line of text.
    pub fn line(&self, text: &str) {
        println!("{INDENT}{text}");
    }

    /// A command, as a shell would take it.
    pub fn command(&self, program: &str, arguments: &[&str]) {
        let words: Vec<String> = arguments.iter().map(|a| quoted(a)).collect();
        println!("{INDENT}$ {program} {}", words.join(" "));
    }

    /// What a command printed; fails if it did, with what it said on standard error.
    pub fn answer(&self, output: &Output) -> Result<()> {
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        ensure!(
            output.status.success(),
            "the command ended with {}: {}",
            output.status,
            err.trim()
        );
        for line in err.lines().chain(out.lines()).map(str::trim_end) {
            if !line.is_empty() {
                println!("{INDENT}{line}");
            }
        }
        Ok(())
    }
}

/// A word for a shell: in quotes if it needs them. A lone `&` stays what it is.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if word == "&" || !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else if word.contains('\'') && !word.contains(['"', '$', '`', '\\', '!']) {
        format!("\"{word}\"")
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// Shows the end of a log on standard error.
pub fn show_end(log: &Path) {
    let Ok(text) = std::fs::read_to_string(log) else {
        return;
    };
    let mut start = text.len().saturating_sub(LOG_END);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    if let Some(end) = text.get(start..).filter(|t| !t.trim().is_empty()) {
        eprintln!("\nthe end of {}:\n{}", log.display(), end.trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_can_be_pasted_into_a_shell() {
        assert_eq!(quoted("--name"), "--name");
        assert_eq!(quoted("&"), "&");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("DELETE FROM orders"), "'DELETE FROM orders'");
        assert_eq!(quoted("status = 'paid'"), "\"status = 'paid'\"");
        assert_eq!(quoted("a'b$c"), "'a'\\''b$c'");
        assert_eq!(quoted("count(*)"), "'count(*)'");
    }

    #[test]
    fn a_failing_step_names_itself() {
        let mut narrator = Narrator::new();
        narrator.step("one", |_| Ok(())).unwrap();
        let failed = narrator.step("two", |_| -> Result<()> { anyhow::bail!("no") });
        assert!(failed.is_err());
        assert_eq!(narrator.title(), "2: two");
    }
}
