//! "Did you mean": the known word closest to an unknown one.
//!
//! Words that differ in more than a third of their letters are not suggested.

/// The candidate with the smallest edit distance, if close enough to be a likely typo.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(1);
    let word = word.to_ascii_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&word, &candidate.to_ascii_lowercase()), candidate))
        .filter(|(cost, _)| *cost <= limit)
        .min_by_key(|(cost, _)| *cost)
        .map(|(_, candidate)| candidate)
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
        assert_eq!(nearest("opol_mode", KNOWN), Some("pool_mode"));
    }

    #[test]
    fn distant_words_have_no_suggestion() {
        assert_eq!(nearest("wal_level", KNOWN), None);
        assert_eq!(nearest("", KNOWN), None);
    }
}
