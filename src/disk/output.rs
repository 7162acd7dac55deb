//! Output that appears whole or not at all: written beside its place under a temporary name, renamed when complete.

use super::files;
use super::partial::Partial;
use crate::error::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Refuses an output that exists, unless `force`, or that is one of the inputs or lies in one: they are never written to.
fn check(output: &Path, inputs: &[&Path], force: bool) -> Result<PathBuf> {
    if output.file_name().is_none() {
        return Err(Error::file(output, "is not a name that an output can have"));
    }
    let parent = files::parent(output);
    let parent = dunce::canonicalize(parent).map_err(Error::io(parent, "the output's folder cannot be opened"))?;
    for input in inputs {
        // A pipe has no place among files.
        if input.metadata().is_ok_and(|found| !found.is_file() && !found.is_dir()) {
            continue;
        }
        let source = dunce::canonicalize(input).map_err(Error::io(input, "cannot open"))?;
        let place = parent.join(output.file_name().unwrap_or_default());
        let place = dunce::canonicalize(&place).unwrap_or(place);
        if place == source && source.is_file() {
            return Err(Error::file(output, "is also an input of this command; choose another --output"));
        }
        if place.starts_with(&source) {
            return Err(Error::file(output, "lies inside the model folder, which is never written to; choose another --output"));
        }
        if source.starts_with(&place) {
            return Err(Error::file(
                output,
                format!("contains {}, an input, and cannot be replaced; choose another --output", input.display()),
            ));
        }
    }
    if output.symlink_metadata().is_ok() && !force {
        return Err(Error::file(output, "exists already; give another --output, or --force to replace it"));
    }
    Ok(parent)
}

/// The same place whatever becomes of the current folder, which may be the one that is replaced; and without a dot at its end, by which no
/// folder can be moved.
#[must_use]
pub fn settled(output: &Path) -> PathBuf {
    match (dunce::canonicalize(files::parent(output)), output.file_name()) {
        (Ok(parent), Some(name)) => parent.join(name),
        // What it is wrong with is said elsewhere.
        _ => output.to_owned(),
    }
}

/// A folder that someone made for the output to go into.
fn is_empty_folder(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.is_dir()) && fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// Whether a folder may give way to another. An empty one is tried, with a folder `beside` it as the place to go.
fn can_be_moved(folder: &Path, beside: &Path) -> bool {
    if !is_empty_folder(folder) {
        return same_disk(folder, beside);
    }
    let aside = beside.join(REPLACED);
    fs::rename(folder, &aside).and_then(|()| fs::rename(&aside, folder)).is_ok()
}

/// Whether files can be moved from one folder to the other, as far as it can be told without.
#[cfg(unix)]
fn same_disk(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let disk = |folder: &Path| folder.metadata().map(|found| found.dev()).ok();
    disk(one) == disk(other)
}

/// Folders are seldom mounted within others here.
#[cfg(not(unix))]
fn same_disk(_: &Path, _: &Path) -> bool {
    true
}

/// Whether something stands in an output folder's place that would have to go.
fn is_taken(output: &Path) -> bool {
    output.symlink_metadata().is_ok() && !is_empty_folder(output)
}

/// What stands in the output's place has appeared since [`check`], and may be somebody's work.
fn appeared(output: &Path, finished: &Path) -> Error {
    Error::file(output, format!("was made by something else meanwhile; the finished result lies in {}", finished.display()))
}

/// The work was done; only its place could not be taken.
fn unmoved(output: &Path, finished: &Path, reason: &str) -> Error {
    Error::file(output, format!("the finished result could not be moved there ({reason}) and lies in {}", finished.display()))
}

/// Name of an earlier folder while the new one takes its place.
const REPLACED: &str = "replaced";

/// A folder in the making. Dropped before [`OutputFolder::commit`], it leaves nothing behind.
pub struct OutputFolder {
    partial: Partial,
    output: PathBuf,
    replaceable: Option<Replaceable>,
}

/// Fails unless a folder holds nothing that would be missed.
pub type Replaceable = fn(&Path) -> Result<()>;

impl OutputFolder {
    /// Starts an output folder; the inputs, files and folders, are never written to. An empty folder may be there, or one that is found
    /// replaceable.
    pub fn create(output: &Path, inputs: &[&Path], replaceable: Option<Replaceable>) -> Result<Self> {
        let parent = check(output, inputs, replaceable.is_some() || is_empty_folder(output))?;
        let output = settled(output);
        if let Some(check) = replaceable.filter(|_| is_taken(&output)) {
            check(&output)?;
        }
        let partial = Partial::create(&output, &parent)?;
        if output.is_dir() && !can_be_moved(&output, partial.path()) {
            let advice =
                "is in use or a place where a disk is mounted, so the finished folder cannot be moved there; choose a name inside it";
            return Err(Error::file(&output, advice));
        }
        Ok(Self { partial, output, replaceable })
    }

