//! The rates as a picture.

use anyhow::{Result, anyhow};
use plotters::{
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::{
    plan::{Load, NameSet},
    report::{Median, Report},
};

/// Colours of the searches.
const BARS: [(NameSet, RGBColor); 3] = [
    (NameSet::Uniform, RGBColor(31, 119, 180)),
    (NameSet::Zipf, RGBColor(255, 127, 14)),
    (NameSet::Million, RGBColor(44, 160, 44)),
];

/// Bars of the highest rates with 99.9 % answered, with lines from the lowest round to the highest,
/// as SVG.
pub(super) fn rates(report: &Report) -> Result<String> {
    let mut svg = String::new();
    draw(report, &mut svg).map_err(|error| anyhow!("cannot draw: {error}"))?;
    Ok(svg)
}

fn draw(report: &Report, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let rows = report.results.len();
    let mut most: f64 = 1.0;
    for outcome in &report.results {
        for (names, _) in BARS {
            let median = outcome.median(Load::Search(names), "99.9 %");
            most = most.max(median.map_or(0.0, |median| median.high));
        }
    }
    let root = SVGBackend::with_string(svg, (900, 110 + 60 * rows as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    // A row is 1 high, the first one on top.
    let middle = |row: usize| (rows - row) as f64 - 0.5;
    let mut chart = ChartBuilder::on(&root)
        .caption("Answers a second, 99.9 % answered", ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(130)
        .build_cartesian_2d(0.0..most * 1.05, 0.0..rows as f64)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .x_label_formatter(&|rate| format!("{:.0} k", rate / 1000.0))
        .label_style(("sans-serif", 14))
        .draw()?;
    let right = TextStyle::from(("sans-serif", 14)).pos(Pos::new(HPos::Right, VPos::Center));
    for (row, outcome) in report.results.iter().enumerate() {
        let (x, y) = chart.plotting_area().map_coordinate(&(0.0, middle(row)));
        root.draw(&Text::new(&*outcome.name, (x - 8, y), right.clone()))?;
    }
    for (number, (names, colour)) in BARS.into_iter().enumerate() {
        let bars: Vec<(f64, Median)> = (report.results.iter().enumerate())
            .filter_map(|(row, outcome)| {
                let top = middle(row) + 0.375 - 0.25 * number as f64;
                Some((top, outcome.median(Load::Search(names), "99.9 %")?))
            })
            .collect();
        if bars.is_empty() {
            continue;
        }
        chart
            .draw_series(bars.iter().map(|(top, median)| {
                Rectangle::new([(0.0, *top), (median.middle, top - 0.23)], colour.filled())
            }))?
            .label(names.title())
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.filled()));
        chart.draw_series(bars.iter().map(|(top, median)| {
            let height = top - 0.115;
            PathElement::new([(median.low, height), (median.high, height)], BLACK)
        }))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE)
        .border_style(BLACK)
        .label_font(("sans-serif", 14))
        .draw()?;
    root.present()?;
    Ok(())
}
