//! Figures and results for people to read.

use std::fmt;

use super::results::{Figure, Machine, Results, Summary, Unit};

const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * KIB;
const GIB: f64 = 1024.0 * MIB;

/// The value with its unit: `44,981 /s`, `0.71 ms`, `162 MiB`.
pub(super) fn readable(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Count => number(value),
        Unit::PerSecond => format!("{} /s", number(value)),
        Unit::Seconds => time(value * 1e6),
        Unit::Micros => time(value),
        Unit::Bytes => bytes(value),
        Unit::Cores => format!("{value:.2} cores"),
        Unit::Ratio => format!("{value:.2}"),
    }
}

/// Whole with thousands apart, or with two digits of what is less than one where that tells more.
fn number(value: f64) -> String {
    if value.abs() < 100.0 && value.fract() != 0.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{:.0}", value.abs());
    let mut text = if value < 0.0 { "-" } else { "" }.to_owned();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn time(micros: f64) -> String {
    match micros.abs() {
        ..100.0 => format!("{micros:.1} µs"),
        ..1e6 => format!("{} ms", three_digits(micros / 1e3)),
        _ => format!("{} s", three_digits(micros / 1e6)),
    }
}

fn bytes(value: f64) -> String {
    match value.abs() {
        // What a connection costs, for instance, is known to the byte.
        ..1e4 => format!("{} B", number(value.round())),
        ..MIB => format!("{} KiB", three_digits(value / KIB)),
        ..GIB => format!("{} MiB", three_digits(value / MIB)),
        _ => format!("{} GiB", three_digits(value / GIB)),
    }
}

fn three_digits(value: f64) -> String {
    match value.abs() {
        ..10.0 => format!("{value:.2}"),
        ..100.0 => format!("{value:.1}"),
        _ => number(value.round()),
    }
}

/// The figures of one run.
pub(super) struct Figures<'a>(pub &'a [Figure]);

impl fmt::Display for Figures<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.0.iter();
        let rows =
            rows.map(|figure| vec![figure.name.clone(), readable(figure.value, figure.unit)]);
        write!(f, "{}", Table(rows.collect()))
    }
}

/// What several runs say together; nothing of one alone.
pub(super) struct Together<'a>(pub &'a Results);

impl fmt::Display for Together<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runs = self.0.runs.len();
        if runs < 2 {
            return Ok(());
        }
        let head = [&format!("{runs} runs"), "median", "lowest", "highest"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(self.0.summaries().iter().map(summary));
        write!(f, "\n{}", Table(rows))
    }
}

fn summary(summary: &Summary) -> Vec<String> {
    let readable = |value| readable(value, summary.unit);
    let (lowest, highest) = summary.spread;
    vec![
        summary.name.clone(),
        readable(summary.median),
        readable(lowest),
        readable(highest),
    ]
}

/// Rows whose first cell is a name, and whose others are set flush right.
pub(super) struct Table(pub Vec<Vec<String>>);

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.0.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| {
            let cells = self.0.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.0 {
            let mut line = String::new();
            for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                match column {
                    0 => line += &format!("{cell:width$}"),
                    _ => line += &format!("  {cell:>width$}"),
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cores, {}", self.cores, self.cpu)?;
        if let Some(memory) = self.memory_bytes {
            write!(f, ", {}", bytes(memory as f64))?;
        }
        write!(f, "; tidings {}", self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::super::results::{About, Run};
    use super::*;

    #[test]
    fn people_can_read_figures() {
        for (value, unit, expected) in [
            (44_981.3, Unit::PerSecond, "44,981 /s"),
            (99.5, Unit::PerSecond, "99.50 /s"),
            (1_234_567.0, Unit::Count, "1,234,567"),
            (0.0, Unit::Count, "0"),
            (22.04, Unit::Micros, "22.0 µs"),
            (710.0, Unit::Micros, "0.71 ms"),
            (36_480.0, Unit::Micros, "36.5 ms"),
            (999_900.0, Unit::Micros, "1,000 ms"),
            (0.25, Unit::Seconds, "250 ms"),
            (12.34, Unit::Seconds, "12.3 s"),
            (7412.4, Unit::Bytes, "7,412 B"),
            (-12_000.0, Unit::Bytes, "-11.7 KiB"),
            (162.0 * MIB, Unit::Bytes, "162 MiB"),
            (23.5 * GIB, Unit::Bytes, "23.5 GiB"),
            (0.519, Unit::Cores, "0.52 cores"),
            (1.236, Unit::Ratio, "1.24"),
        ] {
            assert_eq!(readable(value, unit), expected, "{value} {unit:?}");
        }
    }

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let rows = [["a", "22.0 µs", "1"], ["longer", "1 s", ""]];
        let table = Table(rows.map(|row| row.map(str::to_owned).to_vec()).to_vec());
        assert_eq!(table.to_string(), "a       22.0 µs  1\nlonger      1 s\n");
    }

    #[test]
    fn only_several_runs_have_a_spread() {
        let run = |value| Run {
            figures: vec![Figure::more("stored", value, Unit::PerSecond)],
            ..Run::default()
        };
        let mut results = Results {
            about: About::new("chat", String::new(), []),
            machine: Machine::here(),
            runs: vec![run(1000.0)],
        };
        assert_eq!(Together(&results).to_string(), "");
        results.runs.extend([run(3000.0), run(2000.0)]);
        assert_eq!(
            Together(&results).to_string(),
            "\n3 runs    median    lowest   highest\nstored  2,000 /s  1,000 /s  3,000 /s\n"
        );
    }
}
