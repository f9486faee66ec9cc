//! Results as one page that needs nothing else: no network, no script; in the colours that the reader's system prefers.

use std::fmt::{self, Write as _};
use std::time::{Duration, SystemTime};

use humantime::format_rfc3339_seconds;
use plotters::style::RGBColor;
use serde_json::Value;

use super::compare::{Comparison, Verdict};
use super::plot::{Line, Plot, Point, Scale};
use super::results::{Results, Run, Second, Summary, Unit};
use super::text::readable;

// Seen on white and on black alike.
const BLUE: RGBColor = RGBColor(0x2f, 0x7e, 0xd8);
const ORANGE: RGBColor = RGBColor(0xd0, 0x6a, 0x00);
const MAGENTA: RGBColor = RGBColor(0xc0, 0x39, 0x9f);

const STYLE: &str = "
:root { color-scheme: light dark; background: Canvas; color: CanvasText; font: 1rem/1.45 system-ui, sans-serif }
body { max-width: 64rem; margin: 0 auto; padding: 1rem }
h1 { font-size: 1.4rem; margin: 0 }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
p { margin: .3rem 0 }
.table { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #8886; text-align: right; white-space: nowrap }
th:first-child, td:first-child { padding-left: 0; text-align: left }
.quiet { opacity: .7 }
.good, .bad { font-weight: 600 }
.good::before { content: '\\2713\\a0' }
.bad::before { content: '\\2717\\a0' }
.plots { display: grid; gap: 1.5rem 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)) }
figure { margin: 0 }
figcaption b { font-weight: 600; margin-right: .5rem }
figcaption span { white-space: nowrap; margin-right: .7rem }
figcaption i { display: inline-block; width: .8em; height: .8em; border-radius: 50%; margin-right: .3em }
svg { display: block; width: 100%; height: auto }
svg text { fill: currentColor }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: 0 }
dd { margin: 0; overflow-wrap: anywhere }
";

/// The page of one invocation.
pub(super) fn results(results: &Results) -> anyhow::Result<String> {
    let about = &results.about;
    let mut body = format!("<p>{}</p>\n", Escaped(&about.title));
    checks(&mut body, &results.runs);
    figures(&mut body, &results.summaries(), results.runs.len());
    // A full window's latencies follow from its throughput.
    let latency_title = match about.load.get("rate").and_then(Value::as_u64) {
        Some(0) => "Sent to delivered, in the window",
        _ => "Due to delivered",
    };
    plots(&mut body, &results.runs, latency_title)?;
    let started_at = SystemTime::UNIX_EPOCH + Duration::from_millis(results.machine.started_at);
    let mut facts = vec![
        ("machine".to_owned(), results.machine.to_string()),
        (
            "began".to_owned(),
            format_rfc3339_seconds(started_at).to_string(),
        ),
    ];
    let load = about.load.iter();
    facts.extend(load.map(|(name, value)| (name.clone(), value.to_string())));
    list(&mut body, "What was measured, and where", &facts);
    Ok(document(
        &format!("tidings bench {}", about.scenario),
        &body,
    ))
}

/// The page of a comparison.
pub(super) fn comparison(comparison: &Comparison) -> String {
    let mut body = format!("<p>{}</p>\n", Escaped(&comparison.title));
    for warning in comparison.doubts() {
        line(&mut body, "bad", warning);
    }
    body += "<div class=table><table>\n";
    row(&mut body, "th", ["figure", "old", "new", "new / old", ""]);
    for change in &comparison.changes {
        let class = match change.verdict {
            Verdict::Better => " class=good",
            Verdict::Worse => " class=bad",
            Verdict::Same | Verdict::None => " class=quiet",
        };
        let cells = change.cells();
        body += "<tr>";
        for cell in &cells[..cells.len() - 1] {
            put(&mut body, format_args!("<td>{}", Escaped(cell)));
        }
        put(
            &mut body,
            format_args!("<td><span{class}>{}</span>\n", change.verdict),
        );
    }
    body += "</table></div>\n";
    let facts = [("old", &comparison.old), ("new", &comparison.new)];
    let facts = facts.map(|(name, file)| (name.to_owned(), file.clone()));
    list(&mut body, "What was compared", &facts);
    document(
        &format!("tidings bench compare: {}", comparison.scenario),
        &body,
    )
}

fn document(title: &str, body: &str) -> String {
    let title = Escaped(title);
    format!(
        "<!doctype html>\n<html lang=en>\n<meta charset=utf-8>\n\
         <meta name=viewport content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n<h1>{title}</h1>\n{body}"
    )
}

