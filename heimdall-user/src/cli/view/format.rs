//! Numbers, times and texts for people.

use std::fmt::Write;

/// The text with each character that is not visible by itself as its octets, `\DDD` as in zone files (RFC 1035 section
/// 5.1): controls, and those that change how others are shown, such as the marks of bidirectional text. Names come from clients, and
/// must not control the terminal, or look like other names.
pub(in crate::cli) fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if is_visible(c) {
            clean.push(c);
            continue;
        }
        for octet in c.encode_utf8(&mut [0; 4]).bytes() {
            // Writing to a string does not fail.
            let _ = write!(clean, "\\{octet:03}");
        }
    }
    clean
}

/// Whether `escape_debug` leaves it as it is: it is printable, and does not combine with the one before.
fn is_visible(c: char) -> bool {
    matches!(c, '\'' | '"' | '\\') || c.escape_debug().len() == 1
}

/// The text in at most `width` characters, the last one an ellipsis if it was longer.
pub(in crate::cli) fn fit(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let cut = text.chars().take(width.saturating_sub(1));
    cut.chain((width > 0).then_some('…')).collect()
}

/// 1234567 as `1,234,567`.
pub(in crate::cli) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A rate in full: `0.3`, `12,345`.
pub(in crate::cli) fn rate(rate: f64) -> String {
    if rate > 0.0 && rate < 9.95 {
        return format!("{rate:.1}");
    }
    grouped(rate.round() as u64)
}

/// A number in at most five characters: `0.3`, `123`, `1.23k`, `12.3M`.
pub(in crate::cli) fn compact(number: f64) -> String {
    if number <= 0.0 {
        return "0".to_owned();
    }
    if number < 9.95 {
        return format!("{number:.1}");
    }
    if number < 999.5 {
        return format!("{number:.0}");
    }
    let units = ["k", "M", "G", "T", "P"];
    let mut scaled = number / 1e3;
    for unit in units {
        if scaled < 9.995 {
            return format!("{scaled:.2}{unit}");
        }
        if scaled < 99.95 {
            return format!("{scaled:.1}{unit}");
        }
        if scaled < 999.5 {
            return format!("{scaled:.0}{unit}");
        }
        scaled /= 1e3;
    }
    "many".to_owned()
}

/// A part of a whole: `97.3 %`; nothing if the whole is zero.
pub(in crate::cli) fn percent(part: u64, whole: u64) -> Option<String> {
    (whole > 0).then(|| format!("{:.1} %", part as f64 / whole as f64 * 100.0))
}

/// Microseconds with the unit that fits: `12 µs`, `1.23 ms`, `4.56 s`.
pub(in crate::cli) fn micros(micros: f64) -> String {
    if micros < 9.95 {
        format!("{micros:.1} µs")
    } else if micros < 999.5 {
        format!("{micros:.0} µs")
    } else if micros < 9.995e3 {
        format!("{:.2} ms", micros / 1e3)
    } else if micros < 99.95e3 {
        format!("{:.1} ms", micros / 1e3)
    } else if micros < 999.5e3 {
        format!("{:.0} ms", micros / 1e3)
    } else {
        format!("{:.2} s", micros / 1e6)
    }
}

/// Octets in the unit that fits: `12 KiB`, `345 MiB`, `1.2 GiB`.
pub(in crate::cli) fn octets(octets: u64) -> String {
    let octets = octets as f64;
    let kib = octets / 1024.0;
    if kib < 1023.5 {
        format!("{kib:.0} KiB")
    } else if kib / 1024.0 < 1023.5 {
        format!("{:.0} MiB", kib / 1024.0)
    } else {
        format!("{:.1} GiB", kib / 1024.0 / 1024.0)
    }
}

/// Seconds in the two largest units: `45 s`, `2 h 14 min`, `3 d 0 h`.
pub(in crate::cli) fn span(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    if days > 0 {
        format!("{days} d {} h", hours % 24)
    } else if hours > 0 {
        format!("{hours} h {} min", minutes % 60)
    } else if minutes > 0 {
        format!("{minutes} min {} s", seconds % 60)
    } else {
        format!("{seconds} s")
    }
}

/// Seconds of a measurement: `2 s`, `0.5 s`, `10.1 s`.
pub(in crate::cli) fn seconds(seconds: f64) -> String {
    let text = format!("{seconds:.1}");
    format!("{} s", text.strip_suffix(".0").unwrap_or(&text))
}

/// The time of day, in UTC, of so many seconds since 1970: `14:05:09Z`.
pub(in crate::cli) fn time_of_day(unix: f64) -> String {
    let day = unix.max(0.0) as u64 % 86_400;
    format!("{:02}:{:02}:{:02}Z", day / 3600, day / 60 % 60, day % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_controls_the_terminal() {
        let evil = "a\x1b[2J\x07\r\n\u{9b}1m\u{202e}b.example\\046";
        assert_eq!(
            clean(evil),
            "a\\027[2J\\007\\013\\010\\194\\1551m\\226\\128\\174b.example\\046"
        );
        // Marks of bidirectional text, a separator, a space without width, an accent on the letter before.
        for hidden in
            "\u{61c}\u{200e}\u{200f}\u{202a}\u{2066}\u{2069}\u{2028}\u{200b}\u{301}".chars()
        {
            assert!(clean(&hidden.to_string()).starts_with('\\'), "{hidden:?}");
        }
        assert_eq!(
            clean("50 µs, /etc/müller \"x\" '\\'"),
            "50 µs, /etc/müller \"x\" '\\'"
        );
        assert_eq!(fit("www.example.com", 8), "www.exa…");
        assert_eq!(
            (fit("www", 3), fit("www", 0)),
            ("www".into(), String::new())
        );
    }

    #[test]
    fn numbers_have_a_width_that_stays() {
        let cases = [
            (0.0, "0"),
            (0.04, "0.0"),
            (0.3, "0.3"),
            (9.96, "10"),
            (999.4, "999"),
            (999.6, "1.00k"),
            (12_345.0, "12.3k"),
            (99_960.0, "100k"),
            (999_600.0, "1.00M"),
            (1.5e18, "many"),
        ];
        for (number, text) in cases {
            assert_eq!(compact(number), text);
            assert!(text.len() <= 5);
        }
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(123), "123");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(
            [0.0, 0.26, 9.96, 12_345.4].map(rate),
            ["0", "0.3", "10", "12,345"]
        );
        assert_eq!(percent(1, 3).as_deref(), Some("33.3 %"));
        assert_eq!(percent(0, 0), None);
    }

    #[test]
    fn times_have_the_unit_that_fits() {
        let times = [0.4, 12.0, 999.6, 12_345.0, 234_567.0, 4_560_000.0].map(micros);
        let expected = ["0.4 µs", "12 µs", "1.00 ms", "12.3 ms", "235 ms", "4.56 s"];
        assert_eq!(times, expected);
        let spans = [0.0, 61.9, 8040.0, 259_300.0].map(span);
        assert_eq!(spans, ["0 s", "1 min 1 s", "2 h 14 min", "3 d 0 h"]);
        assert_eq!([2.0, 0.5, 10.06].map(seconds), ["2 s", "0.5 s", "10.1 s"]);
        assert_eq!(time_of_day(1_700_000_000.9), "22:13:20Z");
        assert_eq!(
            [0, 4 << 20, 5 << 30].map(octets),
            ["0 KiB", "4 MiB", "5.0 GiB"]
        );
    }
}
