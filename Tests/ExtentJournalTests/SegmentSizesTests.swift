import ExtentJournal
import TestKit
import Testing

// Goal: what a journal takes on disk is known without asking about every segment, and is what asking about every one would say.
// Method: random segments that are made, grow while they are the newest of their kind, shrink with a word, and go, against a
// model that knows every size; what was asked may be answered late.

@Suite struct SegmentSizesTests {
  @Test("settled and asked sizes together are what all segments take", arguments: 0..<50 as Range<UInt64>)
  func model(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    var sizes = SegmentSizes()
    var model: [SegmentSizes.Key: UInt64] = [:]
    var next: UInt64 = 1
    var newest: [SegmentKind: UInt64] = [:]
    var late: (found: [SegmentSizes.Key: UInt64], version: UInt64)?
    var asked = 0
    for _ in 0..<400 {
      let kind: SegmentKind = Bool.random(using: &random) ? .fresh : .moved
      switch Int.random(in: 0..<6, using: &random) {
      case 0:
        let key = SegmentSizes.Key(number: next, kind: kind)
        model[key] = 4096
        newest[kind] = next
        next += 1
        sizes.add(key)
      case 1:
        // Only the newest grows, and without a word.
        guard let number = newest[kind] else { continue }
        let key = SegmentSizes.Key(number: number, kind: kind)
        if let size = model[key] { model[key] = size + 4096 }
      case 2:
        let old = model.keys.filter { $0.number != newest[$0.kind] }.sorted { $0.number < $1.number }
        guard let key = old.randomElement(using: &random) else { continue }
        model[key] = model[key, default: 0] / 2
        sizes.unsettle(key)
      case 3 where Int.random(in: 0..<3, using: &random) == 0:
        guard let key = model.keys.sorted(by: { $0.number < $1.number }).randomElement(using: &random)
        else { continue }
        model[key] = nil
        sizes.remove(key)
      case 4:
        // Who asked answers later.
        late = (model.filter { sizes.unsettled.contains($0.key) }, sizes.version)
      default:
        if let answer = late { sizes.settle(answer.found, asOf: answer.version) }
        late = nil
        let found = model.filter { sizes.unsettled.contains($0.key) }
        asked += found.count
        #expect(sizes.settledByteCount + found.values.reduce(0, +) == model.values.reduce(0, +))
        sizes.settle(found, asOf: sizes.version)
        #expect(sizes.unsettled.count <= 2, "the newest of each kind")
      }
    }
    #expect(asked > 0)
  }
}
