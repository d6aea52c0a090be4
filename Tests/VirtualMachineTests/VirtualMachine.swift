import Foundation
import Peers
import TestKit
import Testing

// Guests that really run. They take minutes and packages that nobody else needs, so they are run by `make test-vm` only,
// which says so in SPILLWAY_TEST_VM. Without it the suite is reported as skipped, not as passed.

@Suite(
  "virtual machines", .serialized,
  .enabled(
    if: ProcessInfo.processInfo.environment["SPILLWAY_TEST_VM"] != nil,
    "a guest takes minutes and packages of its own: make test-vm"))
struct VirtualMachine {}
