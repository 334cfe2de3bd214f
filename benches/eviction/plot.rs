//! The picture in the documentation.

use std::error::Error;

use plotters::{coord::Shift, prelude::*};

use crate::{CONTENDERS, Column, Contender, WINDOW};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/eviction.svg");
const FONT: &str = "sans-serif";

type Panel<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Contenders with a bar of their own; of S3-FIFO one does for all.
fn color(contender: Contender) -> Option<RGBColor> {
    match contender {
        Contender::Lru => Some(RGBColor(127, 127, 127)),
        Contender::Fifo => Some(RGBColor(199, 199, 199)),
        Contender::Clock => Some(RGBColor(255, 166, 64)),
        Contender::Sieve => Some(RGBColor(44, 140, 80)),
        Contender::S3Fifo(10, 1) => Some(RGBColor(31, 90, 190)),
        Contender::S3Fifo(10, 2) => Some(RGBColor(120, 170, 240)),
        Contender::S3Fifo(..) => None,
        Contender::Heimdall => Some(RGBColor(190, 40, 50)),
    }
}

/// The contenders that are drawn, with their rows and colors.
fn drawn() -> impl Iterator<Item = (usize, Contender, RGBColor)> {
    let rows = CONTENDERS.into_iter().enumerate();
    rows.filter_map(|(row, contender)| Some((row, contender, color(contender)?)))
}

/// Draws the miss ratios of `columns` as bars, and the hit ratios in the `floods`
/// as curves.
pub(crate) fn draw(
    columns: &[Column],
    floods: &[(&str, [Vec<f64>; CONTENDERS.len()])],
) -> Result<(), Box<dyn Error>> {
    let root = SVGBackend::new(FILE, (1200, 900)).into_drawing_area();
    root.fill(&WHITE)?;
    let (upper, lower) = root.split_vertically(480);
    bars(&upper, columns)?;
    for (panel, (label, flood)) in lower.split_evenly((1, floods.len())).iter().zip(floods) {
        curves(panel, label, flood)?;
    }
    root.present()?;
    Ok(())
}

fn bars(panel: &Panel<'_>, columns: &[Column]) -> Result<(), Box<dyn Error>> {
    let misses = |column: &Column, row: usize| 100.0 * (1.0 - column.ratios[row]);
    let highest = columns
        .iter()
        .flat_map(|column| drawn().map(|(row, ..)| misses(column, row)))
        .fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(panel)
        .caption(
            "Misses by trace and size of the cache (less is better)",
            (FONT, 22),
        )
        .margin(12)
        .x_label_area_size(48)
        .y_label_area_size(64)
        .build_cartesian_2d(-0.5..columns.len() as f64 - 0.5, 0.0..highest * 1.05)?;
    chart
        .configure_mesh()
        .max_light_lines(0)
        .y_label_formatter(&|y| format!("{y:.0}"))
        .disable_x_mesh()
        .x_labels(columns.len())
        .x_label_formatter(&|x| {
            let column = columns.get(x.round() as usize);
            column
                .map(|column| column.label.clone())
                .unwrap_or_default()
        })
        .x_desc("trace (a number: Zipf's s), entries in per cent of the names")
        .y_desc("misses, per cent")
        .label_style((FONT, 14))
        .draw()?;
    let width = 0.84 / drawn().count() as f64;
    for (bar, (row, contender, color)) in drawn().enumerate() {
        let bars = columns.iter().enumerate().map(|(group, column)| {
            let left = group as f64 - 0.42 + bar as f64 * width;
            let corners = [(left, 0.0), (left + width * 0.9, misses(column, row))];
            Rectangle::new(corners, color.filled())
        });
        chart
            .draw_series(bars)?
            .label(contender.label())
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], color.filled()));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE)
        .border_style(BLACK.mix(0.3))
        .label_font((FONT, 14))
        .draw()?;
    Ok(())
}

fn curves(panel: &Panel<'_>, label: &str, flood: &[Vec<f64>]) -> Result<(), Box<dyn Error>> {
    let curve = |row: usize| {
        let points = flood[row].iter().enumerate();
        points.map(|(i, ratio)| ((i * WINDOW) as f64 / 1000.0, 100.0 * ratio))
    };
    let end = (flood[0].len() * WINDOW) as f64 / 1000.0;
    let highest = drawn()
        .flat_map(|(row, ..)| curve(row).map(|(_, ratio)| ratio))
        .fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(panel)
        .caption(
            format!("Hits around a flood of random names, {label}, cache of 1 %"),
            (FONT, 18),
        )
        .margin(12)
        .x_label_area_size(48)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..end, 0.0..highest * 1.1)?;
    chart
        .configure_mesh()
        .max_light_lines(0)
        .y_label_formatter(&|y| format!("{y:.0}"))
        .x_label_formatter(&|x| format!("{x:.0}"))
        .x_desc("requests of the crowd, thousands (shaded: ten random ones with each)")
        .y_desc("hits, per cent")
        .label_style((FONT, 14))
        .draw()?;
    chart.draw_series([Rectangle::new(
        [(end / 3.0, 0.0), (end * 2.0 / 3.0, highest * 1.1)],
        RED.mix(0.06).filled(),
    )])?;
    for (row, contender, color) in drawn() {
        // Thin on top of the policy that it follows.
        let width = match contender {
            Contender::Heimdall => 1,
            _ => 3,
        };
        chart
            .draw_series(LineSeries::new(curve(row), color.stroke_width(width)))?
            .label(contender.label())
            .legend(move |(x, y)| {
                PathElement::new([(x, y), (x + 14, y)], color.stroke_width(width))
            });
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE)
        .border_style(BLACK.mix(0.3))
        .label_font((FONT, 14))
        .draw()?;
    Ok(())
}
