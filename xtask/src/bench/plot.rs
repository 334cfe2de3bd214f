//! Figures as pictures.

use anyhow::{Result, anyhow};
use plotters::{
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::{
    LOADED,
    plan::{Load, NameSet, Rate},
    popularity::Popularity,
    report::{Median, Outcome, Report},
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

/// Colours of curves, which are legible for most people (Okabe and Ito, and three more).
const CURVES: [RGBColor; 11] = [
    RGBColor(213, 94, 0),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    BLACK,
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(150, 150, 150),
    RGBColor(106, 61, 154),
    RGBColor(140, 81, 10),
    RGBColor(0, 90, 50),
];

const _: () = assert!(LOADED.len() <= CURVES.len());

/// A diagram: its title, and the load at a rate and the column that it shows.
struct Panel {
    title: &'static str,
    load: fn(Rate) -> Load,
    column: &'static str,
}

const PANELS: [Panel; 4] = [
    Panel {
        title: "CPU µs an answer, process",
        load: Load::Cost,
        column: "process",
    },
    Panel {
        title: "CPU µs an answer, with receive work",
        load: Load::Cost,
        column: "process + receive",
    },
    Panel {
        title: "300 clients, p50 in ms",
        load: |rate| Load::OnXdp(300, rate),
        column: "p50",
    },
    Panel {
        title: "300 clients, p99 in ms",
        load: |rate| Load::OnXdp(300, rate),
        column: "p99",
    },
];

impl Panel {
    /// A contestant's medians at the rates at which there are any.
    fn curve(&self, outcome: &Outcome, rates: &[u64]) -> Vec<(f64, Median)> {
        let median = |rate: &u64| {
            let median = outcome.median((self.load)(Rate::Fixed(*rate)), self.column)?;
            Some((*rate as f64, median))
        };
        rates.iter().filter_map(median).collect()
    }
}

/// CPU time an answer, and latencies, over the rate, as SVG.
pub(super) fn curves(report: &Report, rates: &[u64]) -> Result<String> {
    let mut panels: Vec<Panel> = PANELS.into();
    panels.retain(|panel| {
        let mut results = report.results.iter();
        results.any(|outcome| !panel.curve(outcome, rates).is_empty())
    });
    let mut svg = String::new();
    let drawn = draw_curves(report, rates, &panels, &mut svg);
    drawn.map_err(|error| anyhow!("cannot draw: {error}"))?;
    Ok(svg)
}

fn draw_curves(
    report: &Report,
    rates: &[u64],
    panels: &[Panel],
    svg: &mut String,
) -> Result<(), Box<dyn std::error::Error>> {
    let size = (480 * panels.len() as u32, 420);
    let root = SVGBackend::with_string(svg, size).into_drawing_area();
    root.fill(&WHITE)?;
    let [first, last] = [rates.iter().min(), rates.iter().max()].map(|it| *it.unwrap_or(&1) as f64);
    for (area, panel) in root.split_evenly((1, panels.len())).iter().zip(panels) {
        let curves: Vec<_> = (report.results.iter())
            .map(|outcome| (&outcome.name, panel.curve(outcome, rates)))
            .collect();
        let values = curves.iter().flat_map(|(_, curve)| curve);
        let (low, high) = values.fold((f64::MAX, f64::MIN_POSITIVE), |(low, high), (_, at)| {
            (low.min(at.low), high.max(at.high))
        });
        // A logarithm has no zero, which an echo without a process takes.
        let low = low.max(high / 1000.0);
        let mut chart = ChartBuilder::on(area)
            .caption(panel.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(48)
            .build_cartesian_2d(
                (first * 0.9..last * 1.1).log_scale(),
                (low * 0.8..high * 1.25).log_scale(),
            )?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc("queries/s")
            .x_label_formatter(&|rate| format!("{} k", rate / 1000.0))
            .label_style(("sans-serif", 13))
            .draw()?;
        for ((name, curve), colour) in curves.into_iter().zip(CURVES.into_iter().cycle()) {
            let points = curve.iter().map(|(rate, at)| (*rate, at.middle.max(low)));
            let line = LineSeries::new(points, colour.stroke_width(2)).point_size(3);
            chart
                .draw_series(line)?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour));
            chart.draw_series(curve.iter().map(|(rate, at)| {
                PathElement::new(
                    [(*rate, at.low.max(low)), (*rate, at.high.max(low))],
                    colour,
                )
            }))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.8))
            .label_font(("sans-serif", 13))
            .draw()?;
    }
    root.present()?;
    Ok(())
}

/// The share of queries that the tier answered over time, as SVG.
pub(super) fn shares(popularity: &Popularity) -> Result<String> {
    let mut svg = String::new();
    draw_shares(popularity, &mut svg).map_err(|error| anyhow!("cannot draw: {error}"))?;
    Ok(svg)
}

fn draw_shares(
    popularity: &Popularity,
    svg: &mut String,
) -> Result<(), Box<dyn std::error::Error>> {
    let seconds = &popularity.seconds;
    let end = seconds.last().map_or(1.0, |second| second.time);
    let root = SVGBackend::with_string(svg, (900, 360)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("Queries answered in the kernel", ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(48)
        .build_cartesian_2d(0.0..end, 0.0..100.0)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("seconds")
        .y_desc("%")
        .label_style(("sans-serif", 13))
        .draw()?;
    let optimum = [(0.0, popularity.optimum), (end, popularity.optimum)];
    chart
        .draw_series(LineSeries::new(optimum, CURVES[7]))?
        .label("optimum")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], CURVES[7]));
    for (number, (title, _)) in popularity.phases.iter().enumerate() {
        let of_phase = seconds.iter().filter(|second| second.phase == number);
        let points: Vec<(f64, f64)> = of_phase.map(|it| (it.time, it.share())).collect();
        let colour = CURVES[number];
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(*title)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .label_font(("sans-serif", 13))
        .draw()?;
    root.present()?;
    Ok(())
}
