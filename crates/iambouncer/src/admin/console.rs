//! What commands work on. Owns references only, and the one lasting thing a console needs: how to reload.

use crate::clients::ClientTable;
use crate::context::{Context, Loaded};
use crate::lifecycle::Lifecycle;
use crate::pool::Directory;
use std::rc::Rc;
use std::time::SystemTime;

/// Reads all files anew; runs on the control thread. An error is the text for the user.
pub type Reloader = Box<dyn Fn() -> Result<Loaded, String> + Send + Sync>;

/// The state of the process as commands see it.
pub struct Console {
    /// Configuration and tools.
    pub context: Rc<Context>,
    /// Databases and pools.
    pub directory: Rc<Directory>,
    /// Who is connected.
    pub clients: Rc<ClientTable>,
    /// Running, draining, ending.
    pub lifecycle: Rc<Lifecycle>,
    /// Start of the process.
    pub started: SystemTime,
    reloader: std::sync::Arc<Reloader>,
}

impl Console {
    /// A console over the parts of a process.
    pub fn new(
        context: Rc<Context>,
        directory: Rc<Directory>,
        clients: Rc<ClientTable>,
        lifecycle: Rc<Lifecycle>,
        reloader: Reloader,
    ) -> Self {
        let reloader = std::sync::Arc::new(reloader);
        Self { context, directory, clients, lifecycle, started: SystemTime::now(), reloader }
    }

    /// RELOAD: all or nothing. The text of an error is for the user.
    ///
    /// # Errors
    /// A file is wrong; what was in force stays so.
    pub async fn reload(&self) -> Result<(), String> {
        let reloader = self.reloader.clone();
        let loaded = self
            .context
            .blocking(move || reloader())
            .await
            .unwrap_or_else(|| Err("reading the configuration was given up".to_owned()))?;
        self.context.replace(loaded);
        self.directory.reload();
        tracing::info!("configuration reloaded");
        Ok(())
    }
}
