//! How far a measurement is, on the standard error: bars on a terminal, else a line for each stage.

use std::fmt::Write;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// How often a stage that lasts is drawn; each time costs a core that the server may share.
const TICK: Duration = Duration::from_millis(250);
/// Characters of a bar.
const WIDTH: usize = 30;

/// See the module's documentation. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    bars: MultiProgress,
}

/// One stage of it; gone when dropped.
#[derive(Debug)]
pub(super) struct Stage {
    bar: ProgressBar,
}

impl Default for Progress {
    fn default() -> Self {
        let target = ProgressDrawTarget::stderr();
        Progress {
            bars: MultiProgress::with_draw_target(target),
        }
    }
}

impl Progress {
    /// A stage of `total` steps.
    pub(super) fn count(&self, what: &str, total: u64) -> Stage {
        let style = style("{prefix} {bar:30} {human_pos} of {human_len} {wide_msg}");
        self.stage(what, total, style)
    }

    /// A stage that lasts so long, from now on.
    pub(super) fn time(&self, what: &str, lasts: Duration) -> Stage {
        let draw = move |state: &ProgressState, out: &mut dyn Write| {
            // There is no place for an error, and a string takes everything.
            let _ = out.write_str(&time_bar(state.elapsed(), lasts));
        };
        let style = style("{prefix} {time} {wide_msg}").with_key("time", draw);
        let stage = self.stage(what, lasts.as_secs(), style);
        if !self.bars.is_hidden() {
            stage.bar.enable_steady_tick(TICK);
        }
        stage
    }

    fn stage(&self, what: &str, total: u64, style: ProgressStyle) -> Stage {
        if self.bars.is_hidden() {
            eprintln!("{what}");
        }
        let bar = ProgressBar::new(total).with_prefix(what.to_owned());
        let bar = self.bars.add(bar.with_style(style));
        bar.tick();
        Stage { bar }
    }
}

impl Stage {
    /// So many more steps are done.
    pub(super) fn advance(&self, steps: u64) {
        self.bar.inc(steps);
    }

    /// What else there is to tell, such as the rate.
    pub(super) fn tell(&self, text: &str) {
        self.bar.set_message(text.to_owned());
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).expect("a template of this file");
    style.progress_chars("━╸ ")
}

fn time_bar(passed: Duration, lasts: Duration) -> String {
    let share = passed.div_duration_f64(lasts).clamp(0.0, 1.0);
    let full = (share * WIDTH as f64) as usize;
    let passed = passed.min(lasts).as_secs();
    format!(
        "{:WIDTH$} {passed} of {} s",
        "━".repeat(full),
        lasts.as_secs()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_bar() {
        let time_bar = |secs| time_bar(Duration::from_secs(secs), Duration::from_secs(20));
        let check = |secs, full, rest, text: &str| {
            let expected = format!("{}{}{text}", "━".repeat(full), " ".repeat(rest));
            assert_eq!(time_bar(secs), expected);
        };
        check(0, 0, 30, " 0 of 20 s");
        check(10, 15, 15, " 10 of 20 s");
        check(99, 30, 0, " 20 of 20 s");
    }
}
