import Peers
import Testing

// Real programs against the real program, over real sockets and files. One at a time: each pushes whole disks,
// and on a small machine they would only starve one another.

@Suite("end to end", .serialized)
struct EndToEnd {
  /// Expects `copy` to be the same as `original`, and says where it is not.
  static func expectIdentical(
    _ original: String, _ copy: String, _ location: SourceLocation = #_sourceLocation
  ) throws {
    let difference = try FileComparison.firstDifference(original, copy)
    #expect(difference == nil, "\(difference ?? "")", sourceLocation: location)
  }
}
