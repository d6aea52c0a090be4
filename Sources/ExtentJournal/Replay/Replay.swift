internal import Bytes

/// Writes a generation of a journal out as an image.
package enum Replay {
  /// What a replay wrote, in bytes of the disk.
  package struct Report: Sendable {
    /// Copied from frames.
    package var dataBytes: UInt64 = 0
    /// Zeroed or trimmed by the writer; zeroes in the output.
    package var zeroBytes: UInt64 = 0
    /// Released; zeroes in the output.
    package var releasedBytes: UInt64 = 0
    /// Never arrived (or never written); zeroes in the output.
    package var absentBytes: UInt64 = 0
    /// Whether the stream of the generation had ended.
    package var isComplete = false
  }

  /// Writes disk `name` (its newest generation), or the generation `NAME@GENERATION`, to the raw file (or block device)
  /// `output`: sparse in a regular file.
  ///
  /// A regular file that is not empty needs `force`; a tainted generation needs `tainted`, and so does one that was closed
  /// before everything had arrived, and one of which something was released. The output is synced before
  /// this returns. After an error it is incomplete. `progress` is called now and then with bytes of the disk.
  package static func toRawFile(
    from reader: JournalReader, disk name: String, output: String, force: Bool, tainted: Bool,
    progress: (_ done: UInt64, _ total: UInt64) -> Void
  ) throws(JournalError) -> Report {
    let (disk, layer) = try reader.find(name)
    if let taint = layer.taint, !tainted {
      throw JournalError(.failed, "\(name) is tainted: \(taint); --tainted writes what there is")
    }
    let whole = SectorRange(start: 0, count: disk.byteCount / Sector.byteCount)
    if let closure = layer.closure, !tainted {
      try reader.forEachOwnPiece(of: layer, in: whole) { (piece) throws(JournalError) in
        guard piece.placement == nil else { return }
        throw JournalError(
          .failed,
          "byte \(piece.range.bytes.start) of \(name) never arrived: \(closure); --tainted writes what there is"
        )
      }
    }
    if !tainted {
      try reader.forEachPiece(of: layer, in: whole) { (piece) throws(JournalError) in
        guard piece.placement == .release else { return }
        throw JournalError(
          .failed,
          "bytes \(piece.range.bytes.start) to \(piece.range.bytes.end) of \(name) were released; --tainted writes zeroes for them"
        )
      }
    }
    let image = try RawImage(path: output, byteCount: disk.byteCount, force: force)
    var report = Report()
    report.isComplete = layer.isComplete
    try reader.forEachPiece(of: layer, in: whole) { (piece) throws(JournalError) in
      let range = piece.range
      switch piece.placement {
      case .frame(let address, let first):
        try reader.frames.withSectors(range, of: piece.layer, in: address, from: first) {
          (bytes) throws(JournalError) in try image.write(bytes, at: range.bytes.start)
        }
        report.dataBytes += range.byteCount
      case .release:
        try image.writeZeroes(range.bytes)
        report.releasedBytes += range.byteCount
      case .zero, .trim:
        try image.writeZeroes(range.bytes)
        report.zeroBytes += range.byteCount
      case .base, nil:
        try image.writeZeroes(range.bytes)
        report.absentBytes += range.byteCount
      }
      progress(range.bytes.end, disk.byteCount)
    }
    try image.finish()
    progress(disk.byteCount, disk.byteCount)
    return report
  }
}
