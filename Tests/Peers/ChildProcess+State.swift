import Foundation
import Glibc
import Threads

extension ChildProcess {
  /// What is known of a child, shared by its owner and by the threads that listen to it.
  final class State: @unchecked Sendable {
    // Sendable: `lock` guards every variable.
    private let pid: pid_t
    private let lock = Lock()
    private let changed: Condition
    private var exit: ProcessEnd?
    private var openStreams = 2
    private var keptOutput: [UInt8] = []
    private var lines: [String] = []
    private var partialLine: [UInt8] = []

    /// More than any peer says in earnest; what follows is dropped.
    private static let keptOutputBytesMax = 64 << 20
    private static let keptLinesMax = 100_000

    init(_ pid: pid_t) {
      self.pid = pid
      changed = Condition(lock)
    }

    var status: ProcessEnd? { lock.withLock { exit } }
    var output: [UInt8] { lock.withLock { keptOutput } }
    var errorLines: [String] {
      lock.withLock {
        partialLine.isEmpty ? lines : lines + [String(decoding: partialLine, as: UTF8.self)]
      }
    }

    /// Sends a signal, unless the child was reaped and its id may belong to another.
    func send(_ signal: Int32) {
      lock.withLock {
        if exit == nil { _ = Glibc.kill(pid, signal) }
      }
    }

    /// Body of the thread that reaps. It waits without reaping first, so that reaping and knowing of it are
    /// one step under the lock and `send` never signals a stranger.
    func awaitExit() {
      var info = siginfo_t()
      while waitid(P_PID, id_t(pid), &info, WEXITED | WNOWAIT) != 0 && errno == EINTR {}
      lock.withLock {
        var raw: Int32 = 0
        waitpid(pid, &raw, 0)
        exit = raw & 0x7f == 0 ? .exited((raw >> 8) & 0xff) : .killed(signal: raw & 0x7f)
        changed.broadcast()
      }
    }

    func addOutput(_ bytes: ArraySlice<UInt8>) {
      lock.withLock {
        if keptOutput.count + bytes.count <= Self.keptOutputBytesMax { keptOutput += bytes }
      }
    }

    func addErrors(_ bytes: ArraySlice<UInt8>) {
      lock.withLock {
        partialLine += bytes
        var pieces = partialLine.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
        partialLine = Array(pieces.removeLast())
        if lines.count < Self.keptLinesMax { lines += pieces.map { String(decoding: $0, as: UTF8.self) } }
        changed.broadcast()
      }
    }

    func streamEnded() {
      lock.withLock {
        openStreams -= 1
        changed.broadcast()
      }
    }

    @discardableResult
    func waitForExit(until deadline: UInt64) -> Bool {
      lock.withLock {
        while exit == nil { if !changed.wait(until: deadline) { break } }
        return exit != nil
      }
    }

    /// The exit status once both streams are read to their end as well, so that nothing said is missed.
    func waitForEnd(until deadline: UInt64) -> ProcessEnd? {
      lock.withLock {
        while exit == nil || openStreams > 0 { if !changed.wait(until: deadline) { return nil } }
        return exit
      }
    }

    func waitForLine(_ index: Int, until deadline: UInt64) -> String? {
      lock.withLock {
        while index >= lines.count {
          if exit != nil && openStreams == 0 { return nil }
          if !changed.wait(until: deadline) { break }
        }
        return index < lines.count ? lines[index] : nil
      }
    }

    func waitForLine(until deadline: UInt64, where isWanted: (String) -> Bool) -> String? {
      lock.withLock {
        var seen = 0
        while true {
          if let line = lines[seen...].first(where: isWanted) { return line }
          seen = lines.count
          if exit != nil && openStreams == 0 { return nil }
          if !changed.wait(until: deadline) { return lines[seen...].first(where: isWanted) }
        }
      }
    }
  }

  /// The children that have not been reaped, so that a watchdog can end them all.
  enum LivingChildren {
    private static let children = Registry()

    static func add(_ child: State) { children.add(child) }
    static func remove(_ child: State) { children.remove(child) }

    /// Kills them all and waits until they are gone, or until that takes longer than it ever should.
    static func killAll() {
      let doomed = children.all()
      doomed.forEach { $0.send(SIGKILL) }
      let deadline = MonotonicClock.nanoseconds() + 10_000_000_000
      doomed.forEach { $0.waitForExit(until: deadline) }
    }

    private final class Registry: @unchecked Sendable {
      // Sendable: `lock` guards the dictionary.
      private let lock = NSLock()
      private var living: [ObjectIdentifier: State] = [:]

      func add(_ child: State) { lock.withLock { living[ObjectIdentifier(child)] = child } }
      func remove(_ child: State) {
        lock.withLock { _ = living.removeValue(forKey: ObjectIdentifier(child)) }
      }
      func all() -> [State] { lock.withLock { Array(living.values) } }
    }
  }
}