fn checks(body: &mut String, runs: &[Run]) {
    for (number, run) in (1..).zip(runs) {
        let class = if run.check.is_ok() { "good" } else { "bad" };
        let check = run.check.to_string();
        let check = check.trim_end();
        match runs.len() {
            1 => line(body, class, check),
            _ => line(body, class, &format!("run {number}: {check}")),
        }
    }
}

fn line(body: &mut String, class: &str, text: &str) {
    put(
        body,
        format_args!("<p class={class}>{}</p>\n", Escaped(text)),
    );
}

fn figures(body: &mut String, summaries: &[Summary], runs: usize) {
    *body += "<h2>Figures</h2>\n<div class=table><table>\n";
    if runs > 1 {
        let head = ["", "median", "lowest", "highest"].map(str::to_owned);
        let each = (1..=runs).map(|number| format!("run {number}"));
        row(body, "th", head.into_iter().chain(each));
    }
    for summary in summaries {
        let readable = |value| readable(value, summary.unit);
        let (lowest, highest) = summary.spread;
        let mut cells = vec![summary.name.clone(), readable(summary.median)];
        if runs > 1 {
            cells.extend([readable(lowest), readable(highest)]);
            let values = summary.values.iter();
            cells.extend(values.map(|value| value.map(readable).unwrap_or_default()));
        }
        row(body, "td", cells);
    }
    *body += "</table></div>\n";
}

fn row(body: &mut String, tag: &str, cells: impl IntoIterator<Item = impl AsRef<str>>) {
    *body += "<tr>";
    for cell in cells {
        put(body, format_args!("<{tag}>{}", Escaped(cell.as_ref())));
    }
    *body += "\n";
}

fn list(body: &mut String, title: &str, facts: &[(String, String)]) {
    put(body, format_args!("<h2>{title}</h2>\n<dl>\n"));
    for (name, value) in facts {
        let (name, value) = (Escaped(name), Escaped(value));
        put(body, format_args!("<dt class=quiet>{name}<dd>{value}\n"));
    }
    *body += "</dl>\n";
}

fn plots(body: &mut String, runs: &[Run], latency_title: &'static str) -> anyhow::Result<()> {
    let mut figures = String::new();
    for plot in [
        latency(runs, latency_title),
        throughput(runs),
        cpu(runs),
        memory(runs),
    ] {
        let Some(svg) = plot.draw()? else {
            continue;
        };
        put(
            &mut figures,
            format_args!("<figure><figcaption><b>{}</b>", plot.title),
        );
        for line in &plot.lines {
            let RGBColor(red, green, blue) = line.color;
            put(
                &mut figures,
                format_args!(
                    "<span><i style=\"background:#{red:02x}{green:02x}{blue:02x}\"></i>{}</span>",
                    line.name
                ),
            );
        }
        put(
            &mut figures,
            format_args!("</figcaption>\n{svg}</figure>\n"),
        );
    }
    if !figures.is_empty() {
        let warmup = "From 0 s on it counts; before that is the warm-up.";
        let many = match runs.len() {
            1 => "",
            _ => " Each run has a line.",
        };
        put(
            body,
            format_args!(
                "<h2>Second by second</h2>\n<p class=quiet>{warmup}{many}</p>\n<div class=plots>\n{figures}</div>\n"
            ),
        );
    }
    Ok(())
}

fn latency(runs: &[Run], title: &'static str) -> Plot {
    let known = |micros: u64| (micros > 0).then_some(micros as f64);
    Plot {
        title,
        scale: Scale::Logarithmic,
        label: |micros| readable(micros, Unit::Micros),
        lines: vec![
            series("p50", BLUE, runs, |second| known(second.delivered_p50)),
            series("p99", ORANGE, runs, |second| known(second.delivered_p99)),
            series("p99.9", MAGENTA, runs, |second| {
                known(second.delivered_p999)
            }),
        ],
    }
}

fn throughput(runs: &[Run]) -> Plot {
    Plot {
        title: "Messages",
        scale: Scale::Linear,
        label: |messages| readable(messages.round(), Unit::PerSecond),
        lines: vec![
            series("sent", BLUE, runs, |second| Some(second.sent as f64)),
            series("stored", ORANGE, runs, |second| Some(second.stored as f64)),
            series("delivered", MAGENTA, runs, |second| {
                Some(second.delivered as f64)
            }),
        ],
    }
}

