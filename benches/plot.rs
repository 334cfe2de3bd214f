//! The plot of the cost of a cached answer, from the medians in criterion's files.

use std::{env, fs, path::Path};

use plotters::prelude::*;
use serde_json::Value;

use super::{BATCH, CACHED_ANSWER, DISTRIBUTIONS, SIZES, WAYS};

const COLOURS: [RGBColor; 4] = [
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
];

/// The name of a series of measurements.
pub(super) fn series(distribution: &str, way: &str) -> String {
    format!("{distribution}, {way}")
}

/// The median of a measurement, in nanoseconds a query.
fn median(series: &str, names: usize) -> f64 {
    let binary = env::current_exe().unwrap();
    // Its directory is target/release/deps.
    let target = binary.ancestors().nth(3).unwrap();
    let place = format!("criterion/{CACHED_ANSWER}/{series}/{names}/new/estimates.json");
    let estimates = fs::read_to_string(target.join(place)).unwrap();
    let estimates: Value = serde_json::from_str(&estimates).unwrap();
    estimates["median"]["point_estimate"].as_f64().unwrap() / BATCH as f64
}

/// Draws nanoseconds a hit over the number of names. `path` counts from the repository's root.
pub(super) fn draw(path: &Path) {
    let all = DISTRIBUTIONS.map(|distribution| WAYS.map(|way| series(distribution, way)));
    let lines: Vec<(String, Vec<(f64, f64)>)> = all
        .into_iter()
        .flatten()
        .map(|series| {
            let points = SIZES.map(|names| (names as f64, median(&series, names)));
            (series, points.into())
        })
        .collect();
    let medians = lines.iter().flat_map(|(_, points)| points);
    let top = medians.fold(0.0, |top, (_, ns)| f64::max(top, *ns));

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    let root = SVGBackend::new(&path, (800, 500)).into_drawing_area();
    root.fill(&WHITE).unwrap();
    let mut chart = ChartBuilder::on(&root)
        .caption("What a cached answer costs", ("sans-serif", 28))
        .margin(16)
        .x_label_area_size(48)
        .y_label_area_size(64)
        .build_cartesian_2d((800.0..7e6).log_scale(), 0.0..top * 1.1)
        .unwrap();
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .label_style(("sans-serif", 18))
        .x_desc("entries in the cache")
        .y_desc("ns a hit, median")
        .y_label_formatter(&|ns| format!("{ns:.0}"))
        .x_label_formatter(&|entries| match *entries {
            small if small < 1e6 => format!("{} k", small / 1e3),
            large => format!("{} M", large / 1e6),
        })
        .draw()
        .unwrap();
    for ((label, points), colour) in lines.into_iter().zip(COLOURS) {
        let style = colour.stroke_width(2).filled();
        chart
            .draw_series(LineSeries::new(points, style).point_size(4))
            .unwrap()
            .label(label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .label_font(("sans-serif", 18))
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()
        .unwrap();
    root.present().unwrap();
}
