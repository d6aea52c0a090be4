import ExtentJournal
import SpillwayService
import Testing

@Suite struct JobThrottleTests {
  private let second: UInt64 = 1_000_000_000

  @Test("a job that copies is made eight times slower, never slower than a MiB a second, never faster")
  func lowering() {
    var throttle = JobThrottle(lowered: nil)
    #expect(throttle.lowerSpeed(than: 0) == nil, "nothing is known of its speed")
    throttle.note(progress: 0, at: second)
    throttle.note(progress: 64 << 20, at: 2 * second)
    #expect(throttle.lowerSpeed(than: 0) == 8 << 20)
    #expect(throttle.lowerSpeed(than: 100 << 20) == 8 << 20)
    #expect(throttle.lowerSpeed(than: 4 << 20) == nil, "it is slower as it is")
    throttle.note(progress: (64 << 20) + (2 << 20), at: 3 * second)
    #expect(throttle.lowerSpeed(than: 0) == 1 << 20)
    throttle.note(progress: (66 << 20) + 4096, at: 4 * second)
    #expect(throttle.lowerSpeed(than: 0) == nil, "there is nothing to slow")
  }

  @Test("reads want it slow while there are any, and half a second longer")
  func wanting() {
    var throttle = JobThrottle(lowered: nil)
    #expect(!throttle.isWanted(at: second))
    throttle.beginRead()
    throttle.beginRead()
    throttle.endRead(at: second)
    #expect(throttle.isWanted(at: 100 * second))
    throttle.endRead(at: 100 * second)
    #expect(throttle.isWanted(at: 100 * second + second / 2 - 1))
    #expect(!throttle.isWanted(at: 100 * second + second / 2))
    throttle.lowered = JobSpeed(job: "x", bytesPerSecond: 0, loweredTo: 1 << 20)
    #expect(throttle.restoreTime == 100 * second + second / 2)
    throttle.beginRead()
    #expect(throttle.restoreTime == nil)
  }

  @Test("what an earlier daemon lowered is restored at once")
  func inherited() {
    let throttle = JobThrottle(lowered: JobSpeed(job: "x", bytesPerSecond: 0, loweredTo: 1 << 20))
    #expect(!throttle.isWanted(at: second))
    #expect(throttle.restoreTime.map { $0 <= second } == true)
  }
}
