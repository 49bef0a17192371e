//! A panic is never a silent one: it is logged with its place, whoever catches it.
//!
//! Some are caught where they are expected, because others' decoders and databases may panic on damaged input (P6), so
//! the hook cannot know whether the node must end. That is decided by who waits for a task: `run` waits for each that the
//! node cannot do without, and ends when one of them does.

use std::panic::PanicHookInfo;

/// Installs the hook.
pub(crate) fn install() {
    std::panic::set_hook(Box::new(report));
}

fn report(info: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    // Only a literal message: a formatted one may quote what it stumbled over, and that may be a payload (P7).
    let message = info.payload().downcast_ref::<&'static str>().copied().unwrap_or("(message withheld)");
    tracing::error!(thread = thread.name(), place, message, "panic: please report it with this line");
}
