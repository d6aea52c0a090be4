internal import BlockFile

extension Journal {
  /// Marks `layers` as broken in the ring of the journal in `directory`, whose owner has died, and which nobody has opened
  /// since. Whoever opens it next finds them tainted. False when there is no ring.
  ///
  /// For whoever goes on acknowledging writes in the place of the owner: the mark comes before the first write that is
  /// acknowledged and lost.
  package static func markTainted(_ layers: [LayerKey], in directory: String) throws(JournalError) -> Bool {
    guard let superblock = try JournalDirectory(path: directory).readSuperblock(), !superblock.isClean else {
      return false
    }
    do throws(FileError) {
      guard
        let ring = try SpoolFile.open(superblock.ringPath, uuid: superblock.ring, journal: superblock.journal)
      else { return false }
      for layer in layers { ring.setTaint(layer) }
      return true
    } catch {
      throw JournalError(error)
    }
  }
}
