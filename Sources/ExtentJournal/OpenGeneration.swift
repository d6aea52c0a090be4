internal import Threads

/// Which generation of a device disk takes its writes: another one from the moment on at which that one is sealed.
///
/// It changes under the ledger's lock, with the commit of the next generation's beginning, and may be asked with or without it.
final class OpenGeneration: @unchecked Sendable {
  // Sendable: guarded by `lock`, under which nothing else is taken.
  private let lock = Lock()
  private var current: Layer

  init(_ layer: Layer) { current = layer }

  var layer: Layer {
    get { lock.withLock { current } }
    set { lock.withLock { current = newValue } }
  }
}
