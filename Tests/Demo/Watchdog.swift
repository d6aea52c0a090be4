import TestKit
import Foundation
import Glibc
import Peers
import Synchronization

/// Ends the demo from outside: when it is interrupted, and when it takes absurdly long. Either way nothing is
/// left running and nothing is left on disk.
enum Watchdog {
  private static let patienceSeconds = 300
  private static let isEnding = Atomic(false)

  /// Starts watching. Must be called before any other thread exists, since it blocks signals for them all.
  static func start(cleaning directory: TemporaryDirectory) {
    var signals = sigset_t()
    sigemptyset(&signals)
    for signal in [SIGINT, SIGTERM, SIGHUP] { sigaddset(&signals, signal) }
    pthread_sigmask(SIG_BLOCK, &signals, nil)
    Thread.detachNewThread { [signals] in
      var awaited = signals
      var patience = timespec(tv_sec: patienceSeconds, tv_nsec: 0)
      let signal = sigtimedwait(&awaited, nil, &patience)
      isEnding.store(true, ordering: .sequentiallyConsistent)
      ChildProcess.killAll()
      directory.remove()
      Progress.clear()
      if signal < 0 { complain("gave up after \(patienceSeconds) s") }
      exit(signal < 0 ? 1 : 128 + signal)
    }
  }

  /// Never returns if the watchdog is at work: what fails then fails because its peers were killed, and only the
  /// watchdog knows why.
  static func giveWay() {
    while isEnding.load(ordering: .sequentiallyConsistent) { pause() }
  }
}

/// Says on stderr why the demo failed, in one line however much there is to say.
func complain(_ reason: String) {
  let line = reason.split(separator: "\n").joined(separator: " | ")
  FileHandle.standardError.write(Data("spillway-demo: failed: \(line)\n".utf8))
}
