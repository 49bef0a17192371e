//! A panic is never a silent one: it is logged with its place, whoever catches it, and a thread that dies of one ends
//! the node.
//!
//! Some panics are caught where they are expected, because others' decoders and databases may panic on damaged input
//! (P6), so the hook cannot know whether the node must end. Two others can: `run` waits for each task that the node
//! cannot do without, and [`thread_died`] tells when a thread of the store has not survived its panic.

use std::cell::RefCell;
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use tokio::sync::Notify;

static DIED: OnceLock<Notify> = OnceLock::new();

thread_local! {
    /// Dropped when its thread ends.
    static LAST_WORDS: RefCell<Option<LastWords>> = const { RefCell::new(None) };
}

/// Threads that must live as long as the node. Others, such as tokio's, hand their panics to whoever waits for them.
const VITAL: &str = "store-";

/// Installs the hook.
pub(crate) fn install() {
    std::panic::set_hook(Box::new(report));
}

/// Resolves when a vital thread has ended after a panic.
pub(crate) async fn thread_died() {
    DIED.get_or_init(Notify::new).notified().await;
}

fn report(info: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    // Only a literal message: a formatted one may quote what it stumbled over, and that may be a payload (P7).
    let message = info.payload().downcast_ref::<&'static str>().copied().unwrap_or("(message withheld)");
    tracing::error!(thread = thread.name(), place, message, "panic: please report it with this line");
    if thread.name().is_some_and(|name| name.starts_with(VITAL)) {
        LAST_WORDS.with(|words| *words.borrow_mut() = Some(LastWords));
    }
}

/// Whoever catches a panic goes on and keeps this until an orderly end, when nobody listens any more; whoever does not
/// drops it now.
struct LastWords;

impl Drop for LastWords {
    fn drop(&mut self) {
        DIED.get_or_init(Notify::new).notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::catch_unwind;
    use std::sync::mpsc::channel;
    use std::thread::Builder;

    #[tokio::test]
    async fn a_vital_thread_that_dies_is_noticed_and_one_that_catches_is_not() {
        install();
        let (go_on, wait) = channel::<()>();
        let (caught, has_caught) = channel();
        let survivor = Builder::new().name("store-survivor".into()).spawn(move || {
            caught.send(catch_unwind(|| panic!("caught")).is_err()).unwrap();
            wait.recv().unwrap();
        });
        assert!(has_caught.recv().unwrap());
        let died = thread_died();
        tokio::pin!(died);
        assert!(futures_now(died.as_mut()).is_none(), "it lives");

        Builder::new().name("other".into()).spawn(|| panic!("not vital")).unwrap().join().unwrap_err();
        assert!(futures_now(died.as_mut()).is_none(), "not ours to judge");

        Builder::new().name("store-victim".into()).spawn(|| panic!("uncaught")).unwrap().join().unwrap_err();
        died.await;
        go_on.send(()).unwrap();
        survivor.unwrap().join().unwrap();
    }

    /// The output of a future that is ready now.
    fn futures_now<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        match future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }
}
