import Foundation

/// Which seeds a test of random behaviour runs with: the first `count`, as many as `SPILLWAY_TEST_SEEDS` says, or the
/// one of `SPILLWAY_TEST_SEED`, to run a failure again.
package func seeds(_ count: Int) -> [UInt64] {
  let environment = ProcessInfo.processInfo.environment
  if let one = environment["SPILLWAY_TEST_SEED"].flatMap({ UInt64($0) }) { return [one] }
  let wanted = environment["SPILLWAY_TEST_SEEDS"].flatMap { Int($0) } ?? count
  return (0..<max(wanted, 1)).map { UInt64($0) + 1 }
}
