//! Panics anywhere in a run, also in tasks that nobody waits for.

use std::cell::RefCell;
use std::sync::Once;

thread_local! {
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Notes panics from now on, for the thread they happen on.
pub fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            LAST.with_borrow_mut(|last| *last = Some(info.to_string()));
            before(info);
        }));
    });
    LAST.with_borrow_mut(|last| *last = None);
}

/// The newest panic of this thread, once.
pub fn taken() -> Option<String> {
    LAST.with_borrow_mut(Option::take)
}