fn cpu(runs: &[Run]) -> Plot {
    Plot {
        title: "CPU of the server",
        scale: Scale::Linear,
        label: |cores| readable(cores, Unit::Cores),
        lines: vec![series("cores", BLUE, runs, |second| second.server_cpu)],
    }
}

fn memory(runs: &[Run]) -> Plot {
    Plot {
        title: "Memory of the server",
        scale: Scale::Linear,
        label: |bytes| readable(bytes, Unit::Bytes),
        lines: vec![series("resident", BLUE, runs, |second| {
            second.server_rss_bytes.map(|bytes| bytes as f64)
        })],
    }
}

fn series(
    name: &'static str,
    color: RGBColor,
    runs: &[Run],
    value: impl Fn(&Second) -> Option<f64>,
) -> Line {
    let point = |second: &Second| -> Point { (second.at as f64, value(second)) };
    let points = |run: &Run| run.series.iter().map(point).collect();
    Line {
        name,
        color,
        runs: runs.iter().map(points).collect(),
    }
}

fn put(body: &mut String, text: fmt::Arguments<'_>) {
    // A string takes everything.
    let _ = body.write_fmt(text);
}

/// Text that stands in HTML, between tags or in quotes, and stays text.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::results::{About, Figure, Machine};
    use super::*;

    const EVIL: &str = "<script>alert('x')</script>&\"";

    fn run(stored: f64) -> Run {
        let second = |at| Second {
            at,
            sent: 10,
            stored: 10,
            delivered: 9,
            delivered_p50: 700,
            delivered_p99: 3000,
            delivered_p999: 9000,
            server_cpu: Some(0.5),
            server_rss_bytes: None,
        };
        Run {
            figures: vec![Figure::more("stored", stored, Unit::PerSecond)],
            series: vec![second(-1), second(0), second(1)],
            ..Run::default()
        }
    }

    fn page(runs: Vec<Run>) -> String {
        page_of(100, runs)
    }

    fn page_of(rate: u32, runs: Vec<Run>) -> String {
        let load = [("format", EVIL.into()), ("rate", rate.into())];
        let mut about = About::new("chat", EVIL.to_owned(), load);
        about.load.insert(EVIL.to_owned(), 7.into());
        let mut machine = Machine::here();
        machine.cpu = EVIL.to_owned();
        results(&Results {
            about,
            machine,
            runs,
        })
        .unwrap()
    }

    #[test]
    fn what_comes_from_outside_stays_text() {
        let mut failed = run(1.0);
        failed.figures[0].name = EVIL.to_owned();
        failed.check.faults.note("lost", || EVIL.to_owned());
        let page = page(vec![failed]);
        assert!(
            !page.contains("<script") && !page.contains("alert('"),
            "{page}"
        );
        assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;&quot;"));
        assert!(page.contains("class=bad>check      FAILED"), "{page}");
    }

    #[test]
    fn a_page_shows_figures_plots_and_facts() {
        let page = page(vec![run(1000.0), run(3000.0)]);
        for part in [
            "<title>tidings bench chat</title>",
            "<td>stored<td>2,000 /s<td>1,000 /s<td>3,000 /s<td>1,000 /s<td>3,000 /s",
            "run 2: check      ok",
            "<b>Due to delivered</b>",
            "<b>Messages</b>",
            "<b>CPU of the server</b>",
            "10.0 ms",
            "<dt class=quiet>machine",
        ] {
            assert!(page.contains(part), "{part} in {page}");
        }
        // Nothing is known of the memory, and nothing is fetched from elsewhere.
        assert_eq!(page.matches("<svg").count(), 3);
        let namespace = "http://www.w3.org/2000/svg";
        assert!(!page.replace(namespace, "").contains("http:"));
        assert!(!page.contains("https:") && !page.contains("<link") && !page.contains("src="));
    }

    #[test]
    fn a_full_window_shows_no_latency() {
        let page = page_of(0, vec![run(1000.0)]);
        assert!(!page.contains("Due to delivered"), "{page}");
        assert!(page.contains("<b>Sent to delivered, in the window</b>"));
    }

    #[test]
    fn what_does_not_last_has_no_plots() {
        let mut run = run(1.0);
        run.series.clear();
        let page = page(vec![run]);
        assert!(!page.contains("<svg") && !page.contains("Second by second"));
        assert!(page.contains("<td>stored<td>1 /s"), "{page}");
    }
}
