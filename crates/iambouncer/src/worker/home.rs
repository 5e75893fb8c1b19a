//! Thread-local values of a worker: one per type, looked up by jobs that come from other workers. Owns no logic; code
//! that has a reference already uses that instead.

use std::any::Any;
use std::cell::RefCell;
use std::rc::Rc;

thread_local! {
    static HOME: RefCell<Vec<Rc<dyn Any>>> = const { RefCell::new(Vec::new()) };
}

/// Sets this thread's value of its type.
pub fn put<T: 'static>(value: Rc<T>) {
    HOME.with(|home| {
        let mut home = home.borrow_mut();
        home.retain(|known| !known.is::<T>());
        home.push(value);
    });
}

/// This thread's value of a type. `None` before the worker has started and after it has stopped.
pub fn get<T: 'static>() -> Option<Rc<T>> {
    HOME.try_with(|home| home.borrow().iter().find_map(|known| known.clone().downcast().ok())).ok().flatten()
}

/// Removes all values.
pub(super) fn clear() {
    let all = HOME.with(RefCell::take);
    drop(all);
}
