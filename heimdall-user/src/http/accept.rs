//! The choice between the two formats of metrics (RFC 9110 section 12.5.1).

/// The format of a page of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The older text format of Prometheus, 0.0.4.
    Text,
}

impl Format {
    /// The one that an Accept header prefers; the older one if there is none, which all tools read.
    pub(super) fn choose(accept: Option<&str>) -> Self {
        let accept = accept.unwrap_or_default();
        let open = quality(accept, |media| {
            media.eq_ignore_ascii_case("application/openmetrics-text")
        });
        let text = quality(accept, |media| {
            ["text/plain", "text/*", "*/*"].contains(&media.to_ascii_lowercase().as_str())
        });
        match open > 0.0 && open >= text {
            true => Self::OpenMetrics,
            false => Self::Text,
        }
    }

    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// The highest quality of the media ranges that match; 0 if none does.
fn quality(accept: &str, matches: impl Fn(&str) -> bool) -> f32 {
    let ranges = accept.split(',').filter_map(|range| {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().filter(|media| matches(media))?;
        let mut weights = parts.filter_map(|part| part.strip_prefix("q="));
        let weight = weights.next().map_or(Ok(1.0), str::parse::<f32>);
        (!media.is_empty()).then(|| weight.unwrap_or(0.0))
    });
    ranges.fold(0.0, f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preferred_format_is_chosen() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, format) in [
            (None, Format::Text),
            (Some(""), Format::Text),
            (Some("*/*"), Format::Text),
            (Some("text/plain;version=0.0.4"), Format::Text),
            (Some(prometheus), Format::OpenMetrics),
            (
                Some("Application/OpenMetrics-Text; version=1.0.0"),
                Format::OpenMetrics,
            ),
            (
                Some("application/openmetrics-text;q=0.2, text/plain;q=0.9"),
                Format::Text,
            ),
            (Some("application/openmetrics-text;q=0"), Format::Text),
            (Some("application/openmetrics-text;q=x"), Format::Text),
            (Some(";;,,;q=,"), Format::Text),
        ] {
            assert_eq!(Format::choose(accept), format, "{accept:?}");
        }
    }
}
