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

  /// Removes the ring of the journal in `directory`, whose owner has died: what it holds is lost. For a journal that is about
  /// to be removed itself; the ring lies elsewhere, in memory, and nobody else would find it.
  package static func removeRing(of directory: String) throws(JournalError) {
    guard let superblock = try JournalDirectory(path: directory).readSuperblock(), !superblock.isClean else {
      return
    }
    do throws(FileError) {
      // Nil when the file of that name is not the journal's.
      let ring = try SpoolFile.open(superblock.ringPath, uuid: superblock.ring, journal: superblock.journal)
      ring?.remove()
    } catch {
      throw JournalError(error)
    }
  }
}
