//! How far a long command has come: a bar on a terminal, a line now and then elsewhere, nothing with `--quiet`.
//!
//! Fifty lines instead of a crate with its terminal library: the bar is one line that is written over.

use std::io::{self, IsTerminal, Write};

const WIDTH: u64 = 24;
/// Steps of the bar, and of the lines.
const BAR_STEP: u64 = 1;
const LINE_STEP: u64 = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Off,
    Bar,
    Lines,
}

/// Told as often as there is news; shows every percent, or every tenth.
pub(super) struct Progress {
    mode: Mode,
    verb: &'static str,
    shown: Option<u64>,
}

impl Progress {
    pub(super) fn new(verb: &'static str, quiet: bool) -> Progress {
        let mode = match (quiet, io::stderr().is_terminal()) {
            (true, _) => Mode::Off,
            (false, true) => Mode::Bar,
            (false, false) => Mode::Lines,
        };
        Progress { mode, verb, shown: None }
    }

    /// `done` of `total`, and what is under way.
    pub(super) fn tell(&mut self, done: u64, total: u64, what: &str) {
        let percent = done.saturating_mul(100).checked_div(total).unwrap_or(100).min(100);
        let step = if self.mode == Mode::Bar { BAR_STEP } else { LINE_STEP };
        let news = percent / step;
        if self.mode == Mode::Off || self.shown.is_some_and(|shown| shown >= news) {
            return;
        }
        self.shown = Some(news);
        let line = match self.mode {
            Mode::Bar => bar(self.verb, percent, what),
            _ => format!("{}: {percent} %\n", self.verb),
        };
        self.write(&line);
    }

    /// Takes the bar away: what follows stands where it was.
    pub(super) fn finish(&mut self) {
        if self.mode == Mode::Bar && self.shown.is_some() {
            self.write("\r\x1b[K");
        }
        self.mode = Mode::Off;
    }

    /// Progress that cannot be shown is no reason to stop.
    fn write(&self, text: &str) {
        io::stderr().write_all(text.as_bytes()).unwrap_or_default();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

/// `\r verify [########                ] 34 %  journal/0000001a.seg`, cut to what any terminal has.
fn bar(verb: &str, percent: u64, what: &str) -> String {
    let full = percent * WIDTH / 100;
    let cells: String = (0..WIDTH).map(|cell| if cell < full { '#' } else { ' ' }).collect();
    let what: String = what.chars().filter(|c| !c.is_control()).take(30).collect();
    format!("\r\x1b[K{verb} [{cells}] {percent:3} %  {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_grows_and_stays_on_its_line() {
        assert!(bar("verify", 0, "a").contains("[                        ]   0 %  a"));
        assert!(bar("verify", 50, "a").contains("[############            ]  50 %"));
        assert!(bar("verify", 100, "a").contains("[########################] 100 %"));
        let long = bar("verify", 100, &"x\n\x1b".repeat(100));
        assert!(long.chars().count() < 80 && !long.contains('\n'), "{long:?}");
    }
}
