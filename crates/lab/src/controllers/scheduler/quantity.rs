//! Kubernetes quantities (`250m`, `1Gi`, `2e3`) as numbers, as far as comparing needs it.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The value in thousandths, rounded up; `None` for what is no quantity.
pub(crate) fn thousandths(quantity: &Quantity) -> Option<i128> {
    let text = quantity.0.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | '+' | '-'))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let number: f64 = number.parse().ok()?;
    let factor = factor(suffix)?;
    let value = (number * factor * 1000.0).ceil();
    #[expect(clippy::cast_possible_truncation, reason = "a float to integer cast saturates")]
    let value = value as i128;
    Some(value)
}

fn factor(suffix: &str) -> Option<f64> {
    let binary = |power: i32| Some(1024f64.powi(power));
    let decimal = |power: i32| Some(10f64.powi(power));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => Some(1.0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        exponent => {
            let power = exponent.strip_prefix(['e', 'E'])?;
            decimal(power.parse().ok()?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_of_every_notation_are_read() {
        let cases = [
            ("250m", Some(250)),
            ("2", Some(2000)),
            ("0.5", Some(500)),
            ("1Ki", Some(1_024_000)),
            ("128Mi", Some(134_217_728_000)),
            ("2e3", Some(2_000_000)),
            ("1k", Some(1_000_000)),
            ("1E", Some(1_000_000_000_000_000_000_000)),
            ("many", None),
            ("1Qi", None),
        ];
        for (text, want) in cases {
            assert_eq!(thousandths(&Quantity(text.into())), want, "{text}");
        }
    }
}
