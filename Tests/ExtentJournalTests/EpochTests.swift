import ExtentJournal
import Testing
import Threads

@Suite struct EpochTests {
  @Test("space is reused only when every reader that came before has left; later ones do not matter")
  func earlierReaders() throws {
    let epochs = Epochs()
    let early = epochs.enter()
    let done = WakeCount()
    let waiter = try #require(
      WorkerThread(name: "reclaimer") {
        epochs.waitForEarlierReaders()
        done.add(.retry)
      })
    // A new epoch number shows that the reclaimer has begun to wait.
    var late = epochs.enter()
    while late == early {
      epochs.leave(late)
      late = epochs.enter()
    }
    for _ in 0..<1000 { epochs.leave(epochs.enter()) }
    #expect(done.all.isEmpty, "an early reader was not waited for")
    epochs.leave(early)
    done.wait(for: 1)
    waiter.join()
    epochs.leave(late)
  }
}
