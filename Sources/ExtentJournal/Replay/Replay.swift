internal import Bytes

/// Writes a generation of a journal out as an image.
package enum Replay {
  /// What a replay wrote, in bytes of the disk.
  package struct Report: Sendable {
    /// Copied from frames.
    package var dataBytes: UInt64 = 0
    /// Zeroed or trimmed by the writer; zeroes in the output.
    package var zeroBytes: UInt64 = 0
    /// Never arrived (or never written); zeroes in the output.
    package var absentBytes: UInt64 = 0
    /// Whether the stream of the generation had ended.
    package var isComplete = false
  }

  /// Writes the open generation of disk `name` to the raw file (or block device) `output`: sparse in a regular file.
  ///
  /// A regular file that is not empty needs `force`; a tainted generation needs `tainted`. The output is synced before
  /// this returns. After an error it is incomplete. `progress` is called now and then with bytes of the disk.
  package static func toRawFile(
    from reader: JournalReader, disk name: String, output: String, force: Bool, tainted: Bool,
    progress: (_ done: UInt64, _ total: UInt64) -> Void
  ) throws(JournalError) -> Report {
    let (disk, layer) = try reader.find(name)
    if let taint = layer.taint, !tainted {
      throw JournalError(.failed, "\(name) is tainted: \(taint); --tainted writes what there is")
    }
    let image = try RawImage(path: output, byteCount: disk.byteCount, force: force)
    var report = Report()
    report.isComplete = layer.isComplete
    let whole = SectorRange(start: 0, count: disk.byteCount / Sector.byteCount)
    var position: UInt64 = 0
    func skip(to sector: UInt64) throws(JournalError) {
      guard position < sector else { return }
      let gap = SectorRange(start: position, end: sector)
      try image.writeZeroes(gap.bytes)
      report.absentBytes += gap.byteCount
    }
    try reader.index.forEach(layer.key, in: whole) { (range, placement) throws(JournalError) in
      try skip(to: range.start)
      position = range.end
      if case .frame(let address, let first) = placement {
        try reader.frames.withSectors(range, of: layer.key, in: address, from: first) {
          (bytes) throws(JournalError) in try image.write(bytes, at: range.bytes.start)
        }
        report.dataBytes += range.byteCount
      } else {
        try image.writeZeroes(range.bytes)
        report.zeroBytes += range.byteCount
      }
      progress(range.bytes.end, disk.byteCount)
    }
    try skip(to: whole.end)
    try image.finish()
    progress(disk.byteCount, disk.byteCount)
    return report
  }
}
