internal import BlockFile

extension Journal {
  /// Removes the spool of the journal in `directory`, which nobody has open and which is about to be removed itself. The
  /// spool lies elsewhere, in shared memory, and after a crash nothing else would ever free it.
  package static func removeSpool(of directory: String) throws(JournalError) {
    guard let superblock = try JournalDirectory(path: directory).readSuperblock(), !superblock.isClean else {
      return
    }
    do throws(FileError) {
      // Opened, so that it is known to be this journal's.
      try SpoolFile.open(superblock.ringPath, uuid: superblock.ring, journal: superblock.journal)?.remove()
    } catch {
      throw JournalError(error)
    }
  }
}
