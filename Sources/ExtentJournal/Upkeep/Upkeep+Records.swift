internal import BlockFile
internal import Bytes
internal import LMDB

// The records that outlive their segments, and the list of batches that are gone (rules 4 and 5).

extension Upkeep {
  /// What has to stay of the records of a segment without live frames; nil while the past may need more than that (rule 4).
  func keptRecords(
    _ number: UInt64, _ inventory: SegmentInventory, _ tables: IndexTables, _ layers: Set<LayerKey>
  ) throws(JournalError) -> [Record]? {
    if let past = waiting[number] { return past.sequence <= bounds.horizon ? past.records : nil }
    let needed = try neededRecords(inventory, tables, layers)
    let isPast = bounds.horizon < bounds.applied && !ledger.hooks.has(.pastRecordsForgotten)
    guard isPast, needed.count < inventory.records.count(where: { $0.kind != .removed }) else {
      return needed
    }
    waiting[number] = (bounds.applied, needed)
    return nil
  }

  /// Rule 4.
  private func neededRecords(
    _ inventory: SegmentInventory, _ tables: IndexTables, _ layers: Set<LayerKey>
  ) throws(JournalError) -> [Record] {
    if ledger.hooks.has(.recordsForgotten) { return [] }
    var needed: [Record] = []
    for record in inventory.records where record.kind != .removed {
      if let placement = Placement(record.kind), !merging.contains(record.layer) {
        guard layers.contains(record.layer) else { continue }
        do throws(LMDBError) {
          guard try tables.holds(placement, in: record.layer, record.range) else { continue }
        } catch {
          throw JournalError(error)
        }
      }
      needed.append(record)
    }
    return needed
  }

  /// Writes `records` to a segment of moved data, durably; none of them still records what is durable.
  func move(_ records: [Record]) throws(JournalError) {
    let byteCount = records.reduce(CommitRecord.byteCount) { $0 + RecordItem.byteCount($1).roundedUp(to: 16) }
    do throws(FileError) {
      try mover.begin(byteCount: byteCount.roundedUp(to: AlignedBuffer.alignment))
      for record in records { mover.add(record) }
      try mover.finish()
      try mover.sync()
    } catch {
      throw failure(error)
    }
    ledger.hooks.reach(.moved)
  }

  /// The inventory of a segment of moved data that another process wrote. If that one died before it ended the segment, it
  /// is ended now: behind its last whole group, to which nothing points. Nil when it cannot be read.
  private func takeOver(_ number: UInt64) throws(JournalError) -> SegmentInventory? {
    switch try store.segmentOrFlaw(number) {
    case .failure(let flaw):
      guard flaw.kind == .torn else { return nil }
      do throws(FileError) { try store.remove(number, .moved) } catch { throw failure(error) }
      return nil
    case .success(let segment):
      guard let inventory = try SegmentInventory.read(segment) else { return nil }
      if !inventory.isSealed {
        defer { store.noteChange(number, .moved) }
        do throws(FileError) {
          try segment.file.truncate(to: inventory.end.offset)
          try SegmentWriter.seal(
            segment, inventory.directory, at: inventory.end, durableThrough: inventory.durableThrough)
          try segment.file.sync()
        } catch {
          guard error.isNoSpace else { throw failure(error) }
        }
      }
      return inventory
    }
  }

  func loadRemoved() throws(JournalError) {
    var found = RemovedSegments()
    let numbers: [UInt64]
    do throws(FileError) { numbers = try store.list(.moved) } catch { throw failure(error) }
    for number in numbers {
      guard let inventory = try takeOver(number) else { continue }
      for record in inventory.records where record.kind == .removed {
        found.add(record)
        removedHome = number
      }
    }
    removed = found
  }
}
