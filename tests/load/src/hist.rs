//! Log-linear latency histogram: 64 sub-buckets per power of two, under 1.6 % error.
const SUB: u32 = 6;

pub(crate) struct Hist {
    counts: Vec<u64>,
    pub n: u64,
    pub max: u64,
    sum: u128,
}

impl Default for Hist {
    fn default() -> Self {
        Hist { counts: vec![0; ((64 - SUB as usize) + 1) << SUB], n: 0, max: 0, sum: 0 }
    }
}

impl Hist {
    fn index(v: u64) -> usize {
        if v < 1 << SUB {
            return v as usize;
        }
        let shift = 63 - v.leading_zeros() - SUB;
        (((shift + 1) as usize) << SUB) + ((v >> shift) as usize - (1 << SUB))
    }
    fn value(i: usize) -> u64 {
        if i < 1 << SUB {
            return i as u64;
        }
        let shift = (i >> SUB) as u32 - 1;
        (((i & ((1 << SUB) - 1)) + (1 << SUB)) as u64) << shift
    }
    pub(crate) fn add(&mut self, v: u64) {
        self.counts[Self::index(v)] += 1;
        self.n += 1;
        self.sum += u128::from(v);
        self.max = self.max.max(v);
    }
    pub(crate) fn pct(&self, p: f64) -> u64 {
        let want = ((self.n as f64) * p).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (i, c) in self.counts.iter().enumerate() {
            seen += c;
            if seen >= want {
                return Self::value(i).min(self.max);
            }
        }
        self.max
    }
    /// `{"n":…,"mean":…,"p50":…,…}` in microseconds; input values are nanoseconds.
    pub(crate) fn json(&self) -> String {
        let us = |v: u64| v as f64 / 1000.0;
        let mean = if self.n == 0 { 0.0 } else { self.sum as f64 / self.n as f64 / 1000.0 };
        format!(
            "{{\"n\":{},\"mean\":{:.1},\"p50\":{:.1},\"p90\":{:.1},\"p99\":{:.1},\"p999\":{:.1},\"max\":{:.1}}}",
            self.n,
            mean,
            us(self.pct(0.5)),
            us(self.pct(0.9)),
            us(self.pct(0.99)),
            us(self.pct(0.999)),
            us(self.max)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn percentiles_are_close() {
        let mut h = Hist::default();
        for i in 1..=100_000u64 {
            h.add(i * 10);
        }
        for p in [0.5, 0.9, 0.99, 0.999] {
            let want = 1_000_000.0 * p;
            let got = h.pct(p) as f64;
            assert!((got - want).abs() / want < 0.02, "{p}: {got} vs {want}");
        }
    }
    #[test]
    fn index_and_value_agree() {
        for v in [0, 1, 63, 64, 65, 1000, 123_456_789, u64::MAX / 2] {
            let b = Hist::value(Hist::index(v));
            assert!(b <= v && (v - b) as f64 <= v as f64 / 60.0);
        }
    }
}
