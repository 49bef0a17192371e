//! "Did you mean": the known word nearest to a mistyped one.

/// The word of `known` that `typed` is most likely to be, if any is near enough to be worth saying.
pub(crate) fn nearest<'a>(typed: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let typed = typed.to_ascii_lowercase().replace('-', "_");
    // A third of the letters may be wrong; a plural more or less, or a word cut short (`addr`), is always near enough.
    let limit = typed.chars().count() / 3;
    let singular = |word: &'a str| word.strip_suffix("es").or(word.strip_suffix('s')).unwrap_or(word);
    let edits = |word| distance(&typed, word).min(distance(&typed, singular(word)));
    known
        .map(|word| (if is_stem(&typed, word) { 1 } else { edits(word) }, word))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, word)| word)
}

fn is_stem(typed: &str, word: &str) -> bool {
    typed.len() >= 3 && (word.starts_with(typed) || typed.starts_with(word) && word.len() >= 3)
}

/// Edits between two words; two neighbours swapped count as one (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, cb) in b.iter().enumerate() {
            let at = |row: &[usize], j: usize| row.get(j).copied().unwrap_or(usize::MAX - 1);
            let mut best =
                (at(&last, j) + usize::from(ca != cb)).min(at(&last, j + 1) + 1).min(at(&row, j) + 1);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(cb) && b.get(j - 1) == Some(ca);
            if swapped {
                best = best.min(at(&before, j - 1) + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 6] = ["addresses", "name", "kind", "max_bytes", "max_age", "when_full"];

    #[test]
    fn near_misses_are_recognised() {
        for (typed, meant) in [
            ("adress", Some("addresses")),
            ("address", Some("addresses")),
            ("nmae", Some("name")),
            ("max-bytes", Some("max_bytes")),
            ("maxbytes", Some("max_bytes")),
            ("When_Full", Some("when_full")),
            ("addr", Some("addresses")),
            ("colour", None),
            ("x", None),
        ] {
            assert_eq!(nearest(typed, KEYS.into_iter()), meant, "{typed}");
        }
    }

    #[test]
    fn distances() {
        for (a, b, d) in [("", "abc", 3), ("abc", "abc", 0), ("abc", "acb", 1), ("kitten", "sitting", 3)] {
            assert_eq!(distance(a, b), d, "{a} {b}");
        }
    }
}
