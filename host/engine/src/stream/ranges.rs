//! A set of disjoint half-open ranges of stream offsets: what has arrived beyond a hole, or what was selectively
//! acknowledged. All operations are logarithmic in the number of ranges.

use std::collections::BTreeMap;

/// Disjoint, non-touching ranges.
#[derive(Clone, Debug, Default)]
pub(crate) struct RangeSet {
    /// Start to end (exclusive).
    ranges: BTreeMap<u64, u64>,
}

impl RangeSet {
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.ranges.clear();
    }

    /// The ranges, ascending.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, u64)> + '_ {
        self.ranges.iter().map(|(s, e)| (*s, *e))
    }

    /// The range that contains `at`.
    pub(crate) fn containing(&self, at: u64) -> Option<(u64, u64)> {
        self.ranges.range(..=at).next_back().map(|(s, e)| (*s, *e)).filter(|(_, e)| at < *e)
    }

    /// Adds a range and merges what it overlaps or touches.
    pub(crate) fn insert(&mut self, mut start: u64, mut end: u64) {
        if start >= end {
            return;
        }
        if let Some((s, e)) = self.ranges.range(..=start).next_back().map(|(s, e)| (*s, *e))
            && e >= start
        {
            start = s;
            end = end.max(e);
            self.ranges.remove(&s);
        }
        while let Some((s, e)) = self.ranges.range(start..=end).next().map(|(s, e)| (*s, *e)) {
            end = end.max(e);
            self.ranges.remove(&s);
        }
        self.ranges.insert(start, end);
    }

    /// The parts of `start..end` that are not in the set, ascending.
    pub(crate) fn gaps(&self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let mut gaps = Vec::new();
        let mut at = self.containing(start).map_or(start, |(_, e)| e);
        for (s, e) in self.ranges.range(at..end.max(at)).map(|(s, e)| (*s, *e)) {
            if at < s {
                gaps.push((at, s));
            }
            at = e;
        }
        if at < end {
            gaps.push((at, end));
        }
        gaps
    }

    /// Removes everything below `limit`.
    pub(crate) fn remove_below(&mut self, limit: u64) {
        while let Some((s, e)) = self.ranges.first_key_value().map(|(s, e)| (*s, *e)) {
            if s >= limit {
                return;
            }
            self.ranges.remove(&s);
            if e > limit {
                self.ranges.insert(limit, e);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a bitmap.
        #[test]
        fn as_the_model(ops in proptest::collection::vec((0_u64..64, 0_u64..16, any::<bool>()), 1..60)) {
            let mut set = RangeSet::default();
            let mut model = [false; 80];
            for (start, len, cut) in ops {
                if cut {
                    set.remove_below(start / 4);
                    model[..usize::try_from(start / 4).unwrap()].fill(false);
                } else {
                    let gaps = set.gaps(start, start + len);
                    let expected: Vec<u64> =
                        (start..start + len).filter(|i| !model[usize::try_from(*i).unwrap()]).collect();
                    let got: Vec<u64> = gaps.iter().flat_map(|(s, e)| *s..*e).collect();
                    prop_assert_eq!(got, expected);
                    set.insert(start, start + len);
                    for i in start..start + len {
                        model[usize::try_from(i).unwrap()] = true;
                    }
                }
                let listed: Vec<u64> = set.iter().flat_map(|(s, e)| s..e).collect();
                let expected: Vec<u64> =
                    (0..80).filter(|i| model[usize::try_from(*i).unwrap()]).collect();
                prop_assert_eq!(listed, expected);
                let touching = set.iter().zip(set.iter().skip(1)).any(|((_, e), (s, _))| e >= s);
                prop_assert!(!touching);
            }
        }
    }
}
