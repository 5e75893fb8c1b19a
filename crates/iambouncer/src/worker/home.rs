//! What a worker's thread calls its own: one value per type, found by jobs that come from other workers. Owns
//! nothing that decides; whoever has a reference at hand uses that instead.

use std::any::Any;
use std::cell::RefCell;
use std::rc::Rc;

thread_local! {
    static HOME: RefCell<Vec<Rc<dyn Any>>> = const { RefCell::new(Vec::new()) };
}

/// Makes `value` this thread's value of its type.
pub fn put<T: 'static>(value: Rc<T>) {
    HOME.with(|home| {
        let mut home = home.borrow_mut();
        home.retain(|known| !known.is::<T>());
        home.push(value);
    });
}

/// This thread's value of a type. `None` before the worker has started and after it has ended.
pub fn get<T: 'static>() -> Option<Rc<T>> {
    HOME.try_with(|home| home.borrow().iter().find_map(|known| known.clone().downcast().ok())).ok().flatten()
}

/// Forgets all.
pub(super) fn clear() {
    let all = HOME.with(RefCell::take);
    drop(all);
}
