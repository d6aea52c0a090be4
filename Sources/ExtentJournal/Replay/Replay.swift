internal import Bytes

/// One generation of a journal, about to be written out as an image.
package struct Replay {
  private let reader: JournalReader
  private let name: String
  private let layer: LayerState
  private let since: LayerKey?

  /// Bytes of the disk.
  package let byteCount: UInt64
  /// Whether the stream of the generation had ended.
  package var isComplete: Bool { layer.isComplete }

  /// What a replay wrote, in bytes of the disk.
  package struct Report: Sendable {
    /// Copied from frames.
    package var dataBytes: UInt64 = 0
    /// Zeroed or trimmed by the writer; zeroes in the image.
    package var zeroBytes: UInt64 = 0
    /// Released; zeroes in the image.
    package var releasedBytes: UInt64 = 0
    /// Never arrived (or never written); zeroes in the image.
    package var absentBytes: UInt64 = 0
    /// As in the generation that the image holds already; not written.
    package var unchangedBytes: UInt64 = 0
  }

  /// A replay of disk `name` (its newest generation), or of the generation `NAME@GENERATION`; with `since`, for an image that
  /// holds that sealed generation, on which this one stands, already.
  ///
  /// A tainted generation needs `tainted`, and so does one that was closed before everything had arrived, and one of which
  /// something was released that would be written.
  package init(
    of name: String, from reader: JournalReader, since: String? = nil, tainted: Bool
  ) throws(JournalError) {
    self.reader = reader
    self.name = name
    let (disk, layer) = try reader.find(name)
    self.layer = layer
    byteCount = disk.byteCount
    self.since = try since.map { older throws(JournalError) in try reader.ancestor(older, of: layer, disk) }
    if let taint = layer.taint, !tainted {
      throw JournalError(.failed, "\(name) is tainted: \(taint); --tainted writes what there is")
    }
    guard !tainted else { return }
    if let closure = layer.closure {
      try reader.forEachOwnPiece(of: layer, in: whole) { (piece) throws(JournalError) in
        guard piece.placement == nil else { return }
        throw JournalError(
          .failed,
          "byte \(piece.range.bytes.start) of \(name) never arrived: \(closure); --tainted writes what there is"
        )
      }
    }
    try reader.forEachPiece(of: layer, in: whole, downTo: self.since) { (piece) throws(JournalError) in
      guard piece.placement == .release else { return }
      throw JournalError(
        .failed,
        "bytes \(piece.range.bytes.start) to \(piece.range.bytes.end) of \(name) were released; --tainted writes zeroes for them"
      )
    }
  }

  private var whole: SectorRange { SectorRange(start: 0, count: byteCount / Sector.byteCount) }

  /// Writes the generation to `image`, in the order of the disk, and finishes it. After an error it is incomplete.
  /// `progress` is called now and then with bytes of the disk.
  package func write(
    to image: some ImageSink, progress: (_ done: UInt64, _ total: UInt64) -> Void
  ) throws(JournalError) -> Report {
    var report = Report()
    try reader.forEachPiece(of: layer, in: whole, downTo: since) { (piece) throws(JournalError) in
      let range = piece.range
      switch piece.placement {
      case .frame(let address, let first):
        var isWritten = true
        try reader.frames.withOwnedSectors(range, of: piece.layer, in: address, from: first) {
          (bytes, owner) throws(JournalError) in
          // Taken in from what the older one has, too: from itself, or from what it stands on.
          isWritten = since.map { owner > $0 } ?? true
          if isWritten { try image.write(bytes, at: range.bytes.start) }
        }
        if isWritten { report.dataBytes += range.byteCount } else { report.unchangedBytes += range.byteCount }
      case .base:
        report.unchangedBytes += range.byteCount
      case .release:
        try image.writeZeroes(range.bytes)
        report.releasedBytes += range.byteCount
      case .zero, .trim:
        try image.writeZeroes(range.bytes)
        report.zeroBytes += range.byteCount
      case nil:
        try image.writeZeroes(range.bytes)
        report.absentBytes += range.byteCount
      }
      progress(range.bytes.end, byteCount)
    }
    Failpoint.pass(.replayWritten)
    try image.finish()
    progress(byteCount, byteCount)
    return report
  }

  /// Compares all of the generation with what `image` has now, and throws `.failed` at the first byte that differs.
  package func compare(
    with image: some ImageReader, progress: (_ done: UInt64, _ total: UInt64) -> Void
  ) throws(JournalError) {
    var window = ImageWindow(image, byteCount: byteCount)
    try reader.forEachPiece(of: layer, in: whole) { (piece) throws(JournalError) in
      if case .frame(let address, let first)? = piece.placement {
        try reader.frames.withSectors(piece.range, of: piece.layer, in: address, from: first) {
          (bytes) throws(JournalError) in try window.expect(bytes, at: piece.range.bytes.start, of: name)
        }
      } else {
        try window.expectZeroes(piece.range.bytes, of: name)
      }
      progress(piece.range.bytes.end, byteCount)
    }
  }
}
