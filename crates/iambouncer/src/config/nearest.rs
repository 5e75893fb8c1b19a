//! "Did you mean": the known word closest to an unknown one.
//!
//! Words that differ in more than a third of their letters are not suggested.

/// The candidate with the smallest edit distance, if close enough to be a likely typo.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(cost, _)| *cost <= limit)
        .min_by_key(|(cost, _)| *cost)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of adjacent letters, each at cost 1; case is ignored.
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().map(|letter| letter.to_ascii_lowercase()).collect();
    let right: Vec<char> = right.chars().map(|letter| letter.to_ascii_lowercase()).collect();
    let mut before: Vec<usize> = vec![0; right.len() + 1];
    let mut above: Vec<usize> = (0..=right.len()).collect();
    for row in 1..=left.len() {
        let mut current = vec![row; right.len() + 1];
        for column in 1..=right.len() {
            let same = left[row - 1] == right[column - 1];
            let replace = above[column - 1] + usize::from(!same);
            current[column] = replace.min(above[column] + 1).min(current[column - 1] + 1);
            let swapped = row > 1
                && column > 1
                && left[row - 1] == right[column - 2]
                && left[row - 2] == right[column - 1];
            if swapped {
                current[column] = current[column].min(before[column - 2] + 1);
            }
        }
        before = std::mem::replace(&mut above, current);
    }
    above[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 3] = ["default_pool_size", "pool_mode", "listen_port"];

    #[test]
    fn finds_swapped_and_missing_letters() {
        assert_eq!(nearest("defualt_pool_size", KNOWN), Some("default_pool_size"));
        assert_eq!(nearest("poolmode", KNOWN), Some("pool_mode"));
        assert_eq!(nearest("LISTEN_PORT", KNOWN), Some("listen_port"));
        assert_eq!(distance("ab", "ba"), 1);
    }

    #[test]
    fn distant_words_have_no_suggestion() {
        assert_eq!(nearest("wal_level", KNOWN), None);
        assert_eq!(nearest("", KNOWN), None);
    }
}
