//! `eventmesh-edge reload`: asks a running node to read its configuration again.

use crate::exit::Failure;
use crate::status::socket;
use anyhow::Context;
use clap::Args;
use eventmesh_edge_admin::{ReloadAnswer, ReloadAsk, ask_reload};
use std::path::PathBuf;

#[derive(Debug, Args)]
#[command(
    after_help = "The node reads the file that it was started with. Uplinks, their addresses and routes are changed while it runs; \
                  what needs a restart is listed, and then nothing is changed."
)]
pub(crate) struct Reload {
    /// An uplink that is not in the file any more gets what waits for it, and nothing that comes later (repeatable)
    #[arg(long, value_name = "NAME")]
    drain: Vec<String>,
    /// An uplink that is not in the file any more goes at once; what waits for it is given up and counted (repeatable)
    #[arg(long, value_name = "NAME")]
    drop: Vec<String>,
    /// Say what would be changed, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// As the node answers, instead of lines
    #[arg(long)]
    json: bool,
    /// The node's admin socket
    #[arg(long, value_name = "PATH", conflicts_with_all = ["data_dir", "config"])]
    socket: Option<PathBuf>,
    /// The node's data directory
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The node's configuration file, to find it by
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Prints what was changed, or why nothing was: then it fails.
pub(crate) fn reload(args: &Reload) -> Result<(), Failure> {
    let socket = socket(args.socket.as_deref(), args.data_dir.as_deref(), args.config.as_deref())?;
    let ask = ReloadAsk { drain: args.drain.clone(), drop: args.drop.clone(), dry_run: args.dry_run };
    let answer = ask_reload(&socket, &ask).map_err(|error| Failure::Failed(error.into()))?;
    if args.json {
        let json = serde_json::to_string_pretty(&answer).context("write the answer as JSON");
        println!("{}", json.map_err(Failure::Failed)?);
    } else {
        print!("{}", render(&answer, args.dry_run));
    }
    if answer.refused.is_empty() { Ok(()) } else { Err(Failure::Told) }
}

fn render(answer: &ReloadAnswer, dry_run: bool) -> String {
    let ReloadAnswer { changes, refused, warnings, .. } = answer;
    let mut lines: Vec<String> = warnings.iter().map(|warning| format!("warning: {warning}")).collect();
    if !refused.is_empty() {
        let problems =
            if refused.len() == 1 { "1 reason".to_owned() } else { format!("{} reasons", refused.len()) };
        lines.push(format!("nothing was changed, for {problems}:"));
        lines.extend(refused.iter().map(|line| format!("  {line}")));
    } else if changes.is_empty() {
        lines.push("nothing to change".to_owned());
    } else {
        lines.push(if dry_run { "would be changed:" } else { "changed:" }.to_owned());
        lines.extend(changes.iter().map(|line| format!("  {line}")));
    }
    lines.into_iter().map(|line| line + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_says_what_happened_in_words() {
        let changes = vec!["uplink \"a\" is new".to_owned()];
        let answer = ReloadAnswer { changes, ..ReloadAnswer::default() };
        assert_eq!(render(&answer, false), "changed:\n  uplink \"a\" is new\n");
        assert_eq!(render(&answer, true), "would be changed:\n  uplink \"a\" is new\n");
        let refused = ReloadAnswer { refused: vec!["no".to_owned()], ..answer };
        assert_eq!(render(&refused, false), "nothing was changed, for 1 reason:\n  no\n");
        assert_eq!(render(&ReloadAnswer::default(), false), "nothing to change\n");
    }
}
