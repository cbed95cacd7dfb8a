//! Whether observed shares can be chance: Pearson's chi-squared test against the expected shares.

use serde::Serialize;

/// Below this probability, chance is no explanation. One honest run in a million is refused.
pub const SIGNIFICANCE: f64 = 1e-6;

/// What one name should have got, relative to the others, and what it got.
#[derive(Clone, Debug)]
pub struct Share {
    pub name: String,
    pub weight: u32,
    pub seen: u32,
}

/// The outcome, with everything needed to do it again by hand.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// The test's name.
    pub test: &'static str,
    /// The statistic's value.
    pub statistic: f64,
    /// Degrees of freedom.
    pub freedom: u32,
    /// The probability of a statistic at least this large if shares are as expected.
    pub p: f64,
    pub significance: f64,
    pub holds: bool,
}

impl Verdict {
    /// The outcome in words.
    pub fn explain(&self) -> String {
        format!(
            "the answers are not shared as the endpoints are: {} = {:.1} with {} degrees of freedom, p = {:.1e}, below {:.0e}",
            self.test, self.statistic, self.freedom, self.p, self.significance
        )
    }
}

/// Tests the shares. With nothing to compare (one name, or nothing seen) the verdict says so by
/// its degrees of freedom; nothing seen where something was due does not hold.
pub fn test(shares: &[Share]) -> Verdict {
    let total: f64 = shares.iter().map(|share| f64::from(share.seen)).sum();
    let weights: f64 = shares.iter().map(|share| f64::from(share.weight)).sum();
    let freedom = u32::try_from(shares.len().saturating_sub(1)).unwrap_or(u32::MAX);
    if total == 0.0 || weights == 0.0 {
        return Verdict {
            test: "chi-squared",
            statistic: 0.0,
            freedom,
            p: 0.0,
            significance: SIGNIFICANCE,
            holds: false,
        };
    }
    let statistic = shares
        .iter()
        .map(|share| {
            let expected = total * f64::from(share.weight) / weights;
            (f64::from(share.seen) - expected).powi(2) / expected
        })
        .sum();
    let p = if freedom == 0 { 1.0 } else { upper_tail(statistic, freedom) };
    Verdict {
        test: "chi-squared",
        statistic,
        freedom,
        p,
        significance: SIGNIFICANCE,
        holds: p >= SIGNIFICANCE,
    }
}

/// The probability that a chi-squared variable with `freedom` degrees exceeds `x`: the regularised
/// upper incomplete gamma function Q(freedom/2, x/2), by its recurrence in steps of one from
/// Q(1/2, y) = erfc(√y) or Q(1, y) = exp(-y).
fn upper_tail(x: f64, freedom: u32) -> f64 {
    let y = x / 2.0;
    let half = f64::from(freedom) / 2.0;
    // Q(a + 1, y) = Q(a, y) + y^a e^-y / Γ(a + 1)
    let (mut a, mut q, mut term) = if freedom.is_multiple_of(2) {
        (1.0, (-y).exp(), y * (-y).exp())
    } else {
        // y^(1/2) e^-y / Γ(3/2), and Γ(3/2) = √π / 2.
        (0.5, libm::erfc(y.sqrt()), y.sqrt() * (-y).exp() * 2.0 / std::f64::consts::PI.sqrt())
    };
    while a + 0.25 < half {
        q += term;
        a += 1.0;
        term *= y / a;
    }
    q.clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(seen: &[(u32, u32)]) -> Vec<Share> {
        let share = |(i, (weight, seen)): (usize, &(u32, u32))| Share {
            name: i.to_string(),
            weight: *weight,
            seen: *seen,
        };
        seen.iter().enumerate().map(share).collect()
    }

    /// Values of R's `pchisq(x, df, lower.tail = FALSE)`.
    #[test]
    fn tail_probabilities_match_a_table() {
        for (x, freedom, want) in [
            (3.841_459, 1, 0.05),
            (10.827_57, 1, 0.001),
            (23.928_13, 1, 1e-6),
            (5.991_465, 2, 0.05),
            (7.814_728, 3, 0.05),
            (9.487_729, 4, 0.05),
            (18.307_04, 10, 0.05),
        ] {
            let got = upper_tail(x, freedom);
            assert!((got / want - 1.0).abs() < 1e-4, "x={x} df={freedom}: {got} instead of {want}");
        }
    }

    #[test]
    fn honest_shares_hold_and_crooked_ones_do_not() {
        assert!(test(&shares(&[(1, 101), (1, 99)])).holds);
        assert!(test(&shares(&[(1, 120), (1, 80)])).holds);
        assert!(!test(&shares(&[(1, 140), (1, 60)])).holds);
        assert!(!test(&shares(&[(1, 200), (1, 0)])).holds);
        assert!(test(&shares(&[(3, 151), (1, 49)])).holds);
        assert!(!test(&shares(&[(3, 50), (1, 150)])).holds);
    }

    #[test]
    fn one_cluster_has_nothing_to_compare_and_silence_does_not_hold() {
        assert!(test(&shares(&[(1, 10)])).holds);
        assert!(!test(&shares(&[(1, 0), (1, 0)])).holds);
    }
}
