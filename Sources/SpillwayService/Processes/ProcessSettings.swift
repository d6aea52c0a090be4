package import Glibc

/// What the daemon changes of the process it is: files are for the owner only, and every descriptor that the
/// system grants may be used. Remembers what it found, so that COMMAND of `--run` starts with that.
package struct ProcessSettings {
  /// The umask as it was.
  package let inheritedMask: mode_t
  /// The soft limit of open files as it was; nil when it could not be read.
  package let inheritedOpenFiles: rlim_t?
  /// The limit of open files now; nil when it could not be read.
  package let openFiles: rlim_t?

  /// What was found and what is now.
  package init(inheritedMask: mode_t, inheritedOpenFiles: rlim_t?, openFiles: rlim_t?) {
    self.inheritedMask = inheritedMask
    self.inheritedOpenFiles = inheritedOpenFiles
    self.openFiles = openFiles
  }

  /// Changes the process.
  static func tighten() -> ProcessSettings {
    let mask = umask(0o077)
    var limit = rlimit()
    // SAFETY: getrlimit fills the structure it is given; setrlimit reads it.
    guard unsafe getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else {
      return ProcessSettings(inheritedMask: mask, inheritedOpenFiles: nil, openFiles: nil)
    }
    let inherited = limit.rlim_cur
    limit.rlim_cur = limit.rlim_max
    let raised = unsafe setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0
    return ProcessSettings(
      inheritedMask: mask, inheritedOpenFiles: inherited, openFiles: raised ? limit.rlim_max : inherited)
  }

  /// `command` with shell words before it that undo the changes.
  package func undone(before command: String) -> String {
    var words = "umask 0\(String(inheritedMask, radix: 8)); "
    if let inheritedOpenFiles {
      let count = inheritedOpenFiles == rlim_t.max ? "unlimited" : "\(inheritedOpenFiles)"
      words += "ulimit -S -n \(count); "
    }
    return words + command
  }
}
