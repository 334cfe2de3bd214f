//! The results: a table with a row for each step, and a plot over time.

use std::time::Duration;

use anyhow::{Result, anyhow};
use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};
use indicatif::HumanCount;
use plotters::prelude::*;

use super::{
    NODES,
    clients::{BIN, Bin, Record},
};

/// Colours of the nodes.
const COLOURS: [RGBColor; NODES] = [
    RGBColor(31, 119, 180),
    RGBColor(255, 127, 14),
    RGBColor(44, 160, 44),
];

/// What a step may cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Cost {
    Nothing,
    /// SERVFAIL for names that no cache has.
    Failures,
    /// Queries, but none of those that are sent at its end.
    Queries,
}

/// What was done under load, and when, since the load's start.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) title: String,
    pub(super) note: String,
    pub(super) cost: Cost,
    pub(super) from: Duration,
    /// When it was done; after that the load goes on for a while.
    pub(super) done: Duration,
    pub(super) to: Duration,
    /// Packets meanwhile that the router had no route for: BIRD deletes a route before it adds the one in its place.
    pub(super) unroutable: u64,
}

impl Step {
    fn lost(&self, record: &Record) -> Vec<Duration> {
        let lost = record.lost.iter().copied();
        let mut lost: Vec<Duration> = lost
            .filter(|sent| (self.from..self.to).contains(sent))
            .collect();
        lost.sort_unstable();
        lost
    }

    /// All queries that were sent meanwhile; intervals at the border belong to the step that they begin in.
    fn sum(&self, record: &Record) -> Bin {
        let index = |time: Duration| time.as_nanos().div_ceil(BIN.as_nanos()) as usize;
        let mut sum = Bin::default();
        for bin in record
            .bins
            .iter()
            .take(index(self.to))
            .skip(index(self.from))
        {
            sum.add(bin);
        }
        sum
    }

    /// What it cost that it may not.
    fn problem(&self, record: &Record) -> Option<String> {
        let (sum, lost) = (self.sum(record), self.lost(record));
        let title = &self.title;
        if sum.wrong > 0 {
            return Some(format!("{title}: {} wrong replies", sum.wrong));
        }
        if self.cost == Cost::Nothing && sum.failed > 0 {
            return Some(format!("{title}: {} SERVFAIL", sum.failed));
        }
        match self.cost {
            Cost::Queries => {
                let last = lost.last().filter(|last| **last >= self.done);
                last.map(|_| format!("{title}: queries are lost after it"))
            }
            _ => (lost.len() as u64 > self.unroutable)
                .then(|| format!("{title}: {} lost", lost.len())),
        }
    }
}

/// What went wrong, over all steps.
pub(super) fn problems(steps: &[Step], record: &Record) -> Vec<String> {
    let problems = steps.iter().filter_map(|step| step.problem(record));
    problems.collect()
}

/// A row for each step, in Markdown.
pub(super) fn table(steps: &[Step], record: &Record) -> String {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN);
    table.set_header([
        "",
        "s",
        "queries",
        "node1",
        "node2",
        "node3",
        "lost",
        "no route",
        "lost for ms",
        "SERVFAIL",
        "wrong",
        "",
    ]);
    for step in steps {
        let (sum, lost) = (step.sum(record), step.lost(record));
        let time = lost.first().zip(lost.last());
        let [one, two, three] = sum.answered.map(|count| HumanCount(count).to_string());
        table.add_row([
            step.title.clone(),
            format!("{:.1}", (step.to - step.from).as_secs_f64()),
            HumanCount(sum.sent).to_string(),
            one,
            two,
            three,
            HumanCount(lost.len() as u64).to_string(),
            HumanCount(step.unroutable).to_string(),
            time.map_or_else(String::new, |(first, last)| {
                (*last - *first).as_millis().to_string()
            }),
            sum.failed.to_string(),
            sum.wrong.to_string(),
            step.note.clone(),
        ]);
    }
    for column in table.column_iter_mut().skip(1).take(10) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

