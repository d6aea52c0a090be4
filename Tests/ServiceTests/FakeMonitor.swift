import Foundation
import Glibc
import Peers
import QEMUMonitor
import Threads

/// A monitor that knows jobs and nothing else. It serves any number of clients, each on a thread of its own, and can be
/// silent, and go away and come back.
final class FakeMonitor: @unchecked Sendable {
  // Sendable: guarded by `lock`.
  let path: String
  private let lock = Lock()
  private let changed: Condition
  private var jobs: [(id: String, status: String)] = []
  private var questions = 0
  private var isHeld = false
  private var listener: Int32 = -1
  private var clients: [Int32] = []

  init(at path: String) throws {
    self.path = path
    changed = Condition(lock)
    try comeBack()
  }

  deinit { goAway() }

  /// What the next questions are answered.
  func setJobs(_ jobs: (id: String, status: String)...) { lock.withLock { self.jobs = jobs } }

  /// Answers are made, and not sent, until `release`.
  func hold() { lock.withLock { isHeld = true } }
  func release() {
    lock.withLock {
      isHeld = false
      changed.broadcast()
    }
  }

  /// How often jobs were asked about.
  var questionCount: Int { lock.withLock { questions } }

  /// Returns when there were at least `count` questions.
  func wait(forQuestions count: Int) {
    lock.withLock { while questions < count { changed.wait() } }
  }

  /// Hangs up, and can be reached no more.
  func goAway() {
    let open = lock.withLock { () -> [Int32] in
      defer {
        clients = []
        listener = -1
        isHeld = false
        changed.broadcast()
      }
      return clients + [listener]
    }
    unlink(path)
    for descriptor in open where descriptor >= 0 { shutdown(descriptor, Int32(SHUT_RDWR)) }
  }

  /// Can be reached again.
  func comeBack() throws {
    let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: Array(path.utf8)) }
    let bound = withUnsafePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
    guard bound == 0, listen(descriptor, 8) == 0 else { throw PeerError("cannot listen at \(path)") }
    lock.withLock { listener = descriptor }
    Thread.detachNewThread { [weak self] in
      while true {
        let client = accept(descriptor, nil, nil)
        guard client >= 0, let monitor = self else { break }
        monitor.lock.withLock { monitor.clients.append(client) }
        Thread.detachNewThread { monitor.serve(client) }
      }
      close(descriptor)
    }
  }

  private func serve(_ client: Int32) {
    let file = FileHandle(fileDescriptor: client, closeOnDealloc: true)
    func say(_ text: String) {
      let bytes = Array((text + "\r\n").utf8)
      _ = send(client, bytes, bytes.count, Int32(MSG_NOSIGNAL))
    }
    say(#"{"QMP": {"version": {}, "capabilities": []}}"#)
    var line: [UInt8] = []
    while let byte = file.readData(ofLength: 1).first {
      guard byte == UInt8(ascii: "\n") else {
        line.append(byte)
        continue
      }
      let request = try? JSONDecoder().decode(JSONValue.self, from: Data(line))
      line = []
      let id = request?["id"]?.integer ?? 0
      let answer = request?["execute"]?.string == "query-jobs" ? answerJobs() : "{}"
      say(#"{"return": \#(answer), "id": \#(id)}"#)
    }
  }

  private func answerJobs() -> String {
    lock.withLock {
      let answer = jobs.map { job in
        #"{"id": "\#(job.id)", "status": "\#(job.status)", "current-progress": 0, "total-progress": 1}"#
      }
      questions += 1
      changed.broadcast()
      while isHeld { changed.wait() }
      return "[" + answer.joined(separator: ", ") + "]"
    }
  }
}
