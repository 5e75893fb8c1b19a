//! The parent of a trace: `traceparent` of W3C Trace Context in a comment of a query, as sqlcommenter writes it. Owns its
//! search and format; a value that is malformed does not exist.

/// Bytes of a query in which a comment is searched for.
const MAX_SEARCHED_BYTES: usize = 16 * 1024;
/// Key of the value in a comment.
const KEY: &[u8] = b"traceparent=";
/// Both forms of the quotes around a value.
const QUOTES: [&[u8]; 2] = [b"'", b"%27"];
/// The only version that exists.
const VERSION: &[u8] = b"00";
/// Flag of a trace that its origin exports.
const SAMPLED: u8 = 1;

/// The span to which a trace belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace.
    pub trace_id: [u8; 16],
    /// The span in it.
    pub span_id: [u8; 8],
}

/// What a query says about its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParentInQuery {
    /// Nothing.
    None,
    /// A parent that its origin exports.
    Sampled(TraceParent),
    /// A parent that its origin does not export.
    NotSampled,
}

impl ParentInQuery {
    /// Searches the comments of a query.
    pub fn find(query: &[u8]) -> Self {
        let mut rest = &query[..query.len().min(MAX_SEARCHED_BYTES)];
        while let Some(start) = position(rest, b"/*") {
            rest = &rest[start + 2..];
            let Some(end) = position(rest, b"*/") else { break };
            let found = in_comment(&rest[..end]);
            if found != Self::None {
                return found;
            }
            rest = &rest[end + 2..];
        }
        Self::None
    }
}

fn position(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

fn in_comment(comment: &[u8]) -> ParentInQuery {
    let Some(at) = position(comment, KEY) else { return ParentInQuery::None };
    // Not the end of another key.
    if at > 0 && !matches!(comment[at - 1], b',' | b' ' | b'\t' | b'\n') {
        return ParentInQuery::None;
    }
    let quoted = &comment[at + KEY.len()..];
    let value = QUOTES.iter().find_map(|quote| {
        let value = quoted.strip_prefix(*quote)?;
        position(value, quote).map(|end| &value[..end])
    });
    value.and_then(parse).unwrap_or(ParentInQuery::None)
}

fn parse(value: &[u8]) -> Option<ParentInQuery> {
    let mut parts = value.split(|&byte| byte == b'-');
    let (version, trace_id, span_id, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if version != VERSION || parts.next().is_some() {
        return None;
    }
    let (trace_id, span_id, [flags]) = (hex::<16>(trace_id)?, hex::<8>(span_id)?, hex::<1>(flags)?);
    if trace_id == [0; 16] || span_id == [0; 8] {
        return None;
    }
    Some(if flags & SAMPLED == 0 {
        ParentInQuery::NotSampled
    } else {
        ParentInQuery::Sampled(TraceParent { trace_id, span_id })
    })
}

/// Lower-case digits only, as the format requires.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn find(query: &str) -> ParentInQuery {
        ParentInQuery::find(query.as_bytes())
    }

    #[test]
    fn the_parent_is_found_in_each_form_of_a_comment() {
        let sampled = find(&format!("SELECT 1 /*traceparent='{VALUE}'*/"));
        let ParentInQuery::Sampled(parent) = sampled else { panic!("{sampled:?}") };
        assert_eq!((parent.trace_id[0], parent.span_id[7]), (0x0a, 0x31));
        for query in [
            format!("/* traceparent='{VALUE}' */ SELECT 1"),
            format!("SELECT 1 /*db_driver='psycopg',route='a%2Fb',traceparent='{VALUE}',x='1'*/"),
            format!("SELECT /* other */ 1 /*traceparent=%27{VALUE}%27*/"),
        ] {
            assert_eq!(find(&query), sampled, "{query}");
        }
        let not_sampled = VALUE.replace("-01", "-00");
        assert_eq!(find(&format!("SELECT 1 /*traceparent='{not_sampled}'*/")), ParentInQuery::NotSampled);
    }

    #[test]
    fn malformed_values_are_ignored() {
        let far = " ".repeat(MAX_SEARCHED_BYTES);
        for query in [
            "SELECT 1".to_owned(),
            format!("SELECT 'traceparent={VALUE}'"),
            format!("SELECT 1 /*traceparent='{VALUE}'"),
            format!("SELECT 1 /*traceparent={VALUE}*/"),
            format!("SELECT 1 /*xtraceparent='{VALUE}'*/"),
            format!("SELECT 1 /*traceparent='{VALUE}-00'*/"),
            format!("SELECT 1 /*traceparent='{}'*/", VALUE.to_uppercase()),
            format!("SELECT 1 /*traceparent='{}'*/", VALUE.replace("00-", "01-")),
            "/*traceparent='00-00000000000000000000000000000000-b7ad6b7169203331-01'*/".to_owned(),
            "/*traceparent='00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01'*/".to_owned(),
            "/*traceparent='00-0af7-b7ad-01'*/".to_owned(),
            "/*traceparent='".to_owned(),
            format!("SELECT 1 {far}/*traceparent='{VALUE}'*/"),
        ] {
            assert_eq!(find(&query), ParentInQuery::None, "{query}");
        }
    }
}
