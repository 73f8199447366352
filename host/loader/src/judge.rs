//! Which files of the directory are used: judged all together at the start of the host, one by one later. Opens nothing.

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::LoaderConfig;
use crate::info::PluginInfo;
use crate::inspect::{Inspection, inspect};
use crate::refusal::{Code, Refusal};
use crate::scan::{PluginFile, read_one, scan, scan_each};

/// A file that was judged and accepted.
pub(crate) struct Judged {
    pub(crate) file: PluginFile,
    pub(crate) inspection: Inspection,
    pub(crate) info: PluginInfo,
}

impl Judged {
    /// Judges who vouches for an inspected file, and where it is to run.
    fn new(config: &LoaderConfig, file: PluginFile, inspection: Inspection) -> Result<Self, Refusal> {
        let trust = config.trust.judge(&file, &inspection)?;
        let isolation = config.isolation.of(&inspection.header.name, &trust);
        let info = PluginInfo::of_file(inspection.clone(), file.path.clone(), trust, isolation);
        Ok(Judged { file, inspection, info })
    }
}

/// Judges every file of the directory; disabled plugins are passed over, and so are files of theirs that are broken.
///
/// # Errors
/// The refusals of all files that are not accepted.
pub(crate) fn judge_all(config: &LoaderConfig) -> Result<BTreeMap<String, Judged>, Vec<Refusal>> {
    let mut refusals = Vec::new();
    let mut accepted: BTreeMap<String, Judged> = BTreeMap::new();
    for file in scan(&config.dir)? {
        match inspect(&file) {
            Err(refusal) => {
                if refusal.plugin.as_ref().is_none_or(|name| !config.disabled.contains(name)) {
                    refusals.push(refusal);
                }
            }
            Ok(found) if config.disabled.contains(&found.header.name) => {
                tracing::info!(plugin = found.header.name, path = %file.path.display(), "plugin is disabled");
            }
            Ok(found) => match accepted.get(&found.header.name) {
                Some(first) => {
                    refusals.push(duplicate(&found.header.name, &first.file.path, &file.path));
                }
                None => match Judged::new(config, file, found) {
                    Err(refusal) => refusals.push(refusal),
                    Ok(judged) => {
                        accepted.insert(judged.info.name.clone(), judged);
                    }
                },
            },
        }
    }
    if refusals.is_empty() { Ok(accepted) } else { Err(refusals) }
}

/// Finds and judges the file of one plugin: where it was last, else wherever in the directory it is now. Other files are
/// looked at and not judged.
pub(crate) fn judge_one(config: &LoaderConfig, name: &str, last: Option<&Path>) -> Result<Judged, Refusal> {
    let beside = last.filter(|p| p.parent() == Some(&config.dir)).and_then(Path::file_name);
    // What to say when no file of that name is found: why one that should be it was refused.
    let mut suspect = None;
    match beside.map(|file_name| read_one(&config.dir, file_name)) {
        None => {}
        Some(Ok(file)) => match inspect(&file) {
            Ok(found) if found.header.name == name => return Judged::new(config, file, found),
            // The file is still there and is the plugin's, or is nobody's: that is the news.
            Err(refusal) if refusal.plugin.as_deref().is_none_or(|n| n == name) => {
                return Err(refusal.of(name));
            }
            _ => {}
        },
        // Not there any more, most likely.
        Some(Err(refusal)) if refusal.code == Code::FileUnreadable => {}
        Some(Err(refusal)) => suspect = Some(refusal.of(name)),
    }
    let mut found: Option<Judged> = None;
    for file in scan_each(&config.dir).map_err(|r| r.of(name))? {
        let (file, inspection) = match file.and_then(|f| inspect(&f).map(|i| (f, i))) {
            Ok(found) => found,
            Err(refusal) if refusal.plugin.as_deref() == Some(name) => return Err(refusal),
            Err(refusal) => {
                // Other files' faults are not this plugin's; a file that is called so is what was meant.
                let file_name = refusal.path.file_name().and_then(|f| f.to_str()).unwrap_or_default();
                if [format!("{name}.so"), format!("{name}.so.sig")].iter().any(|f| f == file_name) {
                    suspect.get_or_insert(refusal.of(name));
                }
                continue;
            }
        };
        if inspection.header.name != name {
            continue;
        }
        if let Some(first) = &found {
            return Err(duplicate(name, &first.file.path, &file.path));
        }
        found = Some(Judged::new(config, file, inspection)?);
    }
    if let (None, Some(refusal)) = (&found, suspect) {
        return Err(refusal);
    }
    found.ok_or_else(|| {
        let reason = format!("holds no file of a plugin called \"{name}\"");
        let remedy =
            "put its file into the plugins directory; `pilotctl plugins` lists the names that are known";
        Refusal::new(Code::NotFound, &config.dir, reason, remedy).of(name)
    })
}

pub(crate) fn duplicate(name: &str, first: &Path, second: &Path) -> Refusal {
    let reason = format!("daemonapi: plugin already registered: {name} (by {})", first.display());
    Refusal::new(Code::DuplicateName, second, reason, "remove one of the two files").of(name)
}
