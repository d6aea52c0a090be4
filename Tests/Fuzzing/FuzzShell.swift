import Bytes
import NBDProtocol

/// A shell without a socket that holds the machine to its word: what it consumes, what it hands out, what it keeps.
struct FuzzShell {
  private(set) var machine: ServerMachine
  private let exports: [ExportDescription]
  private var buffer: [UInt8] = []
  private var isOver = false
  private var opened: ExportDescription?

  init(_ machine: ServerMachine, _ exports: [ExportDescription]) {
    self.machine = machine
    self.exports = exports
  }

  /// Receives `bytes` and does what the machine says until it wants more.
  mutating func feed(_ bytes: [UInt8]) {
    buffer += bytes
    let exports = exports
    let catalog = ExportCatalog(find: { name in exports.first { $0.name == name } }, list: { exports })
    while !isOver {
      if machine.payloadRemaining > 0 {
        let taken = min(buffer.count, machine.payloadRemaining)
        buffer.removeFirst(taken)
        machine.tookPayload(taken)
        if machine.payloadRemaining > 0 { return }
        continue
      }
      let input = buffer
      let step = machine.step(input.span.bytes, exports: catalog)
      precondition(step.consumed >= 0 && step.consumed <= buffer.count, "more consumed than there is")
      buffer.removeFirst(step.consumed)
      switch step.event {
      case .needsMore:
        precondition(buffer.count < Limits.inputBytesMin, "more is wanted than a shell can hold")
        return
      case .proceed: continue
      case .send(let reply):
        precondition(reply.count <= 1 << 20, "a reply that the request does not account for")
      case .startTLS:
        buffer = []
        machine.secured()
      case .open(let export): open(export)
      case .request(let request): check(request)
      case .refuse(let refusal): precondition(refusal.message.utf8.count <= 4096)
      case .disconnect, .hangUp: isOver = true
      }
    }
  }

  /// One export refuses now and then, so that clients go on negotiating.
  private mutating func open(_ export: ExportDescription) {
    if buffer.count % 5 == 1 {
      if machine.refuse(.notPermitted, "not now") == nil { isOver = true }
      return
    }
    opened = export
    _ = machine.accept()
  }

  private mutating func check(_ request: Request) {
    guard let export = opened else { preconditionFailure("a request without an export") }
    func require(_ range: ByteRange, isPayload: Bool = false) {
      precondition(!range.isEmpty && range.end <= export.byteCount, "a range that the export does not have")
      precondition((range.start | range.end) % UInt64(export.minimumBlock) == 0, "not of whole blocks")
      precondition(!isPayload || range.count <= Limits.payloadBytesMax, "a payload beyond the limit")
    }
    switch request.operation {
    case .read(let range, _): require(range, isPayload: true)
    case .write(let range, _):
      require(range, isPayload: true)
      precondition(!export.isReadOnly && machine.payloadRemaining == Int(range.count))
      if range.start % 7 == 3 { machine.refusePayload(.noSpace, "full") }
    case .writeZeroes(let range, _, _), .trim(let range, _):
      require(range)
      precondition(!export.isReadOnly)
    case .cache(let range): require(range)
    case .flush: break
    case .blockStatus(let range, let contexts, _):
      require(range)
      precondition(Set(contexts.map(\.id)).count == contexts.count, "a context twice")
    }
  }
}
