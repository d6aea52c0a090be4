import Foundation
import Logging
import QEMUMonitor
import SpillwayService
import TestKit
import Testing
import Threads

/// Goal: the admin protocol as a client meets it, and a daemon that no client can hurt.
/// Method: a real server on a real unix socket with commands of the test's own; raw lines over `StreamSocket`
/// where the client's behaviour matters, `AdminClient` elsewhere.
@Suite(.timeLimit(.minutes(1))) struct AdminServerTests {
  private static let log = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }

  /// A server with an `echo` command that returns its arguments and a `fail` command that fails as asked.
  private final class Fixture: Sendable {
    let directory: TemporaryDirectory
    let server: AdminServer
    let path: String

    init(commands: @escaping AdminServer.Commands = Fixture.commands) throws {
      directory = try TemporaryDirectory()
      path = directory.file("admin.sock")
      server = try AdminServer(path: path, log: AdminServerTests.log, commands: commands)
      try server.start()
    }

    deinit {
      server.stopAccepting()
      server.finish()
    }

    var address: String { "unix:" + path }

    @Sendable private static func commands(_ request: AdminRequest) throws(ServiceError) -> JSONValue {
      switch request.command {
      case "echo": return .object(request.arguments)
      case "fail": throw ServiceError(ExitStatus(word: try request.string("status")), "as you wish")
      default: throw .usage("the command \(request.command) is unknown")
      }
    }

    private typealias ExitStatus = SpillwayService.ExitStatus
  }

  /// A client that sends what it likes.
  private struct RawClient {
    let socket: StreamSocket
    var lines: LineReader

    init(_ fixture: Fixture) throws {
      socket = try StreamSocket.connect(path: fixture.path)
      lines = LineReader(socket)
    }

    mutating func next() throws -> String? {
      guard case .line(let line) = lines.next() else { return nil }
      return String(decoding: line, as: UTF8.self)
    }

    mutating func ask(_ line: String) throws -> String? {
      #expect(socket.send(Array((line + "\n").utf8)))
      return try next()
    }
  }

  @Test("the greeting is QMP's, with our version")
  func greeting() throws {
    let fixture = try Fixture()
    var client = try RawClient(fixture)
    let text = try #require(try client.next())
    let greeting = try #require(JSONValue(parsing: Array(text.utf8)))
    #expect(greeting["QMP"]?["capabilities"] == [])
    #expect(greeting["QMP"]?["version"]?["package"] == .string("spillway \(Version.text)"))
  }

  @Test(
    "a line is answered as QMP answers, with the id that it had",
    arguments: [
      (#"{"execute":"qmp_capabilities"}"#, #"{"return":{}}"#),
      (#"{"execute":"qmp_capabilities","id":7}"#, #"{"id":7,"return":{}}"#),
      (#"{"execute":"echo","arguments":{"a":[1]},"id":{"x":"y"}}"#, #"{"id":{"x":"y"},"return":{"a":[1]}}"#),
      (#"{"execute":"echo","id":null}"#, #"{"id":null,"return":{}}"#),
      (
        #"{"execute":"nonsense","id":"i"}"#,
        #"{"error":{"class":"usage","desc":"the command nonsense is unknown"},"id":"i"}"#
      ),
      (
        #"{"execute":"fail","arguments":{"status":"damaged"}}"#,
        #"{"error":{"class":"damaged","desc":"as you wish"}}"#
      ),
      (
        #"{"id":9}"#,
        #"{"error":{"class":"usage","desc":"the object needs a member \"execute\", a string"},"id":9}"#
      ),
      (
        #"{"execute":"echo","arguments":[],"id":1}"#,
        #"{"error":{"class":"usage","desc":"\"arguments\" is an object"},"id":1}"#
      ),
    ])
  func lines(line: String, reply: String) throws {
    let fixture = try Fixture()
    var client = try RawClient(fixture)
    _ = try client.next()
    #expect(try client.ask(line) == reply)
  }

  @Test(
    "a line that is no JSON object is refused and the connection goes on",
    arguments: ["garbage", "[]", "7", "{"])
  func badJSON(line: String) throws {
    let fixture = try Fixture()
    var client = try RawClient(fixture)
    _ = try client.next()
    #expect(try client.ask(line)?.contains("one JSON object") == true)
    #expect(try client.ask(#"{"execute":"echo"}"#) == #"{"return":{}}"#)
  }

  @Test("lines may come in pieces, several at once, blank or with carriage returns")
  func framing() throws {
    let fixture = try Fixture()
    var client = try RawClient(fixture)
    _ = try client.next()
    for piece in ["\r\n \n{\"execute\":", "\"echo\",\"id\":1}\r", "\n{\"execute\":\"echo\",\"id\":2}\n"] {
      #expect(client.socket.send(Array(piece.utf8)))
    }
    #expect(try client.next() == #"{"id":1,"return":{}}"#)
    #expect(try client.next() == #"{"id":2,"return":{}}"#)
  }

  @Test("a line of 64 KiB is read, one byte more ends the connection with an error")
  func overlongLine() throws {
    let fixture = try Fixture()
    var client = try RawClient(fixture)
    _ = try client.next()
    let frame = #"{"execute":"echo","id":""}"#
    let id = String(repeating: "i", count: LineReader.byteCountMax - frame.utf8.count)
    let longest = #"{"execute":"echo","id":"\#(id)"}"#
    #expect(try client.ask(longest)?.hasSuffix(#","return":{}}"#) == true)
    #expect(try client.ask(longest + " ")?.contains("longer than 65536 bytes") == true)
    #expect(try client.next() == nil)
  }

  @Test("a client that goes in the middle of a line leaves room for others")
  func clientGone() throws {
    let fixture = try Fixture()
    for _ in 0..<(3 * AdminServer.clientCountMax) {
      var client = try RawClient(fixture)
      // Refusals are possible until the server has seen the earlier ones go; they end the client, too.
      _ = try client.next()
      _ = client.socket.send(Array("{\"execute".utf8))
    }
    // Eventually a client is served: each attempt that is refused waits for the server's own answer.
    var served = false
    while !served {
      var client = try RawClient(fixture)
      served = try client.next()?.contains("QMP") == true
    }
  }

  @Test("the client after the last allowed one is told so")
  func tooManyClients() throws {
    let fixture = try Fixture()
    var clients: [RawClient] = []
    for _ in 0..<AdminServer.clientCountMax {
      var client = try RawClient(fixture)
      #expect(try client.next()?.contains("QMP") == true)
      clients.append(client)
    }
    let error = #expect(throws: ServiceError.self) { try AdminClient(address: fixture.address) }
    #expect(error?.message.contains("admin clients already") == true)
    #expect(clients.count == AdminServer.clientCountMax)
  }

  @Test("a tool gets the value, or the daemon's error with its exit status")
  func client() throws {
    let fixture = try Fixture()
    let client = try AdminClient(address: fixture.address)
    #expect(try client.execute("echo", ["disk": "sda"]) == ["disk": "sda"])
    #expect(throws: ServiceError(.inUse, "as you wish")) {
      try client.execute("fail", ["status": "in-use"])
    }
    #expect(throws: ServiceError(.usage, "the command fail needs the argument \"status\", a string")) {
      try client.execute("fail")
    }
  }

  @Test("a daemon that ends during a command is told from one that is not there")
  func daemonGone() throws {
    let directory = try TemporaryDirectory()
    let path = directory.file("admin.sock")
    let missing = #expect(throws: ServiceError.self) { try AdminClient(address: "unix:" + path) }
    #expect(missing?.message == "cannot reach \(path) (No such file or directory)")
    let listener = try StreamSocket.listen(path: path, backlog: 1)
    let daemon = try #require(
      WorkerThread(name: "daemon") {
        guard let client = listener.accept() else { return }
        var lines = LineReader(client)
        _ = client.send(Array("{\"QMP\": {}}\n".utf8))
        _ = lines.next()
        _ = client.send(Array("{\"return\": {}, \"id\": 1}\n".utf8))
        _ = lines.next()
      })
    let client = try AdminClient(address: "unix:" + path)
    let gone = #expect(throws: ServiceError.self) { try client.execute("flush") }
    #expect(gone?.message.contains("closed the connection (awaited: reply to flush)") == true)
    daemon.join()
  }

  @Test("the socket is for its owner only and goes when the server stops accepting")
  func socketFile() throws {
    let fixture = try Fixture()
    let attributes = try FileManager.default.attributesOfItem(atPath: fixture.path)
    #expect((attributes[.posixPermissions] as? NSNumber)?.intValue == 0o600)
    fixture.server.stopAccepting()
    #expect(!FileManager.default.fileExists(atPath: fixture.path))
    #expect(throws: ServiceError.self) { try AdminClient(address: fixture.address) }
  }

  @Test("what a dead daemon left at the path is replaced, a living one and a plain file are not")
  func leftovers() throws {
    let directory = try TemporaryDirectory()
    let path = directory.file("admin.sock")
    do { _ = try StreamSocket.listen(path: path, backlog: 1) }
    #expect(FileManager.default.fileExists(atPath: path))
    let living = try StreamSocket.listen(path: path, backlog: 1)
    let error = #expect(throws: ServiceError.self) { try StreamSocket.listen(path: path, backlog: 1) }
    #expect(error?.message.contains("another process listens") == true)
    living.shutdown()
    let file = directory.file("file")
    _ = FileManager.default.createFile(atPath: file, contents: Data("precious".utf8))
    #expect(throws: ServiceError.self) { try StreamSocket.listen(path: file, backlog: 1) }
    #expect(FileManager.default.contents(atPath: file) == Data("precious".utf8))
  }

  @Test("a command that runs while the server ends is still answered")
  func replyDuringFinish() throws {
    let gate = Gate()
    let fixture = try Fixture(commands: { _ throws(ServiceError) in
      gate.arrive()
      gate.waitUntilOpen()
      return .string("late")
    })
    var client = try RawClient(fixture)
    _ = try client.next()
    #expect(client.socket.send(Array("{\"execute\":\"x\"}\n".utf8)))
    gate.waitForArrival()
    fixture.server.stopAccepting()
    let opener = try #require(WorkerThread(name: "opener") { gate.open() })
    fixture.server.finish()
    opener.join()
    #expect(try client.next() == #"{"return":"late"}"#)
  }
}

/// Holds a command until the test lets it go.
private final class Gate: @unchecked Sendable {
  // Sendable: both flags are guarded by `lock`.
  private let lock = Lock()
  private let changed: Condition
  private var hasArrived = false
  private var isOpen = false

  init() { changed = Condition(lock) }

  func arrive() { set { $0.hasArrived = true } }
  func open() { set { $0.isOpen = true } }
  func waitForArrival() { wait { $0.hasArrived } }
  func waitUntilOpen() { wait { $0.isOpen } }

  private func set(_ change: (Gate) -> Void) {
    lock.withLock { change(self) }
    changed.broadcast()
  }

  private func wait(_ condition: (Gate) -> Bool) {
    lock.withLock { while !condition(self) { changed.wait() } }
  }
}
