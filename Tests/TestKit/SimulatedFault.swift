/// What can go wrong at an operation of a simulated disk.
package enum SimulatedFault: Sendable {
  /// The power goes.
  case powerCut
  /// EIO. At a sync, what should have become durable never will.
  case inputOutput
  /// ENOSPC, from what takes space.
  case noSpace
  /// Part of a write is there, then it fails.
  case shortWrite(errno: Int32)
  /// A write succeeds and is nowhere.
  case lostWrite
  /// A write succeeds and is somewhere else.
  case misdirectedWrite

  var isOfWrites: Bool {
    switch self {
    case .shortWrite, .lostWrite, .misdirectedWrite: true
    case .powerCut, .inputOutput, .noSpace: false
    }
  }
}
