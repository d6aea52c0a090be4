import Bytes
import NBDProtocol

// What clients send, written from doc/proto.md and not from the product's constants.

/// Bytes as a client would send them.
struct ClientStream {
  var bytes: [UInt8] = []

  static func flags(_ flags: UInt32 = 3) -> ClientStream {
    var stream = ClientStream()
    stream.bytes.appendBigEndian(flags)
    return stream
  }

  mutating func option(_ code: UInt32, _ data: [UInt8] = [], claiming length: Int? = nil) {
    bytes += Array("IHAVEOPT".utf8)
    bytes.appendBigEndian(code)
    bytes.appendBigEndian(UInt32(length ?? data.count))
    bytes += data
  }

  mutating func go(_ name: String, infos: [UInt16] = [], option code: UInt32 = 7) {
    option(code, string(name) + big(UInt16(infos.count)) + infos.flatMap { big($0) })
  }

  mutating func contexts(_ code: UInt32, _ name: String, _ queries: [String]) {
    option(code, string(name) + big(UInt32(queries.count)) + queries.flatMap { string($0) })
  }

  mutating func request(
    _ type: UInt16, flags: UInt16 = 0, cookie: UInt64 = 7, offset: UInt64 = 0, length: UInt32 = 0,
    payload: [UInt8] = []
  ) {
    bytes += big(UInt32(0x2560_9513)) + big(flags) + big(type) + big(cookie) + big(offset) + big(length)
    bytes += payload
  }

  /// The same after NBD_OPT_EXTENDED_HEADERS.
  mutating func extended(
    _ type: UInt16, flags: UInt16 = 0, cookie: UInt64 = 7, offset: UInt64 = 0, length: UInt64 = 0,
    payload: [UInt8] = []
  ) {
    bytes += big(UInt32(0x21e4_1c71)) + big(flags) + big(type) + big(cookie) + big(offset) + big(length)
    bytes += payload
  }
}

let allocation = MetaContext(id: 1, name: "base:allocation")

func big<Value: FixedWidthInteger>(_ value: Value) -> [UInt8] {
  var bytes: [UInt8] = []
  bytes.appendBigEndian(value)
  return bytes
}

func string(_ text: String) -> [UInt8] { big(UInt32(text.utf8.count)) + Array(text.utf8) }

/// An option reply's bytes.
func reply(_ option: UInt32, _ type: UInt32, _ data: [UInt8] = []) -> [UInt8] {
  big(0x3_e889_0455_65a9 as UInt64) + big(option) + big(type) + big(UInt32(data.count)) + data
}

/// What one connection came to, in order.
enum Happening: Equatable {
  case event(ServerMachine.Event)
  case payload([UInt8])
}

/// A shell that feeds a machine from memory.
struct Shell {
  var machine: ServerMachine
  var happenings: [Happening] = []
  var exports = [
    ExportDescription(name: "disk", text: "a disk", byteCount: 1 << 20, isReadOnly: false, minimumBlock: 1),
    ExportDescription(name: "view", text: "a view", byteCount: 1 << 20, isReadOnly: true, minimumBlock: 512),
  ]
  /// What binding an export answers, when it fails.
  var bindingError: (NBDError, String)?
  /// Writes to this offset are given up by the shell.
  var refusedOffset: UInt64?
  private var buffer: [UInt8] = []
  private var payload: [UInt8] = []
  private(set) var isOver = false

  init(tls policy: TLSPolicy = .off) { machine = ServerMachine(tls: policy) }

  /// Runs the machine over `stream`, cut before each of `cuts`.
  mutating func run(_ stream: [UInt8], cuts: [Int] = []) {
    var start = 0
    for end in cuts + [stream.count] {
      feed(Array(stream[start..<end]))
      start = end
    }
  }

  private mutating func feed(_ bytes: [UInt8]) {
    buffer += bytes
    let catalog = ExportCatalog(
      find: { [exports] name in exports.first { $0.name == name } }, list: { [exports] in exports })
    while !isOver {
      if machine.payloadRemaining > 0 {
        guard !buffer.isEmpty else { return }
        takePayload()
        continue
      }
      let input = buffer
      let step = machine.step(input.span.bytes, exports: catalog)
      buffer.removeFirst(step.consumed)
      if step.event == .needsMore { return }
      if step.event == .proceed { continue }
      happenings.append(.event(step.event))
      react(to: step.event)
    }
  }

  private mutating func react(to event: ServerMachine.Event) {
    switch event {
    case .open:
      if let (code, message) = bindingError {
        guard let reply = machine.refuse(code, message) else { return isOver = true }
        happenings.append(.event(.send(reply)))
      } else {
        happenings.append(.event(.send(machine.accept())))
      }
    case .startTLS(let reply):
      // What was sent in the clear after the option is not looked at.
      happenings.append(.event(.send(reply)))
      buffer = []
      machine.secured()
    case .request(let request):
      if case .write(let range, _) = request.operation, range.start == refusedOffset {
        machine.refusePayload(.noSpace, "full")
      }
    case .disconnect, .hangUp: isOver = true
    default: break
    }
  }

  private mutating func takePayload() {
    let count = min(buffer.count, machine.payloadRemaining)
    payload += buffer.prefix(count)
    buffer.removeFirst(count)
    machine.tookPayload(count)
    if machine.payloadRemaining == 0 {
      happenings.append(.payload(payload))
      payload = []
    }
  }

  var sent: [[UInt8]] {
    happenings.compactMap { if case .event(.send(let bytes)) = $0 { bytes } else { nil } }
  }

  /// Events after the last thing sent.
  var events: [ServerMachine.Event] {
    happenings.compactMap { if case .event(let event) = $0 { event } else { nil } }
  }

  /// A shell that has negotiated `name` and has no history.
  static func transmitting(
    _ name: String = "disk", structured: Bool = true, extended: Bool = false, contexts: [String] = []
  ) -> Shell {
    var shell = Shell()
    var stream = ClientStream.flags()
    if structured { stream.option(8) }
    if extended { stream.option(11) }
    if !contexts.isEmpty { stream.contexts(10, name, contexts) }
    stream.go(name)
    shell.run(stream.bytes)
    shell.happenings = []
    return shell
  }
}
