//! Quantities such as `500m`, `1.5Gi`, `1e3`, and their canonical form.

/// Billionths: the smallest unit a quantity can have.
const NANO: i128 = 1_000_000_000;
const DECIMAL: [(&str, u32); 10] = [
    ("E", 27),
    ("P", 24),
    ("T", 21),
    ("G", 18),
    ("M", 15),
    ("k", 12),
    ("", 9),
    ("m", 6),
    ("u", 3),
    ("n", 0),
];
const BINARY: [(&str, u32); 6] =
    [("Ei", 60), ("Pi", 50), ("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Decimal,
    Binary,
    Exponent,
}

/// The canonical text of a quantity, if it is one.
pub fn canonical(text: &str) -> Option<String> {
    let (nanos, form) = parse(text)?;
    Some(print(nanos, form))
}

/// The value in billionths.
pub fn nanos(text: &str) -> Option<i128> {
    parse(text).map(|(nanos, _)| nanos)
}

fn parse(text: &str) -> Option<(i128, Form)> {
    let (negative, rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (digits, suffix) = rest.split_at(end);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let (numerator, power, form) = scale(suffix)?;
    let mut mantissa: i128 = format!("{whole}{fraction}").parse().ok()?;
    let mut exponent = power - i32::try_from(fraction.len()).ok()?;
    mantissa = mantissa.checked_mul(numerator)?.checked_mul(NANO)?;
    while exponent > 0 {
        mantissa = mantissa.checked_mul(10)?;
        exponent -= 1;
    }
    while exponent < 0 {
        // What is finer than a billionth is rounded up.
        mantissa = mantissa / 10 + i128::from(mantissa % 10 != 0);
        exponent += 1;
    }
    Some((if negative { -mantissa } else { mantissa }, form))
}

/// Factor, power of ten and form of a suffix.
fn scale(suffix: &str) -> Option<(i128, i32, Form)> {
    if let Some((_, bits)) = BINARY.iter().find(|(name, _)| *name == suffix) {
        return Some((1 << bits, 0, Form::Binary));
    }
    if let Some((_, power)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Some((1, i32::try_from(*power).ok()? - 9, Form::Decimal));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    let power: i32 = exponent.parse().ok()?;
    (power.abs() < 25).then_some((1, power, Form::Exponent))
}

fn print(nanos: i128, form: Form) -> String {
    if nanos == 0 {
        return "0".to_owned();
    }
    let is_small = nanos.abs() < 1024 * NANO;
    if form == Form::Binary && !is_small && nanos % NANO == 0 {
        let value = nanos / NANO;
        for (suffix, bits) in BINARY {
            if value % (1 << bits) == 0 {
                return format!("{}{suffix}", value >> bits);
            }
        }
        return value.to_string();
    }
    for (suffix, power) in DECIMAL {
        let unit = 10_i128.pow(power);
        if nanos % unit != 0 {
            continue;
        }
        let number = nanos / unit;
        if form == Form::Exponent && power != 9 {
            return format!("{number}e{}", i64::from(power) - 9);
        }
        return format!("{number}{suffix}");
    }
    nanos.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_become_canonical() {
        let cases = [
            ("1", Some("1")),
            ("0.5", Some("500m")),
            ("1000m", Some("1")),
            ("1500m", Some("1500m")),
            ("1024Mi", Some("1Gi")),
            ("1.5Gi", Some("1536Mi")),
            ("1000Ki", Some("1000Ki")),
            ("1e3", Some("1e3")),
            ("100M", Some("100M")),
            ("0", Some("0")),
            ("-1", Some("-1")),
            ("x", None),
            ("1x", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(canonical(text).as_deref(), expected, "{text}");
        }
    }
}