/// Answers of each node and of all, and lost queries, over time, as SVG.
pub(super) fn plot(steps: &[Step], record: &Record) -> Result<String> {
    let mut svg = String::new();
    draw(steps, record, &mut svg).map_err(|error| anyhow!("cannot draw: {error}"))?;
    Ok(svg)
}

fn draw(
    steps: &[Step],
    record: &Record,
    svg: &mut String,
) -> Result<(), Box<dyn std::error::Error>> {
    let per_second = 1.0 / BIN.as_secs_f64();
    let seconds = |index: usize| index as f64 / per_second;
    let end = seconds(record.bins.len().max(1));
    let most = record.bins.iter().map(|bin| bin.sent).max().unwrap_or(1);
    let most = 1.1 * most as f64 * per_second;
    let root = SVGBackend::with_string(svg, (1100, 520)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("Three nodes with one address", ("sans-serif", 20))
        .margin(12)
        .margin_right(30)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..end, 0.0..most)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("seconds")
        .y_desc("queries a second, by the time they were sent")
        .y_label_formatter(&|rate| format!("{:.0} k", rate / 1000.0))
        .label_style(("sans-serif", 13))
        .draw()?;
    let vertical = ("sans-serif", 12)
        .into_font()
        .transform(FontTransform::Rotate90);
    for step in steps {
        let from = step.from.as_secs_f64();
        let line = [(from, 0.0), (from, most)];
        chart.draw_series([PathElement::new(line, BLACK.mix(0.3))])?;
        let at = (from + end / 90.0, most);
        chart.draw_series([Text::new(step.title.clone(), at, vertical.clone())])?;
    }
    let mut curve = |name: String, colour: RGBColor, of: &dyn Fn(&Bin) -> u64| {
        let points = record.bins.iter().enumerate();
        let points = points.map(|(index, bin)| (seconds(index), of(bin) as f64 * per_second));
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))
            .map(|series| {
                series.label(name).legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2))
                });
            })
    };
    let grey = RGBColor(120, 120, 120);
    curve("answered".to_owned(), grey, &|bin| {
        bin.answered.iter().sum()
    })?;
    for (node, colour) in COLOURS.into_iter().enumerate() {
        curve(format!("node{}", node + 1), colour, &|bin| {
            bin.answered[node]
        })?;
    }
    curve("lost".to_owned(), RGBColor(214, 39, 40), &Bin::lost)?;
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::MiddleRight)
        .background_style(WHITE.mix(0.8))
        .label_font(("sans-serif", 13))
        .draw()?;
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_costs_what_it_may_or_is_a_problem() {
        let at = Duration::from_millis;
        let mut step = Step {
            title: "drain".to_owned(),
            note: String::new(),
            cost: Cost::Nothing,
            from: at(0),
            done: at(200),
            to: at(300),
            unroutable: 2,
        };
        let bin = Bin {
            sent: 10,
            answered: [3, 3, 3],
            ..Bin::default()
        };
        let mut record = Record {
            bins: vec![bin; 3],
            lost: vec![at(10), at(110), at(150)],
        };
        assert_eq!(problems(std::slice::from_ref(&step), &record).len(), 1);
        step.unroutable = 3;
        assert!(problems(std::slice::from_ref(&step), &record).is_empty());
        (step.cost, step.unroutable) = (Cost::Queries, 0);
        assert!(problems(std::slice::from_ref(&step), &record).is_empty());
        assert!(table(std::slice::from_ref(&step), &record).contains(" 140 "));
        let picture = plot(std::slice::from_ref(&step), &record).unwrap();
        assert!(picture.contains("node3") && picture.contains("drain"));
        record.lost.push(at(250));
        assert_eq!(problems(std::slice::from_ref(&step), &record).len(), 1);
        step.to = at(250);
        record.bins[1].wrong = 1;
        assert_eq!(problems(&[step], &record).len(), 1);
    }
}