    /// Where files are written until the commit.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.partial.path()
    }

    /// Moves the finished folder to its name; an earlier one is removed only after that.
    pub fn commit(mut self) -> Result<()> {
        files::sync_folder(self.partial.path());
        self.partial.complete();
        if is_taken(&self.output) && self.replaceable.is_none_or(|check| check(&self.output).is_err()) {
            return Err(appeared(&self.output, &self.partial.keep()));
        }
        let taken = self.take_place();
        // Moved, there is nothing left for the guard to remove; else it is not lost.
        let finished = self.partial.keep();
        taken.map_err(|reason| unmoved(&self.output, &finished, &reason))?;
        files::sync_folder_of(&self.output);
        Ok(())
    }

    fn take_place(&self) -> std::result::Result<(), String> {
        let text = |error: std::io::Error| error.to_string();
        make_readable(self.partial.path()).map_err(text)?;
        let mut aside = None;
        if self.output.symlink_metadata().is_ok() {
            let mut place = Partial::create(&self.output, self.partial.parent()).map_err(|error| error.to_string())?;
            // What it takes in is somebody's, and is not removed by others.
            place.complete();
            fs::rename(&self.output, place.path().join(REPLACED)).map_err(text)?;
            aside = Some(place);
        }
        let Err(error) = fs::rename(self.partial.path(), &self.output) else { return Ok(()) };
        if let Some(place) = aside
            && fs::rename(place.path().join(REPLACED), &self.output).is_err()
        {
            // It may not be lost either: someone has put something else into its place.
            return Err(format!("{error}; what was there before lies in {}", place.keep().join(REPLACED).display()));
        }
        Err(error.to_string())
    }
}

/// Temporary folders are private to the user; a finished model gets the permissions that a new folder has.
#[cfg(unix)]
fn make_readable(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let fresh = folder.join(".permissions");
    fs::create_dir(&fresh)?;
    let mode = fs::metadata(&fresh)?.permissions().mode();
    fs::remove_dir(&fresh)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(mode))
}

/// Folders inherit their access rights here.
#[cfg(not(unix))]
fn make_readable(_folder: &Path) -> std::io::Result<()> {
    Ok(())
}

/// Name of the file in the making.
const FILE: &str = "file";

/// A file in the making. Dropped before [`OutputFile::commit`], it leaves nothing behind.
pub struct OutputFile {
    partial: Partial,
    output: PathBuf,
    force: bool,
}

impl OutputFile {
    /// Starts an output file; the inputs, files and folders, are never written to.
    pub fn create(output: &Path, inputs: &[&Path], force: bool) -> Result<Self> {
        match output.metadata() {
            Ok(found) if found.is_dir() => return Err(Error::file(output, "is a folder; the output is a file")),
            Err(_) if output.to_string_lossy().ends_with(std::path::is_separator) => {
                return Err(Error::file(output, "is the name of a folder; the output is a file"));
            }
            // A device or a pipe would be replaced, not written to.
            Ok(found) if !found.is_file() => return Err(Error::file(output, "is no ordinary file; choose another --output")),
            _ => {}
        }
        let parent = check(output, inputs, force)?;
        let output = settled(output);
        // A folder rather than a file, so that writers create the file themselves with ordinary permissions.
        Ok(Self { partial: Partial::create(&output, &parent)?, output, force })
    }

    /// Where the file is written until the commit.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.partial.path().join(FILE)
    }

    /// Moves the finished file to its name, replacing an earlier one in one step.
    pub fn commit(self) -> Result<()> {
        if self.output.symlink_metadata().is_ok() && !self.force {
            return Err(appeared(&self.output, &self.partial.keep().join(FILE)));
        }
        if let Err(error) = fs::rename(self.path(), &self.output) {
            return Err(unmoved(&self.output, &self.partial.keep().join(FILE), &error.to_string()));
        }
        files::sync_folder_of(&self.output);
        Ok(())
    }

    /// Writes `value` as JSON and commits.
    pub fn commit_json(self, value: &impl serde::Serialize) -> Result<()> {
        files::write_json(&self.path(), value)?;
        self.commit()
    }
}
