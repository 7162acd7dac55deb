//! Which run may use a folder: a file in it that is locked while one does.

use std::cell::RefCell;
use std::fs::{self, File, TryLockError};
use std::path::Path;

const LOCK: &str = "lock";

/// A run's claim to a folder, made when it is first asked for.
#[derive(Default)]
pub struct FolderLock(RefCell<State>);

#[derive(Default)]
enum State {
    #[default]
    Untried,
    /// This run's; without a file where the system knows no locks. Held open, the file stays locked.
    Ours {
        _file: Option<File>,
        /// Whether an earlier run has left the file, and so may have left more.
        was_there: bool,
    },
    Theirs,
}

impl FolderLock {
    /// Whether this run may use the folder: another that makes the same output may be at work.
    pub fn is_ours(&self, folder: &Path) -> bool {
        let state = &mut *self.0.borrow_mut();
        if matches!(state, State::Untried) {
            let path = folder.join(LOCK);
            let was_there = path.exists();
            let file = fs::create_dir_all(folder).and_then(|()| File::create(path));
            *state = match file.map(|file| (file.try_lock(), file)) {
                Ok((Ok(()), file)) => State::Ours { _file: Some(file), was_there },
                Ok((Err(TryLockError::WouldBlock), _)) => {
                    tracing::warn!("another run is making the same output: this one saves nothing to go on from");
                    State::Theirs
                }
                // Saving says why, if that fails as well.
                _ => State::Ours { _file: None, was_there },
            };
        }
        matches!(state, State::Ours { .. })
    }

    /// Lets the folder go. Whether an earlier run had left its file there.
    pub fn release(&self) -> bool {
        // The file is closed with it: some systems remove none that is open.
        matches!(self.0.take(), State::Ours { was_there: true, .. })
    }

    /// Removes the file, which nobody holds any more.
    pub fn remove(folder: &Path) {
        let _ = fs::remove_file(folder.join(LOCK));
    }
}
