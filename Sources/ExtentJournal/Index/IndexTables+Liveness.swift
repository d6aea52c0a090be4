internal import Bytes
internal import Extents
package import LMDB

// Liveness in the tables (FrameLiveness says what it is): applied with the rows that it counts, read by whoever frees
// space, and counted again by whoever doubts it.

extension IndexTables {
  // MARK: - Writing

  /// Makes `changes` in the transaction whose rows they come from.
  func apply(
    _ changes: LivenessChanges, _ transaction: borrowing LMDBWriteTransaction
  ) throws(LMDBError) {
    var sums: [UInt64: SegmentLiveness] = [:]
    for (window, deltas) in changes.windows.sorted(by: { $0.key < $1.key }) {
      let segment = LivenessRow.segment(ofWindow: window)
      var sum: SegmentLiveness
      if let known = sums[segment] {
        sum = known
      } else {
        sum = try liveness(transaction, of: segment)
      }
      try apply(deltas, toWindow: window, &sum, transaction)
      sums[segment] = sum
    }
    for (segment, sum) in sums.sorted(by: { $0.key < $1.key }) {
      if sum.isEmpty {
        try transaction.delete(segments, SegmentLiveness.key(segment))
      } else {
        try transaction.put(segments, SegmentLiveness.key(segment), sum.encoded)
      }
    }
  }

  private func apply(
    _ deltas: [FrameAddress: Int64], toWindow window: UInt64, _ sum: inout SegmentLiveness,
    _ transaction: borrowing LMDBWriteTransaction
  ) throws(LMDBError) {
    var live: [UInt32: LiveFrame] = [:]
    if let value = try transaction.get(frames, LivenessRow.key(window)) {
      // SAFETY: bytes of UInt8 have no padding.
      guard let old = unsafe LivenessRow.decode(window, value.span.bytes) else { throw Self.malformed }
      for frame in old { live[frame.address.granule] = frame }
    }
    for (address, delta) in deltas where delta != 0 {
      let old = live[address.granule]
      if let old {
        guard old.address == address else {
          throw LMDBError.corrupted("the map says two sizes of the frame \(Self.place(address))")
        }
        sum.remove(old)
      }
      let sectors = Int64(old?.sectors ?? 0) + delta
      guard sectors >= 0, sectors <= Int64(LivenessRow.sectorsMax) else {
        throw LMDBError.corrupted("the frame \(Self.place(address)) would have \(sectors) references")
      }
      guard sectors > 0 else {
        live[address.granule] = nil
        continue
      }
      let frame = LiveFrame(address: address, sectors: UInt32(sectors))
      live[address.granule] = frame
      sum.add(frame)
    }
    if live.isEmpty {
      try transaction.delete(frames, LivenessRow.key(window))
    } else {
      let sorted = live.values.sorted { $0.address.granule < $1.address.granule }
      try transaction.put(frames, LivenessRow.key(window), LivenessRow.encode(sorted))
    }
  }

  private func liveness<Transaction: LMDBTransaction & ~Copyable>(
    _ transaction: borrowing Transaction, of segment: UInt64
  ) throws(LMDBError) -> SegmentLiveness {
    guard let value = try transaction.get(segments, SegmentLiveness.key(segment)) else {
      return SegmentLiveness()
    }
    // SAFETY: bytes of UInt8 have no padding.
    guard let sum = unsafe SegmentLiveness(value.span.bytes) else { throw Self.malformed }
    return sum
  }

  private static var malformed: LMDBError { .corrupted("a row of the liveness is malformed") }

  private static func place(_ address: FrameAddress) -> String {
    "at offset \(address.offset) of segments/\(SegmentStore.name(address.segment))"
  }

  // MARK: - Reading

  /// What is live of each segment that anything refers to, as of the last commit.
  package func liveSegments() throws(LMDBError) -> [UInt64: SegmentLiveness] {
    var found: [UInt64: SegmentLiveness] = [:]
    var isBroken = false
    try withReader { reader throws(LMDBError) in
      try reader.scan(segments, from: SegmentLiveness.key(0)) { key, value in
        guard key.byteCount == 8, let sum = SegmentLiveness(value) else {
          isBroken = true
          return false
        }
        found[key.bigEndian(at: 0)] = sum
        return true
      }
    }
    if isBroken { throw Self.malformed }
    return found
  }

