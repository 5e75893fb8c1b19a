//! The state of one worker. Owns the list of its parts; jobs from other workers receive it.

use crate::admin::Console;
use crate::clients::ClientTable;
use crate::context::Context;
use crate::lifecycle::Lifecycle;
use crate::pool::Directory;
use crate::worker::workers::{HasPart, Workers};
use std::rc::Rc;

/// What the tasks of a worker share.
pub struct Worker {
    /// Configuration and shared services.
    pub context: Rc<Context>,
    /// Databases and pools.
    pub directory: Rc<Directory>,
    /// Connected clients.
    pub clients: Rc<ClientTable>,
    /// Running, draining or stopping.
    pub lifecycle: Rc<Lifecycle>,
    /// The admin console.
    pub console: Rc<Console>,
    /// All workers.
    pub workers: Workers<Self>,
}

impl HasPart<Directory> for Worker {
    fn part(self: &Rc<Self>) -> &Rc<Directory> {
        &self.directory
    }
}

impl HasPart<Console> for Worker {
    fn part(self: &Rc<Self>) -> &Rc<Console> {
        &self.console
    }
}
