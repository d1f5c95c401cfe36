//! Order statistics: a shared machine spoils means.

use serde::{Deserialize, Serialize};

/// A median with its spread.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Spread {
    /// Half of the values are smaller.
    pub median: f64,
    /// A tenth of the values are smaller.
    pub p10: f64,
    /// A tenth of the values are larger.
    pub p90: f64,
}

impl Spread {
    /// Of at least one value.
    pub(super) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self { median: quantile(&values, 0.5), p10: quantile(&values, 0.1), p90: quantile(&values, 0.9) }
    }

    /// Of what two series of the same rounds do to each other, pair by pair.
    pub(super) fn of_pairs(left: &[f64], right: &[f64], what: impl Fn(f64, f64) -> f64) -> Self {
        Self::of(left.iter().zip(right).map(|(l, r)| what(*l, *r)).collect())
    }
}

/// The value below which the share `q` of the sorted values lies, between neighbours in proportion; NaN of none.
pub(crate) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = q * last as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_neighbours() {
        let values = [1.0, 2.0, 4.0];
        assert_eq!(quantile(&values, 0.0), 1.0);
        assert_eq!(quantile(&values, 0.5), 2.0);
        assert_eq!(quantile(&values, 0.75), 3.0);
        assert_eq!(quantile(&values, 1.0), 4.0);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn pairs_cancel_what_a_round_adds_to_both() {
        let spread = Spread::of_pairs(&[11.0, 111.0, 1011.0], &[1.0, 101.0, 1001.0], |l, r| l - r);
        assert_eq!(spread, Spread { median: 10.0, p10: 10.0, p90: 10.0 });
    }
}
