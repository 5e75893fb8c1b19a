//! Which texts need not be read, decided without reading every byte. Owns the words that such a text does not contain;
//! a text that passes changes nothing of its session.

/// Words of statements that change the session, wherever they are in the text. A text without these, that is one
/// statement and does not begin with one of the commands in [`begins_with_command`], changes nothing.
const WORDS: [&[u8]; 10] = [
    b"temp",
    b"advisory",
    b"set_config",
    b"lastval",
    b"currval",
    b"setseed",
    b"set_limit",
    b"dblink_connect",
    b"replication_slot",
    b"replication_origin",
];
/// Length of the shortest word.
const SHORTEST: usize = 4;
/// The words are compared where the last two of their first four bytes are; other bytes say how far to go on.
const PAIR: usize = 2;

/// For each pair of bytes, how many bytes can be skipped. Letters have the same five low bits in both cases.
static SKIP: [u8; 1024] = skip_table();

const fn pair_index(first: u8, second: u8) -> usize {
    ((first & 31) as usize) << 5 | (second & 31) as usize
}

const fn skip_table() -> [u8; 1024] {
    let mut table = [(SHORTEST - PAIR + 1) as u8; 1024];
    let mut word = 0;
    while word < WORDS.len() {
        let mut at = 0;
        while at + PAIR <= SHORTEST {
            let index = pair_index(WORDS[word][at], WORDS[word][at + 1]);
            let skip = (SHORTEST - PAIR - at) as u8;
            if skip < table[index] {
                table[index] = skip;
            }
            at += 1;
        }
        word += 1;
    }
    table
}

/// True if the text, without its zero byte, may change its session.
pub(crate) fn may_change_session(text: &[u8]) -> bool {
    let text = without_end(text);
    begins_with_command(text) || memchr::memchr2(b';', b'&', text).is_some() || contains_word(text)
}

/// Without blanks and semicolons at the end.
fn without_end(mut text: &[u8]) -> &[u8] {
    while let [rest @ .., b';' | b' ' | b'\t' | b'\n' | b'\r'] = text {
        text = rest;
    }
    text
}

/// True for the beginnings of SET, RESET, DISCARD, DEALLOCATE, CLOSE, LISTEN, UNLISTEN, PREPARE, DECLARE, LOAD, CALL,
/// DROP and DO, and for a text that begins otherwise than with a letter: a comment may be long.
fn begins_with_command(text: &[u8]) -> bool {
    match text {
        [first, second, third, ..] if first.is_ascii_alphabetic() => {
            let word = [first | 0x20, second | 0x20, third | 0x20];
            matches!(
                &word,
                b"set"
                    | b"res"
                    | b"dis"
                    | b"dea"
                    | b"clo"
                    | b"lis"
                    | b"unl"
                    | b"pre"
                    | b"dec"
                    | b"loa"
                    | b"cal"
                    | b"dro"
                    | [b'd', b'o', _]
            )
        }
        [] => false,
        _ => true,
    }
}

fn contains_word(text: &[u8]) -> bool {
    let mut at = SHORTEST - PAIR;
    while let Some(&[first, second]) = text.get(at..at + PAIR) {
        let skip = SKIP[pair_index(first, second)];
        if skip == 0 {
            if is_word(&text[at + PAIR - SHORTEST..]) {
                return true;
            }
            at += 1;
        } else {
            at += usize::from(skip);
        }
    }
    false
}

#[inline(never)]
fn is_word(text: &[u8]) -> bool {
    WORDS.iter().any(|word| text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ordinary_statements_need_not_be_read() {
        for text in [
            "SELECT 1",
            "select a, b from orders where id = $1;",
            "INSERT INTO t (a) VALUES ('x');\n",
            "BEGIN",
            "COMMIT;",
            "update t set a = 1 where b = 'it''s'",
            "DELETE FROM t",
            "",
        ] {
            assert!(!may_change_session(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn statements_that_may_change_the_session_are_read() {
        for text in [
            "set a = 1",
            "SELECT set_config('a', 'b', false)",
            "select pg_advisory_lock(1)",
            "select 1 into\ntemp t",
            "BEGIN; SET a = 1",
            "/* x */ SET a = 1",
            "DO $$ $$",
            "SELECT LASTVAL()",
            "select U&\"set\\005fconfig\"('a', 'b', false)",
            " discard all",
        ] {
            assert!(may_change_session(text.as_bytes()), "{text}");
        }
    }

    proptest! {
        /// The table never skips a word.
        #[test]
        fn a_word_is_found_at_any_place(before in "[ -~]{0,40}", at in 0..WORDS.len(), after in "[ -~]{0,20}") {
            let word = String::from_utf8_lossy(WORDS[at]).to_uppercase();
            let text = format!("{before}{word}{after}");
            prop_assert!(contains_word(text.as_bytes()));
        }
    }
}
