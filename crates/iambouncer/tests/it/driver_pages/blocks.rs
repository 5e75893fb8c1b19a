//! The blocks of a page: files, and commands with their output. Owns their syntax; runs nothing.

/// A fence begins and ends a block.
const FENCE: &str = "```";
/// The info string of commands that need a pooler.
const COMMANDS: &str = "console pooler";
/// What begins a command, and what a part of a line is replaced by in its output.
const PROMPT: &str = "$ ";
const ELLIPSIS: char = '…';

/// A block that a test uses, in the order of the page.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Block {
    /// The program, configuration or data with this name.
    File { name: String, text: String },
    /// Commands with the output that the page shows.
    Commands(Vec<PageCommand>),
}

/// A command with its output.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PageCommand {
    pub(super) line: String,
    pub(super) output: String,
}

/// The blocks that a test uses; the others are for readers and for `deploy/tests/test_pages.py`.
pub(super) fn blocks(page: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix(FENCE) else { continue };
        let body: String =
            lines.by_ref().take_while(|line| *line != FENCE).flat_map(|line| [line, "\n"]).collect();
        if let Some((_, name)) = info.split_once(" file=") {
            found.push(Block::File { name: name.to_owned(), text: body });
        } else if info == COMMANDS {
            found.push(Block::Commands(commands(&body)));
        }
    }
    found
}

/// The commands of a block. A line that ends with a backslash continues.
fn commands(body: &str) -> Vec<PageCommand> {
    let mut found: Vec<PageCommand> = Vec::new();
    let mut continues = false;
    for line in body.lines() {
        if let Some(first) = line.strip_prefix(PROMPT) {
            found.push(PageCommand { line: first.to_owned(), output: String::new() });
        } else if continues {
            let command = found.last_mut().expect("a command");
            command.line.push('\n');
            command.line.push_str(line);
        } else {
            let command = found.last_mut().unwrap_or_else(|| panic!("output before a command: {line}"));
            command.output.push_str(line);
            command.output.push('\n');
            continue;
        }
        continues = line.ends_with('\\');
    }
    found
}

/// Whether the output is that of the page, in which `…` stands for a part of a line.
pub(super) fn matches(expected: &str, output: &str) -> bool {
    let (expected, output) = (expected.trim_end(), output.trim_end());
    expected.lines().count() == output.lines().count()
        && expected.lines().zip(output.lines()).all(|(expected, line)| line_matches(expected, line))
}

/// As [`matches`], for one line.
pub(super) fn line_matches(expected: &str, line: &str) -> bool {
    let parts: Vec<&str> = expected.split(ELLIPSIS).collect();
    let [first, middle @ .., last] = parts.as_slice() else { return expected == line };
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    for part in middle {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

#[test]
fn files_and_commands_are_found_in_order() {
    let page = "# Title\n```python file=a.py\nprint(1)\n```\n```sh\npip install x\n```\n\
                ```console pooler\n$ python a.py \\\n    more\n1\n2\n$ true\n```\n";
    let file = Block::File { name: "a.py".to_owned(), text: "print(1)\n".to_owned() };
    let command = |line: &str, output: &str| PageCommand { line: line.to_owned(), output: output.to_owned() };
    let run = Block::Commands(vec![command("python a.py \\\n    more", "1\n2\n"), command("true", "")]);
    assert_eq!(blocks(page), [file, run]);
}

#[test]
fn an_ellipsis_stands_for_a_part_of_a_line() {
    assert!(matches("a … c\nd\n", "a b c\nd"));
    assert!(matches("a …", "a b"));
    assert!(matches("one", "one\n"));
    assert!(!matches("a …", "a b\nc"));
    assert!(!matches("one", "once"));
    assert!(!matches("a … c", "a c"));
}
