//! Files that change all at once: they live in a folder of their own, and a link to it is
//! replaced in one step.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Component, Path};

use jiff::Timestamp;

use crate::node::pod::volumes::content::Content;

/// The link to the folder that is valid now.
const DATA: &str = "..data";

/// Makes `folder` show exactly `files`, owned by `group` when there is one.
pub(crate) fn write(folder: &Path, files: &Content, group: Option<u32>) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::set_permissions(
        folder,
        Permissions::from_mode(if group.is_some() { 0o2777 } else { 0o777 }),
    )?;
    let data = folder.join(DATA);
    let old = fs::read_link(&data).ok();
    if let Some(old) = &old
        && same(&folder.join(old), files)
    {
        return Ok(());
    }
    let name = format!("..{}", Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S.%f"));
    let fresh = folder.join(&name);
    fs::create_dir(&fresh)?;
    fs::set_permissions(&fresh, Permissions::from_mode(0o755))?;
    for (path, (bytes, mode)) in files {
        let path = inside(&fresh, path)?;
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, bytes)?;
        // A group that may read the volume may read its files.
        let mode = if group.is_some() { mode | 0o440 } else { *mode };
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
        if group.is_some() {
            chown(&path, None, group)?;
        }
    }
    let next = folder.join("..data_tmp");
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => (),
    }
    symlink(&name, &next)?;
    fs::rename(&next, &data)?;
    link(folder, files)?;
    match old {
        Some(old) => fs::remove_dir_all(folder.join(old)),
        None => Ok(()),
    }
}

/// Links the names that users see, and removes those that are no more.
fn link(folder: &Path, files: &Content) -> io::Result<()> {
    let first = |path: &str| path.split('/').next().unwrap_or_default().to_owned();
    let wanted: std::collections::BTreeSet<String> = files.keys().map(|path| first(path)).collect();
    for name in &wanted {
        let link = folder.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !wanted.contains(&name) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn same(folder: &Path, files: &Content) -> bool {
    let mut count = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                _ => count += 1,
            }
        }
    }
    count == files.len()
        && files
            .iter()
            .all(|(path, (bytes, _))| fs::read(folder.join(path)).is_ok_and(|old| old == *bytes))
}

fn inside(folder: &Path, path: &str) -> io::Result<std::path::PathBuf> {
    let path = Path::new(path);
    if path.components().all(|part| matches!(part, Component::Normal(_))) {
        return Ok(folder.join(path));
    }
    Err(io::Error::other(format!("the path {} leads out of the volume", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> Content {
        list.iter()
            .map(|(path, text)| ((*path).to_owned(), (text.as_bytes().to_vec(), 0o644)))
            .collect()
    }

    fn read(folder: &Path) -> Vec<(String, String)> {
        let mut all: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| !path.file_name().unwrap().to_string_lossy().starts_with(".."))
            .map(|path| {
                (
                    path.file_name().unwrap().to_string_lossy().into_owned(),
                    fs::read_to_string(&path).unwrap_or_default(),
                )
            })
            .collect();
        all.sort();
        all
    }

    #[test]
    fn files_change_appear_and_go_together() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &files(&[("a", "1"), ("b", "1")]), None).unwrap();
        let before = fs::read_link(folder.path().join(DATA)).unwrap();
        write(folder.path(), &files(&[("a", "1"), ("b", "1")]), None).unwrap();
        assert_eq!(fs::read_link(folder.path().join(DATA)).unwrap(), before);
        write(folder.path(), &files(&[("b", "2"), ("c/d", "2")]), None).unwrap();
        assert_eq!(
            read(folder.path()),
            [("b".to_owned(), "2".to_owned()), ("c".to_owned(), String::new())]
        );
        assert_eq!(fs::read_to_string(folder.path().join("c/d")).unwrap(), "2");
        assert!(!folder.path().join(before).exists());
    }

    #[test]
    fn a_path_out_of_the_volume_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(write(folder.path(), &files(&[("../x", "1")]), None).is_err());
    }
}