  /// The live frames of `segment`, in the order of their places, as of the last commit.
  package func liveFrames(of segment: UInt64) throws(LMDBError) -> [LiveFrame] {
    try withReader { reader throws(LMDBError) in
      try liveFrames(reader, from: segment, to: segment + 1)
    }
  }

  private func liveFrames(
    _ reader: LMDBReadTransaction, from first: UInt64, to end: UInt64
  ) throws(LMDBError) -> [LiveFrame] {
    var found: [LiveFrame] = []
    var isBroken = false
    let last = end > FrameAddress.segmentMax ? UInt64.max : LivenessRow.firstWindow(end)
    try reader.scan(frames, from: LivenessRow.key(LivenessRow.firstWindow(first))) { key, value in
      let window: UInt64 = key.byteCount == 8 ? key.bigEndian(at: 0) : .max
      guard window < last else { return false }
      guard let row = LivenessRow.decode(window, value) else {
        isBroken = true
        return false
      }
      found += row
      return true
    }
    if isBroken { throw Self.malformed }
    return found
  }

  // MARK: - Counting again

  /// Most frames that are counted in one walk over the map.
  private static let countedFramesMax: UInt64 = 2 << 20

  /// Counts all references again and compares. Nil when the liveness is right, else what is not. Walks over the whole map,
  /// as often as there are two million live frames. For a pinned snapshot, or while nobody commits.
  package func livenessFlaw() throws(LMDBError) -> String? {
    let sums = try liveSegments()
    var first: UInt64 = 0
    var count: UInt64 = 0
    for (segment, sum) in sums.sorted(by: { $0.key < $1.key }) {
      if count > 0, count + UInt64(sum.frames) > Self.countedFramesMax {
        if let flaw = try livenessFlaw(from: first, to: segment, sums) { return flaw }
        (first, count) = (segment, 0)
      }
      count += UInt64(sum.frames)
    }
    return try livenessFlaw(from: first, to: .max, sums)
  }

  private func livenessFlaw(
    from first: UInt64, to end: UInt64, _ sums: [UInt64: SegmentLiveness]
  ) throws(LMDBError) -> String? {
    try withReader { reader throws(LMDBError) in
      var counted = LivenessChange()
      var isBroken = false
      try reader.scan(map, from: [0]) { _, value in
        if RegionRow.isSplit(value) { return true }
        guard let entries = RegionRow.decode(value) else {
          isBroken = true
          return false
        }
        counted.count(
          entries.filter {
            guard case .frame(let address, _) = $0.placement else { return false }
            return address.segment >= first && address.segment < end
          }, 1)
        return true
      }
      if isBroken { throw LMDBError.corrupted("a row of the map is malformed") }
      var left = counted.frames
      for (address, sectors) in try heldFrames(reader) where address.segment >= first && address.segment < end
      {
        left[address, default: 0] += Int64(sectors)
      }
      var found: [UInt64: SegmentLiveness] = [:]
      for frame in try liveFrames(reader, from: first, to: end) {
        let references = left.removeValue(forKey: frame.address) ?? 0
        guard references == Int64(frame.sectors) else {
          return
            "the frame \(Self.place(frame.address)) has \(references) references, and \(frame.sectors) are counted"
        }
        found[frame.address.segment, default: SegmentLiveness()].add(frame)
      }
      if let (address, references) = left.first {
        return "the frame \(Self.place(address)) has \(references) references, and none are counted"
      }
      for (segment, sum) in sums where segment >= first && segment < end {
        guard found.removeValue(forKey: segment) == sum else {
          return "the sums of segments/\(SegmentStore.name(segment)) are not those of its frames"
        }
      }
      return found.isEmpty ? nil : "a segment with live frames has no sums"
    }
  }
}
