//! Lines over time, as SVG that stands in a page: the page's text colour is theirs.

use std::fmt;
use std::ops::Range;

use anyhow::anyhow;
use plotters::chart::ChartContext;
use plotters::coord::ranged1d::ValueFormatter;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

/// As wide as a phone shows it, so that its letters can be read there.
const SIZE: (u32, u32) = (460, 260);
const LETTERS: (&str, u32) = ("sans-serif", 13);
/// Seen on white and on black alike.
const GREY: RGBColor = RGBColor(128, 128, 128);

/// See the module's documentation.
pub(super) struct Plot {
    pub title: &'static str,
    pub scale: Scale,
    /// What the numbers at the left edge say.
    pub label: fn(f64) -> String,
    pub lines: Vec<Line>,
}

/// One quantity.
pub(super) struct Line {
    pub name: &'static str,
    pub color: RGBColor,
    /// Each run has a line of its own, in the same colour.
    pub runs: Vec<Vec<Point>>,
}

/// A second of a run, and what it was like; `None` interrupts the line.
pub(super) type Point = (f64, Option<f64>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// From zero.
    Linear,
    /// From one power of ten to another.
    Logarithmic,
}

type Chart<'a, 'b, Y> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, Y>>;

impl Plot {
    /// The `<svg>`, or nothing if nothing is known.
    pub(super) fn draw(&self) -> anyhow::Result<Option<String>> {
        let Some((seconds, values)) = self.ranges() else {
            return Ok(None);
        };
        let mut svg = String::new();
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&area);
        chart.margin(8).x_label_area_size(24).y_label_area_size(70);
        match self.scale {
            Scale::Linear => {
                let chart = chart.build_cartesian_2d(seconds, values);
                self.fill(chart.map_err(not_drawn)?)?;
            }
            Scale::Logarithmic => {
                let chart = chart.build_cartesian_2d(seconds, values.log_scale());
                self.fill(chart.map_err(not_drawn)?)?;
            }
        }
        area.present().map_err(not_drawn)?;
        drop(area);
        Ok(Some(svg))
    }

    fn fill<Y>(&self, mut chart: Chart<'_, '_, Y>) -> anyhow::Result<()>
    where
        Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        let label = |value: &f64| (self.label)(*value);
        let mut mesh = chart.configure_mesh();
        mesh.max_light_lines(0)
            .bold_line_style(GREY.mix(0.25))
            .axis_style(GREY)
            .label_style(LETTERS)
            .x_labels(8)
            .y_labels(6)
            .x_label_formatter(&|second| format!("{second:.0} s"))
            .y_label_formatter(&label);
        mesh.draw().map_err(not_drawn)?;
        for line in &self.lines {
            // Where many lie above each other, all are seen.
            let color = line.color.mix(if line.runs.len() > 1 { 0.7 } else { 1.0 });
            for part in line.runs.iter().flat_map(|run| parts(run)) {
                // One point is no line.
                let point_size = u32::from(part.len() == 1);
                let series = LineSeries::new(part, color.stroke_width(2));
                let drawn = chart.draw_series(series.point_size(point_size));
                drawn.map_err(not_drawn)?;
            }
        }
        Ok(())
    }

    /// What the axes show.
    fn ranges(&self) -> Option<(Range<f64>, Range<f64>)> {
        let points = self
            .lines
            .iter()
            .flat_map(|line| line.runs.iter().flatten());
        let known = points.filter_map(|(second, value)| Some((*second, (*value)?)));
        let ((mut first, mut last), (mut lowest, mut highest)) = (EMPTY, EMPTY);
        for (second, value) in known {
            (first, last) = (first.min(second), last.max(second));
            (lowest, highest) = (lowest.min(value), highest.max(value));
        }
        if first > last {
            return None;
        }
        let values = match self.scale {
            Scale::Linear => 0.0..highest.max(f64::MIN_POSITIVE) * 1.05,
            Scale::Logarithmic => decades(lowest, highest),
        };
        Some((first..last.max(first + 1.0), values))
    }
}

/// No range yet: everything is outside.
const EMPTY: (f64, f64) = (f64::INFINITY, f64::NEG_INFINITY);

/// Whole powers of ten around the two, and a little more, so that both ends have their label.
fn decades(lowest: f64, highest: f64) -> Range<f64> {
    let power = |exponent: f64| 10_f64.powi(exponent as i32);
    let lower = lowest.max(1.0).log10().floor();
    let upper = highest.max(1.0).log10().ceil().max(lower + 1.0);
    power(lower) * 0.999..power(upper) * 1.001
}

/// The points that belong together, without the gaps between them.
fn parts(run: &[Point]) -> impl Iterator<Item = Vec<(f64, f64)>> {
    let parts = run.split(|(_, value)| value.is_none());
    let known = |(second, value): &Point| Some((*second, (*value)?));
    parts
        .map(move |part| part.iter().filter_map(known).collect::<Vec<_>>())
        .filter(|part| !part.is_empty())
}

fn not_drawn(error: impl fmt::Display) -> anyhow::Error {
    anyhow!("a plot can't be drawn: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(scale: Scale, runs: &[&[Point]]) -> Plot {
        Plot {
            title: "latency",
            scale,
            label: |value| format!("<{value}>"),
            lines: vec![Line {
                name: "p50",
                color: GREY,
                runs: runs.iter().map(|run| run.to_vec()).collect(),
            }],
        }
    }

    fn count(text: &str, part: &str) -> usize {
        text.matches(part).count()
    }

    #[test]
    fn each_run_has_a_line_and_gaps_part_it() {
        for scale in [Scale::Linear, Scale::Logarithmic] {
            let with_gap = [
                (-1.0, Some(300.0)),
                (0.0, None),
                (1.0, Some(400.0)),
                (2.0, Some(5.0)),
            ];
            let whole = [(0.0, Some(50.0)), (1.0, Some(60.0))];
            let svg = plot(scale, &[&with_gap, &whole]).draw().unwrap().unwrap();
            assert!(
                svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"),
                "{svg}"
            );
            let lines = count(&svg, "stroke-width=\"2\"");
            // One of them is a point, with its circle.
            assert_eq!((lines, count(&svg, "<circle")), (4, 1), "{svg}");
            assert!(svg.contains("&lt;") && !svg.contains("<1"), "{svg}");
        }
    }

    #[test]
    fn nothing_known_is_no_plot() {
        for runs in [&[][..], &[&[][..]], &[&[(0.0, None)][..]]] {
            assert!(plot(Scale::Logarithmic, runs).draw().unwrap().is_none());
        }
    }

    #[test]
    fn flat_lines_have_a_range() {
        for scale in [Scale::Linear, Scale::Logarithmic] {
            for value in [0.0, 1.0, 1000.0] {
                let run = [(0.0, Some(value))];
                assert!(
                    plot(scale, &[&run]).draw().unwrap().is_some(),
                    "{scale:?} {value}"
                );
            }
        }
    }

    #[test]
    fn a_logarithmic_axis_begins_and_ends_with_a_power_of_ten() {
        for (lowest, highest, expected) in [
            (300.0, 4000.0, (100.0, 10_000.0)),
            (1000.0, 1000.0, (1000.0, 10_000.0)),
            (0.0, 0.5, (1.0, 10.0)),
        ] {
            let range = decades(lowest, highest);
            assert!(range.start < expected.0 && range.start * 1.01 > expected.0);
            assert!(range.end > expected.1 && range.end < expected.1 * 1.01);
        }
    }
}
